"""One log line per kind of trouble, at most once a minute, with the count of what was not said."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from .._log import warn

__all__ = ["Troubles", "printable"]

_INTERVAL = 60.0
_MAX_DETAIL = 200


def printable(text: str, secrets: Iterable[str] = ()) -> str:
    """Text from outside, fit for a log: short, on one line, without control characters or what must stay secret."""
    text = text[: _MAX_DETAIL * 20]
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= _MAX_DETAIL else text[:_MAX_DETAIL] + "..."


class Troubles:
    """Says each kind of trouble once a minute; remembers the latest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._said: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}
        self.latest: str | None = None

    def report(self, kind: str, text: str, count: int = 1, *, is_cause: bool = True) -> None:
        """Log `text`, unless its kind was logged within the last minute.

        Args:
            kind: What of there is one line a minute.
            text: What to say.
            count: The spans it concerns.
            is_cause: Whether it says why; what only follows from a trouble does not hide it in `latest`.
        """
        if is_cause or self.latest is None:
            self.latest = text
        total = self._unsaid.get(kind, 0) + count
        now = self._clock()
        if kind in self._said and now - self._said[kind] < _INTERVAL:
            self._unsaid[kind] = total
            return
        self._said[kind] = now
        self._unsaid[kind] = 0
        warn("%s (%d spans; said at most once a minute)", text, total)
