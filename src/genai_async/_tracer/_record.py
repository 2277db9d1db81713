"""What a span knows, and how processors and exporters read it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationInfo, InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status
from opentelemetry.util.types import AnyValue

from ._parts import Kept

if TYPE_CHECKING:
    from ._tracer import Tracer

UNSET = Status()
NO_EVENTS = Kept[Event]()  # shared by all spans that have none: never added to
NO_LINKS = Kept[Link]()


class Record(ReadableSpan):
    """The reading side of a span.

    The class attributes stand for what most spans never set, so that a start writes nine fields and no more. The fields
    have the names that the SDK gives them: redaction recipes that write to `span._attributes` go on working.
    """

    _tracer: Tracer
    _name: str
    _context: SpanContext
    _parent: SpanContext | None
    _kind: SpanKind
    _resource: Resource
    _attributes: dict[str, AnyValue]
    _start_time: int
    _end_time: int | None = None
    _status: Status = UNSET
    _events: Kept[Event] = NO_EVENTS
    _links: Kept[Link] = NO_LINKS
    _dropped_attributes = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def context(self) -> SpanContext:
        return self._context

    @property
    def kind(self) -> SpanKind:
        return self._kind

    @property
    def parent(self) -> SpanContext | None:
        return self._parent

    @property
    def start_time(self) -> int:
        return self._start_time

    @property
    def end_time(self) -> int | None:
        return self._end_time

    @property
    def status(self) -> Status:
        return self._status

    @property
    def attributes(self) -> Mapping[str, AnyValue]:
        return MappingProxyType(self._attributes)

    @property
    def events(self) -> Sequence[Event]:
        return tuple(self._events) if self._events is not NO_EVENTS else ()

    @property
    def links(self) -> Sequence[Link]:
        return tuple(self._links) if self._links is not NO_LINKS else ()

    @property
    def dropped_attributes(self) -> int:
        return self._dropped_attributes

    @property
    def dropped_events(self) -> int:
        return self._events.dropped

    @property
    def dropped_links(self) -> int:
        return self._links.dropped

    @property
    def resource(self) -> Resource:
        return self._resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        return self._tracer.scope

    @property
    def instrumentation_info(self) -> InstrumentationInfo | None:
        return self._readable_span().instrumentation_info  # pyright: ignore[reportDeprecated]

    def to_json(self, indent: int | None = 4) -> str:
        return str(self._readable_span().to_json(indent))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(name="{self._name}", context={self._context})'

    def __deepcopy__(self, memo: dict[int, Any]) -> ReadableSpan:
        return copy.deepcopy(self._readable_span(), memo)

    def _readable_span(self) -> ReadableSpan:
        """The same span as the SDK's plain record, for the slow things that it knows how to do."""
        attributes = BoundedAttributes(None, self._attributes)
        attributes.dropped = self._dropped_attributes
        return ReadableSpan(
            name=self._name,
            context=self._context,
            parent=self._parent,
            resource=self._resource,
            attributes=attributes,
            events=_bounded_list(self._events),
            links=_bounded_list(self._links),
            kind=self._kind,
            instrumentation_info=self._tracer.instrumentation_info,
            status=self._status,
            start_time=self._start_time,
            end_time=self._end_time,
            instrumentation_scope=self._tracer.scope,
        )


def _bounded_list(items: Kept[Any]) -> Any:
    result = cast(Any, BoundedList)(None)
    result.extend(items)
    result.dropped = items.dropped
    return result
