"""Spans of other instrumentations inside conversations, and the key by which the official ones find the id."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import TracerProvider

import genai_async as ga

from .rig import CONVERSATION, Recorder, Rig, Tree, id_of, scenario, settle, subject


@scenario
async def test_at_every_level(rig: Rig) -> Tree:
    """A foreign span is stamped and stands under the span that is current, in session, turn, call and tool."""
    with rig.tracer.start_as_current_span("outside"):
        async with ga.Session(session_id="s") as session:
            with rig.tracer.start_as_current_span("in-session"):
                await anyio.lowlevel.checkpoint()
            async with session.start_turn(agent_name="a"):
                with rig.tracer.start_as_current_span("in-turn"):
                    await anyio.lowlevel.checkpoint()
                async with ga.start_llm("m", provider_name="p"):
                    with rig.tracer.start_as_current_span("in-llm"):
                        await anyio.lowlevel.checkpoint()
                async with ga.start_tool("x"):
                    with rig.tracer.start_as_current_span("in-tool"):
                        await anyio.lowlevel.checkpoint()
        rig.tracer.start_span("after").end()
    return {
        "outside": (None, None),
        "in-session": ("s", "outside"),
        "a": ("s", None),
        "in-turn": ("s", "a"),
        "m": ("s", "a"),
        "in-llm": ("s", "m"),
        "x": ("s", "a"),
        "in-tool": ("s", "x"),
        "after": (None, "outside"),
    }


@scenario
async def test_ours_inside_of_theirs(rig: Rig) -> Tree:
    """A foreign span inside a turn is the parent of what starts in it by ambience, and never of a handle's own."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        with rig.tracer.start_as_current_span("theirs"):
            async with ga.start_tool("by-ambience"):
                rig.tracer.start_span("inmost").end()
            turn.start_tool("by-handle").end()
        ga.start_tool("after").end()
    return {
        "a": ("s", None),
        "theirs": ("s", "a"),
        "by-ambience": ("s", "theirs"),
        "inmost": ("s", "by-ambience"),
        "by-handle": ("s", "a"),
        "after": ("s", "a"),
    }


@scenario
async def test_with_a_handles_context(rig: Rig) -> Tree:
    """A context that is passed wins over the current one: a turn's own, a call's, a session's and an ended turn's."""
    async with ga.Session(session_id="s1") as first:
        turn = first.start_turn(agent_name="a1")
        llm = turn.start_llm("m1", provider_name="p")
        ended = first.start_turn(agent_name="e1")
        ended.end()
        async with ga.Session(session_id="s2") as second, second.start_turn(agent_name="a2"):
            rig.tracer.start_span("of-turn", context=turn.context).end()
            rig.tracer.start_span("of-llm", context=llm.context).end()
            rig.tracer.start_span("of-ended", context=ended.context).end()
            rig.tracer.start_span("of-session", context=ga.Session(session_id="s3").context).end()
            rig.tracer.start_span("of-none").end()
    return {
        "a1": ("s1", None),
        "m1": ("s1", "a1"),
        "e1": ("s1", None),
        "a2": ("s2", None),
        "of-turn": ("s1", "a1"),
        "of-llm": ("s1", "m1"),
        "of-ended": ("s1", "e1"),
        "of-session": ("s3", "a2"),
        "of-none": ("s2", "a2"),
    }


@scenario
async def test_with_a_foreign_context(rig: Rig) -> Tree:
    """A context without a conversation gives none, also inside a turn; one that holds a remote span continues it."""
    with rig.tracer.start_as_current_span("job"):
        theirs = get_current()
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        rig.tracer.start_span("empty", context=Context()).end()
        rig.tracer.start_span("later-part", context=theirs).end()
    return {"job": (None, None), "a": ("s", None), "empty": (None, None), "later-part": (None, "job")}


