"""Those who wait until certain spans are settled, in whatever loop or thread they are."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from .._loop import Signal

__all__ = ["Watches"]


class Watches:
    """Signals, each with what it waits for."""

    def __init__(self) -> None:
        self._waiting: dict[Signal, Callable[[], bool]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @contextmanager
    def settled(self, is_settled: Callable[[], bool]) -> Generator[Signal]:
        """A signal that is set when this is true."""
        signal = Signal()
        self._waiting[signal] = is_settled
        try:
            if is_settled():
                signal.set()
            yield signal
        finally:
            self._waiting.pop(signal, None)

    def tell(self) -> None:
        """Set the signals whose spans are settled by now."""
        for signal, is_settled in list(self._waiting.items()):
            if is_settled():
                signal.set()
