"""The process of one peer: `python -m benchmarks._drive PEER URL` does what it is told on stdin and answers on stdout.

One JSON value a line. Runs in the peer's own environment, so it imports nothing but the standard library and the peer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import importlib.metadata
import json
import resource
import sys
import time
from typing import Any

from benchmarks._workload import MESSAGE_BYTES, Exchange, Peer

_TICK = 0.001


class Driver:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer

    async def load(self, conversations: int, turns: int, message_bytes: int = MESSAGE_BYTES) -> dict[str, Any]:
        """As many turns as the processor allows, so many conversations at once."""
        Exchange.message_bytes = message_bytes
        gc.collect()

        async def converse(number: int) -> None:
            with self._peer.conversation(f"conversation-{number}") as turn:
                for _ in range(turns):
                    await turn(0)

        wall, loop, everything = time.perf_counter(), time.thread_time(), time.process_time()
        await asyncio.gather(*[converse(number) for number in range(conversations)])
        worked = time.perf_counter() - wall
        await self._peer.flush()
        count = conversations * turns
        return {
            "turns": count,
            "loop_us": (time.thread_time() - loop) / count * 1e6,
            "all_us": (time.process_time() - everything) / count * 1e6,
            "wall_us": worked / count * 1e6,
            "delivered_wall_us": (time.perf_counter() - wall) / count * 1e6,
        }

    async def paced(self, conversations: int, latency: float, seconds: float) -> dict[str, Any]:
        """Conversations that mostly wait for their model, and how late the loop is for somebody else meanwhile."""
        gc.collect()
        until = time.perf_counter() + seconds
        done = 0

        async def converse(number: int) -> None:
            nonlocal done
            await asyncio.sleep(latency * number / conversations)
            with self._peer.conversation(f"conversation-{number}") as turn:
                while time.perf_counter() < until:
                    await turn(latency)
                    done += 1

        ticker = asyncio.create_task(_lags())
        everything = time.process_time()
        await asyncio.gather(*[converse(number) for number in range(conversations)])
        ticker.cancel()
        lags = sorted(await ticker)
        spent = time.process_time() - everything
        await self._peer.flush()
        return {
            "turns": done,
            "cpu_share": spent / seconds,
            **{f"p{share}": lags[int(len(lags) * share / 100)] * 1e6 for share in (50, 99, 99.9)},
        }

    async def memory(self) -> dict[str, Any]:
        return {"peak_mb": _peak_mb()}


async def _lags() -> list[float]:
    lags: list[float] = []
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            due = time.perf_counter() + _TICK
            await asyncio.sleep(_TICK)
            lags.append(time.perf_counter() - due)
    return lags


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


async def main(name: str, url: str) -> None:
    peer: Peer = importlib.import_module(f"benchmarks._peers.{name}").Peer()
    imported_mb = _peak_mb()
    await peer.open(url)
    driver = Driver(peer)
    _say({"python": sys.version.split()[0], "imported_mb": imported_mb, "versions": _versions()})
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        _say(await getattr(driver, order.pop("do"))(**order))
    await peer.close()


def _versions() -> dict[str, str]:
    names = ("genai-async", "opentelemetry-sdk", "opentelemetry-util-genai", "langfuse", "weave")
    found: dict[str, str] = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
