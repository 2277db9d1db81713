"""The life of a handle: started, entered, recorded on, left, ended, in any order and by whomever."""

from __future__ import annotations

import gc
import sys
import threading
import time
import weakref
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.context import get_current

import genai_async as ga

from .support import Traced, traced

T0 = 1_700_000_000_000_000_000


def test_a_block_makes_current_and_ends(spans: Traced, session: ga.Session) -> None:
    """Inside of its block a span is OpenTelemetry's current one; leaving ends it and restores what was there."""
    before = get_current()
    with session.start_turn() as turn:
        assert trace.get_current_span() is turn.span
        assert turn.is_recording
        assert turn.is_entered
        with turn.start_tool("t") as tool:
            assert trace.get_current_span() is tool.span
        assert trace.get_current_span() is turn.span
    assert get_current() is before
    assert (turn.is_recording, turn.is_entered, turn.is_ended) == (False, False, True)
    assert len(spans.spans) == 2


@pytest.mark.anyio
async def test_async_blocks_do_the_same(spans: Traced, session: ga.Session) -> None:
    """`async with` does what `with` does, for each kind of span."""
    async with session, session.start_turn() as turn:
        async with turn.start_llm("m", provider_name="p") as llm, llm.start_tool("t") as tool:
            async with tool.start_subagent("a") as agent:
                assert ga.current_turn() is turn
                assert trace.get_current_span() is agent.span
    assert not spans.open
    assert [span.name for span in spans.spans] == ["invoke_agent bot", "chat m", "execute_tool t", "invoke_agent a"]
    assert [span.parent_span_id for span in spans.spans[1:]] == [turn.span_id, llm.span_id, tool.span_id]


def test_ending_twice_is_ending_once(spans: Traced, session: ga.Session) -> None:
    """Only the first `end` counts, also when the block is left afterwards."""
    with session.start_turn() as turn:
        turn.end(error="first")
        turn.end(error="second")
        assert turn.is_ended
    (span,) = spans.spans
    assert span.attributes["error.type"] == "first"
    assert spans.faults == {}


def test_recording_after_the_end_is_counted(spans: Traced, turn: ga.Turn) -> None:
    """What comes too late changes nothing, raises nothing and is counted."""
    llm = turn.start_llm("m", provider_name="p")
    tool = turn.start_tool("t")
    for handle in (llm, tool, turn):
        handle.end()
    before = spans.spans
    llm.record(response_id="r")
    llm.output("x").think("y")
    llm.attach_media(uri="https://x")
    llm.set_attributes({"a": 1})
    llm.record_error("x")
    tool.result = 5
    turn.user("late")
    assert spans.spans == before
    assert sum(spans.faults.values()) == 8
    assert all("after the span's end" in kind for kind in spans.faults)


def test_usage_after_the_end_is_counted(spans: Traced, turn: ga.Turn) -> None:
    """Usage that comes too late is counted as lost, by assignment as by `record`."""
    llm = turn.start_llm("m", provider_name="p")
    llm.end()
    llm.usage = ga.Usage(1, 2)
    assert sum(spans.faults.values()) == 1


def test_usage_can_be_read_back(spans: Traced, turn: ga.Turn) -> None:
    """Usage is what was recorded last, until it is taken back."""
    llm = turn.start_llm("m", provider_name="p")
    assert llm.usage is None
    llm.record(usage={"prompt_tokens": 1, "completion_tokens": 2})
    assert llm.usage == ga.Usage(1, 2)
    llm.usage = None
    llm.end()
    assert not any("usage" in key for key in spans.last().attributes)


def test_a_recorded_error_holds_nothing(spans: Traced, turn: ga.Turn) -> None:
    """A span that goes on keeps what the error says, and not its frames with all that stands in them."""

    class Thing:
        pass

    def fail() -> weakref.ref[Thing]:
        thing = Thing()
        try:
            raise ValueError("no")
        except ValueError as exc:
            turn.record_error(exc)
        return weakref.ref(thing)

    assert fail()() is None
    turn.end()
    assert (spans.last().status_message, spans.last().attributes["error.type"]) == ("no", "ValueError")


