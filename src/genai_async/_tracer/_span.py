"""A span that is written to without locks and read without copies.

Threads and finalizers may come in at any point, the latter in the middle of a line, on the same thread. Three rules
make that safe on the way that every span takes:

- A span is open while it has the instance attribute `_open`. Deleting an attribute is one step and raises the second
  time, so exactly one `end` gets through.
- A writer takes the attributes dict first and looks at `_open` second; `end` closes first and puts a copy in the dict's
  place second. A writer that was late has written into a dict that nobody reads any more.
- Setting a key of a dict is a single step, and so is moving it to the end (`set_again`).

What is rare (events, links, a status, limits that bite) takes a lock for a moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk import trace as sdk
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.util.types import AnyValue, Attributes

from .._log import warn
from ._lock import RARE
from ._notice import once
from ._parts import event_of, link_of, links_of
from ._record import Record
from ._values import clean_attributes, set_again, trim

if TYPE_CHECKING:
    from ._tracer import Tracer

_new = object.__new__


class Span(Record, sdk.Span):  # type: ignore[override]
    """The writing side of a span; made by `begin` only."""

    _record_exception = True
    _set_status_on_exception = True

    @classmethod
    def begin(
        cls,
        tracer: Tracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: Attributes,
        links: Sequence[Link] | None,
        start_time: int | None,
    ) -> Span:
        """A span that records from now on; its processors have not seen it yet."""
        span = _new(cls)
        span._tracer = tracer
        span._name = name
        span._context = context
        span._parent = parent
        span._kind = kind
        span._resource = tracer.base.resource
        if attributes:
            span._take(attributes)
        else:
            span._values = {}
        if links:
            span._own_links = links_of(links, tracer.limits)
        span._start_time = time_ns() if start_time is None else start_time
        span._open = True
        return span

    def get_span_context(self) -> SpanContext:
        return self._context

    def is_recording(self) -> bool:
        return self._open

    def set_attribute(self, key: str, value: AnyValue) -> None:
        values = self._values
        if not self._open:
            warn("Setting attribute on ended span.")
            return
        tracer = self._tracer
        if type(value) not in tracer.plain_types or type(key) is not str or not key:
            self._set_unusual(values, key, value)
            return
        if key in values:
            set_again(values, key, value)
            return
        values[key] = value
        if len(values) > tracer.max_attributes:
            self._trim(values)

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        values = self._values
        if not self._open:
            warn("Setting attribute on ended span.")
            return
        tracer = self._tracer
        cleaned, dropped = clean_attributes(attributes, tracer.max_length)
        if dropped:
            self._count_dropped(dropped)
        if len(values) + len(cleaned) > tracer.max_attributes:
            self._replace(values, cleaned)
        elif values.keys().isdisjoint(cleaned):
            values.update(cleaned)
        else:
            for key, value in cleaned.items():
                if key in values:
                    set_again(values, key, value)
                else:
                    values[key] = value

    def add_event(self, name: str, attributes: Attributes = None, timestamp: int | None = None) -> None:
        if not self._open:
            _warn_ended("add_event")
            return
        self._events.append(event_of(name, attributes, timestamp, self._tracer.limits))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        link = link_of(context, attributes, self._tracer.limits)
        if link is None:
            return
        if not self._open:
            _warn_ended("add_link")
            return
        self._links.append(link)

    def update_name(self, name: str) -> None:
        if self._open:
            self._name = name
        else:
            _warn_ended("update_name")

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if not self._open:
            _warn_ended("set_status")
            return
        code = status.status_code if isinstance(status, Status) else status
        if code is StatusCode.UNSET or self._status.status_code is StatusCode.OK:
            return
        if isinstance(status, StatusCode):
            self._change_status(Status(status, description))
        elif isinstance(status, Status):  # pyright: ignore[reportUnnecessaryIsInstance]
            if description is not None:
                warn("The description %r is ignored: it is part of the Status.", description)
            self._change_status(status)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        if not self._open:
            _warn_ended("record_exception")
            return
        try:
            super().record_exception(exception, attributes, timestamp, escaped)
        except Exception:
            once("an exception that cannot be turned into text is not recorded")

    def start(self, start_time: int | None = None, parent_context: Context | None = None) -> None:
        warn("Calling start() on a started span.")

    def end(self, end_time: int | None = None) -> None:
        try:
            del self._open
        except AttributeError:
            warn("Calling end() on an ended span.")
            return
        if end_time is None:
            end_time = time_ns()
            if end_time < self._start_time:  # somebody has set the clock back, or the start lies ahead
                end_time = self._start_time
                once("a span would end before it began, and is recorded without a duration")
        self._end_time = end_time
        self._fix_values()
        processors = self._tracer.processors
        if processors.ending:
            processors._on_ending(self)
        processors.on_end(self)

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        if exc_val is not None and self._open:
            if self._record_exception:
                self.record_exception(exc_val, escaped=True)
            if self._set_status_on_exception:
                self.set_status(Status(StatusCode.ERROR, _described(exc_val)))
        self.end()

    def leave_exceptions(self, record: bool, set_status: bool) -> None:
        """Choose what an exception that leaves a `with` block of this span does to it."""
        self._record_exception = record
        self._set_status_on_exception = set_status

    def _take(self, attributes: Mapping[str, AnyValue]) -> None:
        tracer = self._tracer
        values, dropped = clean_attributes(attributes, tracer.max_length)
        if len(values) > tracer.max_attributes:
            dropped += trim(values, tracer.max_attributes, tracer.kept)
        self._values = values
        if dropped:
            self._dropped = dropped

    def _set_unusual(self, values: dict[str, AnyValue], key: Any, value: Any) -> None:
        # Unlike in a mapping, a key that is no text is not turned into text here; the SDK makes that difference too.
        if not key or not isinstance(key, str):
            once("an attribute key that is empty or not text is dropped")
            self._count_dropped(1)
            return
        cleaned, dropped = clean_attributes({key: value}, self._tracer.max_length)
        self._count_dropped(dropped)
        self._replace(values, cleaned)

    def _replace(self, values: dict[str, AnyValue], cleaned: dict[str, AnyValue]) -> None:
        # One by one, as the SDK does it: whether the oldest must go is asked for each key.
        for key, value in cleaned.items():
            if key in values:
                set_again(values, key, value)
                continue
            values[key] = value
            if len(values) > self._tracer.max_attributes:
                self._trim(values)

    def _trim(self, values: dict[str, AnyValue]) -> None:
        tracer = self._tracer
        self._count_dropped(trim(values, tracer.max_attributes, tracer.kept))

    def _count_dropped(self, count: int) -> None:
        if count:
            with RARE:
                if isinstance(self._view, BoundedAttributes):
                    self._view.dropped += count
                else:
                    self._dropped += count

    def _change_status(self, status: Status) -> None:
        with RARE:
            known = self._status
            while known.status_code is not StatusCode.OK:
                if self._status is known:  # asking for the code may have run a finalizer that changed the status
                    self._status = status
                    break
                known = self._status


def _warn_ended(method: str) -> None:
    warn("Tried calling %s on an ended span.", method)


def _described(exception: BaseException) -> str:
    try:
        return f"{type(exception).__name__}: {exception}"
    except Exception:
        return type(exception).__name__
