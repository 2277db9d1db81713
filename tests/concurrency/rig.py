"""What every scenario is judged by: the spans as they were, and everything that must not have happened."""

from __future__ import annotations

import functools
import gc
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

import genai_async as ga

CONVERSATION = "gen_ai.conversation.id"

Row: TypeAlias = "tuple[str | None, str | None] | tuple[str | None, str | None, str]"
"""Conversation id, name of the parent and, if the span did not simply succeed, its `error.type`."""
Tree: TypeAlias = dict[str, Row]


class Recorder(SpanProcessor):
    """Keeps what starts and what ends; single steps only, because a finalizer may end a span anywhere."""

    def __init__(self) -> None:
        self.started: list[Span] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class Rig:
    """A set-up whose spans are kept, and the judgement over them."""

    def __init__(self, tracing: ga.Tracing) -> None:
        self.tracing = tracing
        self.tracer = tracing.provider.get_tracer("somebody else's")
        self.recorder = Recorder()
        self.logs: list[logging.LogRecord] = []
        self.unraisable: list[Any] = []
        self.expected_logs = 0
        tracing.provider.add_span_processor(self.recorder)  # type: ignore[attr-defined]
        self.began_ns = time.time_ns()

    def span(self, name: str) -> ReadableSpan:
        """The one ended span whose subject (the name behind the operation) this is."""
        (found,) = [span for span in self.recorder.ended if subject(span) == name]
        return found

    def links(self, name: str) -> list[str]:
        """The subjects of the spans that this one is linked to."""
        by_id = {span.get_span_context().span_id: subject(span) for span in self.recorder.started}
        return [by_id[link.context.span_id] for link in self.span(name).links]

    def tree(self) -> Tree:
        """All ended spans, as rows."""
        by_id = {span.get_span_context().span_id: subject(span) for span in self.recorder.started}
        found: Tree = {}
        for span in self.recorder.ended:
            attributes = span.attributes or {}
            parent = None if span.parent is None else by_id[span.parent.span_id]
            row: Any = (attributes.get(CONVERSATION), parent)
            if "error.type" in attributes:
                row = (*row, attributes["error.type"])
            assert subject(span) not in found, f"two spans are named {span.name}"
            found[subject(span)] = row
        return found

    def check(self, expected: Tree) -> None:
        """Hold every promise that can be told from outside against what happened."""
        found = self.tree()
        wrong = {name: (row, expected.get(name)) for name, row in found.items() if expected.get(name) != row}
        assert not wrong, f"found, expected: {wrong}"
        assert found.keys() == expected.keys()
        self.check_spans()
        self.check_silence()

    def check_spans(self) -> None:
        """Every span ended once, in the trace of its parent (or one of its own), with a sane duration."""
        started, ended = self.recorder.started, self.recorder.ended
        assert sorted(map(id_of, started)) == sorted(map(id_of, ended))
        traces = {id_of(span): span.get_span_context().trace_id for span in started}
        roots = [traces[id_of(span)] for span in ended if span.parent is None]
        assert len(roots) == len(set(roots))
        now_ns = time.time_ns()
        for span in ended:
            if span.parent is not None:
                assert traces[id_of(span)] == traces[span.parent.span_id]
            assert span.start_time is not None
            assert span.end_time is not None
            assert self.began_ns - 1_000_000 <= span.start_time <= span.end_time <= now_ns + 1_000_000

    def check_silence(self) -> None:
        """Nothing was logged or left unraisable."""
        assert [record.getMessage() for record in self.logs][self.expected_logs :] == []
        assert self.unraisable == []


def subject(span: ReadableSpan) -> str:
    """What the span is about: its name without the operation."""
    return span.name.rpartition(" ")[2]


def id_of(span: ReadableSpan) -> int:
    """The span's own id."""
    return span.get_span_context().span_id


def scenario(func: Callable[[Rig], Awaitable[Tree]]) -> Callable[[Rig], Awaitable[None]]:
    """Make a test of a function that acts and returns the tree of spans which must have come of it."""

    # What trio says of a generator that is dropped, whatever is in it.
    @pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
    @pytest.mark.anyio
    @functools.wraps(func)
    async def judged(rig: Rig) -> None:
        before = get_current()
        expected = await func(rig)
        await settle()
        assert get_current() is before
        rig.check(expected)

    return judged


async def settle() -> None:
    """Let finalizers run, and what they have scheduled."""
    for _ in range(3):
        gc.collect()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()


def is_trio() -> bool:
    """Whether the test runs under trio."""
    trio = sys.modules.get("trio.lowlevel")
    return trio is not None and trio.in_trio_run()
