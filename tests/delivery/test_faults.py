"""Each fault of the collector against each host of the exporter: what arrives, what is counted, what is sent again."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.exports import feed, imbalance

from genai_async.testing import (
    BrokenGzip,
    Collector,
    Fault,
    Garbage,
    HalfResponse,
    HugeBody,
    PartialSuccess,
    Refuse,
    Reset,
    Slow,
    Status,
    TooLarge,
    WrongType,
)

from .hosts import Host

pytestmark = pytest.mark.anyio

_SPANS = 6


@dataclass(frozen=True)
class Case:
    """What the first request meets, and what must come of its spans once the collector is well again."""

    fault: Fault
    dropped: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    duplicates: int = 0
    requests: int = 1


def _retried(fault: Fault, duplicates: int = 0) -> Case:
    return Case(fault, duplicates=duplicates, requests=2)


def _refused(status: int) -> Case:
    fault = Status(status, location="http://127.0.0.1:1/")
    return Case(fault, {f"rejected_{status}": _SPANS}, lost=_SPANS)


_CASES = {
    **{f"{code}": _retried(Status(code)) for code in (429, 502, 503, 504)},
    "429 for 0 s": _retried(Status(429, retry_after=0)),
    "429 until a past date": _retried(Status(429, retry_after=datetime.now(UTC) - timedelta(days=1))),
    "503 for no reason": _retried(Status(503, retry_after="soon")),
    "503 for minus a second": _retried(Status(503, retry_after="-1")),
    **{f"{code}": _refused(code) for code in (300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 408, 500, 501, 505)},
    "201": Case(Status(201), lost=_SPANS),  # the fault takes nothing, but any 2xx says that it did
    "204": Case(Status(204), lost=_SPANS),
    "413": Case(TooLarge(900), requests=3),
    "some rejected": Case(PartialSuccess(2, "not these"), {"partial_success": 2}, lost=2),
    "some rejected, no word": Case(PartialSuccess(2), {"partial_success": 2}, lost=2),
    "all rejected": Case(PartialSuccess(_SPANS), {"partial_success": _SPANS}, lost=_SPANS),
    "a warning": Case(PartialSuccess(0, "slow down")),
    "slow headers": Case(Slow(headers=0.1)),
    "slow body": Case(Slow(body=0.1, steps=10)),
    "slow accept": Case(Slow(accept=0.1)),
    "too slow headers": _retried(Slow(headers=3), _SPANS),
    "too slow body": _retried(Slow(body=3, steps=100), _SPANS),
    "too slow accept": _retried(Slow(accept=3)),
    "a reset before reading": _retried(Reset("before")),
    "a reset after reading": _retried(Reset("after")),
    "a reset after accepting": _retried(Reset("accepted"), _SPANS),
    "half a response": _retried(HalfResponse(), _SPANS),
    "half a response, nothing taken": _retried(HalfResponse(accepts=False)),
    "half a refusal": _retried(HalfResponse(503, accepts=False)),
    "a page": Case(WrongType(accepts=True)),
    "a page with 502": _retried(WrongType(502)),
    "a page with 403": Case(WrongType(403), {"rejected_403": _SPANS}, lost=_SPANS),
    "broken gzip": Case(BrokenGzip()),
    "broken gzip with 503": _retried(BrokenGzip(503, accepts=False)),
    "a huge body": Case(HugeBody(), {"response_too_large": _SPANS}),
    "a bomb": Case(HugeBody(6 << 20, compressed=True), {"response_too_large": _SPANS}),
    "garbage": _retried(Garbage()),
    "nobody there for a while": _retried(Refuse(0.1)),
}


@pytest.mark.parametrize("name", _CASES)
async def test_fault(name: str, host: Host) -> None:
    """Each fault leaves every span accepted or counted as dropped, and repeats only what may be repeated."""
    case = _CASES[name]
    async with Collector([case.fault]) as collector:
        async with host.running(endpoint=collector.endpoint, timeout=0.3, schedule_delay=60) as exporter:
            ids = feed(exporter, _SPANS)
            outcome = await exporter.flush(5)
            stats = exporter.stats()
        assert (outcome.pending, dict(outcome.dropped)) == (0, case.dropped)
        assert outcome.delivered == _SPANS - sum(case.dropped.values())
        assert imbalance(stats) == 0
        assert stats.queue_bytes == stats.queued == stats.in_flight == 0
        assert collector.accepted.keys() <= ids
        assert len(ids) - len(collector.accepted) == case.lost
        assert collector.accepted.total() - len(collector.accepted) == case.duplicates
        assert stats.requests >= case.requests
        assert (stats.retried > 0) is (case.duplicates > 0 or (case.requests == 2))


@pytest.mark.parametrize("name", ["the port", "the name"])
async def test_nobody_is_there(name: str, host: Host) -> None:
    """A port that nobody listens on and a host that has no name keep the spans; the cause stays in the books."""
    endpoint = {"the port": "http://127.0.0.1:1", "the name": "http://collector.invalid"}[name]
    async with host.running(endpoint=endpoint, shutdown_timeout=0.1) as exporter:
        feed(exporter, _SPANS)
        outcome = await exporter.flush(0.3)
        assert (outcome.pending, outcome.delivered, dict(outcome.dropped)) == (_SPANS, 0, {})
        assert "ConnectError" in (exporter.stats().last_error or "")
        assert dict((await exporter.aclose()).dropped) == {"shutdown": _SPANS}
        stats = exporter.stats()
        assert imbalance(stats) == 0
        assert "ConnectError" in (stats.last_error or "")


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_asked_to_stay_away_for_long(form: str, host: Host) -> None:
    """`Retry-After` past every deadline keeps the spans instead of dropping them, and is not pressed."""
    after: Any = 3000 if form == "seconds" else datetime.now(UTC) + timedelta(hours=50)
    async with Collector([Status(503, retry_after=after)]) as collector:
        async with host.running(endpoint=collector.endpoint, shutdown_timeout=0) as exporter:
            feed(exporter, _SPANS)
            assert (await exporter.flush(0.2)).pending == _SPANS
            assert not (await exporter.flush(0.2)).dropped
            assert exporter.stats().requests == 1
            assert exporter.stats().queued == _SPANS


async def test_an_outage_with_traffic(host: Host) -> None:
    """What ends before, during and after an outage arrives once it is over, each span once."""
    async with Collector() as collector:
        async with host.running(endpoint=collector.endpoint) as exporter:
            ids = feed(exporter, _SPANS)
            await exporter.flush(5)
            async with collector.down():
                ids |= feed(exporter, _SPANS, 100)
                assert (await exporter.flush(0.2)).pending == _SPANS
            ids |= feed(exporter, _SPANS, 200)
            assert (await exporter.flush(5)).complete
        assert collector.accepted == dict.fromkeys(ids, 1)


async def test_a_collector_that_opens_and_says_nothing(host: Host) -> None:
    """Connections that stay in the backlog time out, and the spans go out when somebody answers."""
    async with Collector() as collector:
        async with host.running(endpoint=collector.endpoint, timeout=0.1) as exporter:
            async with collector.stalled():
                ids = feed(exporter, _SPANS)
                assert (await exporter.flush(0.3)).pending == _SPANS
            assert (await exporter.flush(5)).complete
        assert collector.accepted.keys() == ids


async def test_a_storm(host: Host) -> None:
    """All passing faults in a row lose nothing, and the books hold at each step."""
    passing = [case.fault for case in _CASES.values() if case.requests == 2 and not isinstance(case.fault, Slow)]
    async with Collector(passing) as collector:
        async with host.running(endpoint=collector.endpoint, max_batch_spans=4, timeout=1) as exporter:
            ids = feed(exporter, 40)
            until = time.monotonic() + 20
            while not (await exporter.flush(0.05)).complete and time.monotonic() < until:
                assert imbalance(exporter.stats()) == 0
                await anyio.sleep(0)
        assert collector.accepted.keys() == ids
        assert exporter.stats().delivered == len(ids)


async def test_asking_again_and_again(host: Host, tmp_path: Path) -> None:
    """A loop around `flush` lets the exporter work, also when there is nothing to wait for any more."""
    async with Collector([Status(503)]) as collector:
        async with host.running(endpoint=collector.endpoint, spool=tmp_path / "spool") as exporter:
            feed(exporter, _SPANS)
            with anyio.fail_after(40):  # the loop spins: a sending thread gets its turn of the interpreter now and then
                while exporter.stats().delivered < _SPANS:
                    await exporter.flush()  # ends once all is on disk
