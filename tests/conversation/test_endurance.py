"""What holds when a span's end is interrupted, when tasks start tasks for ever, and when nobody waits for anybody."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from typing import Any

import anyio
import anyio.lowlevel
import pytest

import genai_async as ga
from genai_async._loop import Signal

from .support import Traced, traced


def test_each_exception_is_on_the_span_it_came_out_of(spans: Traced, session: ga.Session) -> None:
    """A handled error and the next one may have the same address; both are recorded."""
    for _ in range(20):
        with pytest.raises(ValueError, match="second"), session.start_turn() as turn:
            try:
                with turn.start_tool("t"):
                    raise ValueError("first")
            except ValueError:
                pass
            raise ValueError("second")
    recorded = [event.attributes["exception.message"] for span in spans.spans for event in span.events]
    assert sorted(recorded) == ["first"] * 20 + ["second"] * 20


def test_an_exception_is_recorded_once_on_its_way_out(spans: Traced, session: ga.Session) -> None:
    """The innermost span has the event; the ones around it have the status."""
    with pytest.raises(ValueError, match="no"), session.start_turn() as turn, turn.start_tool("t"):
        raise ValueError("no")
    tool, turn_span = sorted(spans.spans, key=lambda span: span.name)
    assert (len(tool.events), len(turn_span.events)) == (1, 0)
    assert tool.status == turn_span.status == "ERROR"


def test_an_interrupt_while_the_end_is_written() -> None:
    """Ctrl-C inside a redactor passes, and the span has ended all the same."""

    def redact(text: str) -> str:
        raise KeyboardInterrupt

    with traced(redact=redact) as spans:
        session = ga.Session()
        with pytest.raises(KeyboardInterrupt), session.start_turn() as turn:
            turn.user("hello")
        assert turn.is_ended
        assert len(spans.spans) == 1


def test_errors_that_are_their_own_cause(spans: Traced, session: ga.Session) -> None:
    """A cycle of causes and a deep nest of groups are told without an end of their own."""
    cancelled = asyncio.CancelledError()
    cancelled.__cause__ = cancelled
    session.start_turn().end(error=cancelled)
    nested: BaseException = ValueError("deep")
    for _ in range(3000):
        nested = ExceptionGroup("one", [nested])  # type: ignore[list-item]
    session.start_turn().end(error=nested)
    assert [span.attributes["error.type"] for span in spans.spans] == ["cancelled", "ValueError"]
    # A group as deep as this cannot be freed in one go.
    while isinstance(nested, BaseExceptionGroup):
        nested = nested.exceptions[0]


class Endless(BaseExceptionGroup[BaseException]):
    """Says that it holds itself."""

    @property
    def exceptions(self) -> tuple[BaseException, ...]:
        return (self, self)


def test_groups_that_share_what_they_hold(spans: Traced, session: ga.Session) -> None:
    """Each exception in them is looked at once, not once for each way to it; cancellations are told at any depth."""
    for leaf in (asyncio.CancelledError(), ValueError()):
        shared: BaseException = leaf
        for _ in range(200):
            shared = BaseExceptionGroup("both", [shared, shared])
        session.start_turn().end(error=shared)
    session.start_turn().end(error=Endless("endless", [ValueError()]))
    told = [span.attributes["error.type"].rpartition(".")[2] for span in spans.spans]
    assert told == ["cancelled", "ExceptionGroup", "Endless"]


def test_a_signal_wakes_who_was_missed() -> None:
    """An exception out of one waker leaves nobody waiting for ever: the next `set` wakes them."""
    signal = Signal()
    woken: list[str] = []
    fails = [True]

    def first() -> None:
        if fails:
            fails.pop()
            raise KeyboardInterrupt
        woken.append("first")

    signal._waiters += [first, lambda: woken.append("second")]
    with pytest.raises(KeyboardInterrupt):
        signal.set()
    signal.set()
    assert woken == ["first", "second"]
    assert signal.wait_blocking(0)


@pytest.mark.anyio
async def test_tasks_that_start_tasks_free_what_came_before(spans: Traced) -> None:
    """A chain in which each turn starts the task of the next holds no more than the last turns."""
    session = ga.Session()
    turns: list[weakref.ref[ga.Turn]] = []

    async def step(left: int, group: anyio.abc.TaskGroup) -> None:
        async with session.start_turn() as turn:
            turns.append(weakref.ref(turn))
            if left:
                group.start_soon(step, left - 1, group)
        del turn
        if not left:
            gc.collect()
            alive = sum(found() is not None for found in turns)
            assert alive <= 3

    async with anyio.create_task_group() as group:
        group.start_soon(step, 100, group)
    assert len(turns) == 101


@pytest.mark.anyio
@pytest.mark.parametrize("propagation", ["link", "detach"])
async def test_a_worker_does_not_hold_the_turn_that_started_it(spans: Traced, propagation: Any) -> None:
    """Neither a linked nor a detached worker keeps its first turn alive, nor the span with what was said in it."""
    session = ga.Session()
    stop = anyio.Event()
    async with anyio.create_task_group() as group:
        async with session.start_turn() as turn:
            with ga.propagate(propagation):
                group.start_soon(stop.wait)
        found = [weakref.ref(turn), weakref.ref(turn.span)]
        del turn
        await anyio.lowlevel.checkpoint()
        gc.collect()
        assert [ref() for ref in found] == [None, None]
        stop.set()


def test_a_task_that_outlives_its_turn_does_not_hold_it(spans: Traced) -> None:
    """Once it has entered a span of its own: what it is linked to from then on are ids."""

    async def work(stop: asyncio.Event) -> None:
        await stop.wait()
        with ga.start_tool("late"):
            pass
        await asyncio.sleep(0)  # the step that it was woken for has a context of its own
        gc.collect()
        assert [ref() for ref in found] == [None, None]
        with ga.start_tool("later"):
            pass

    async def main() -> str:
        stop = asyncio.Event()
        async with ga.Session().start_turn() as turn:
            task = asyncio.create_task(work(stop))
            await asyncio.sleep(0)
        found.extend([weakref.ref(turn), weakref.ref(turn.span)])
        span_id = turn.span_id
        del turn
        stop.set()
        await task
        return span_id

    found: list[weakref.ref[Any]] = []
    span_id = asyncio.run(main())
    assert [[link.span_id for link in span.links] for span in spans.spans] == [[], [span_id], [span_id]]


def test_an_ended_handle_holds_no_values_of_its_own(spans: Traced, turn: ga.Turn) -> None:
    """What was recorded is the span's from then on; what comes late is counted."""
    tool = turn.start_tool("t", arguments={"a": 1})
    tool.end()
    assert not tool._attributes
    tool.record(arguments={"a": 2})
    turn.end()
    turn.start_llm(provider_name="p").record(usage=ga.Usage(1, 2)).end()
    assert not tool._attributes
    assert not turn._waiting
    assert spans.faults == {"fields recorded after the span's end": 1}
    assert not tool.is_recording


