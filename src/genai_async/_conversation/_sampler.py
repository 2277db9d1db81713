"""Sampling by conversation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, SpanKind, TraceState, get_current_span
from opentelemetry.util.types import Attributes

from .._errors import ConfigurationError
from . import _semconv as sc
from ._scope import scope_around

_RANGE: Final = 1 << 64


class ConversationSampler(Sampler):
    """Keeps or drops whole conversations: all spans of one share its fate, in every process and after every restart.

    A conversation that is kept at some ratio is kept at every higher one, too.

        ga.tracing(sampler=ga.ConversationSampler(0.1))

    Args:
        ratio: The share of conversations to keep, from 0 to 1.
        outside: Decides on spans that belong to no conversation; by trace id at the same ratio, following their
            parent, if None.

    Raises:
        ConfigurationError: `ratio` is no number from 0 to 1.
    """

    def __init__(self, ratio: float, *, outside: Sampler | None = None) -> None:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio <= 1:
            raise ConfigurationError("ratio must be a number from 0 to 1")
        self._ratio = float(ratio)
        self._bound = round(ratio * _RANGE)
        self._outside = outside or ParentBased(TraceIdRatioBased(self._ratio))

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide by the id of the conversation that the span starts in; outside of any, by the one that it has."""
        # Instrumentations with an id of their own for each run would tear a conversation's traces.
        conversation_id = _conversation_in(parent_context) or (attributes or {}).get(sc.CONVERSATION_ID)
        if not isinstance(conversation_id, str):
            return self._outside.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)
        decision = Decision.RECORD_AND_SAMPLE if _place_of(conversation_id) < self._bound else Decision.DROP
        parent = get_current_span(parent_context).get_span_context()
        kept = attributes if decision is Decision.RECORD_AND_SAMPLE else None
        return SamplingResult(decision, kept, parent.trace_state if parent.is_valid else trace_state)

    def get_description(self) -> str:
        """Name and ratio."""
        return f"ConversationSampler{{{self._ratio}}}"


def _conversation_in(context: Context | None) -> str | None:
    scope = scope_around(get_current() if context is None else context)
    return None if scope is None or scope.session is None else scope.session.session_id


@lru_cache(maxsize=4096)
def _place_of(conversation_id: str) -> int:
    """Where on the line from 0 to 2**64 a conversation stands: the same for the same id, wherever it is asked."""
    from hashlib import blake2b  # takes milliseconds to load, and few programs sample

    return int.from_bytes(blake2b(conversation_id.encode("utf-8", "replace"), digest_size=8).digest())
