"""A turn's tasks beside an anyio task group's, in the same program: the same errors, the same waiting."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest
from opentelemetry.context import Context, attach, get_current, set_value

import genai_async as ga
from genai_async.testing import capture

pytestmark = pytest.mark.anyio


async def _fails(error: BaseException) -> None:
    await anyio.lowlevel.checkpoint()
    raise error


def _shape(error: BaseException) -> Any:
    """What there is in an exception group, without its text, which names the backend's group."""
    return [_shape(inner) for inner in error.exceptions] if isinstance(error, BaseExceptionGroup) else repr(error)


async def _error_with_body(block: Any) -> None:
    async with block as tasks:
        tasks.start_soon(_fails, ValueError("task"))
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("body")


async def _error_with_inner_group(block: Any) -> None:
    async def fails_in_the_end() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise KeyError("inner")

    async with block as tasks:
        tasks.start_soon(_fails, ValueError("task"))
        async with anyio.create_task_group() as group:
            group.start_soon(fails_in_the_end)
            await anyio.sleep_forever()


async def _task_that_waits_for_the_body(block: Any) -> None:
    left = anyio.Event()

    async def waits() -> None:
        with anyio.CancelScope(shield=True):
            await left.wait()

    async with block as tasks:
        tasks.start_soon(waits)
        tasks.start_soon(_fails, ValueError("task"))
        try:
            await anyio.sleep_forever()
        finally:
            left.set()


@pytest.mark.parametrize("program", [_error_with_body, _error_with_inner_group, _task_that_waits_for_the_body])
async def test_errors_are_those_of_a_group(program: Callable[[Any], Awaitable[None]]) -> None:
    """What comes out of the block is what comes out of an anyio group, the body's error beside the task's."""
    with pytest.raises(BaseExceptionGroup) as theirs, anyio.fail_after(10):
        await program(anyio.create_task_group())
    with pytest.raises(BaseExceptionGroup) as ours, anyio.fail_after(10) as limit:
        await program(ga.Session().start_turn())
    assert not limit.cancel_called
    assert _shape(ours.value) == _shape(theirs.value)


@pytest.mark.parametrize("ahead", range(-5, 6))
async def test_two_blocks_fail_at_about_the_same_time(ahead: int) -> None:
    """A task whose inner and outer turn are interrupted by the same step leaves both, whoever was first."""
    go, session = anyio.Event(), ga.Session()

    async def fails(steps: int) -> None:
        await go.wait()
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        raise ValueError

    async def set_off() -> None:
        await anyio.wait_all_tasks_blocked()
        go.set()

    async def both() -> None:
        async with session.start_turn() as outer:
            outer.start_soon(fails, max(ahead, 0))
            try:
                async with session.start_turn() as inner:
                    inner.start_soon(fails, max(-ahead, 0))
                    await anyio.sleep_forever()
            except* ValueError:
                pass
            await anyio.sleep_forever()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(set_off)
            with pytest.raises(BaseExceptionGroup) as caught:
                await both()
    assert _shape(caught.value) == ["ValueError()"]


async def test_an_exit_stack_in_a_generator() -> None:
    """A failing task of a turn that a generator holds by an exit stack interrupts the generator, not its consumer."""

    async def numbers() -> AsyncIterator[int]:
        async with contextlib.AsyncExitStack() as stack:
            turn = await stack.enter_async_context(ga.Session().start_turn())
            turn.start_soon(_fails, ValueError("task"))
            yield 1
            yield 2

    stream: Any = numbers()
    with anyio.move_on_after(10):
        await anext(stream)
    await anyio.wait_all_tasks_blocked()
    with pytest.raises(BaseExceptionGroup):
        await stream.aclose()


async def test_a_session_that_is_entered_twice() -> None:
    """Where two requests enter one kept session, each waits for its own tasks and gets their errors."""
    session, entered, left = ga.Session(), anyio.Event(), anyio.Event()
    got: dict[str, Any] = {}

    async def one() -> None:
        try:
            async with session:
                await entered.wait()
                session.start_soon(_fails, ValueError("one's"))
                await anyio.sleep_forever()
        except* ValueError as group:
            got["one"] = _shape(group)
        left.set()

    async def other() -> None:
        async with session:
            entered.set()
            await left.wait()
        got["other"] = "fine"

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(one)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(other)
        assert got == {"one": ['ValueError("one\'s")'], "other": "fine"}
        async with session:
            async with session:
                session.start_soon(anyio.lowlevel.checkpoint)
            await session.start_soon(anyio.lowlevel.checkpoint)


