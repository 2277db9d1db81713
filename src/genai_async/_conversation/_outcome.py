"""How a span ended, told from what came out of its block: failed, cancelled, timed out or abandoned."""

from __future__ import annotations

import string
import traceback
from collections.abc import Iterator
from types import CodeType
from typing import Any, Final, cast

import msgspec

from .._loop import is_cancellation, is_overdue, is_timeout

CANCELLED: Final = "cancelled"
TIMEOUT: Final = "timeout"
ABANDONED: Final = "abandoned"
# A type is an identifier; anything else is what somebody would read, and would be a new type each time.
_WORD_CHARACTERS: Final = string.ascii_letters + string.digits + "_.:-"
_LONGEST_WORD: Final = 64
_MAX_DEPTH: Final = 10_000  # of groups in groups; one may say that it holds itself
_LONGEST_TYPE: Final = 256
OTHER: Final = "_OTHER"  # the conventions' word where there is none


class Outcome(msgspec.Struct, frozen=True):
    """`error_type` is what stands in `error.type`; `exception` is None where nothing was raised by the work itself.

    `text` is a message that was given instead of an exception.
    """

    error_type: str
    exception: BaseException | None
    text: str | None = None

    @property
    def is_withdrawn(self) -> bool:
        """Whether the caller gave the work up, which by option is no error."""
        return self.error_type in {CANCELLED, ABANDONED}


def outcome_of(error: BaseException | str) -> Outcome:
    """Classify what ended a span early.

    A cancellation whose deadline has passed is a time-out; this sees the deadlines of anyio and trio scopes, while
    `asyncio.timeout` around the block tells nobody until it is left. A group of one is what it holds. A word is
    taken as the error type itself, a longer text as a message.
    """
    try:
        return _classified(error)
    except Exception:  # an exception whose attributes raise has failed all the same
        return Outcome(OTHER, error if isinstance(error, BaseException) else None)


def _classified(error: BaseException | str) -> Outcome:
    if isinstance(error, str):
        word = str.__str__(error)
        is_word = 0 < len(word) <= _LONGEST_WORD and not word.strip(_WORD_CHARACTERS)
        return Outcome(word, None) if is_word else Outcome(OTHER, None, word)
    if not isinstance(error, BaseException):
        # The class alone says what it was.
        is_kind = isinstance(error, type) and issubclass(error, BaseException)
        return Outcome(class_name(error) if is_kind else OTHER, None)
    error = alone(error)
    # A nursery of trio's raises a group of cancellations.
    if all(map(is_cancellation, leaves(error))):
        return Outcome(TIMEOUT if is_overdue(error) else CANCELLED, None)
    if isinstance(error, GeneratorExit):
        return Outcome(ABANDONED, None)
    return Outcome(TIMEOUT if is_timeout(error) else type_name(error), error)


def alone(error: BaseException) -> BaseException:
    """What a group of one holds; anything else as it is."""
    for _ in range(_MAX_DEPTH):
        members = _members(error)
        if len(members) != 1:
            break
        error = members[0]
    return error


def leaves(error: BaseException) -> Iterator[BaseException]:
    """What stands in a group that is no group itself, however deep, each once; the error itself, if there is none.

    Groups may share what they hold, and one may say that it holds itself.
    """
    seen: dict[int, BaseException] = {}
    waiting = [error]
    has_any = False
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        members = _members(found) if len(seen) < _MAX_DEPTH else ()
        seen[id(found)] = found
        waiting += members
        if not members:
            has_any = True
            yield found
    if not has_any:
        yield error


def _members(error: BaseException) -> tuple[BaseException, ...]:
    if isinstance(error, BaseExceptionGroup):
        return cast("BaseExceptionGroup[BaseException]", error).exceptions
    return ()


def type_name(error: BaseException) -> str:
    """The canonical name of an exception's type: qualified, except for Python's own."""
    return class_name(type(error))


def class_name(kind: type[Any]) -> str:
    """The canonical name of a class: qualified, except for Python's own."""
    try:
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        return name[:_LONGEST_TYPE]
    except Exception:  # a metaclass can answer anything
        return OTHER


def message_of(error: BaseException) -> str:
    """The exception's message; some exceptions cannot be shown."""
    try:
        return str(error)
    except Exception:
        return ""


def stack_of(error: BaseException) -> str:
    """Where the exception came from, outermost call first, without what it was.

    And without the source lines that `traceback` adds: it reads them from files, on the caller's thread.
    """
    frames = traceback.walk_tb(error.__traceback__)
    calls = [f'  File "{frame.f_code.co_filename}", line {line}, in {frame.f_code.co_name}' for frame, line in frames]
    return "\n".join(["Traceback (most recent call last):", *calls])


def raised_at(error: BaseException) -> tuple[CodeType | None, int]:
    """The code and line that raised the exception, which stay the same wherever it comes through."""
    code, line = None, 0
    for frame, line in traceback.walk_tb(error.__traceback__):  # noqa: B007 - the last one counts
        code = frame.f_code
    return code, line
