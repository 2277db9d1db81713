"""How the cost grows: `python -m benchmarks.scale [--spans N]`.

CPU per turn as more conversations run at once and as messages get longer, and memory while the collector is away.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ._chart import bars, write
from ._processes import Sink, peer, sink
from ._report import RESULTS, machine, note, save, say, table
from ._workload import SPANS_PER_TURN

_CONVERSATIONS = (1, 10, 100, 1_000, 10_000)
_MESSAGES = (100, 1_000, 10_000, 100_000, 1_000_000)
_TURNS = 10_000
_PAYLOAD = 20_000_000
_OURS = "genai_async"
_MEGABYTE = 2**20


class Scale:
    """Our peer's process, asked for one size after the other, so that rounds take turns between the sizes."""

    def __init__(self, collector: Sink, stack: ExitStack) -> None:
        self._sink = collector
        self._remote = stack.enter_context(peer(_OURS, collector.url))

    def medians(self, orders: dict[int, dict[str, int]], rounds: int) -> dict[int, dict[str, float]]:
        """The median of each number by size."""
        results: dict[int, list[dict[str, Any]]] = {size: [] for size in orders}
        for number in range(rounds + 1):
            for size, order in orders.items():
                before = self._sink.spans(_OURS)
                result = self._remote.ask("load", **order)
                lost = result["turns"] * SPANS_PER_TURN - (self._sink.spans(_OURS) - before)
                if lost:
                    note(f"void: {lost} spans lost at {size}")
                elif number:
                    results[size].append(result)
        return {
            size: {key: statistics.median(result[key] for result in found) for key in found[0]}
            for size, found in results.items()
            if found
        }


def away(spans: int) -> dict[str, Any]:
    """Memory with a collector that does not answer: all in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.scale", "--away", str(spans)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(answer.stdout)  # type: ignore[no-any-return]


def _queue(spans: int) -> dict[str, Any]:
    """End so many spans of about 1.8 kB with nobody at the endpoint."""
    import genai_async as ga

    from ._workload import AGENT, MODEL, Exchange
    from .parts import turn

    tracing = ga.configure(endpoint="http://127.0.0.1:9", service_name="bench", shutdown_timeout=0.1)
    with ga.Session(agent_name=AGENT, model=MODEL) as session:
        turn(session, Exchange.next())
        gc.collect()
        before = _rss()
        for _ in range(spans // SPANS_PER_TURN):
            turn(session, Exchange.next())
    found = tracing.stats()
    grown, peak = _rss() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    waiting = found.queued + found.in_flight
    tracing.shutdown(0.1)
    return {
        "ended": found.ended,
        "waiting": waiting,
        "dropped": dict(found.dropped),
        "queue_bytes": found.queue_bytes,
        "grown_bytes": grown,
        "peak_bytes": peak,
    }


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Run all and write tables, data and a chart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="rounds that count")
    parser.add_argument("--spans", type=int, default=1_000_000, help="spans that end while the collector is away")
    parser.add_argument("--away", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.away is not None:
        say(json.dumps(_queue(options.away)))
        return
    with sink() as collector, ExitStack() as stack:
        scale = Scale(collector, stack)
        crowds = scale.medians({n: {"conversations": n, "turns": _TURNS // n} for n in _CONVERSATIONS}, options.rounds)
        sizes = scale.medians({n: _messages_of(n) for n in _MESSAGES}, options.rounds)
    few, many = away(20_000), away(options.spans)
    _tell(crowds, sizes, few, many)


def _messages_of(size: int) -> dict[str, int]:
    turns = max(_PAYLOAD // size // 4, 4)
    conversations = min(turns, 10)
    return {"conversations": conversations, "turns": min(turns // conversations, 200), "message_bytes": size}


def _tell(
    crowds: dict[int, dict[str, float]], sizes: dict[int, dict[str, float]], few: dict[str, Any], many: dict[str, Any]
) -> None:
    say(f"{machine()}\n")
    base = crowds[10]["loop_us"]
    head = ["conversations at once", "loop thread, us", "all threads, us", "x that of 10"]
    rows = [
        [f"{n:,}", f"{v['loop_us']:.0f}", f"{v['all_us']:.0f}", f"{v['loop_us'] / base:.2f}"] for n, v in crowds.items()
    ]
    say(table(head, rows) + "\n")
    head = ["bytes in a message", "loop thread, us", "all threads, us", "loop ns a byte"]
    rows = [
        [f"{n:,}", f"{v['loop_us']:.0f}", f"{v['all_us']:.0f}", f"{v['loop_us'] * 1000 / (4 * n):.2f}"]
        for n, v in sizes.items()
    ]
    say(table(head, rows) + "\n")
    head = ["collector away, spans ended", "waiting", "queue, MB", "process grew, MB", "peak, MB", "grown / queue"]
    rows = [
        [
            f"{found['ended']:,}",
            f"{found['waiting']:,}",
            *(f"{found[key] / _MEGABYTE:.1f}" for key in ("queue_bytes", "grown_bytes", "peak_bytes")),
            f"{found['grown_bytes'] / found['queue_bytes']:.2f}",
        ]
        for found in (few, many)
    ]
    say(table(head, rows))
    chart = {f"{n:,} at once": (v["loop_us"], v["all_us"]) for n, v in crowds.items()}
    write(RESULTS / "scale.svg", bars("CPU per traced turn", ("event loop's thread", "all threads"), chart, "us"))
    save("scale", {"conversations": crowds, "messages": sizes, "away": [few, many]})


if __name__ == "__main__":
    main()
