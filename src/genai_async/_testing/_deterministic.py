"""Ids and clocks that are the same in every run."""

from __future__ import annotations

from itertools import count

from opentelemetry.sdk.trace.id_generator import IdGenerator

__all__ = ["ManualClock", "SequentialIds", "TickingClock"]


class SequentialIds(IdGenerator):
    """Span ids 1, 2, 3, ... and trace ids 1, 2, 3, ...; safe to use from any thread."""

    def __init__(self) -> None:
        self._spans = count(1)
        self._traces = count(1)

    def generate_span_id(self) -> int:
        """The next span id."""
        return next(self._spans)

    def generate_trace_id(self) -> int:
        """The next trace id."""
        return next(self._traces)


class TickingClock:
    """A clock that moves on by `step` seconds whenever it is read, so that no two moments are the same."""

    def __init__(self, step: float = 0.001) -> None:
        self._moments = count(0, round(step * 1e9))

    def __call__(self) -> int:
        """The time in nanoseconds."""
        return next(self._moments)


class ManualClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, now_ns: int = 0) -> None:
        self.now_ns: int = now_ns

    def __call__(self) -> int:
        """The time in nanoseconds."""
        return self.now_ns

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now_ns += round(seconds * 1e9)
