"""A span processor that keeps what it sees as plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import Link, SpanContext

from ._record import EventRecord, LinkRecord, SpanRecord

__all__ = ["Memory", "record_of"]


class Memory(SpanProcessor):
    """Keeps every span that starts and ends, timed by `clock` or, without one, by the spans themselves.

    Only single steps on dicts: a finalizer may end a span in the middle of any line here.
    """

    def __init__(self, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock
        self._started: dict[int, tuple[str, int | None]] = {}
        self._ended: dict[int, SpanRecord] = {}

    @property
    def spans(self) -> list[SpanRecord]:
        """The spans that have ended, in the order in which they started."""
        ended = dict(self._ended)
        return [ended[span_id] for span_id in list(self._started) if span_id in ended]

    @property
    def open(self) -> list[str]:
        """The names of the spans that have started and not ended."""
        return [name for span_id, (name, _) in list(self._started.items()) if span_id not in self._ended]

    def clear(self) -> None:
        """Forget the spans that have ended."""
        for span_id in list(self._ended):
            self._started.pop(span_id, None)
            self._ended.pop(span_id, None)

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._started[span.get_span_context().span_id] = (span.name, self._clock() if self._clock else None)

    def on_end(self, span: ReadableSpan) -> None:
        span_id = _context(span).span_id
        _, started_ns = self._started.setdefault(span_id, (span.name, None))
        record = record_of(span)
        if self._clock is not None:
            record = msgspec.structs.replace(record, start_ns=started_ns or 0, end_ns=self._clock())
        self._ended[span_id] = record


def record_of(span: ReadableSpan) -> SpanRecord:
    """A finished SDK span as a plain value."""
    context = _context(span)
    return SpanRecord(
        name=span.name,
        trace_id=f"{context.trace_id:032x}",
        span_id=f"{context.span_id:016x}",
        parent_span_id=f"{span.parent.span_id:016x}" if span.parent else None,
        is_parent_remote=span.parent is not None and span.parent.is_remote,
        kind=span.kind.name,
        start_ns=span.start_time or 0,
        end_ns=span.end_time or 0,
        attributes=_plain(span.attributes or {}),
        events=tuple(
            EventRecord(name=event.name, time_ns=event.timestamp, attributes=_plain(event.attributes or {}))
            for event in span.events
        ),
        links=tuple(_link(link) for link in span.links),
        status=span.status.status_code.name,
        status_message=span.status.description or "",
        scope=span.instrumentation_scope.name if span.instrumentation_scope else "",
        resource=_plain(span.resource.attributes),
    )


def _context(span: ReadableSpan) -> SpanContext:
    # Optional by its type alone: every span that reaches a processor has one.
    return cast(SpanContext, span.get_span_context())


def _link(link: Link) -> LinkRecord:
    return LinkRecord(
        trace_id=f"{link.context.trace_id:032x}",
        span_id=f"{link.context.span_id:016x}",
        attributes=_plain(link.attributes or {}),
    )


def _plain(value: Any) -> Any:
    # As JSON would have it: lists and dicts, so that a snapshot compares equal however the value was given.
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in cast(Mapping[object, object], value).items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in cast(Sequence[object], value)]
    return value
