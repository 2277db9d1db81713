"""A set-up whose spans stay in memory, and what most tests of this room do with it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import genai_async as ga
from genai_async._testing._memory import Memory
from genai_async._testing._record import SpanRecord


class Traced:
    """A set-up without an exporter and what its spans became."""

    def __init__(self, tracing: ga.Tracing) -> None:
        self.tracing = tracing
        self._memory = Memory()
        tracing.provider.add_span_processor(self._memory)  # type: ignore[attr-defined]

    @property
    def spans(self) -> list[SpanRecord]:
        """What has ended, in the order of starting."""
        return self._memory.spans

    @property
    def open(self) -> list[str]:
        """The names of what has not ended."""
        return self._memory.open

    @property
    def faults(self) -> dict[str, int]:
        """What was dropped, by kind."""
        return dict(self.tracing.faults)

    def one(self, name: str) -> SpanRecord:
        """The only span of this name."""
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def last(self) -> SpanRecord:
        """The span that started last."""
        return self.spans[-1]

    def json(self, key: str) -> Any:
        """The content that the span which started last holds under this attribute; None without it."""
        text = self.last().attributes.get(key)
        return None if text is None else json.loads(text)


@contextmanager
def traced(**options: Any) -> Iterator[Traced]:
    """A set-up for the length of the block; `OTEL_TRACES_EXPORTER=none` must be set."""
    tracing = ga.configure(**options)
    try:
        yield Traced(tracing)
    finally:
        tracing.shutdown()


def attributes_of(record: SpanRecord) -> dict[str, Any]:
    """A span's attributes without the conversation's id, which is a fresh one in most tests."""
    return {key: value for key, value in record.attributes.items() if key != "gen_ai.conversation.id"}
