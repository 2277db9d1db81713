"""Times as callers give them, in the nanoseconds since the epoch that spans are timed in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from ._faults import FieldError

Time: TypeAlias = datetime | int

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_ns(value: object) -> int:
    """Nanoseconds since the epoch from an aware or local `datetime`, or from that very integer.

    Raises:
        FieldError: It is neither, or lies outside of what 64 bits can say.
    """
    try:
        return _in_range(_since_epoch(value))
    except FieldError:
        raise
    except Exception:  # years at the calendar's ends, and time zones, which are other people's code
        raise FieldError("a datetime that no clock can show") from None


def _since_epoch(value: object) -> int:
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.astimezone()
        return (aware - _EPOCH) // _MICROSECOND * 1000
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"a time is a datetime or an integer of nanoseconds, not {type(value).__name__}")
    return int(value)


def _in_range(value_ns: int) -> int:
    if not 0 <= value_ns < 1 << 63:
        raise FieldError("a time lies between 1970 and 2262")
    return value_ns
