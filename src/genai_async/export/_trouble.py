"""One log line per kind of trouble, at most once a minute, with the count of what was not said."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from errno import errorcode
from typing import cast

from .._errors import GenAIAsyncError
from .._log import warn

__all__ = ["Troubles", "cause", "printable"]

_INTERVAL = 60.0
_MAX_DETAIL = 200
_MAX_READ = 20 * _MAX_DETAIL
_MAX_CAUSES = 20


def cause(exc: BaseException) -> str:
    """What kind of error this is, and why, as the system, TLS or we ourselves say it of the innermost error.

    Other texts stay out: there may be anything in them.
    """
    if isinstance(exc, GenAIAsyncError):
        return str(exc)
    said = [text for inner in _causes(exc) if (text := _said(inner))]
    return f"{type(exc).__name__} ({said[-1]})" if said else type(exc).__name__


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """An error and what it came from, of several causes the first; httpx's layers hide it from tracebacks only."""
    found: BaseException | None = exc
    for _ in range(_MAX_CAUSES):
        if found is None:
            return
        yield found
        if isinstance(found, BaseExceptionGroup):
            found = cast("BaseExceptionGroup[BaseException]", found).exceptions[0]
        else:
            found = found.__cause__ or found.__context__


def _said(exc: BaseException) -> str | None:
    if isinstance(exc, ImportError):
        return str(exc)
    if not isinstance(exc, OSError):
        return None
    if isinstance(exc, getattr(sys.modules.get("ssl"), "SSLError", ())):
        verdict = getattr(exc, "verify_message", None)
        return f"the certificate is not trusted: {verdict}" if verdict else getattr(exc, "reason", None) or exc.strerror
    if isinstance(exc, getattr(sys.modules.get("socket"), "gaierror", ())):
        return exc.strerror
    # Not its own text, which asyncio and trio fill with more.
    return os.strerror(exc.errno) if isinstance(exc.errno, int) and exc.errno in errorcode else None


def printable(text: str, secrets: Iterable[str] = ()) -> str:
    """Text from outside, fit for a log: short, on one line, without control characters or what must stay secret."""
    text = _masked(text, sorted(filter(None, secrets), key=len, reverse=True))
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= _MAX_DETAIL else text[:_MAX_DETAIL] + "..."


def _masked(text: str, secrets: Sequence[str]) -> str:
    """The beginning of a text without secrets, the longest first, as one may hold another.

    Only so much is looked at that a secret which begins there ends there: the cut falls on no secret.
    """
    if not secrets:
        return text[:_MAX_READ]
    pieces: list[str] = []
    position = 0
    pattern = re.compile("|".join(map(re.escape, secrets)))
    for match in pattern.finditer(text, 0, _MAX_READ + len(secrets[0])):
        pieces += (text[position : min(match.start(), _MAX_READ)], "***")
        position = match.end()
    return "".join((*pieces, text[position:_MAX_READ]))


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
