"""Every call with a deadline keeps it within a tenth, whatever the collector does, on each host.

The troubles run side by side, each with a collector and an exporter of its own, so that the matrix takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from tests.exports import feed, imbalance
from tests.pace import Lateness

from genai_async.export import Exporter, ExportProcessor
from genai_async.testing import Collector, HalfResponse, Reset, Slow, Status

from .hosts import Host

pytestmark = pytest.mark.anyio

_DEADLINE = 1.0
_SPANS = 3

_TROUBLES: dict[str, Callable[[], Any]] = {
    "slow accept": lambda: Slow(accept=30),
    "slow headers": lambda: Slow(headers=30),
    "slow body": lambda: Slow(body=30, steps=300),
    "503": lambda: Status(503),
    "429 for an hour": lambda: Status(429, retry_after=3600),
    "half a response": HalfResponse,
    "reset": Reset,
    "silent": lambda: None,
    "refused": lambda: None,
    "no name": lambda: None,
}


@asynccontextmanager
async def _troubled(name: str) -> AsyncIterator[str]:
    """An endpoint with this trouble."""
    if name == "no name":
        yield "http://collector.invalid"
        return
    async with AsyncExitStack() as stack:
        fault = _TROUBLES[name]()
        collector = await stack.enter_async_context(Collector(lambda _: fault))
        if name == "refused":
            await stack.enter_async_context(collector.down())
        if name == "silent":
            await stack.enter_async_context(collector.stalled())
        yield collector.endpoint


async def _in_each(host: Host, call: Callable[[Exporter], Awaitable[None]], **options: Any) -> dict[str, float]:
    """How long a call takes in each trouble."""
    taken: dict[str, float] = {}

    async def one(name: str) -> None:
        async with _troubled(name) as endpoint:
            options_here = {"timeout": 20, "shutdown_timeout": 0.05, "schedule_delay": 0.01, **options}
            async with host.running(endpoint=endpoint, **options_here) as exporter:
                feed(exporter, _SPANS)
                await anyio.sleep(0.1)  # the trouble is under way
                begun = time.monotonic()
                await call(exporter)
                taken[name] = time.monotonic() - begun
                assert imbalance(exporter.stats()) == 0

    with Lateness() as late:
        async with anyio.create_task_group() as group:
            for name in _TROUBLES:
                group.start_soon(one, name)
    return {name: _less(seconds, late) for name, seconds in taken.items()}


def _less(seconds: float, late: Lateness) -> float:
    """What a deadline took without what the machine was late by, as far as it was late at all."""
    return max(min(seconds, _DEADLINE), seconds - late.seconds)


def _kept(taken: dict[str, float]) -> None:
    late = {name: seconds for name, seconds in taken.items() if not _DEADLINE * 0.9 <= seconds <= _DEADLINE * 1.1}
    assert not late
    assert taken.keys() == _TROUBLES.keys()


async def test_flush(host: Host) -> None:
    """`flush` returns at its deadline and says that everything is pending."""

    async def call(exporter: Exporter) -> None:
        assert (await exporter.flush(_DEADLINE)).pending == _SPANS

    _kept(await _in_each(host, call))


async def test_settled(host: Host) -> None:
    """`settled`, on which handles' `delivered` stands, returns at its deadline with the truth."""

    async def call(exporter: Exporter) -> None:
        assert not await exporter.settled(0, exporter.position, _DEADLINE)

    _kept(await _in_each(host, call))


async def test_aclose(host: Host) -> None:
    """`aclose` returns at its deadline with everything counted as dropped."""

    async def call(exporter: Exporter) -> None:
        outcome = await exporter.aclose(_DEADLINE)
        assert (outcome.pending, dict(outcome.dropped)) == (0, {"shutdown": _SPANS})

    _kept(await _in_each(host, call))


async def test_aclose_by_its_option(host: Host) -> None:
    """Without an argument `aclose` takes `shutdown_timeout`."""

    async def call(exporter: Exporter) -> None:
        assert dict((await exporter.aclose()).dropped) == {"shutdown": _SPANS}

    _kept(await _in_each(host, call, shutdown_timeout=_DEADLINE))


async def test_aclose_that_is_cancelled(host: Host) -> None:
    """A cancelled `aclose` still takes its deadline to deliver, and no more."""

    async def call(exporter: Exporter) -> None:
        with anyio.move_on_after(0.05):
            await exporter.aclose(_DEADLINE)
        assert dict(exporter.stats().dropped) == {"shutdown": _SPANS}

    _kept(await _in_each(host, call))


async def test_blocking_calls(host: Host) -> None:
    """`force_flush`, then `shutdown`, called in a thread, each keep their deadline."""

    async def call(exporter: Exporter) -> None:
        limiter = anyio.CapacityLimiter(1)
        processor = ExportProcessor(exporter)
        assert not await anyio.to_thread.run_sync(processor.force_flush, int(_DEADLINE * 500), limiter=limiter)
        outcome = await anyio.to_thread.run_sync(exporter.shutdown, _DEADLINE / 2, limiter=limiter)
        assert dict(outcome.dropped) == {"shutdown": _SPANS}

    _kept(await _in_each(host, call))


async def test_a_request(host: Host) -> None:
    """One request takes `timeout` at most, also when each piece of its answer comes in time."""
    slow = ("slow accept", "slow headers", "slow body", "silent")
    ages: dict[str, float] = {}

    async def one(name: str) -> None:
        async with (
            _troubled(name) as endpoint,
            host.running(endpoint=endpoint, timeout=_DEADLINE, shutdown_timeout=0.05) as exporter,
        ):
            feed(exporter, 1)
            while not exporter.stats().requests:
                await anyio.sleep(0.001)
            begun = time.monotonic()
            while exporter.stats().last_error is None:
                await anyio.sleep(0.001)
            ages[name] = time.monotonic() - begun

    with Lateness() as late:
        async with anyio.create_task_group() as group:
            for name in slow:
                group.start_soon(one, name)
    ages = {name: _less(age, late) for name, age in ages.items()}
    assert all(_DEADLINE * 0.9 <= age <= _DEADLINE * 1.1 for age in ages.values()), ages
