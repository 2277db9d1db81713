"""`isolated` functions: their own ambient state over every yield, in the consumer's task."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncGenerator, AsyncIterator
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.context import get_current

import genai_async as ga
from genai_async.testing import capture

from .rig import Rig, Tree, is_trio, scenario, settle

_ANSWERED: Tree = {"a": ("s", None), "x": ("s", "a")}
_ABANDONED: Tree = {"a": ("s", None, "abandoned"), "x": ("s", "a")}


@ga.isolated
async def answer(name: str = "") -> AsyncGenerator[Any, Any]:
    async with ga.Session(session_id=f"s{name}"), ga.start_turn(agent_name=f"a{name}"):
        sent = yield 1
        with ga.start_tool(f"x{name}"):
            await anyio.lowlevel.checkpoint()
        yield sent
        yield 3


@scenario
async def test_asend(rig: Rig) -> Tree:
    """What is sent in arrives, and the consumer never sees what is current inside."""
    before = get_current()
    stream = answer()
    assert await stream.asend(None) == 1
    assert get_current() is before
    assert await stream.asend("hello") == "hello"
    assert get_current() is before
    assert [item async for item in stream] == [3]
    return _ANSWERED


@pytest.mark.parametrize("close", [True, False])
def test_a_coroutine_that_is_dropped_elsewhere(close: bool) -> None:
    """What is closed or collected while somebody else runs leaves alone what is current there."""

    @ga.isolated
    async def wait_for_reply() -> None:
        await asyncio.get_running_loop().create_future()

    async def other(dropped: list[Any]) -> None:
        async with ga.Session(session_id="B") as session, session.start_turn() as turn:
            await asyncio.sleep(0)
            dropped.pop().close() if close else dropped.clear()
            gc.collect()
            assert (ga.current_session(), ga.current_turn()) == (session, turn)
            with ga.start_tool("t") as tool:
                assert tool.conversation_id == "B"

    async def main() -> None:
        async with ga.Session(session_id="A") as session, session.start_turn():
            waiting: Any = wait_for_reply()
            waiting.send(None)
            # In a context of its own, as a task that nobody has kept.
            await asyncio.create_task(other([waiting]))
            del waiting

    with capture():
        asyncio.run(main())


@scenario
async def test_athrow_handled_inside(rig: Rig) -> Tree:
    """An error thrown in may be handled inside, in the body's own context."""

    @ga.isolated
    async def body() -> AsyncGenerator[str, None]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            try:
                yield "first"
            except KeyError:
                with ga.start_tool("x"):
                    await anyio.lowlevel.checkpoint()
                yield "handled"

    before = get_current()
    stream = body()
    await anext(stream)
    assert await stream.athrow(KeyError("k")) == "handled"
    assert get_current() is before
    assert [item async for item in stream] == []
    return _ANSWERED


@scenario
async def test_athrow_let_out(rig: Rig) -> Tree:
    """An error thrown in and not handled comes out as the very object, and is the spans'."""
    stream = answer()
    await anext(stream)
    error = KeyError("k")
    with pytest.raises(KeyError) as caught:
        await stream.athrow(error)
    assert caught.value is error
    assert [item async for item in stream] == []
    return {"a": ("s", None, "KeyError")}


@scenario
async def test_aclose(rig: Rig) -> Tree:
    """Closing ends the spans as abandoned, at once."""
    stream = answer()
    await anext(stream)
    await anext(stream)
    await stream.aclose()
    assert len(rig.recorder.ended) == 2
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    return _ABANDONED


@scenario
async def test_aclose_before_the_first_step(rig: Rig) -> Tree:
    """A stream that is closed before it began has done nothing."""
    await answer().aclose()
    return {}


@scenario
async def test_a_stream_that_never_begins(rig: Rig) -> Tree:
    """A stream that is dropped before it began has done nothing, and says nothing."""
    answer()
    return {}