@scenario
async def test_linked_to_theirs(rig: Rig) -> Tree:
    """A linked part inside of another is linked to the foreign span that is current there, not to the outer one's."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        with ga.propagate("link"), rig.tracer.start_as_current_span("theirs"):
            with ga.propagate("link"):
                ga.start_tool("x").end()
    assert rig.links("x") == ["theirs"]
    return {"a": ("s", None), "theirs": ("s", None), "x": ("s", None)}


@scenario
async def test_in_tasks_and_threads(rig: Rig) -> Tree:
    """Foreign spans are stamped wherever the context goes: tasks, tasks of the turn, worker threads, streams."""

    async def work(name: str) -> None:
        with rig.tracer.start_as_current_span(name):
            await anyio.lowlevel.checkpoint()

    @ga.isolated
    async def stream(session: ga.Session, name: str) -> AsyncIterator[str]:
        async with session.start_turn(agent_name=name):
            yield name
            rig.tracer.start_span(f"in-{name}").end()

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with anyio.create_task_group() as group:
            group.start_soon(work, "task")
        turn.start_soon(work, "inherits")
        turn.start_soon(work, "links", propagate="link")
        turn.start_soon(work, "free", propagate="detach")
        await anyio.to_thread.run_sync(lambda: rig.tracer.start_span("thread").end())
        async for _ in stream(ga.Session(session_id="s2"), "b"):
            rig.tracer.start_span("beside").end()
    return {
        "a": ("s", None),
        "task": ("s", "a"),
        "inherits": ("s", "a"),
        "links": ("s", None),
        "free": (None, None),
        "thread": ("s", "a"),
        "b": ("s2", None),
        "in-b": ("s2", "b"),
        "beside": ("s", "a"),
    }


@contextmanager
def _joined(provider: TracerProvider) -> Iterator[ga.Tracing]:
    tracing = ga.configure(tracer_provider=provider, shutdown_timeout=1)
    try:
        yield tracing
    finally:
        tracing.shutdown(1)


@pytest.mark.anyio
async def test_a_provider_of_the_sdk_that_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a provider of the program's own, its spans are stamped and mixed with ours just the same."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    provider, recorder = TracerProvider(), Recorder()
    before = get_current()
    with _joined(provider):
        provider.add_span_processor(recorder)
        tracer = provider.get_tracer("theirs")
        with tracer.start_as_current_span("outside"):
            async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
                with tracer.start_as_current_span("theirs"):
                    await anyio.lowlevel.checkpoint()
                    ga.start_tool("x").end()
                tracer.start_span("passed", context=turn.context).end()
                tracer.start_span("empty", context=Context()).end()
    await settle()
    assert get_current() is before
    names = {id_of(span): subject(span) for span in recorder.started}
    found = {
        subject(span): ((span.attributes or {}).get(CONVERSATION), span.parent and names[span.parent.span_id])
        for span in recorder.ended
    }
    assert found == {
        "outside": (None, None),
        "a": ("s", None),
        "theirs": ("s", "a"),
        "x": ("s", "theirs"),
        "passed": ("s", "a"),
        "empty": (None, None),
    }


@scenario
async def test_the_key_of_the_official_instrumentations(rig: Rig) -> Tree:
    """Where `opentelemetry.util.genai` looks for the id it finds the conversation's, and nothing outside of one."""
    official: Any = importlib.import_module("opentelemetry.util.genai._conversation_context")
    seen = official.get_ambient_conversation_id
    theirs = official.with_conversation_id("theirs")

    async def in_task(expected: str | None) -> None:
        await anyio.lowlevel.checkpoint()
        assert seen() == expected

    assert seen() is None
    async with ga.Session(session_id="s1") as first:
        assert seen() == "s1"
        async with first.start_turn(agent_name="a") as turn:
            assert seen() == seen(turn.context) == "s1"
            turn.start_soon(in_task, "s1")
            turn.start_soon(in_task, "s1", propagate="link")
            turn.start_soon(in_task, None, propagate="detach")
            with ga.propagate("detach"):
                assert seen() is None
            async with ga.Session(session_id="s2"):
                assert seen() == "s2"
            assert seen() == "s1"
    assert seen() is None
    assert seen(theirs) == "theirs"
    return {"a": ("s1", None)}


@scenario
async def test_the_ids_of_an_official_invocation(rig: Rig) -> Tree:
    """A call that the official handler traces inside a turn carries the turn's id and stands under it."""
    handlers: Any = importlib.import_module("opentelemetry.util.genai.handler")
    handler = handlers.TelemetryHandler(tracer_provider=rig.tracing.provider)
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        invocation = handler.inference("openai", request_model="m")
        await anyio.lowlevel.checkpoint()
        invocation.stop()
    return {"a": ("s", None), "m": ("s", "a")}
