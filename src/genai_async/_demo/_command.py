"""`python -m genai_async demo`: agents, exporter and receiver for real, and a verdict on what arrived."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from msgspec import json
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from .._env import flag
from .._errors import ConfigurationError
from .._progress import Progress
from .._setup import tracing
from .._testing._record import SpanRecord
from ..export import ExportStats
from ._crowd import converse
from ._receiver import Receiver, receiving
from ._report import conversation_ids, counted, trees
from ._style import Style
from ._witness import Verdict, Witness, judge

_SHOWN = 3
_SHOWN_TURNS = 2
_PATIENCE = 10.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The totals; what only the receiver can tell is None where the receiver is the user's own."""

    sessions: int
    turns: int
    spans: int
    delivered: int
    dropped: int
    wrong_conversation_ids: int | None
    wrong_parents: int | None

    @property
    def exit_status(self) -> int:
        """0 if everything arrived, and in its place."""
        wrong = self.dropped or self.wrong_conversation_ids or self.wrong_parents
        return 1 if wrong or self.delivered != self.spans else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.add_argument("--path", type=Path, default=Path(), help="the folder to ask about (default: the current one)")
    parser.add_argument("--conversations", type=_positive, default=40, metavar="N", help="how many (default: 40)")
    parser.add_argument("--json", action="store_true", help="print the totals as one JSON object")
    parser.add_argument("--endpoint", metavar="URL", help="send to this collector instead of the demo's own receiver")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other conversations (default: 0)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; 1 if anything was lost or wrong."""
    if not os.path.isdir(arguments.path):  # noqa: PTH112 - of what may not be looked at, `pathlib` raises
        sys.stderr.write(f"{arguments.path} is not a folder\n")
        return 2
    if flag("OTEL_SDK_DISABLED"):
        sys.stderr.write("OTEL_SDK_DISABLED is set: nothing would be traced\n")
        return 2
    try:
        return anyio.run(_demo, arguments)
    except ConfigurationError as exc:  # the endpoint's, or a variable's
        sys.stderr.write(f"{exc}\n")
        return 2


async def _demo(arguments: argparse.Namespace) -> int:
    started = time.perf_counter()
    async with _destination(arguments.endpoint) as (endpoint, receiver):
        # Every span counts here, whatever the environment says about sampling.
        name, sampler = "genai-async-demo", ALWAYS_ON
        async with tracing(service_name=name, endpoint=endpoint, sampler=sampler, schedule_delay=0.5) as set_up:
            with Progress(arguments.conversations, "conversations") as progress:
                witnesses = await converse(arguments.path, arguments.conversations, arguments.seed, progress.advance)
            await set_up.flush(timeout=_PATIENCE)
        received = [] if receiver is None else await receiver.spans()
    stats = set_up.stats()
    verdict = None if receiver is None else judge(witnesses, received)
    outcome = _outcome(witnesses, stats, verdict)
    if arguments.json:
        print(json.encode(outcome).decode())  # noqa: T201
        return outcome.exit_status
    for line in _report(outcome, received, Style.of(sys.stdout)):
        print(line)  # noqa: T201
    seconds = time.perf_counter() - started
    sent = f"{counted(stats.requests, 'request')} to {endpoint}, {stats.retried:,} retried"
    print(f"{sent}, {seconds:.1f} s in all")  # noqa: T201
    if stats.last_error is not None:
        print(f"last trouble: {stats.last_error}")  # noqa: T201
    return outcome.exit_status


@asynccontextmanager
async def _destination(endpoint: str | None) -> AsyncGenerator[tuple[str, Receiver | None]]:
    if endpoint is not None:
        yield endpoint, None
        return
    async with receiving() as receiver:
        yield receiver.endpoint, receiver


def _outcome(witnesses: Sequence[Witness], stats: ExportStats, verdict: Verdict | None) -> Outcome:
    places = [place for witness in witnesses for place in witness.noted.values()]
    return Outcome(
        sessions=len(witnesses),
        turns=sum(place.parent_span_id is None for place in places),
        spans=len(places),
        delivered=stats.delivered if verdict is None else verdict.delivered,
        dropped=stats.dropped_total,
        wrong_conversation_ids=None if verdict is None else verdict.wrong_conversation_ids,
        wrong_parents=None if verdict is None else verdict.wrong_parents,
    )


def _report(outcome: Outcome, received: Sequence[SpanRecord], style: Style) -> Iterator[str]:
    yield from trees(received, conversation_ids(received)[:_SHOWN], style, turns=_SHOWN_TURNS)
    yield ""
    sizes = {"conversation": outcome.sessions, "turn": outcome.turns, "span": outcome.spans}
    yield style.paint(", ".join(counted(number, noun) for noun, number in sizes.items()), "bold")
    figures = {
        "delivered": outcome.delivered,
        "dropped": outcome.dropped,
        "wrong conversation id": outcome.wrong_conversation_ids,
        "wrong parent": outcome.wrong_parents,
    }
    known = "   ".join(f"{name} {value:,}" for name, value in figures.items() if value is not None)
    yield style.paint(known, "red" if outcome.exit_status else "green")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number
