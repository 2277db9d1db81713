"""Every async test runs on asyncio (debug mode), uvloop and trio; each leaves the OTel context as it found it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.context import get_current

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # As shells have it for what they start in the background: programs that a test interrupts would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)

BACKENDS = [
    pytest.param(("asyncio", {"debug": True}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """The event loop that a test runs on."""
    return request.param


@pytest.fixture(autouse=True)
def same_context() -> Iterator[None]:
    """Fail a test that leaves something in its thread's OTel context."""
    before = get_current()
    yield
    assert get_current() is before