def test_recorded_errors(spans: Traced, turn: ga.Turn) -> None:
    """The last error decides; each exception is an event; what comes with the end wins."""
    tool = turn.start_tool("t")
    first = ValueError("one")
    tool.record_error(first).record_error(first).record_error(KeyError("two")).record_error("three")
    tool.end()
    span = spans.last()
    assert (span.status, span.attributes["error.type"]) == ("ERROR", "three")
    assert [event.attributes["exception.type"] for event in span.events] == ["ValueError", "KeyError"]
    tool = turn.start_tool("t").record_error("a")
    tool.end(error="b")
    assert spans.last().attributes["error.type"] == "b"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (T0, T0),
        (0, 0),
        (datetime.fromtimestamp(T0 // 10**9, UTC), T0),
        (datetime.fromtimestamp(T0 // 10**9, timezone(timedelta(hours=5))), T0),
        (datetime.fromtimestamp(T0 // 10**9), T0),
        (datetime(2024, 1, 1, microsecond=123456, tzinfo=UTC), 1_704_067_200_123_456_000),
    ],
)
def test_times(spans: Traced, session: ga.Session, given: Any, expected: int) -> None:
    """Times are aware or local datetimes or integers of nanoseconds, exact to what they say."""
    session.start_turn(start_time=given).end(end_time=given)
    span = spans.last()
    assert (span.start_ns, span.end_ns) == (expected, expected)
    assert spans.faults == {}


@pytest.mark.parametrize(
    "given", [-1, 1 << 63, 1.5, "2024", True, datetime(1960, 1, 1, tzinfo=UTC), datetime.min, datetime.max]
)
def test_times_that_are_none(spans: Traced, session: ga.Session, given: Any) -> None:
    """What is no time, or outside of what 64 bits can say, counts as now."""
    session.start_turn(start_time=given).end(end_time=given)
    span = spans.last()
    assert T0 < span.start_ns <= span.end_ns
    assert spans.faults == {"a time": 2}


def test_an_end_before_the_start(spans: Traced, session: ga.Session) -> None:
    """A span cannot end before it starts: it then takes no time at all."""
    session.start_turn(start_time=T0).end(end_time=T0 - 5)
    assert (spans.last().start_ns, spans.last().end_ns) == (T0, T0)
    assert spans.faults == {"a time": 1}


def test_a_session_ends_what_is_open_innermost_first(spans: Traced, session: ga.Session) -> None:
    """The session's end ends all that is still open under it, children before their parents; once."""
    ended: list[str] = []
    first = session.start_turn()
    second = session.start_turn()
    for turn in (first, second):
        llm = turn.start_llm("m", provider_name="p")
        llm.start_tool("t")
        turn.start_subagent("a").start_tool("t2")
    done = first.start_tool("done")
    done.end()
    for handle in list(session.open_spans):
        ended.append(handle.span_id)
    session.end()
    session.end()
    assert not spans.open
    assert len(spans.spans) == 11
    ends = {span.span_id: span.end_ns for span in spans.spans}
    for span in spans.spans:
        if span.parent_span_id is not None and span.name != "execute_tool done":
            assert span.end_ns <= ends[span.parent_span_id]
    assert session.is_ended
    assert {span.status for span in spans.spans} == {"UNSET"}


def test_leaving_a_session_ends_what_is_open(spans: Traced) -> None:
    """The block of a session leaves nothing open, also when it fails."""
    with pytest.raises(ValueError), ga.Session() as session:
        session.start_turn().start_tool("t")
        raise ValueError
    assert not spans.open


def test_only_who_leaves_a_session_last_looks_at_what_is_open(spans: Traced) -> None:
    """A session that is kept and entered for each request costs the others nothing for its open turns."""

    class Watched(ga.Session):
        looks = 0

        @property
        def open_spans(self) -> list[Any]:
            self.looks += 1
            return super().open_spans

    with Watched() as session:
        session.start_turn()
        with session:
            pass
        assert (session.looks, len(spans.open)) == (0, 1)
    assert (session.looks, len(spans.open)) == (1, 0)


def test_a_session_that_has_ended_still_starts_turns(spans: Traced, session: ga.Session) -> None:
    """A handle is always honoured: work that comes late still belongs to its conversation."""
    session.end()
    turn = session.start_turn()
    turn.end()
    turn.start_tool("late").end()
    assert {span.attributes["gen_ai.conversation.id"] for span in spans.spans} == {"c-1"}
    assert spans.last().parent_span_id == turn.span_id


def test_a_forgotten_handle_is_ended(spans: Traced, session: ga.Session) -> None:
    """A span that nobody can end any more ends as abandoned when it is collected, along with its session."""
    inner = ga.Session(session_id="lost")
    inner.start_turn().start_tool("t")
    del inner
    gc.collect()
    assert not spans.open
    assert {span.attributes["error.type"] for span in spans.spans} == {"abandoned"}


def test_what_is_forgotten_in_a_turn_is_ended_with_it(spans: Traced, session: ga.Session) -> None:
    """A turn keeps what is open below it; at its end what nobody holds ends as abandoned, innermost first."""
    with session.start_turn() as turn:
        turn.start_tool("outer").start_llm("m", provider_name="p").start_tool("inner")
        turn.start_tool("ended").end()
        assert len(spans.spans) == 1
    names = ["invoke_agent bot", "execute_tool outer", "chat m", "execute_tool inner"]
    ended = [spans.one(name) for name in names]
    assert [span.attributes.get("error.type") for span in ended] == [None, "abandoned", "abandoned", "abandoned"]
    assert sorted(ended, key=lambda span: span.end_ns, reverse=True) == ended
    assert session.open_spans == []


def test_what_somebody_holds_outlives_its_turn(spans: Traced, session: ga.Session) -> None:
    """It goes on until it is ended, by its holder or with the session, or nobody holds it any more."""
    turn = session.start_turn()
    by_hand, dropped, left = (turn.start_tool(name) for name in ("by-hand", "dropped", "left"))
    turn.end()
    below = left.start_tool("below")
    assert set(session.open_spans) == {by_hand, dropped, left, below}
    by_hand.record(result=1).end()
    del dropped
    assert spans.open == ["execute_tool left", "execute_tool below"]
    session.end()
    assert session.open_spans == []
    ended = {span.name.partition(" ")[2]: span.attributes.get("error.type") for span in spans.spans}
    assert ended == {"bot": None, "by-hand": None, "dropped": "abandoned", "left": None, "below": None}
    assert spans.faults == {}


def test_what_is_forgotten_outside_of_a_turn_is_the_sessions_to_end(spans: Traced, session: ga.Session) -> None:
    """Turns, and what starts in none or after its end, are kept by the session."""
    session.start_turn()
    turn = session.start_turn()
    turn.end()
    turn.start_tool("late")
    with session:
        ga.start_tool("t")
        assert len(session.open_spans) == 3
    assert not spans.open
    assert {span.status for span in spans.spans} == {"UNSET"}


def test_a_forgotten_root_is_ended(spans: Traced) -> None:
    """A span outside of any session is ended as soon as nobody holds it."""
    ga.start_tool("t")
    assert not spans.open
    assert spans.last().attributes["error.type"] == "abandoned"


def test_what_has_ended_is_freed_at_once(spans: Traced, session: ga.Session) -> None:
    """An ended span waits for no garbage collector."""
    gc.collect()
    gc.disable()
    try:
        with session.start_turn() as turn, turn.start_llm("m", provider_name="p") as llm:
            llm.output("x")
        assert turn.context != llm.context  # asked for afterwards, it keeps nothing either
        watched = [turn, llm]
        alive = [weakref.ref(handle) for handle in watched]
        del turn, llm, watched
        assert [ref() for ref in alive] == [None, None]
    finally:
        gc.enable()


def test_ids(spans: Traced, session: ga.Session) -> None:
    """A handle's ids are its span's in hex, a turn is the root of its trace and its children are in it."""
    turn = session.start_turn()
    tool = turn.start_tool("t")
    tool.end()
    turn.end()
    root, child = spans.spans
    assert (turn.trace_id, turn.span_id, turn.conversation_id) == (root.trace_id, root.span_id, "c-1")
    assert (tool.trace_id, tool.span_id) == (root.trace_id, child.span_id)
    assert (len(turn.trace_id), len(turn.span_id)) == (32, 16)
    assert (root.parent_span_id, child.parent_span_id) == (None, turn.span_id)
    assert session.start_turn().trace_id != turn.trace_id


def test_a_turn_is_linked_to_what_was_current(spans: Traced, session: ga.Session) -> None:
    """A turn under somebody else's span is a root that links to it, or is nested there if that is wanted."""
    tracer = spans.tracing.provider.get_tracer("web")
    with tracer.start_as_current_span("request") as request:
        session.start_turn().end()
        with ga.Session(continue_trace=True) as nested:
            nested.start_turn().end()
    own = f"{request.get_span_context().span_id:016x}"
    linked, nested_turn = spans.spans[1:]
    assert (linked.parent_span_id, [link.span_id for link in linked.links]) == (None, [own])
    assert (nested_turn.parent_span_id, nested_turn.links) == (own, ())


def test_a_context_carries_the_handle(spans: Traced, session: ga.Session) -> None:
    """Code that takes a context is under the handle whose context it is given."""
    turn = session.start_turn()
    tracer = spans.tracing.provider.get_tracer("db")
    tracer.start_span("query", context=turn.context).end()
    tracer.start_span("in session", context=session.context).end()
    query, in_session = spans.spans[-2:]
    assert (query.parent_span_id, query.attributes) == (turn.span_id, {"gen_ai.conversation.id": "c-1"})
    assert (in_session.parent_span_id, in_session.attributes) == (None, {"gen_ai.conversation.id": "c-1"})


def test_threads_share_a_handle(spans: Traced, session: ga.Session) -> None:
    """A handle works in threads that know nothing of the context, and is ended by one of those that try."""
    turn = session.start_turn()

    def work() -> None:
        turn.start_tool("t").end()
        turn.end()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([span for span in spans.spans if span.name == "invoke_agent bot"]) == 1
    tools = [span for span in spans.spans if span.name == "execute_tool t"]
    assert {span.parent_span_id for span in tools} == {turn.span_id}
    assert len(tools) == 8


def test_session_ids() -> None:
    """A session has the id that it was given, else a fresh UUIDv7; integers are ids, too."""
    assert ga.Session(session_id="mine").session_id == "mine"
    assert ga.Session(session_id=7).session_id == "7"  # type: ignore[arg-type]
    first, second = ga.Session(), ga.Session.create(session_id="")
    assert first.session_id[14] == second.session_id[14] == "7"
    assert first.session_id < second.session_id or first.session_id[:13] == second.session_id[:13]
    for name in ("session_id", "agent_name", "model", "context"):
        with pytest.raises(AttributeError):
            setattr(first, name, "other")


@pytest.mark.anyio
async def test_without_a_set_up_everything_may_be_called(log: pytest.LogCaptureFixture) -> None:
    """If nothing is set up every call is a silent no-op; a session's id is real, spans' ids are zeros."""
    before = get_current()
    done: list[int] = []

    async def child(number: int) -> int:
        done.append(number)
        return number

    async with ga.Session(agent_name="bot") as session:
        assert len(session.session_id) == 36
        with ga.start_llm("m", provider_name="p"):
            assert ga.current_llm() is not None
        async with session.start_turn("hi", system_instructions="x") as turn:
            assert turn.conversation_id == session.session_id
            assert (turn.trace_id, turn.span_id) == ("0" * 32, "0" * 16)
            assert not turn.is_recording
            assert not turn.span.is_recording()
            assert turn.context is not None
            turn.user("x").set_attributes({"a": 1}).record(output_messages="x", usage=5)  # type: ignore[arg-type]
            turn.record_error(ValueError())
            async with turn.start_llm("m", provider_name="p") as llm:
                llm.output("x").think("y").attach_media(b"x").record(temperature="hot")  # type: ignore[arg-type]
                llm.usage = 5  # type: ignore[assignment]
                llm.usage = ga.Usage(1, 2)
                with llm.start_tool("t", arguments={"a": 1}) as tool:
                    tool.result = 5
                    assert tool.result == 5
                    tool.start_llm(provider_name="p").end()
                assert ga.current_llm().output("x").conversation_id == session.session_id
            with turn.start_subagent("a", remote=True) as agent:
                assert agent.is_remote
                agent.record(usage=ga.Usage(1), agent_id="x")
            assert not turn.start_subagent("b").is_remote
            assert await turn.start_soon(child, 1) == 1
            assert await turn.delivered(timeout=1)
            assert repr(turn)
            assert turn.carrier() is not None
        for handle in (
            ga.start_turn("x"),
            ga.start_llm("m", provider_name="p"),
            ga.start_tool("t"),
            ga.start_subagent("a"),
        ):
            with handle:
                assert handle.span_id == "0" * 16
    assert ga.log_turn("x", session_id="c").session_id == "c"
    assert done == [1]
    assert get_current() is before
    assert not log.records


@pytest.mark.anyio
async def test_delivered_without_an_exporter(spans: Traced, session: ga.Session) -> None:
    """Where nothing of ours sends, there is nothing to wait for."""
    turn = session.start_turn()
    turn.end()
    with anyio.fail_after(5):
        assert await turn.delivered()


@pytest.mark.anyio
async def test_what_is_open_is_not_delivered(spans: Traced, session: ga.Session) -> None:
    """A span that has not ended cannot have arrived, however long one waits."""
    turn = session.start_turn()
    turn.start_tool("t").end()
    with anyio.fail_after(5):
        assert not await turn.delivered()
        turn.end()
        assert await turn.delivered()


def test_a_start_that_lies_ahead(spans: Traced, session: ga.Session) -> None:
    """A span that is to start in the future and ends now takes no time, and is counted."""
    session.start_turn(start_time=datetime(2099, 1, 1, tzinfo=UTC)).end()
    soon = time.time_ns() + 1_000_000
    turn = session.start_turn(start_time=soon)
    while time.time_ns() < soon:
        pass
    turn.end()
    first, second = spans.spans
    assert first.end_ns == first.start_ns
    assert second.end_ns > second.start_ns == soon
    assert spans.faults == {"a time": 1}


def test_what_starts_after_the_set_up_stays_with_its_parents() -> None:
    """A handle keeps the set-up that it was made under, also after that one's end."""
    with traced() as first:
        turn = ga.Session().start_turn()
    with traced() as second:
        turn.start_tool("t").end()
        turn.end()
        assert second.spans == []
    assert [span.name for span in first.spans] in ([], ["invoke_agent", "execute_tool t"])


def test_repr(spans: Traced, session: ga.Session) -> None:
    """What handles and sessions show is who they are and whether they are open."""
    turn = session.start_turn()
    assert repr(turn) == f"<Turn {turn.span_id} of conversation c-1 open>"
    turn.end()
    assert repr(turn).endswith("ended>")
    assert repr(session) == "<Session c-1 open>"
    session.end()
    assert repr(session) == "<Session c-1 ended>"


def test_handles_are_small(spans: Traced, session: ga.Session) -> None:
    """A service holds thousands of them: none has a dict of its own, and a misspelt name is an error."""
    turn = session.start_turn()
    for handle in (session, turn, turn.start_llm(provider_name="p"), turn.start_tool("t"), turn.start_subagent("a")):
        assert not hasattr(handle, "__dict__")
        with pytest.raises(AttributeError):
            setattr(handle, "reslt", 1)  # noqa: B010


def test_what_outlives_its_turn_ends_after_what_stands_below_it(spans: Traced, session: ga.Session) -> None:
    """The end of a session goes from the innermost outwards, also below a turn that has ended before."""
    turn = session.start_turn()
    worker = turn.start_subagent("worker")
    turn.end()
    llm = worker.start_llm("m", provider_name="p").record(usage=ga.Usage(10, 5))
    tool = llm.start_tool("t")
    session.end()
    assert [handle.is_ended for handle in (worker, llm, tool)] == [True] * 3
    inner, middle, outer = (spans.one(name) for name in ("execute_tool t", "chat m", "invoke_agent worker"))
    assert inner.end_ns <= middle.end_ns <= outer.end_ns
    assert spans.one("invoke_agent worker").attributes["gen_ai.usage.input_tokens"] == 10


def test_open_handles_without_a_set_up() -> None:
    """Each is known once, however many there are."""
    session = ga.Session()
    turns = [session.start_turn() for _ in range(10)]
    workers = [turn.start_subagent("worker") for turn in turns]
    assert len(session.open_spans) == 20
    session.end()
    assert all(handle.is_ended for handle in [*turns, *workers])


def test_a_child_that_starts_as_its_turn_ends_in_another_thread(spans: Traced) -> None:
    """The session knows it, whichever comes first."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            session, barrier = ga.Session(), threading.Barrier(2)
            turn = session.start_turn()
            started: list[ga.Tool] = []

            def start(
                turn: ga.Turn = turn, barrier: threading.Barrier = barrier, into: list[ga.Tool] = started
            ) -> None:
                barrier.wait()
                into += [turn.start_tool("t") for _ in range(5)]

            thread = threading.Thread(target=start)
            thread.start()
            barrier.wait()
            turn.end()
            thread.join()
            session.end()
            assert all(tool.is_ended for tool in started)
    finally:
        sys.setswitchinterval(interval)
