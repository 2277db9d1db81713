"""What a response or a failure means for the batch that was sent: a decision, without clock or I/O.

Source: opentelemetry-proto, docs/specification.md, "OTLP/HTTP response" and "retryable response codes".
"""

from __future__ import annotations

import math
from datetime import UTC
from enum import Enum

import msgspec

from .._errors import ConfigurationError

__all__ = ["MAX_RETRY_AFTER", "Action", "RetryPolicy", "Verdict", "judge", "retry_after"]

MAX_RETRY_AFTER = 3600.0
"""Seconds; a server that asks for more, by error or malice, is asked again after this."""

_RETRYABLE = frozenset({429, 502, 503, 504})


class Action(Enum):
    """What to do with a batch."""

    DELIVERED = "delivered"
    RETRY = "retry"
    SPLIT = "split"
    DROP = "drop"


class Verdict(msgspec.Struct, frozen=True):
    """The decision on a batch.

    Attributes:
        action: What to do.
        reason: Names a drop.
        after: Seconds that the server asked to be left alone.
        rejected: Spans of a delivered batch that the collector refused.
        detail: What the other side said, for people; not to be trusted.
        is_ours: Whether the failure is of this process, and no fault of the collector's.
    """

    action: Action
    reason: str = ""
    after: float | None = None
    rejected: int = 0
    detail: str = ""
    is_ours: bool = False


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How long to leave a failing collector alone: `initial`, then `multiplier` times as long, up to `maximum`.

    Attributes:
        initial: Seconds after the first failure.
        maximum: Seconds that are never exceeded, save when the server asks for more (`Retry-After`).
        multiplier: Growth per failure in a row.
        jitter: Up to this share of a delay is taken off at random, so that many clients do not come back at once.
    """

    initial: float = 0.5
    maximum: float = 30.0
    multiplier: float = 2.0
    jitter: float = 0.3

    def __post_init__(self) -> None:
        if not 0 < self.initial <= self.maximum < math.inf:
            raise ConfigurationError("retry: 0 < initial <= maximum seconds is needed")
        if not 1 <= self.multiplier < math.inf:
            raise ConfigurationError("retry: multiplier must be 1 or more")
        if not 0 <= self.jitter <= 1:
            raise ConfigurationError("retry: jitter must lie between 0 and 1")

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after so many failures in a row (1 or more); `chance` lies between 0 and 1."""
        # The exponent is held down because a float power raises OverflowError after weeks without a collector.
        grown = self.initial * self.multiplier ** min(failures - 1, 64)
        return min(grown, self.maximum) * (1 - self.jitter * chance)


def judge(status: int, header: str | None = None, now: float = 0.0) -> Verdict:
    """The decision on an HTTP status; `header` is `Retry-After`, `now` the wall clock in seconds."""
    if 200 <= status < 300:
        return Verdict(Action.DELIVERED)
    if status in _RETRYABLE:
        return Verdict(Action.RETRY, after=retry_after(header, now))
    if status == 413:
        return Verdict(Action.SPLIT)
    return Verdict(Action.DROP, f"rejected_{status}")


def retry_after(header: str | None, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for (RFC 9110, 10.2.3), or None if it says nothing readable."""
    if not header:
        return None
    header = header.strip()
    if header.isascii() and header.isdigit():
        return min(float(header[:10]), MAX_RETRY_AFTER)
    from email.utils import parsedate_to_datetime  # loads sockets and more

    try:
        date = parsedate_to_datetime(header)
        moment = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(moment - now, 0.0), MAX_RETRY_AFTER)
