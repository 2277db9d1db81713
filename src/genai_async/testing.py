"""Test what was traced: spans without a network, assertions in words, a collector that fails as scripted."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from ._testing._assertions import (
    assert_attributes,
    assert_delivered,
    assert_ended,
    assert_isolated,
    assert_no_errors,
    assert_tree,
)
from ._testing._capture import Capture, capture
from ._testing._collector import Collector, Script
from ._testing._deterministic import ManualClock, SequentialIds, TickingClock
from ._testing._exchange import Exchange
from ._testing._faults import (
    Accept,
    BrokenGzip,
    Fault,
    Garbage,
    HalfResponse,
    Hold,
    HugeBody,
    PartialSuccess,
    Refuse,
    Reset,
    Slow,
    Status,
    TooLarge,
    WrongType,
)
from ._testing._ledger import ReceivedRequest
from ._testing._record import EventRecord, LinkRecord, SpanRecord

if TYPE_CHECKING:
    from ._testing._pytest import spans

__all__ = [
    "Accept",
    "BrokenGzip",
    "Capture",
    "Collector",
    "EventRecord",
    "Exchange",
    "Fault",
    "Garbage",
    "HalfResponse",
    "Hold",
    "HugeBody",
    "LinkRecord",
    "ManualClock",
    "PartialSuccess",
    "ReceivedRequest",
    "Refuse",
    "Reset",
    "Script",
    "SequentialIds",
    "Slow",
    "SpanRecord",
    "Status",
    "TickingClock",
    "TooLarge",
    "WrongType",
    "assert_attributes",
    "assert_delivered",
    "assert_ended",
    "assert_isolated",
    "assert_no_errors",
    "assert_tree",
    "capture",
]
if find_spec("pytest"):
    __all__ += ["spans"]  # a fixture: nothing else here needs pytest


def __getattr__(name: str) -> Any:
    if name == "spans":
        from ._testing._pytest import spans

        return spans
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
