"""Starting spans under what is current, without a handle."""

from __future__ import annotations

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.context import get_current

import genai_async as ga

from .support import Traced


def parent(spans: Traced) -> str | None:
    return spans.last().parent_span_id


def test_what_is_current(spans: Traced, session: ga.Session) -> None:
    """Session, turn and model call are current inside of their blocks and nowhere else."""
    nothing = (None, None, None)
    assert (ga.current_session(), ga.current_turn(), ga.current_llm()) == nothing
    with session:
        assert (ga.current_session(), ga.current_turn(), ga.current_llm()) == (session, None, None)
        with session.start_turn() as turn:
            with turn.start_llm("m", provider_name="p") as llm:
                assert (ga.current_session(), ga.current_turn(), ga.current_llm()) == (session, turn, llm)
                with llm.start_tool("t"):
                    assert (ga.current_turn(), ga.current_llm()) == (turn, llm)
            assert ga.current_llm() is None
        assert ga.current_turn() is None
    assert (ga.current_session(), ga.current_turn(), ga.current_llm()) == nothing


def test_spans_go_under_the_model_call_else_the_agent(spans: Traced, session: ga.Session) -> None:
    """Tools and agents start under the current model call, else the agent; a model call always under the agent."""
    with session, ga.start_turn("hi") as turn:
        assert spans.open == ["invoke_agent bot"]
        ga.start_tool("t").end()
        assert parent(spans) is None or parent(spans) == turn.span_id
        with ga.start_llm(provider_name="p") as llm:
            with ga.start_tool("t") as tool:
                ga.start_llm(provider_name="p").end()
                with ga.start_subagent("a") as agent:
                    ga.start_llm("m2", provider_name="p").end()
            ga.start_llm("beside", provider_name="p").end()
    found = {span.span_id: span for span in spans.spans}
    names = [(span.name, found[span.parent_span_id].name if span.parent_span_id else None) for span in spans.spans]
    assert names == [
        ("invoke_agent bot", None),
        ("execute_tool t", "invoke_agent bot"),
        ("chat gpt-4o", "invoke_agent bot"),
        ("execute_tool t", "chat gpt-4o"),
        ("chat gpt-4o", "execute_tool t"),
        ("invoke_agent a", "execute_tool t"),
        ("chat m2", "invoke_agent a"),
        ("chat beside", "invoke_agent bot"),
    ]
    assert {span.attributes["gen_ai.conversation.id"] for span in spans.spans} == {"c-1"}
    assert (llm.span_id, tool.span_id, agent.span_id) != (None, None, None)
    assert spans.faults == {}


def test_without_a_session_a_span_is_a_root(spans: Traced, log: pytest.LogCaptureFixture) -> None:
    """Outside of any session spans are roots without a conversation, and one warning says so."""
    for _ in range(2):
        ga.start_llm("m", provider_name="p").end()
        ga.start_tool("t").end()
        ga.start_subagent("a").end()
    assert all(span.parent_span_id is None for span in spans.spans)
    assert not any("gen_ai.conversation.id" in span.attributes for span in spans.spans)
    assert len({span.trace_id for span in spans.spans}) == 6
    assert len(log.records) == 1
    assert spans.faults == {"a span outside of any session": 6}


def test_a_turn_without_a_session(spans: Traced, log: pytest.LogCaptureFixture) -> None:
    """A turn needs no session: it has no conversation then, and what is under it none either."""
    with ga.start_turn("hi", agent_name="bot") as turn:
        ga.start_tool("t").end()
        turn.start_llm("m", provider_name="p").end()
    assert turn.conversation_id is None
    assert [span.parent_span_id for span in spans.spans] == [None, turn.span_id, turn.span_id]
    assert len(log.records) == 1


def test_in_a_session_without_a_turn(spans: Traced, session: ga.Session) -> None:
    """A span in a session but in no turn is a root of the conversation."""
    with session:
        ga.start_tool("t").end()
    assert parent(spans) is None
    assert spans.last().attributes["gen_ai.conversation.id"] == "c-1"


def test_a_stale_handle_is_no_parent(spans: Traced, session: ga.Session) -> None:
    """What has ended by hand inside of its block is not used as a parent; its turn is."""
    with session, session.start_turn() as turn:
        with turn.start_llm("m", provider_name="p") as llm:
            llm.end()
            assert ga.current_llm() is None
            assert ga.current_turn() is turn
            ga.start_tool("t").end()
            assert parent(spans) == turn.span_id
        turn.end()
        assert ga.current_turn() is None
        ga.start_tool("late").end()
        assert parent(spans) is None
        assert spans.last().attributes["gen_ai.conversation.id"] == "c-1"


