"""Values that cannot be recorded: dropped, counted by kind, logged once for each kind."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

_logger = logging.getLogger("genai_async")


class FieldError(ValueError):
    """A value that cannot be recorded; the text tells of types only, never the value, so that it may be logged."""


def reason_of(exc: Exception) -> str:
    """Why something is dropped, to be logged: what other code raises may repeat the value that it choked on."""
    return str(exc) if isinstance(exc, FieldError) else type(exc).__name__


class Faults:
    """Counts what was dropped before it could become a span's attribute."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def drop(self, kind: str, reason: object) -> None:
        """Count one dropped value; the first of its kind is logged, without the value itself."""
        self.note(kind, f"{kind} is dropped: {reason}")

    def note(self, kind: str, text: str) -> None:
        """Count what is odd but not lost; the first of its kind is logged."""
        self._counts[kind] += 1
        if self._counts[kind] == 1:
            _logger.warning("%s (further ones are counted)", text)

    def counts(self) -> Mapping[str, int]:
        """What was dropped so far, by kind."""
        return dict(self._counts)
