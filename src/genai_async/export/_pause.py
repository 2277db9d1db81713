"""How long a collector is left alone: after failures, and for as long as it asks for."""

from __future__ import annotations

from ._retry import RetryPolicy

__all__ = ["Pause"]

_IMPATIENT_DELAY = 1.0


class Pause:
    """When the next request may leave, from what came of those before; `now` is any one clock that never goes back."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._failures = 0
        self._failed_at = 0.0
        self._resume_at = 0.0
        self._held_until = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether the latest request has failed."""
        return self._failures > 0

    def is_declined(self, since: float, now: float) -> bool:
        """Whether the latest request has failed, and that since then, or the collector asks to be left alone."""
        return self._held_until > now or (self._failures > 0 and self._failed_at >= since)

    @property
    def until(self) -> float:
        """When the next request may leave."""
        return max(self._resume_at, self._held_until)

    def fail(self, now: float, chance: float, *, after: float | None = None, is_hurried: bool = False) -> None:
        """A request failed.

        Args:
            now: The time.
            chance: Between 0 and 1, at random, so that many clients do not come back at once.
            after: Seconds for which the collector asks to be left alone.
            is_hurried: Whether somebody waits.
        """
        if now >= self._resume_at:  # requests that fail together count once
            self._failures += 1
        self._failed_at = now
        delay = self._policy.delay(self._failures or 1, chance)
        if is_hurried:
            delay = min(delay, max(_IMPATIENT_DELAY, self._policy.initial))
        self._resume_at = now + delay
        if after is not None:
            self._held_until = max(self._held_until, now + after)

    def succeed(self) -> None:
        """The collector has answered about a request, well or ill; what it asked for still holds."""
        self._failures = 0
        self._resume_at = 0.0

    def hurry(self) -> None:
        """Somebody begins to wait: the shortest delay is enough, save where the collector asked for more."""
        self._resume_at = min(self._resume_at, self._failed_at + self._policy.initial)
