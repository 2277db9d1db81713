"""What a span knows, and how processors and exporters read it.

Processors that mask what is exported reach behind the public properties, into `_attributes`, `_events` or
`_instrumentation_scope`. A recipe that does not fit is a secret that leaks, so these give what they give on the SDK's
span, and may be replaced as there; they are made when somebody asks, and most spans never make them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, SpanLimits
from opentelemetry.sdk.util.instrumentation import InstrumentationInfo, InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status
from opentelemetry.util.types import AnyValue

from ._lock import RARE
from ._parts import Kept, view_of

if TYPE_CHECKING:
    from ._tracer import Tracer

UNSET = Status()


class Record(ReadableSpan):
    """The reading side of a span.

    The class attributes stand for what most spans never set, so that a start writes nine fields and no more.
    """

    _tracer: Tracer
    _name: str
    _context: SpanContext
    _parent: SpanContext | None
    _kind: SpanKind
    _resource: Resource
    _values: dict[str, AnyValue]
    _start_time: int
    _end_time: int | None = None
    _open: bool = False
    _status: Status = UNSET
    # What `_attributes` gives, once somebody has asked for it: what is done to it must last.
    _view: Any = None
    _own_events: Any = None
    _own_links: Any = None
    _own_scope: InstrumentationScope | None = None
    # Not in use where there is a view, which counts them itself.
    _dropped = 0

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
        # As long as they may change, a loop over them must go on: the SDK's class loops over a copy.
        return MappingProxyType(self._attributes if self._open else self._values)

    @property
    def events(self) -> Sequence[Event]:
        return () if self._own_events is None else tuple(self._own_events)

    @property
    def links(self) -> Sequence[Link]:
        return () if self._own_links is None else tuple(self._own_links)

    @property
    def dropped_attributes(self) -> int:
        return self._dropped if self._view is None else getattr(self._view, "dropped", 0)

    @property
    def dropped_events(self) -> int:
        return 0 if self._own_events is None else getattr(self._own_events, "dropped", 0)

    @property
    def dropped_links(self) -> int:
        return 0 if self._own_links is None else getattr(self._own_links, "dropped", 0)

    @property
    def resource(self) -> Resource:
        return self._resource

    @property
    def instrumentation_scope(self) -> InstrumentationScope:
        return self._own_scope or self._tracer.scope

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
        return ReadableSpan(
            name=self._name,
            context=self._context,
            parent=self._parent,
            resource=self._resource,
            attributes=self._attributes,
            events=self._events,
            links=self._links,
            kind=self._kind,
            instrumentation_info=self._tracer.instrumentation_info,
            status=self._status,
            start_time=self._start_time,
            end_time=self._end_time,
            instrumentation_scope=self.instrumentation_scope,
        )

    @property
    def _attributes(self) -> Any:
        with RARE:
            view = self._view
            if view is None:
                view = self._view = view_of(self._values, self._tracer.limits, self._dropped, is_open=self._open)
            elif isinstance(view, BoundedAttributes):
                if view._dict is not self._values:
                    view._dict = self._values
                    view._immutable = True
            elif view is not self._values:
                view = self._view = self._values
            return view

    @_attributes.setter
    def _attributes(self, attributes: Any) -> None:
        if isinstance(attributes, BoundedAttributes):
            self._values = attributes._dict
        elif type(attributes) is dict:
            self._values = cast("dict[str, AnyValue]", attributes)
        else:
            self._values = attributes = dict[str, AnyValue](attributes or {})
        self._view = attributes

    def _fix_values(self) -> None:
        """Keep what they are at the end: who comes too late with another one writes into a dict that nobody reads."""
        self._values = self._values.copy()
        if self._view is not None:
            self._view = self._attributes  # which points to them now, for whoever holds it

    @property
    def _events(self) -> Any:
        if self._own_events is None:
            self.__dict__.setdefault("_own_events", Kept(self._tracer.limits.max_events))
        return self._own_events

    @_events.setter
    def _events(self, events: Any) -> None:
        self._own_events = events

    @property
    def _links(self) -> Any:
        if self._own_links is None:
            self.__dict__.setdefault("_own_links", Kept(self._tracer.limits.max_links))
        return self._own_links

    @_links.setter
    def _links(self, links: Any) -> None:
        self._own_links = links

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:
        return self.instrumentation_scope

    @_instrumentation_scope.setter
    def _instrumentation_scope(self, scope: InstrumentationScope | None) -> None:
        self._own_scope = scope

    @property
    def _instrumentation_info(self) -> InstrumentationInfo | None:  # type: ignore[override]
        return self._tracer.instrumentation_info

    @property
    def _limits(self) -> SpanLimits:
        return self._tracer.limits

    @property
    def _lock(self) -> Any:
        return RARE