@scenario
async def test_clean_up_that_awaits(rig: Rig) -> Tree:
    """What the body does while it is closed is still in its own context, and may wait."""

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            try:
                yield 1
            finally:
                with ga.start_tool("x"):
                    await anyio.lowlevel.checkpoint()

    before = get_current()
    stream: Any = body()
    await anext(stream)
    await stream.aclose()
    assert get_current() is before
    return _ABANDONED


@scenario
async def test_break(rig: Rig) -> Tree:
    """Breaking out ends the spans as abandoned when the stream is collected; the consumer's context never changed."""
    before = get_current()
    async for item in answer():
        assert get_current() is before
        if item is None:
            break
    await settle()
    assert len(rig.recorder.ended) == 2
    return _ABANDONED


@scenario
async def test_collected_in_a_cycle(rig: Rig) -> Tree:
    """A stream that only the collector can find ends as abandoned."""
    cycle: list[Any] = [stream := answer()]
    cycle.append(cycle)
    await anext(stream)
    await anext(stream)
    del stream, cycle
    await settle()
    assert len(rig.recorder.ended) == 2
    return _ABANDONED


@scenario
async def test_closed_in_another_task(rig: Rig) -> Tree:
    """Another task may close it; its context stays its own."""

    async def close(stream: Any) -> None:
        before = get_current()
        await stream.aclose()
        assert get_current() is before

    stream = answer()
    await anext(stream)
    await anext(stream)
    async with anyio.create_task_group() as group:
        group.start_soon(close, stream)
    return _ABANDONED


_theirs: ContextVar[str] = ContextVar("theirs", default="outside")


@scenario
async def test_what_others_keep_in_context_variables(rig: Rig) -> Tree:
    """Other libraries' variables are the body's own too: they can be reset wherever it is closed, and never leak."""
    seen: list[str] = []

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            token = _theirs.set("inside")
            try:
                with ga.start_tool("x"):
                    yield 1
                    seen.append(_theirs.get())
                    yield 2
            finally:
                _theirs.reset(token)
                seen.append(_theirs.get())

    async def close(stream: Any) -> None:
        await anext(stream)
        await stream.aclose()

    stream: Any = body()
    await anext(stream)
    assert _theirs.get() == "outside"
    token = _theirs.set("the consumer's")
    async with anyio.create_task_group() as group:
        group.start_soon(close, stream)
    _theirs.reset(token)
    assert seen == ["inside", "outside"]
    return {"a": ("s", None, "abandoned"), "x": ("s", "a", "abandoned")}


@scenario
async def test_read_by_several_tasks(rig: Rig) -> Tree:
    """Each step may be another task's: the body's context goes with it."""

    async def step(stream: Any, found: list[Any]) -> None:
        before = get_current()
        found.append(await anext(stream, "end"))
        assert get_current() is before

    stream = answer()
    found: list[Any] = []
    for _ in range(4):
        async with anyio.create_task_group() as group:
            group.start_soon(step, stream, found)
    assert found == [1, None, 3, "end"]
    return _ANSWERED


@scenario
async def test_an_error_inside(rig: Rig) -> Tree:
    """An error in the body comes out and is the spans'."""

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            yield 1
            raise LookupError

    before = get_current()
    with pytest.raises(LookupError):
        async for _ in body():
            pass
    assert get_current() is before
    return {"a": ("s", None, "LookupError")}


@scenario
async def test_a_coroutine_function(rig: Rig) -> Tree:
    """A coroutine function that leaves a scope open doesn't hand it to its caller."""

    @ga.isolated
    async def body() -> ga.Turn:
        session = await ga.Session(session_id="s").__aenter__()
        return await session.start_turn(agent_name="a").__aenter__()

    before = get_current()
    turn = await body()
    assert get_current() is before
    await turn.__aexit__(None, None, None)
    assert get_current() is before
    return {"a": ("s", None)}


