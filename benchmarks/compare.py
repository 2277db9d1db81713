"""What a traced turn costs beside other libraries, in one run: `python -m benchmarks.compare [--rounds N] [PEER ...]`.

A turn is an `invoke_agent` span with a `chat` span (600-byte messages in and out) and an `execute_tool` span below it,
delivered over HTTP to a sink in another process. Every library runs in a process and an environment of its own; rounds
take turns between them, so that what else the machine does meets all of them alike. A round that lost a span is void.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from contextlib import ExitStack
from typing import Any

from ._chart import bars, write
from ._processes import Remote, Sink, peer, sink
from ._report import RESULTS, machine, note, save, say, spread, table
from ._workload import SPANS_PER_TURN

OURS = "genai_async"
PEERS = (OURS, "opentelemetry_sdk", "opentelemetry_util_genai", "langfuse", "weave")
TITLES = {
    OURS: "genai_async",
    "opentelemetry_sdk": "opentelemetry-sdk, attributes by hand",
    "opentelemetry_util_genai": "opentelemetry-util-genai",
    "langfuse": "langfuse",
    "weave": "weave conversation",
    "untraced": "untraced",
}

Rounds = dict[str, list[dict[str, Any]]]


class Comparison:
    """The peers that run, and what was measured of them."""

    def __init__(self, collector: Sink) -> None:
        self._sink = collector
        self.remotes: dict[str, Remote] = {}
        self.skipped: dict[str, str] = {}
        self._spans: dict[str, int] = {}

    def start(self, name: str, stack: ExitStack) -> None:
        """Run a peer; one that cannot be installed or started is left out and named."""
        try:
            self.remotes[name] = stack.enter_context(peer(name, self._sink.url))
        except (OSError, RuntimeError, subprocess.CalledProcessError) as exc:
            self.skipped[name] = f"{type(exc).__name__}: {exc}"
            note(f"skipped {name}: {exc}")

    def rounds(self, order: str, count: int, **options: Any) -> Rounds:
        """Results of so many rounds by peer, without those that lost spans; one more round warms up."""
        kept: Rounds = {name: [] for name in self.remotes}
        for number in range(count + 1):
            for name, remote in self.remotes.items():
                result = remote.ask(order, **options)
                lost = self._lost(name, result["turns"])
                if lost:
                    note(f"{name}, round {number} of {order}: void, {lost} spans lost")
                elif number:
                    kept[name].append(result)
        return kept

    def _lost(self, name: str, turns: int) -> int:
        if name == "untraced":
            return 0
        before = self._spans.get(name, 0)
        self._spans[name] = self._sink.spans(name)
        return turns * SPANS_PER_TURN - (self._spans[name] - before)


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    """The median of each number, by peer; those without a round that counts are left out."""
    return {
        name: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for name, results in rounds.items()
        if results
    }


def ratios(rounds: Rounds, other: str, key: str) -> dict[str, float] | None:
    """How many times as much as ours another one takes, round by round."""
    pairs = list(zip(rounds.get(OURS, []), rounds.get(other, []), strict=False))
    return spread([theirs[key] / mine[key] for mine, theirs in pairs]) if pairs else None


def cost_table(load: Rounds, peaks: dict[str, float]) -> str:
    """CPU, wall time and memory."""
    rows: list[list[str]] = []
    for name, found in medians(load).items():
        loop, everything = ratios(load, name, "loop_us"), ratios(load, name, "all_us")
        rows.append(
            [
                TITLES[name],
                f"{found['loop_us']:.0f}",
                f"{found['all_us']:.0f}",
                f"{loop['median']:.1f}" if loop else "-",
                f"{everything['median']:.1f}" if everything else "-",
                f"{found['delivered_wall_us']:.0f}",
                f"{peaks[name]:.0f}",
            ]
        )
    head = ["", "loop thread, us", "all threads, us", "x ours", "x ours", "wall until delivered, us", "memory, MB"]
    return table(head, rows)


def lag_table(paced: Rounds) -> str:
    """How late the event loop is under a paced load; ratios are to the untraced run of the same round."""
    rows: list[list[str]] = []
    for name, found in medians(paced).items():
        cells = [f"{found[key]:.0f}" for key in ("p50", "p99", "p99.9")]
        pairs = list(zip(paced[name], paced.get("untraced", []), strict=False))
        for key in ("p99", "p99.9"):
            cells.append(f"{statistics.median(r[key] / u[key] for r, u in pairs):.2f}" if pairs else "-")
        rows.append([TITLES[name], *cells, f"{found['cpu_share'] * 100:.1f} %"])
    return table(["", "p50, us", "p99, us", "p99.9, us", "p99 / untraced", "p99.9 / untraced", "CPU"], rows)


def main() -> None:
    """Run the comparison and write its tables, data and chart."""
    options = _options()
    with sink() as collector, ExitStack() as stack:
        comparison = Comparison(collector)
        for name in ("untraced", *options.peers):
            comparison.start(name, stack)
        load = comparison.rounds("load", options.rounds, conversations=50, turns=options.turns)
        peaks = {
            name: remote.ask("memory")["peak_mb"] - remote.about["imported_mb"]
            for name, remote in comparison.remotes.items()
        }
        paced = comparison.rounds("paced", options.rounds, conversations=20, latency=0.02, seconds=options.seconds)
        versions = {name: remote.about["versions"] for name, remote in comparison.remotes.items()}
        totals = collector.totals()
    say(f"{machine()}\n")
    say(cost_table(load, peaks) + "\n")
    say(lag_table(paced) + "\n")
    for name, reason in comparison.skipped.items():
        say(f"left out: {name} ({reason})")
    found = {name: values for name, values in medians(load).items() if name != "untraced"}
    chart = {TITLES[name]: (values["loop_us"], values["all_us"]) for name, values in found.items()}
    title = "CPU per traced turn (3 spans, delivered)"
    write(RESULTS / "compare.svg", bars(title, ("event loop's thread", "all threads"), chart, "us"))
    loop_ratios = {name: ratios(load, name, "loop_us") for name in found}
    all_ratios = {name: ratios(load, name, "all_us") for name in found}
    save(
        "compare",
        {
            "versions": versions,
            "skipped": comparison.skipped,
            "delivered": totals,
            "load": medians(load),
            "times_ours": {"loop_us": loop_ratios, "all_us": all_ratios},
            "memory_mb": peaks,
            "paced": medians(paced),
            "rounds": {"load": load, "paced": paced},
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", default=PEERS, help="the libraries to run (all)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count")
    parser.add_argument("--turns", type=int, default=20, help="turns of each conversation in a round")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a round of the paced load")
    return parser.parse_args()


if __name__ == "__main__":
    main()
