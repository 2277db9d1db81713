"""What a span keeps beside its own fields, in the SDK's classes: attributes, events and links."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk.trace import Event, SpanLimits
from opentelemetry.sdk.util import BoundedList
from opentelemetry.trace import Link, SpanContext
from opentelemetry.util.types import Attributes

from ._lock import RARE
from ._values import bounded

if TYPE_CHECKING:
    from ._values import Attributes as Values


class Kept(BoundedList):  # type: ignore[type-arg]
    """A list that keeps the newest and counts the rest: the SDK's, but finalizers may come back into its lock."""

    def __init__(self, maxlen: int | None) -> None:
        self.dropped = 0
        self._dq: deque[Any] = deque()
        self._lock: Any = RARE
        self._maxlen = maxlen

    def append(self, item: Any) -> None:
        """Add an item; beyond the most that may be kept the oldest goes."""
        with RARE:
            # In this order, whatever comes in between adds and takes away as much.
            self._dq.append(item)
            if self._maxlen is not None and len(self._dq) > self._maxlen:
                self._dq.popleft()
                self.dropped += 1

    def extend(self, seq: Iterable[Any]) -> None:
        """Add several."""
        for item in seq:
            self.append(item)


def view_of(values: Values, limits: SpanLimits, dropped: int, *, is_open: bool) -> BoundedAttributes:
    """The SDK's class around a span's own dict: what is done to the one is done to the other."""
    view = BoundedAttributes(limits.max_span_attributes, None, not is_open, limits.max_span_attribute_length)
    view._dict = values
    view._lock = cast(Any, RARE)
    view.dropped = dropped
    return view


def event_of(name: str, attributes: Attributes, timestamp: int | None, limits: SpanLimits) -> Event:
    """An event with its attributes limited."""
    kept = bounded(attributes, limits.max_event_attributes, limits.max_attribute_length)
    return Event(name, kept, timestamp)


def link_of(context: SpanContext | None, attributes: Attributes, limits: SpanLimits) -> Link | None:
    """A link with its attributes limited; None for one that says nothing (invalid, no attributes, no trace state)."""
    if not context or not (context.is_valid or attributes or context.trace_state):
        return None
    return Link(context, bounded(attributes, limits.max_link_attributes, limits.max_attribute_length))


def links_of(links: Sequence[Link | None], limits: SpanLimits) -> Kept:
    """The links that a span starts with."""
    kept = Kept(limits.max_links)
    for given in links:
        link = None if given is None else link_of(given.context, given.attributes, limits)
        if link is not None:
            kept.append(link)
    return kept
