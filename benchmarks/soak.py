"""Trace for minutes while the collector misbehaves, then account for every span: `python -m benchmarks.soak`.

The collector writes down which span ids it accepted and which it gave its sender leave to give up. At the end every
span that ended must be accepted, given up with leave, or be counted by the exporter as dropped for lack of room.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import anyio
import msgspec

import genai_async as ga
from genai_async.export import ExportStats
from genai_async.testing import (
    Accept,
    BrokenGzip,
    Collector,
    Exchange,
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
)

_SAMPLE_DELAY = 0.1
_TIMEOUT = 1.0
_PATIENCE = 60.0
# Dropped before they were sent, so the collector cannot know their ids.
_LOCAL = ("queue_full",)


class _Span(msgspec.Struct, rename="camel"):
    span_id: str


class _Scope(msgspec.Struct, rename="camel"):
    spans: list[_Span]


class _Resource(msgspec.Struct, rename="camel"):
    scope_spans: list[_Scope]


class _Request(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource]


_read = msgspec.json.Decoder(_Request).decode


@dataclass(slots=True)
class Final:
    """A fault after which a sender must not come again: the ids of the request are written down."""

    fault: Fault
    ids: set[str]

    def __repr__(self) -> str:
        return repr(self.fault)

    async def play(self, exchange: Exchange) -> None:
        request = await exchange.read()
        body = request.body
        if request.headers.get("content-encoding") == "gzip":
            body = zlib.decompress(body, 31)
        for resource in _read(body).resource_spans:
            self.ids.update(span.span_id for scope in resource.scope_spans for span in scope.spans)
        await self.fault.play(exchange)


class Weather:
    """Which fault comes next: drawn by weight from a seed, the same ones in each run of that seed."""

    def __init__(self, seed: int) -> None:
        self.final: set[str] = set()
        self.played: Counter[str] = Counter()
        self.is_fair = False
        self._random = random.Random(seed)
        self._kinds = list(self._faults())

    def __call__(self, number: int) -> Fault | None:
        """The fault for a request; None accepts it."""
        if self.is_fair:
            return None
        name, _, make = self._random.choices(self._kinds, [weight for _, weight, _ in self._kinds])[0]
        self.played[name] += 1
        return make()

    def _faults(self) -> Iterator[tuple[str, float, Callable[[], Fault]]]:
        chance, final = self._random, self.final
        yield "none", 90, Accept
        for code in (429, 502, 503, 504):
            yield f"{code}", 3, lambda code=code: Status(code)
        yield "429 Retry-After", 2, lambda: Status(429, retry_after=1)
        yield "503 Retry-After", 2, lambda: Status(503, retry_after="Thu, 01 Jan 1970 00:00:00 GMT")
        for code in (302, 400, 500):
            yield f"{code}", 1, lambda code=code: Final(Status(code, location="http://127.0.0.1:1/"), final)
        yield "413 over a size", 6, lambda: TooLarge(chance.choice((20_000, 100_000)))
        yield "partial success", 2, lambda: PartialSuccess(chance.randrange(1, 4), "not these")
        yield "warning", 2, lambda: PartialSuccess(0, "slow down")
        yield "slow accept", 2, lambda: Slow(accept=chance.uniform(0, 2 * _TIMEOUT))
        yield "slow headers", 2, lambda: Slow(headers=chance.uniform(0, 2 * _TIMEOUT))
        yield "slow body", 2, lambda: Slow(body=chance.uniform(0, 2 * _TIMEOUT), steps=20)
        for when in ("before", "after", "accepted"):
            yield f"reset {when}", 3, lambda when=when: Reset(when)
        yield "half response", 3, HalfResponse
        yield "broken gzip", 2, BrokenGzip
        yield "garbage", 3, lambda: Garbage(seed=chance.randrange(1000))
        yield "huge body", 0.3, lambda: Final(HugeBody(), final)
        yield "gone", 1, lambda: Refuse(chance.uniform(0.2, 2))


@dataclass(slots=True)
class Load:
    """Conversations that go on until told to stop, and the ids of the spans that ended in them."""

    conversations: int
    seed: int
    pause: float
    is_over: bool = False
    ended: set[str] = field(default_factory=set)
    turns: int = 0

    async def run(self) -> None:
        """All conversations at once."""
        async with anyio.create_task_group() as group:
            for number in range(self.conversations):
                group.start_soon(self._converse, number)

    async def _converse(self, number: int) -> None:
        chance = random.Random(self.seed * 1_000_003 + number)
        async with ga.Session(agent_name=f"agent-{number}") as session:
            while not self.is_over:
                await self._turn(session, chance)

    async def _turn(self, session: ga.Session, chance: random.Random) -> None:
        handles: list[Any] = []
        async with session.start_turn("Where is my parcel?") as turn:
            handles.append(turn)
            for _ in range(chance.randrange(1, 4)):
                async with turn.start_llm("gpt-4o", provider_name="openai") as llm:
                    handles.append(llm)
                    await anyio.sleep(chance.uniform(0, self.pause))
                    llm.record(output_messages=[ga.Message.assistant("x" * self._length(chance))])
                with turn.start_tool("track", arguments={"id": 7}) as tool:
                    handles.append(tool)
        self.turns += 1
        self.ended.update(handle.span_id for handle in handles)

    def _length(self, chance: random.Random) -> int:
        return chance.choice((20, 500, 3_000)) if chance.random() < 0.99 else 150_000


@dataclass(slots=True)
class Report:
    """What a soak came to; `problems` is empty if it holds."""

    seconds: float
    turns: int
    produced: int
    accepted: int
    duplicates: int
    lost: int
    unexplained: int
    samples: int
    faults: Mapping[str, int]
    stats: ExportStats
    peak_bytes: int
    problems: list[str]


def _balance(stats: ExportStats) -> int:
    """How far the books are off; 0 at all times."""
    return stats.ended - (stats.delivered + stats.dropped_total + stats.spooled + stats.queued + stats.in_flight)


async def soak(
    seconds: float, seed: int, conversations: int, *, pause: float = 1.5, queue_bytes: int = 32 * 2**20, **options: Any
) -> Report:
    """Trace for so long under faults of this seed, heal the collector, deliver, and account."""
    weather = Weather(seed)
    load = Load(conversations, seed, pause)
    problems: list[str] = []
    samples = peak = 0
    begun = time.monotonic()
    with Collector(weather, keep=False) as collector:
        async with ga.tracing(
            endpoint=collector.endpoint,
            timeout=_TIMEOUT,
            schedule_delay=0.2,
            max_batch_spans=128,
            max_queue_bytes=queue_bytes,
            compression="gzip",
            **options,
        ) as tracing:

            def sample() -> None:
                nonlocal samples, peak
                stats = tracing.stats()
                samples += 1
                peak = max(peak, stats.queue_bytes)
                if off := _balance(stats):
                    problems.append(f"the books are off by {off} after {time.monotonic() - begun:.1f} s")

            async with anyio.create_task_group() as group:
                group.start_soon(load.run)
                while time.monotonic() < begun + seconds:
                    sample()
                    _say(f"{time.monotonic() - begun:4.0f} s, {len(load.ended):,} spans ended")
                    await anyio.sleep(_SAMPLE_DELAY)
                load.is_over = True
            weather.is_fair = True
            outcome = await _flush_all(tracing, sample)
            stats = tracing.stats()
        _say("")
        accepted = collector.accepted
        refused = weather.final | set(collector.rejected)
        problems += list(_judge(load.ended, accepted, refused, stats, outcome))
        lost = load.ended - accepted.keys()
        return Report(
            seconds=time.monotonic() - begun,
            turns=load.turns,
            produced=len(load.ended),
            accepted=len(accepted),
            duplicates=accepted.total() - len(accepted),
            lost=len(lost),
            unexplained=abs(len(lost - refused) - sum(stats.dropped.get(reason, 0) for reason in _LOCAL)),
            samples=samples,
            faults=dict(weather.played),
            stats=stats,
            peak_bytes=peak,
            problems=problems,
        )


async def _flush_all(tracing: ga.Tracing, sample: Callable[[], None]) -> ga.FlushResult:
    """Flush until nothing waits, looking at the books meanwhile."""
    until = time.monotonic() + _PATIENCE
    while True:
        outcome = await tracing.flush(timeout=_SAMPLE_DELAY)
        await anyio.sleep(_SAMPLE_DELAY)  # with a spool `flush` has nothing to wait for once all is on disk
        sample()
        stats = tracing.stats()
        if time.monotonic() > until or (outcome.complete and not stats.spooled + stats.in_flight):
            return outcome


def _judge(
    ended: set[str], accepted: Mapping[str, int], refused: set[str], stats: ExportStats, outcome: ga.FlushResult
) -> Iterator[str]:
    if stats.ended != len(ended):
        yield f"the exporter counts {stats.ended} spans, {len(ended)} ended"
    if not outcome.complete:
        yield f"{outcome.pending} spans still wait"
    if strangers := accepted.keys() - ended:
        yield f"{len(strangers)} accepted spans never ended here"
    lost = ended - accepted.keys()
    local = sum(stats.dropped.get(reason, 0) for reason in _LOCAL)
    if len(lost - refused) != local:
        yield f"{len(lost - refused)} spans vanished, {local} are counted"
    # An answer that was lost on its way makes a batch come again, and the second time it may be refused.
    both = len(accepted) - stats.delivered
    if not 0 <= both <= len(accepted.keys() & refused):
        yield f"{stats.delivered} delivered by the exporter's books, {len(accepted)} by the collector's"


def _say(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


def _rows(report: Report, conversations: int, seed: int) -> Iterator[tuple[str, str]]:
    stats = report.stats
    yield "machine", f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    yield "load", f"{conversations} conversations at once for {report.seconds:.0f} s, seed {seed}"
    yield "", f"{report.turns:,} turns, {report.produced:,} spans"
    yield "requests", f"{stats.requests:,}, {stats.retried:,} of them retries"
    faults = sorted(
        ((name, count) for name, count in report.faults.items() if name != "none"), key=lambda item: -item[1]
    )
    yield "faults", f"{sum(count for _, count in faults):,}: " + ", ".join(f"{name} {count}" for name, count in faults)
    yield "accepted", f"{report.accepted:,} different spans, {report.duplicates:,} duplicates"
    drops = ", ".join(f"{reason} {count:,}" for reason, count in sorted(stats.dropped.items()))
    yield "dropped", f"{stats.dropped_total:,}" + (f": {drops}" if drops else "")
    yield "lost", f"{report.lost:,}, unexplained {report.unexplained}"
    yield "memory", f"{report.peak_bytes / 2**20:.1f} MiB of queue at most"
    yield "books", f"looked at {report.samples:,} times, off {sum('books' in line for line in report.problems)} times"


def main() -> int:
    """Run a soak and print its table; 1 if a span vanished or the books were ever off."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--conversations", type=int, default=120)
    parser.add_argument("--spool", help="keep spans in this directory until they are delivered")
    parser.add_argument("--backend", choices=("asyncio", "uvloop", "trio"), default="asyncio")
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object")
    given = parser.parse_args()
    logging.getLogger("genai_async").setLevel(logging.ERROR)
    options = {} if given.spool is None else {"spool": given.spool}

    async def run() -> Report:
        return await soak(given.seconds, given.seed, given.conversations, **options)

    backend = "trio" if given.backend == "trio" else "asyncio"
    report = anyio.run(run, backend=backend, backend_options={"use_uvloop": True} if given.backend == "uvloop" else {})
    if given.json:
        print(json.dumps(msgspec.to_builtins(report)))
    else:
        for name, text in _rows(report, given.conversations, given.seed):
            print(f"{name:<10} {text}")
    for problem in report.problems:
        print(f"PROBLEM: {problem}")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
