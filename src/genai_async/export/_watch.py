"""Those who wait until certain spans are settled, in whatever loop or thread they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeAlias

from .._loop import Signal

__all__ = ["Watches"]

_Goal: TypeAlias = tuple[int, int, float | None]


class Watches:
    """Signals, each with the spans that it waits for.

    Args:
        is_over: Whether the spans with `first < number <= last` are settled, or, `since` a time, at least safe on disk.
    """

    def __init__(self, is_over: Callable[[int, int, float | None], bool]) -> None:
        self._is_over = is_over
        self._waiting: dict[Signal, _Goal] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def settled(self, first: int, last: int, since: float | None) -> Generator[Signal]:
        """A signal that is set when these spans are settled."""
        signal = Signal()
        self._waiting[signal] = first, last, since
        try:
            if self._is_over(first, last, since):
                signal.set()
            yield signal
        finally:
            self._waiting.pop(signal, None)

    def tell(self, low: float = -math.inf, high: float = math.inf) -> None:
        """Something has become of the spans from `low` to `high`: set the signals of those who wait for no others.

        There may be thousands who wait, each for a few spans, and as many batches.
        """
        for signal, (first, last, since) in list(self._waiting.items()):
            if first < high and last >= low and self._is_over(first, last, since):
                signal.set()

    def tell_patient(self) -> None:
        """The collector or the disk does not answer: set the signals of those who are content with the disk then."""
        for signal, (first, last, since) in list(self._waiting.items()):
            if since is not None and self._is_over(first, last, since):
                signal.set()
