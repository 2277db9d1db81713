"""What each span should be, written down by the agents themselves, and how that differs from what arrived."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeVar

from .._conversation._semconv import CONVERSATION_ID
from .._testing._record import SpanRecord

MARKER = "demo.conversation"


class Handle(Protocol):
    """As much of a span's handle as a witness looks at."""

    @property
    def span_id(self) -> str: ...

    def set_attributes(self, attributes: Mapping[str, str], /) -> object: ...


H = TypeVar("H", bound=Handle)


class Expected(NamedTuple):
    """A span's place as the agent that started it knows it."""

    conversation_id: str
    parent_span_id: str | None


@dataclass(frozen=True, slots=True)
class Witness:
    """Sees the spans of one conversation start; what it notes comes from no ambient state."""

    conversation_id: str
    noted: dict[str, Expected] = field(default_factory=dict[str, Expected])

    def sees(self, handle: H, parent: Handle | None = None) -> H:
        """Note the span under the parent that the agent meant, and mark it with the conversation."""
        self.noted[handle.span_id] = Expected(self.conversation_id, parent.span_id if parent else None)
        handle.set_attributes({MARKER: self.conversation_id})
        return handle


class Verdict(NamedTuple):
    """How what arrived differs from what should have."""

    delivered: int
    wrong_conversation_ids: int
    wrong_parents: int


def judge(witnesses: Iterable[Witness], received: Sequence[SpanRecord]) -> Verdict:
    """Compare every span that arrived with what its agent noted; a span that nobody started is wrong twice."""
    expected = {span_id: place for witness in witnesses for span_id, place in witness.noted.items()}
    arrived = {span.span_id: span for span in received}
    return Verdict(
        delivered=len(expected.keys() & arrived.keys()),
        wrong_conversation_ids=sum(not _is_at_home(span, expected.get(span.span_id)) for span in arrived.values()),
        wrong_parents=sum(not _is_under_parent(span, expected.get(span.span_id)) for span in arrived.values()),
    )


def _is_at_home(span: SpanRecord, place: Expected | None) -> bool:
    told = span.attributes.get(CONVERSATION_ID)
    # Where a span may have few attributes, the marker is among those that go.
    return place is not None and told == span.attributes.get(MARKER, told) == place.conversation_id


def _is_under_parent(span: SpanRecord, place: Expected | None) -> bool:
    return place is not None and span.parent_span_id == place.parent_span_id