@scenario
async def test_it_starts_with_what_is_current_where_it_is_called(rig: Rig) -> Tree:
    """The body starts in the caller's turn, also when it is read in another task."""

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        with ga.start_tool("x"):
            yield 1

    async def read(stream: AsyncIterator[int]) -> None:
        async with ga.Session(session_id="other") as other, other.start_turn(agent_name="b"):
            async for _ in stream:
                pass

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        stream = body()
        async with anyio.create_task_group() as group:
            group.start_soon(read, stream)
    return {"a": ("s", None), "x": ("s", "a"), "b": ("other", None)}


@scenario
async def test_anyio_cancel_scopes_inside(rig: Rig) -> Tree:
    """A cancel scope may span yields, and its deadline and cancellation are seen inside."""

    @ga.isolated
    async def body() -> AsyncIterator[str]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            with anyio.CancelScope() as scope:
                yield "inside"
                scope.cancel()
                with ga.start_tool("x"):
                    await anyio.sleep_forever()
            yield "after"

    assert [item async for item in body()] == ["inside", "after"]
    return {"a": ("s", None), "x": ("s", "a", "cancelled")}


@scenario
async def test_an_anyio_deadline_inside(rig: Rig) -> Tree:
    """`move_on_after` inside works, and the span in it timed out."""

    @ga.isolated
    async def body() -> AsyncIterator[str]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            with anyio.move_on_after(0.01):
                yield "inside"
                async with ga.start_tool("x"):
                    await anyio.sleep_forever()
            yield "after"

    assert [item async for item in body()] == ["inside", "after"]
    return {"a": ("s", None), "x": ("s", "a", "timeout")}


@scenario
async def test_asyncio_timeout_inside(rig: Rig) -> Tree:
    """`asyncio.timeout` around yields cancels the task that it was entered in: the consumer's."""
    if is_trio():
        pytest.skip("asyncio's own")

    @ga.isolated
    async def body() -> AsyncIterator[str]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            try:
                async with asyncio.timeout(0.01):
                    yield "inside"
                    async with ga.start_tool("x"):
                        await asyncio.Event().wait()
            except TimeoutError:
                yield "timed out"

    assert [item async for item in body()] == ["inside", "timed out"]
    return {"a": ("s", None), "x": ("s", "a", "cancelled")}


@scenario
async def test_task_groups_inside(rig: Rig) -> Tree:
    """A task group may be held over yields; its tasks are in the body's turn."""

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        async def tool(number: int) -> None:
            async with ga.start_tool(f"x{number}"):
                await send.send(number)

        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            send, receive = anyio.create_memory_object_stream[int]()
            with send, receive:
                async with anyio.create_task_group() as group:
                    for number in range(3):
                        group.start_soon(tool, number)
                    for _ in range(3):
                        yield await receive.receive()

    before = get_current()
    found = []
    async for number in body():
        assert get_current() is before
        found.append(number)
    assert sorted(found) == [0, 1, 2]
    return {"a": ("s", None), **{f"x{number}": ("s", "a") for number in range(3)}}


@scenario
async def test_a_task_group_inside_that_is_closed_early(rig: Rig) -> Tree:
    """Closing a body that holds a task group cancels its tasks, as it would without us."""

    @ga.isolated
    async def body() -> AsyncGenerator[int, None]:
        async def tool() -> None:
            async with ga.start_tool("x"):
                await anyio.sleep_forever()

        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            async with anyio.create_task_group() as group:
                group.start_soon(tool)
                await anyio.wait_all_tasks_blocked()
                yield 1

    stream = body()
    await anext(stream)
    with contextlib.suppress(BaseExceptionGroup):
        await stream.aclose()
    tree = rig.tree()
    assert tree["x"] == ("s", "a", "cancelled")
    assert tree["a"][:2] == ("s", None)
    return tree


@scenario
async def test_start_soon_inside(rig: Rig) -> Tree:
    """Tasks of the turn itself may run over the yields; reading to the end waits for them."""

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        async def tool(number: int) -> None:
            async with ga.start_tool(f"x{number}"):
                await anyio.lowlevel.checkpoint()

        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a") as turn:
            for number in range(3):
                turn.start_soon(tool, number)
                yield number

    before = get_current()
    assert [number async for number in body()] == [0, 1, 2]
    assert get_current() is before
    assert [span.name.split()[-1] for span in rig.recorder.ended][-1] == "a"
    return {"a": ("s", None), **{f"x{number}": ("s", "a") for number in range(3)}}


