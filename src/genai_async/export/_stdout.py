"""Spans as lines of OTLP/JSON on the standard output, for whoever collects a program's output (OTLP file exporter)."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from ._body import body
from ._encode import Encoder

__all__ = ["LineExporter"]


class LineExporter(SpanExporter):
    """Writes a line for each call."""

    def __init__(self) -> None:
        self._encoder = Encoder()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Write the spans; what goes wrong is the processor's to log."""
        line = body([(self._encoder.group(span), self._encoder.span(span)) for span in spans])
        sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
        return SpanExportResult.SUCCESS