async def test_tasks_of_tasks_stay_in_their_block() -> None:
    """What a task of one request starts in a session belongs to that request, whoever entered the session since."""
    session, done = ga.Session(), []
    entered, begun, failed = anyio.Event(), anyio.Event(), anyio.Event()

    async def grandchild() -> None:
        begun.set()
        await failed.wait()
        await anyio.wait_all_tasks_blocked()
        done.append("grandchild")

    async def child() -> None:
        await entered.wait()
        session.start_soon(grandchild)

    async def one() -> None:
        async with session:
            session.start_soon(child)
        done.append("one")

    async def other() -> None:
        with pytest.raises(ConnectionError):
            async with session:
                entered.set()
                await begun.wait()
                raise ConnectionError
        failed.set()

    async with anyio.create_task_group() as group:
        group.start_soon(one)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(other)
    assert done == ["grandchild", "one"]


async def test_tasks_that_never_begin(anyio_backend_name: str) -> None:
    """Whoever awaits a task that was cancelled before its first step is told, and what has ended takes no more."""
    if anyio_backend_name == "trio":
        pytest.skip("trio cancels scopes only")

    async def work() -> int:
        return 1

    async with ga.Session().start_turn() as turn:
        child = turn.start_soon(work)
        for task in asyncio.all_tasks():
            if task.get_name().startswith("tasks of"):
                task.cancel()
        with pytest.raises(RuntimeError, match="cancelled"):
            await child
    with pytest.raises(RuntimeError, match="before it has ended"):
        await turn.task_group.start(work)


async def test_without_a_set_up_other_traces_stay_whole() -> None:
    """Tasks of a turn that is not traced run under whatever span is current around it."""
    found: list[Any] = []

    async def work() -> None:
        found.append(get_current().get("theirs"))

    before = get_current()
    attach(set_value("theirs", "span"))
    try:
        async with ga.Session() as session, session.start_turn() as turn:
            turn.start_soon(work)
            found.append(turn.context.get("theirs"))
    finally:
        attach(before)
    assert found == ["span", "span"]


async def test_nothing_waits_for_the_garbage_collector() -> None:
    """Turns whose task failed, and those of isolated bodies that were thrown into, are freed when they are over."""
    refs: list[weakref.ref[Any]] = []

    @ga.isolated
    async def body(session: ga.Session) -> AsyncIterator[int]:
        async with session.start_turn() as turn:
            refs.append(weakref.ref(turn))
            yield 1

    async def fails(session: ga.Session) -> None:
        async with session.start_turn() as turn:
            refs.append(weakref.ref(turn))
            turn.start_soon(_fails, ValueError())
            await anyio.sleep_forever()

    async def run(session: ga.Session) -> None:
        with contextlib.suppress(BaseExceptionGroup):
            await fails(session)
        stream: Any = body(session)
        await anext(stream)
        with contextlib.suppress(ValueError):
            await stream.athrow(ValueError())

    gc.collect()
    gc.disable()
    try:
        async with ga.Session() as session:
            for _ in range(5):
                await run(session)
            await anyio.lowlevel.checkpoint()
            assert [ref for ref in refs if ref() is not None] == []
    finally:
        gc.enable()


async def test_a_block_holds_nothing_of_its_tasks_that_have_ended() -> None:
    """Neither what the first tasks were called with nor what they have returned lives as long as the block."""

    class Thing:
        pass

    async def work(given: Thing) -> Thing:
        await anyio.lowlevel.checkpoint()
        returned = Thing()
        refs.extend([weakref.ref(given), weakref.ref(returned)])
        return returned

    refs: list[weakref.ref[Thing]] = []
    with capture():
        async with ga.Session() as session, session.start_turn("hello") as turn:
            for owner in (session, turn):
                owner.start_soon(work, Thing())
                owner.start_soon(work, Thing())
                await anyio.wait_all_tasks_blocked()
                owner.start_soon(work, Thing())
            await anyio.wait_all_tasks_blocked()
            gc.collect()
            assert [ref() for ref in refs] == [None] * 12


