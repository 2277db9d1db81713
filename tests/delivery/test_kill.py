"""Processes with a spool that are killed at random moments: what was accepted arrives, whoever delivers it.

Eight kills in a normal run, sixty with GENAI_ASYNC_STRESS=1 (`nox -s fuzz`).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from tests.exports import imbalance

import genai_async as ga
from genai_async.testing import Collector, Fault, HalfResponse, Reset, Slow, Status, TooLarge

from .programs import started

_ROUNDS = 30 if os.environ.get("GENAI_ASYNC_STRESS") else 4
_ACCEPTED = """
async def main():
    async with ga.tracing(endpoint=url, spool=sys.argv[2], schedule_delay=0.02, max_batch_spans=16) as t:
        async with ga.Session() as session:
            while True:
                ids = []
                for _ in range(5):
                    async with session.start_turn("Hello") as turn:
                        ids.append(turn.span_id)
                outcome = await t.flush()
                assert outcome.pending == outcome.spooled  # what was flushed is on disk, if not delivered
                os.write(1, "".join(ids).encode())
anyio.run(main, backend=sys.argv[3])
"""


def _weather(seed: int) -> Iterator[Fault]:
    chance = random.Random(seed)
    kinds = [Status(503), Status(429, retry_after=0), Reset("after"), Reset("accepted"), HalfResponse(), TooLarge(2000)]
    while True:
        yield chance.choice([*kinds, *[Slow(accept=0.02)] * 6])


def _ids(process: subprocess.Popen[str]) -> set[str]:
    """What a killed process said to be accepted; a torn last id was cut by the kill."""
    text = process.stdout.read() if process.stdout is not None else ""
    return {text[at : at + 16] for at in range(0, len(text) // 16 * 16, 16)}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("outage", [False, True], ids=["faults", "outage"])
def test_kill_9(outage: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pairs of processes share a directory and die in the middle; those after them, or the last, deliver for them."""
    chance = random.Random(_ROUNDS)
    accepted: set[str] = set()
    spool = tmp_path / "spool"
    with Collector(_weather(7)) as collector:
        endpoint = "http://127.0.0.1:1" if outage else collector.endpoint
        for number in range(_ROUNDS // 2):
            with ExitStack() as stack:
                pair = [
                    stack.enter_context(started(_ACCEPTED, endpoint, str(spool), backend))
                    for backend in ("asyncio", "trio" if number % 2 else "asyncio")
                ]
                for process in pair:  # both are at work
                    assert process.stdout is not None
                    accepted.add(process.stdout.read(16))
                for process in pair:
                    threading.Event().wait(chance.uniform(0, 0.3))
                    process.send_signal(signal.SIGKILL)
                    assert process.wait() == -signal.SIGKILL
                    accepted |= _ids(process)
        collector.play([])
        anyio.run(_deliver, collector.endpoint, spool)
        lost = accepted - collector.accepted.keys()
        twice = collector.accepted.total() - len(collector.accepted)
    kills = _ROUNDS // 2 * 2
    with capsys.disabled():
        sys.stdout.write(f" {kills} kills, {len(accepted)} spans accepted, {len(lost)} lost, {twice} duplicates ")
    assert len(accepted) > _ROUNDS
    assert not lost
    assert [path.name for path in spool.iterdir() if path.suffix != ".part"] == []


async def _deliver(endpoint: str, spool: Path) -> None:
    """What a process does that starts where others died."""
    async with ga.tracing(endpoint=endpoint, spool=spool, schedule_delay=0.01) as tracing:
        with anyio.fail_after(60):
            stats = tracing.stats()
            while not stats.delivered or stats.spooled or stats.in_flight or stats.queued:
                await anyio.sleep(0.01)
                stats = tracing.stats()
                assert imbalance(stats) == 0
        assert not stats.dropped_total
