"""The exporter as a span processor of OpenTelemetry's SDK, for any provider."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import TraceFlags

from .._errors import ClosedError
from ._exporter import Exporter

__all__ = ["ExportProcessor"]


class ExportProcessor(SpanProcessor):
    """Gives sampled spans to an exporter when they end.

    Args:
        exporter: Takes the spans; somebody must run it (`Exporter.run` or `ThreadHost`).
    """

    def __init__(self, exporter: Exporter) -> None:
        self._exporter = exporter

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a sampled span for delivery."""
        context = span.get_span_context()
        if context is not None and context.trace_flags & TraceFlags.SAMPLED:
            self._exporter.accept(span)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what waits; whether it left within the time.

        On the thread of a running loop it does not wait, as that would hold up the loop: it begins sending, and
        is true only if nothing waited.
        """
        try:
            return self._exporter.flush_blocking(timeout_millis / 1000).complete
        except ClosedError:
            return True

    def shutdown(self) -> None:
        """Close the exporter within its `shutdown_timeout`."""
        self._exporter.shutdown()