def test_an_ended_handle_is_honoured(spans: Traced, turn: ga.Turn) -> None:
    """Who holds a handle means it, ended or not."""
    turn.end()
    turn.start_tool("t").end()
    assert parent(spans) == turn.span_id


def test_somebody_elses_span_between(spans: Traced, session: ga.Session) -> None:
    """A live span of another instrumentation inside of ours is the nearer parent; one that has ended is none."""
    tracer = spans.tracing.provider.get_tracer("framework")
    with session, session.start_turn() as turn:
        with tracer.start_as_current_span("step") as step:
            ga.start_tool("inside").end()
            assert parent(spans) == f"{step.get_span_context().span_id:016x}"
            with ga.start_llm("m", provider_name="p"):
                ga.start_tool("deeper").end()
            step.end()
            ga.start_tool("after").end()
            assert parent(spans) == turn.span_id
    chat = spans.one("chat m")
    assert chat.parent_span_id == f"{step.get_span_context().span_id:016x}"
    assert spans.one("execute_tool deeper").parent_span_id == chat.span_id
    assert spans.one("step").attributes == {"gen_ai.conversation.id": "c-1"}
    assert spans.one("execute_tool inside").attributes["gen_ai.agent.name"] == "bot"


def test_a_remote_parent_between(spans: Traced, session: ga.Session) -> None:
    """A span that isn't recorded here, such as a remote one, does not come between."""
    remote = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1)))
    with session, session.start_turn() as turn, trace.use_span(remote):
        ga.start_tool("t").end()
    assert parent(spans) == turn.span_id


def test_sessions_nest(spans: Traced, session: ga.Session) -> None:
    """An inner session has its own conversation; leaving restores the outer one, also if it was ended by hand."""
    with session:
        with ga.Session(session_id="inner") as inner:
            assert ga.current_session() is inner
            ga.start_turn().end()
            inner.end()
            ga.start_turn().end()
        ga.start_turn().end()
    assert [span.attributes["gen_ai.conversation.id"] for span in spans.spans] == ["inner", "c-1", "c-1"]


def test_a_session_may_be_entered_again(spans: Traced, session: ga.Session) -> None:
    """A session that is kept between requests is entered for each, and is the same conversation every time."""
    for _ in range(2):
        with session:
            ga.start_turn().end()
            assert not session.is_ended
        assert session.is_ended
        assert ga.current_session() is None
    assert [span.attributes["gen_ai.conversation.id"] for span in spans.spans] == ["c-1", "c-1"]
    assert spans.faults == {}


@pytest.mark.anyio
async def test_tasks_may_be_in_a_session_at_once(spans: Traced, session: ga.Session) -> None:
    """Several tasks enter one session side by side; each leaves its own entry, and the last one ends it."""
    before = get_current()
    arrived, left = anyio.Event(), anyio.Event()

    async def first() -> None:
        async with session:
            await arrived.wait()
            ga.start_turn().end()
        assert ga.current_session() is None
        left.set()

    async def second() -> None:
        async with session:
            turn = ga.start_turn()
            arrived.set()
            await left.wait()
            assert turn.is_recording
            assert ga.current_session() is session
            ga.start_turn().end()
        assert ga.current_session() is None

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        group.start_soon(second)
    assert get_current() is before
    assert session.is_ended
    assert not spans.open
    assert [span.attributes.get("gen_ai.conversation.id") for span in spans.spans] == ["c-1"] * 3
    assert spans.faults == {}


def test_a_foreign_span_takes_the_context_that_it_is_given(spans: Traced) -> None:
    """Spans of others carry the id of the conversation whose context they start in, before other processors see it."""
    tracer = spans.tracing.provider.get_tracer("db")
    one, two = ga.Session(session_id="one"), ga.Session(session_id="two")
    with one:
        tracer.start_span("a").end()
        tracer.start_span("b", context=two.context).end()
        tracer.start_span("c", attributes={"gen_ai.conversation.id": "own"}).end()
    tracer.start_span("d").end()
    ids = [span.attributes.get("gen_ai.conversation.id") for span in spans.spans]
    assert ids == ["one", "two", "one", None]
