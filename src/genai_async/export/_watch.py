"""Those who wait until certain spans are settled, in whatever loop or thread they are."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from .._loop import Signal
from ._buffer import Buffer

__all__ = ["Watches"]


class Watches:
    """Signals by the range of sequence numbers that each waits for."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._waiting: dict[Signal, tuple[int, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def settled(self, first: int, last: int) -> Generator[Signal]:
        """A signal that is set when every span with `first < number <= last` is settled."""
        signal = Signal()
        self._waiting[signal] = first, last
        try:
            self._check(signal, first, last)
            yield signal
        finally:
            self._waiting.pop(signal, None)

    def tell(self) -> None:
        """Set the signals whose spans are settled by now."""
        for signal, (first, last) in list(self._waiting.items()):
            self._check(signal, first, last)

    def _check(self, signal: Signal, first: int, last: int) -> None:
        if not self._buffer.unsettled(first, last):
            signal.set()