@pytest.mark.anyio
async def test_a_turn_with_tasks_is_freed_at_once(spans: Traced) -> None:
    """Tasks leave no reference cycle behind."""
    session = ga.Session()
    gc.collect()
    gc.disable()
    try:
        async with session.start_turn() as turn:
            turn.start_soon(anyio.lowlevel.checkpoint)
        found = weakref.ref(turn)
        del turn
        for _ in range(5):  # anyio lets go of a finished task in a later step of the loop
            await anyio.lowlevel.checkpoint()
        assert found() is None
    finally:
        gc.enable()


@pytest.mark.anyio
async def test_ending_by_hand_lets_the_tasks_run_out(spans: Traced) -> None:
    """A turn that is entered and then ended by hand leaves no supervisor behind."""
    session = ga.Session()
    done = anyio.Event()

    async def work() -> None:
        await anyio.lowlevel.checkpoint()
        done.set()

    turn = await session.start_turn().__aenter__()
    turn.start_soon(work)
    turn.end()
    await done.wait()
    assert turn._scopes
    await turn._scopes[0].children._done.wait()
    assert turn.is_ended
    turn._leave()


@pytest.mark.anyio
@pytest.mark.parametrize(("reasons", "expected"), [(["stop"], None), (None, "abandoned")])
async def test_a_stream_that_is_left_early(spans: Traced, session: ga.Session, reasons: Any, expected: Any) -> None:
    """Inside the call's block, a recorded finish reason says that enough was read; otherwise it was abandoned."""

    async def chunks() -> Any:
        for number in range(10):
            yield number

    async with session.start_turn() as turn, turn.start_llm("m", provider_name="p") as llm:
        async with llm.stream(chunks()) as stream:
            async for _ in stream:
                break
        llm.record(finish_reasons=reasons)
    span = next(span for span in spans.spans if span.name == "chat m")
    assert span.attributes.get("error.type") == expected


def test_a_callback_of_a_callback_keeps_its_conversation(spans: Traced) -> None:
    """What a loop's callback starts goes on in the conversation that was current there."""
    got: list[str | None] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        done = asyncio.Event()

        def late() -> None:
            with ga.start_tool("late") as tool:
                got.append(tool.conversation_id)
            done.set()

        def callback() -> None:
            with ga.Session(session_id="inner") as session, session.start_turn():
                loop.call_soon(late)

        with ga.Session(session_id="outer"):
            loop.call_soon(callback)
            await done.wait()

    asyncio.run(main())
    assert got == ["inner"]


def test_spans_in_runaway_recursion_are_all_counted() -> None:
    """However deep the stack is when a span ends, it is delivered or dropped, and once."""
    import httpx

    tracing = ga.configure(transport=httpx.MockTransport(lambda _: httpx.Response(200, json={})))
    session = ga.Session()

    def deeper(level: int) -> None:
        with session.start_turn() as turn:
            turn.user("x")
            deeper(level + 1)

    thread = threading.Thread(target=_until_too_deep, args=(deeper,))
    thread.start()
    thread.join()
    session.end()
    tracing.shutdown(5)
    stats = tracing.stats()
    assert stats.ended > 10
    assert stats.ended == stats.delivered + stats.dropped_total + stats.queued + stats.in_flight + stats.spooled


def _until_too_deep(deeper: Any) -> None:
    with pytest.raises(RecursionError):
        deeper(0)


@pytest.mark.anyio
async def test_leaving_a_session_spares_what_a_task_stands_in(spans: Traced) -> None:
    """A background task's span ends with its own block, and what it starts by ambience stands under it."""
    begun, go_on = anyio.Event(), anyio.Event()

    async def background(turn: ga.Turn) -> None:
        async with turn.start_tool("x") as tool:
            begun.set()
            await go_on.wait()
            assert not tool.is_ended
            with ga.start_tool("y"):
                pass
            tool.result = "late"

    async with anyio.create_task_group() as group:
        async with ga.Session(session_id="s") as session, session.start_turn() as turn:
            forgotten = session.start_turn()
            group.start_soon(background, turn)
            await begun.wait()
        assert forgotten.is_ended
        go_on.set()
    found = {span.name: span for span in spans.spans}
    assert found["execute_tool y"].parent_span_id == found["execute_tool x"].span_id
    assert found["execute_tool x"].attributes["gen_ai.tool.call.result"] == '"late"'
    assert spans.faults == {}
