"""The current set-up as this room sees it. Nothing set up: None, and every call is a silent no-op."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from opentelemetry.context import Context
from opentelemetry.trace import Span, Tracer

from ._content import Gate
from ._encoding import own_method
from ._faults import Faults, reason_of


class Delivery(Protocol):
    """What a handle needs of whatever sends spans on, to say when its own have arrived."""

    @property
    def position(self) -> int:
        """The number of spans that have ended so far."""
        ...

    def settled(self, first: int, last: int, timeout: float | None) -> Awaitable[bool]:
        """Wait until the spans after `first` up to `last` were delivered or dropped; False on time-out."""
        ...


class Runtime:
    """One set-up: where spans are made, what of their content is kept, and who delivers them."""

    __slots__ = ("cancellation_is_error", "delivery", "faults", "gate", "tracer", "unsampled")

    def __init__(
        self, tracer: Tracer, gate: Gate, faults: Faults, *, delivery: Delivery, cancellation_is_error: bool
    ) -> None:
        self.tracer: Tracer = tracer
        self.unsampled: Callable[[Context | None], Span | None] | None = own_method(tracer, "unsampled")
        """Our own tracer can tell, without a look at what a span has to say, that nobody will see it."""
        self.gate: Gate = gate
        self.faults: Faults = faults
        self.delivery: Delivery = delivery
        self.cancellation_is_error: bool = cancellation_is_error


_current: Runtime | None = None


def current_runtime() -> Runtime | None:
    """The newest set-up that is still there."""
    return _current


def drop(kind: str, exc: Exception) -> None:
    """Count a value that is dropped where there is no handle to count it; without a set-up nobody would see it."""
    if _current is not None:
        _current.faults.drop(kind, reason_of(exc))


def note(kind: str, text: str) -> None:
    """Count what is odd but not lost where there is no handle to count it."""
    if _current is not None:
        _current.faults.note(kind, text)


def make_current(runtime: Runtime | None) -> None:
    """Have everything that starts from now on belong to this set-up, or to none."""
    global _current  # noqa: PLW0603  # one set-up for the process is what the API promises
    _current = runtime
