"""Values that cannot be recorded: dropped, counted by kind, logged once for each kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from .._log import warn
from ._outcome import class_name

_Item = TypeVar("_Item")
_Whole = TypeVar("_Whole")


class FieldError(ValueError):
    """A value that cannot be recorded; the text tells of types only, never the value, so that it may be logged."""


class PartError(FieldError):
    """Some items of a value cannot be recorded: `kept` is what the others make, `reasons` has a line for each."""

    def __init__(self, kept: Any, reasons: list[str]) -> None:
        super().__init__(reasons[0])
        self.kept: Any = kept
        self.reasons: list[str] = reasons


_SENTINELS: Final = frozenset({"NotGiven", "Omit"})


def is_omitted(value: object) -> bool:
    """Whether it says that nothing is passed: as the OpenAI and Anthropic clients say it, or with that in a list."""
    if type(value) is list or type(value) is tuple:
        return all(item is None or is_sentinel(item) for item in cast("list[object]", value))
    return is_sentinel(value)


def is_sentinel(value: object) -> bool:
    """Whether it is `NOT_GIVEN` or `omit` of the OpenAI or the Anthropic client."""
    return class_name(type(value)).rpartition(".")[2] in _SENTINELS


def reason_of(exc: Exception) -> str:
    """Why something is dropped, to be logged: what other code raises may repeat the value that it choked on."""
    return str(exc) if isinstance(exc, FieldError) else type(exc).__name__


def each(convert: Callable[[Any], _Item], items: Iterable[Any]) -> tuple[list[_Item], list[str]]:
    """The items converted, and why some could not be, or not wholly: a bad one costs itself."""
    kept: list[_Item] = []
    reasons: list[str] = []
    try:
        for item in items:
            try:
                kept.append(convert(item))
            except PartError as exc:
                kept.append(exc.kept)
                reasons += exc.reasons
            except Exception as exc:
                reasons.append(reason_of(exc))
    except Exception as exc:  # what holds the items may be anybody's iterator
        reasons.append(reason_of(exc))
    return kept, reasons


def whole(value: _Whole, kept: list[Any], reasons: list[str]) -> _Whole:
    """The value that was made of what `each` kept.

    Raises:
        PartError: It is not all that was given.
        FieldError: It is nothing of what was given.
    """
    if not reasons:
        return value
    raise PartError(value, reasons) if kept else FieldError(reasons[0])


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
            warn("%s (further ones are counted)", text)

    def counts(self) -> Mapping[str, int]:
        """What was dropped so far, by kind."""
        return dict(self._counts)