@scenario
async def test_start_soon_inside_a_body_that_is_closed_early(rig: Rig) -> Tree:
    """Closing the body cancels the turn's tasks and waits for them."""

    @ga.isolated
    async def body() -> AsyncGenerator[int, None]:
        async def tool() -> None:
            async with ga.start_tool("x"):
                await anyio.sleep_forever()

        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a") as turn:
            turn.start_soon(tool)
            await anyio.wait_all_tasks_blocked()
            yield 1

    stream = body()
    await anext(stream)
    await stream.aclose()
    return {"a": ("s", None, "abandoned"), "x": ("s", "a", "cancelled")}


@scenario
async def test_start_soon_inside_a_body_that_is_dropped(rig: Rig) -> Tree:
    """Dropping the body cancels the turn's tasks, and nothing is said."""

    @ga.isolated
    async def body() -> AsyncGenerator[int, None]:
        async def tool() -> None:
            async with ga.start_tool("x"):
                await anyio.sleep_forever()

        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a") as turn:
            turn.start_soon(tool)
            await anyio.wait_all_tasks_blocked()
            yield 1

    async for _ in body():
        break
    await settle()
    return {"a": ("s", None, "abandoned"), "x": ("s", "a", "cancelled")}


@scenario
async def test_cancelled_while_inside(rig: Rig) -> Tree:
    """Cancelling the consumer reaches the body's await, and its spans are cancelled ones."""

    @ga.isolated
    async def body() -> AsyncIterator[int]:
        async with ga.Session(session_id="s"), ga.start_turn(agent_name="a"):
            yield 1
            with ga.start_tool("x"):
                await anyio.sleep_forever()

    before = get_current()
    with anyio.CancelScope() as scope:
        async for _ in body():
            scope.cancel()
    assert get_current() is before
    return {"a": ("s", None, "cancelled"), "x": ("s", "a", "cancelled")}


@scenario
async def test_interleaved(rig: Rig) -> Tree:
    """Any number of isolated streams may be read alternately and closed in any order."""
    streams = {name: answer(name) for name in "123"}
    before = get_current()
    for name in "123321":
        await anext(streams[name])
        assert get_current() is before
    for name in "213":
        await streams[name].aclose()
        assert get_current() is before
    expected: Tree = {f"a{name}": (f"s{name}", None, "abandoned") for name in "123"}
    return {**expected, **{f"x{name}": (f"s{name}", f"a{name}") for name in "123"}}


@scenario
async def test_isolated_inside_isolated(rig: Rig) -> Tree:
    """A stream that reads another one inside its own turn."""

    @ga.isolated
    async def outer() -> AsyncIterator[Any]:
        async with ga.Session(session_id="out") as session, session.start_turn(agent_name="o"):
            async for item in answer():
                with ga.start_tool(f"y{item}"):
                    yield item

    before = get_current()
    async for _ in outer():
        assert get_current() is before
    return {
        **_ANSWERED,
        "o": ("out", None),
        "y1": ("out", "o"),
        "yNone": ("out", "o"),
        "y3": ("out", "o"),
    }


@scenario
async def test_methods_and_metadata(rig: Rig) -> Tree:
    """Methods can be isolated, too, and keep their name and signature."""

    class Agent:
        @ga.isolated
        async def stream(self, count: int) -> AsyncIterator[int]:
            """Count."""
            for number in range(count):
                yield number

    assert Agent.stream.__name__ == "stream"
    assert Agent.stream.__doc__ == "Count."
    assert [number async for number in Agent().stream(2)] == [0, 1]
    return {}


def test_only_async_functions() -> None:
    """What is no async function is refused at once."""
    with pytest.raises(TypeError, match="async generator function or a coroutine function"):
        ga.isolated(len)  # type: ignore[call-overload]
