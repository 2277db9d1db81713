"""What stands in OpenTelemetry's global: that can be set once, while set-ups come and go, so this points at one."""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import Link, NoOpTracer, Span, SpanKind, Tracer, TracerProvider
from opentelemetry.util.types import Attributes

from .._log import warn

_NOOP = NoOpTracer()


class Delegate(TracerProvider):
    """A provider that passes everything on to `target`, and does nothing while that is None.

    Tracers made before a change of `target` follow it, those of instrumentations that were set up at import included.
    """

    def __init__(self) -> None:
        self.target: TracerProvider | None = None

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> Tracer:
        """A tracer that asks for the target each time it starts a span."""
        return FollowingTracer(self, (instrumenting_module_name, instrumenting_library_version, schema_url, attributes))

    @property
    def resource(self) -> Resource:
        """The target's resource; empty when it has none."""
        resource = getattr(self.target, "resource", None)
        return resource if isinstance(resource, Resource) else Resource.get_empty()

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add the processor to the target; logged and ignored when nothing takes it."""
        add = getattr(self.target, "add_span_processor", None)
        if add is None:
            warn("add_span_processor: nothing is set up, %s is ignored", type(span_processor))
        else:
            add(span_processor)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the target; True when there is nothing to flush."""
        flush = getattr(self.target, "force_flush", None)
        return True if flush is None else bool(flush(timeout_millis))

    def shutdown(self) -> None:
        """Shut the target down."""
        shutdown = getattr(self.target, "shutdown", None)
        if shutdown is not None:
            shutdown()


class FollowingTracer(Tracer):
    """Starts spans with the tracer of whatever its delegate points at."""

    def __init__(self, delegate: Delegate, scope: tuple[str, str | None, str | None, Attributes]) -> None:
        self._delegate = delegate
        self._scope = scope
        # Both in one attribute, so that no thread sees one set-up's provider with the tracer of another.
        self._found: tuple[TracerProvider | None, Tracer] = (None, _NOOP)

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> Span:
        target, tracer = self._found
        if target is not self._delegate.target:
            tracer = self._find()
        return tracer.start_span(
            name, context, kind, attributes, links, start_time, record_exception, set_status_on_exception
        )

    # The API's own: start a span with this tracer, then `use_span`; also as a decorator of functions and coroutines.
    start_as_current_span = NoOpTracer.start_as_current_span

    def _find(self) -> Tracer:
        target = self._delegate.target
        tracer = _NOOP if target is None else target.get_tracer(*self._scope)
        self._found = (target, tracer)
        return tracer
