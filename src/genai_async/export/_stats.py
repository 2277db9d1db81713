"""What the exporter tells about itself."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

__all__ = ["Drop", "ExportStats", "FlushResult"]


class Drop(msgspec.Struct, frozen=True):
    """Spans that will never be delivered.

    Attributes:
        reason: One of the reasons that `genai_async.export` lists.
        count: How many spans.
        detail: What is known about why, for people; holds no header, key or URL.
    """

    reason: str
    count: int
    detail: str = ""


class FlushResult(msgspec.Struct, frozen=True):
    """What became of the spans, told when a `flush`, `aclose` or `shutdown` returns.

    Attributes:
        delivered: Spans that the collector has accepted since the exporter was made.
        dropped: Spans given up since the exporter was made, by reason.
        pending: Spans that ended before the call, or that a dead process left in the spool, and still wait.
        spooled: Those of `pending` that are on disk, and so outlive this process. What dead processes left counts as
            one span, here and in `pending`, until it is known what that is.
    """

    delivered: int
    dropped: Mapping[str, int]
    pending: int
    spooled: int = 0

    @property
    def complete(self) -> bool:
        """Whether nothing that ended before the call still waits, in memory or on disk."""
        return self.pending == 0


class ExportStats(msgspec.Struct, frozen=True):
    """The exporter at one instant: `ended == delivered + dropped_total + spooled + queued + in_flight`.

    Attributes:
        ended: Spans given to the exporter, and those taken over from the spool of a dead process.
        delivered: Spans that the collector has accepted.
        dropped: Spans given up, by reason.
        spooled: Spans on disk that are not delivered yet.
        queued: Spans waiting in memory.
        in_flight: Spans in requests under way.
        queue_bytes: Memory that the waiting spans take, in flight or not.
        requests: Requests made.
        retried: Requests that repeated an earlier one; the collector may hold their spans twice.
        rejected: Spans that the collector refused in partial successes (they are in `dropped`, too).
        last_error: The latest trouble, or None.
        oldest_age: Seconds since about the time at which the oldest waiting span ended; 0 if none waits.
    """

    ended: int
    delivered: int
    dropped: Mapping[str, int]
    spooled: int
    queued: int
    in_flight: int
    queue_bytes: int
    requests: int
    retried: int
    rejected: int
    last_error: str | None
    oldest_age: float

    @property
    def dropped_total(self) -> int:
        """Spans given up, for whatever reason."""
        return sum(self.dropped.values())