async def test_a_chain_of_tasks_holds_no_more_than_its_links() -> None:
    """Where each task starts the next before it ends, former turns are forgotten."""
    refs: list[weakref.ref[Any]] = []

    async def link(number: int, entered: anyio.Event) -> None:
        async with ga.Session() as session, session.start_turn("hello") as turn:
            refs.append(weakref.ref(turn))
            entered.set()
            if number:
                following = anyio.Event()
                group.start_soon(link, number - 1, following)
                await following.wait()
            else:
                await anyio.wait_all_tasks_blocked()
                gc.collect()
                assert sum(ref() is not None for ref in refs) < 5

    with capture():
        async with anyio.create_task_group() as group:
            group.start_soon(link, 50, anyio.Event())


async def test_propagate_left_out_of_order() -> None:
    """A `propagate` block that is left while another stands in it, or elsewhere, takes nothing of the context along."""

    async def numbers() -> AsyncIterator[int]:
        with ga.propagate("link"):
            yield 1
            yield 2

    with capture():
        outermost: Context = get_current()
        attach(set_value("theirs", 1))
        async with ga.Session(session_id="s") as session, session.start_turn():
            before = get_current()
            block, other = ga.propagate("detach"), ga.Session()
            block.__enter__()
            other.__enter__()
            block.__exit__(None, None, None)
            other.__exit__(None, None, None)
            assert get_current() is before
            stream: Any = numbers()
            await anext(stream)
            async with anyio.create_task_group() as group:
                group.start_soon(stream.aclose)
            assert ga.current_session() is session
            assert get_current() is before
        assert get_current().get("theirs") == 1
        attach(outermost)


async def test_an_isolated_body_at_the_end_of_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    """Streams that are suspended when `asyncio.run` ends are closed without a word."""

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        try:
            async with ga.Session() as session, session.start_turn():
                yield 1
        finally:
            await asyncio.sleep(0.001)

    kept: list[Any] = []

    async def main() -> None:
        kept.extend(body() for _ in range(4))
        for stream in kept:
            await anext(stream)

    await anyio.to_thread.run_sync(asyncio.run, main())
    assert caplog.records == []


async def test_the_context_of_a_session_holds_no_ended_span() -> None:
    """What starts in `session.context` is never under a span that has ended, nor is a carrier of another's turn."""
    with capture() as captured:
        tracer = captured.provider.get_tracer("other")
        async with ga.Session(session_id="s") as session:
            for name in ("one", "two"):
                async with session.start_turn(agent_name=name):
                    tracer.start_span(f"in {name}", context=session.context).end()
        async with ga.Session(session_id="a") as outer, ga.Session(session_id="b") as inner, inner.start_turn():
            assert "traceparent" not in outer.carrier()
            assert "traceparent" in inner.carrier()
    names = {span.span_id: span.name for span in captured.spans}
    parents = {span.name: names.get(str(span.parent_span_id)) for span in captured.spans}
    assert parents["in one"] == "invoke_agent one"
    assert parents["in two"] == "invoke_agent two"


async def test_what_has_leaked_decides_about_no_span() -> None:
    """The sampler looks past a session that a generator left behind, as whoever stamps spans does."""
    kept = next(name for name in map(str, range(99)) if _is_kept(name))
    dropped = next(name for name in map(str, range(99)) if not _is_kept(name))

    async def numbers() -> AsyncIterator[int]:
        async with ga.Session(session_id=dropped):
            yield 1
            yield 2

    with capture(sampler=ga.ConversationSampler(0.5)) as captured:
        async with ga.Session(session_id=kept):
            stream: Any = numbers()
            await anext(stream)
            async with anyio.create_task_group() as group:
                group.start_soon(stream.aclose)
            captured.provider.get_tracer("other").start_span("after").end()
    assert [(span.name, span.attributes["gen_ai.conversation.id"]) for span in captured.spans] == [("after", kept)]


def _is_kept(conversation_id: str) -> bool:
    with capture(sampler=ga.ConversationSampler(0.5)) as captured:
        ga.Session(session_id=conversation_id).start_turn().end()
    return bool(captured.spans)


async def test_a_group_of_cancellations_is_one(anyio_backend_name: str) -> None:
    """A turn whose time runs out in a nursery of trio's own has timed out, and has not failed with a group."""
    if anyio_backend_name != "trio":
        pytest.skip("trio's own")
    import trio

    with capture() as captured, trio.move_on_after(0.01):
        async with ga.Session() as session, session.start_turn(), trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert captured.one("invoke_agent").attributes["error.type"] == "timeout"
