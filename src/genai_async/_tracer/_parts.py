"""Events and links as a span keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from opentelemetry.sdk.trace import Event, SpanLimits
from opentelemetry.trace import Link, SpanContext
from opentelemetry.util.types import Attributes

from ._values import bounded

_T = TypeVar("_T")


class Kept(list[_T]):
    """A list that keeps the newest and counts the rest."""

    dropped = 0

    def add(self, item: _T, maximum: int | None) -> None:
        """Append; beyond `maximum` items the oldest goes."""
        self.append(item)
        if maximum is not None and len(self) > maximum:
            del self[0]
            self.dropped += 1


def event_of(name: str, attributes: Attributes, timestamp: int | None, limits: SpanLimits) -> Event:
    """An event with its attributes limited."""
    kept = bounded(attributes, limits.max_event_attributes, limits.max_attribute_length)
    return Event(name, kept, timestamp)


def link_of(context: SpanContext | None, attributes: Attributes, limits: SpanLimits) -> Link | None:
    """A link with its attributes limited; None for one that says nothing (invalid, no attributes, no trace state)."""
    if not context or not (context.is_valid or attributes or context.trace_state):
        return None
    return Link(context, bounded(attributes, limits.max_link_attributes, limits.max_attribute_length))


def links_of(links: Sequence[Link | None], limits: SpanLimits) -> Kept[Link]:
    """The links that a span starts with."""
    kept = Kept[Link]()
    for given in links:
        link = None if given is None else link_of(given.context, given.attributes, limits)
        if link is not None:
            kept.add(link, limits.max_links)
    return kept
