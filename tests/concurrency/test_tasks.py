"""Tasks of a turn, sub-agent or session: started from anywhere in it, ended before it, with anyio's errors."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry.context import get_current

import genai_async as ga

from .rig import Rig, Tree, is_trio, scenario, settle


async def tool(name: str) -> str:
    async with ga.start_tool(name):
        await anyio.lowlevel.checkpoint()
    return name


async def stuck(name: str) -> None:
    async with ga.start_tool(name):
        await anyio.sleep_forever()


async def failing(error: BaseException, after: anyio.Event | None = None) -> None:
    if after is not None:
        await after.wait()
    await anyio.lowlevel.checkpoint()
    raise error


def ends(rig: Rig) -> list[str]:
    """The subjects of the spans in the order in which they ended."""
    return [span.name.rpartition(" ")[2] for span in rig.recorder.ended]


@scenario
async def test_a_call_instead_of_a_function(rig: Rig) -> Tree:
    """Whoever passes a coroutine, as asyncio's own functions take, is told at once, and the block goes on."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        with pytest.raises(TypeError, match="not its call"):
            turn.start_soon(tool("x"))  # type: ignore[arg-type]
        turn.start_soon(tool, "y")
    return {"a": ("s", None), "y": ("s", "a")}


@scenario
async def test_a_turn_outlives_its_tasks(rig: Rig) -> Tree:
    """The turn ends after every task started in it, also those that its tasks start."""

    async def parent() -> None:
        turn = ga.current_turn()
        assert turn is not None
        await tool("x")
        turn.start_soon(tool, "y")

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        turn.start_soon(parent)
        turn.start_soon(tool, "z")
    assert ends(rig)[-1] == "a"
    return {"a": ("s", None), "x": ("s", "a"), "y": ("s", "a"), "z": ("s", "a")}


@scenario
async def test_results(rig: Rig) -> Tree:
    """Awaiting a started task gives what its function returned, as often as one likes, from any task."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        first, second = turn.start_soon(tool, "x"), turn.start_soon(tool, "y", name="second")
        assert [await second, await first, await first] == ["y", "x", "x"]
    assert await second == "y"
    return {"a": ("s", None), "x": ("s", "a"), "y": ("s", "a")}


@scenario
async def test_a_turn_without_tasks_costs_no_group(rig: Rig) -> Tree:
    """Nothing is spawned before the first task is."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        await tool("x")
        assert [scope.children for scope in (*(turn._scopes or ()), *session._scopes)] == [None, None]
    return {"a": ("s", None), "x": ("s", "a")}


@scenario
async def test_tasks_of_sessions_and_subagents(rig: Rig) -> Tree:
    """Sessions and sub-agents hold tasks as turns do; a session's are in no turn."""

    async def turn_of_its_own() -> None:
        async with ga.start_turn(agent_name="b"):
            await tool("y")

    async with ga.Session(session_id="s") as session:
        session.start_soon(turn_of_its_own)
        async with session.start_turn(agent_name="a"), ga.start_subagent("sub") as sub:
            sub.start_soon(tool, "x")
    return {"a": ("s", None), "sub": ("s", "a"), "x": ("s", "sub"), "b": ("s", None), "y": ("s", "b")}


@scenario
async def test_an_error_in_a_task(rig: Rig) -> Tree:
    """A failing task cancels its siblings and comes out of the block in a group; the turn has failed."""
    error = ValueError("broken")
    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(stuck, "x")
                turn.start_soon(failing, error)
        assert caught.value.exceptions == (error,)
        assert isinstance(caught.value, ExceptionGroup)
    return {"a": ("s", None, "ValueError"), "x": ("s", "a", "cancelled")}


@scenario
async def test_errors_of_the_task_and_of_the_body(rig: Rig) -> Tree:
    """The body's error cancels the tasks and comes out in a group with theirs, as from an anyio task group."""

    async def fails_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise LookupError

    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(fails_when_cancelled)
                await anyio.wait_all_tasks_blocked()
                raise KeyError("body")
        assert {type(error) for error in caught.value.exceptions} == {KeyError, LookupError}
    return {"a": ("s", None, "ExceptionGroup")}


@scenario
async def test_an_error_of_the_body_alone(rig: Rig) -> Tree:
    """With tasks, the body's error comes out in a group, as anyio's task groups do it; without, as it is."""
    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(stuck, "x")
                await anyio.wait_all_tasks_blocked()
                raise KeyError("body")
        assert [type(error) for error in caught.value.exceptions] == [KeyError]
        with pytest.raises(KeyError):
            async with session.start_turn(agent_name="b"):
                raise KeyError("body")
    return {"a": ("s", None, "KeyError"), "b": ("s", None, "KeyError"), "x": ("s", "a", "cancelled")}


@scenario
async def test_a_base_exception_in_a_task(rig: Rig) -> Tree:
    """What is no `Exception` comes out in a `BaseExceptionGroup` that is no `ExceptionGroup`."""

    class Stop(BaseException):
        pass

    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(failing, Stop())
        assert not isinstance(caught.value, ExceptionGroup)
        assert [type(error) for error in caught.value.exceptions] == [Stop]
    name = f"{Stop.__module__}.{Stop.__qualname__}"
    return {"a": ("s", None, name)}


@scenario
async def test_an_error_in_a_task_while_the_body_waits(rig: Rig) -> Tree:
    """A failing task cancels the body where it waits, and the error comes out of the block."""
    error = ValueError("broken")
    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(failing, error)
                async with ga.start_tool("x"):
                    await anyio.sleep_forever()
        assert caught.value.exceptions == (error,)
        # Nothing of the interruption stays behind.
        await anyio.lowlevel.checkpoint()
        async with session.start_turn(agent_name="b"):
            await anyio.lowlevel.checkpoint()
    return {"a": ("s", None, "ValueError"), "x": ("s", "a", "cancelled"), "b": ("s", None)}


@scenario
async def test_an_error_in_a_task_while_the_body_waits_in_a_scope(rig: Rig) -> Tree:
    """The body is cancelled through scopes of its own that were opened before the task was started."""
    error = ValueError("broken")
    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with session.start_turn(agent_name="a") as turn:
                with anyio.move_on_after(0.05 if is_trio() else 50) as scope:
                    turn.start_soon(failing, error)
                    await anyio.sleep_forever()
        assert caught.value.exceptions == (error,)
        # Under trio no scope of ours can stand inside theirs: there the error waits for the block's end.
        assert scope.cancelled_caught is is_trio()
    return {"a": ("s", None, "ValueError")}


@scenario
async def test_cancelling_the_turn_cancels_its_tasks(rig: Rig) -> Tree:
    """Cancellation from outside reaches the tasks, and the turn waits for their clean-up."""
    cleaned = False

    async def with_clean_up() -> None:
        nonlocal cleaned
        try:
            await stuck("x")
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            cleaned = True

    async with ga.Session(session_id="s") as session:
        with anyio.CancelScope() as scope:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(with_clean_up)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught
        assert cleaned
    return {"a": ("s", None, "cancelled"), "x": ("s", "a", "cancelled")}


@scenario
async def test_cancelled_while_the_body_waits(rig: Rig) -> Tree:
    """Cancellation that meets the body comes out as cancellation, not in a group."""
    async with ga.Session(session_id="s") as session:
        with anyio.CancelScope() as scope:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(stuck, "x")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
    return {"a": ("s", None, "cancelled"), "x": ("s", "a", "cancelled")}


@scenario
async def test_a_deadline_that_passes_at_the_end_of_the_block(rig: Rig) -> Tree:
    """A deadline around the turn that passes while it waits for its tasks is a time-out of the turn."""
    async with ga.Session(session_id="s") as session:
        with pytest.raises(TimeoutError):
            with anyio.fail_after(0.01):
                async with session.start_turn(agent_name="a") as turn:
                    turn.start_soon(stuck, "x")
    return {"a": ("s", None, "timeout"), "x": ("s", "a", "cancelled")}


@scenario
async def test_native_cancellation_twice(rig: Rig) -> Tree:
    """A turn waits for its tasks' clean-up however often its own task is cancelled."""
    if is_trio():
        pytest.skip("trio cancels scopes only")
    release = asyncio.Event()

    async def slow_clean_up() -> None:
        async with ga.start_tool("x"):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await release.wait()

    async def body() -> None:
        async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
            turn.start_soon(slow_clean_up)
            await anyio.sleep_forever()

    task = asyncio.create_task(body())
    for _ in range(3):
        await anyio.wait_all_tasks_blocked()
        task.cancel()
    await anyio.wait_all_tasks_blocked()
    assert rig.recorder.ended == []
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ends(rig) == ["x", "a"]
    return {"a": ("s", None, "cancelled"), "x": ("s", "a", "cancelled")}


@scenario
async def test_the_cancel_scope_of_the_tasks(rig: Rig) -> Tree:
    """Cancelling the group's scope cancels the tasks, and the block goes on."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        first = turn.start_soon(stuck, "x")
        await anyio.wait_all_tasks_blocked()
        turn.task_group.cancel_scope.cancel()
        with pytest.raises(RuntimeError, match="cancelled"):
            await first
        await tool("y")
    return {"a": ("s", None), "x": ("s", "a", "cancelled"), "y": ("s", "a")}


@scenario
async def test_cancel(rig: Rig) -> Tree:
    """`task_group.cancel()` does the same, and what is awaited of the tasks says so."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        turn.task_group.start_soon(stuck, "x")
        await anyio.wait_all_tasks_blocked()
        turn.task_group.cancel()
    return {"a": ("s", None), "x": ("s", "a", "cancelled")}


@scenario
async def test_start(rig: Rig) -> Tree:
    """`task_group.start` waits for the task to be ready, and the task is in the turn."""

    async def server(name: str, *, task_status: anyio.abc.TaskStatus[str]) -> None:
        async with ga.start_tool(name):
            task_status.started(f"{name} is up")
            await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        before = get_current()
        async with ga.start_tool("y"):
            assert await turn.task_group.start(server, "x") == "x is up"
        assert get_current() is before
    return {"a": ("s", None), "x": ("s", "a"), "y": ("s", "a")}


@scenario
async def test_start_of_a_task_that_fails_before_it_is_ready(rig: Rig) -> Tree:
    """What fails before it is ready is the starter's error only."""

    async def server(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        raise LookupError

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        with pytest.raises(LookupError):
            await turn.task_group.start(server)
    return {"a": ("s", None)}


@scenario
async def test_started_from_nested_deadlines(rig: Rig) -> Tree:
    """A task started inside a scope isn't bound by it: it belongs to the turn."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        ready = anyio.Event()

        async def waits(name: str) -> None:
            async with ga.start_tool(name):
                await ready.wait()

        with anyio.move_on_after(0.01) as outer, anyio.CancelScope(shield=True), anyio.move_on_after(0.01):
            turn.start_soon(waits, "x")
            await anyio.sleep_forever()
        with anyio.CancelScope() as scope:
            scope.cancel()
            turn.start_soon(waits, "y")
        assert not outer.cancelled_caught
        await anyio.wait_all_tasks_blocked()
        ready.set()
    return {"a": ("s", None), "x": ("s", "a"), "y": ("s", "a")}


@scenario
async def test_started_from_other_tasks(rig: Rig) -> Tree:
    """Any task may start tasks of a turn; they are the turn's, wherever the starter is."""

    async def other() -> None:
        async with ga.Session(session_id="t") as elsewhere, elsewhere.start_turn(agent_name="b"):
            with anyio.move_on_after(5):
                turn.start_soon(tool, "x")
                turn.start_soon(tool, "y")

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with anyio.create_task_group() as group:
            group.start_soon(other)
    return {"a": ("s", None), "b": ("t", None), "x": ("s", "a"), "y": ("s", "a")}


@scenario
async def test_started_from_worker_threads(rig: Rig) -> Tree:
    """anyio's worker threads may start tasks of a turn, the first one too."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        started = await anyio.to_thread.run_sync(lambda: turn.start_soon(tool, "x"))
        assert await started == "x"
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(anyio.to_thread.run_sync, functools.partial(turn.start_soon, tool, f"y{number}"))
    assert ends(rig)[-1] == "a"
    return {"a": ("s", None), "x": ("s", "a"), **{f"y{number}": ("s", "a") for number in range(5)}}


@scenario
async def test_started_in_the_last_moment(rig: Rig) -> Tree:
    """A task that starts another while the block is already waiting: both are waited for."""

    async def chain(left: int) -> None:
        async with ga.start_tool(f"x{left}"):
            await anyio.lowlevel.checkpoint()
        if left:
            turn.start_soon(chain, left - 1)

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        turn.start_soon(chain, 5)
    assert ends(rig)[-1] == "a"
    return {"a": ("s", None), **{f"x{number}": ("s", "a") for number in range(6)}}


@scenario
async def test_where_no_task_can_be_started(rig: Rig) -> Tree:
    """Outside of an `async with` block starting a task is refused, at once and clearly."""
    async with ga.Session(session_id="s") as session:
        turn = session.start_turn(agent_name="a")
        with pytest.raises(RuntimeError, match="async with"):
            turn.start_soon(tool, "x")
        with turn, pytest.raises(RuntimeError, match="async with"):
            turn.start_soon(tool, "x")
        async with session.start_turn(agent_name="b") as turn:
            turn.start_soon(tool, "y")
        with pytest.raises(RuntimeError, match="ended"):
            turn.start_soon(tool, "z")
        async with session.start_turn(agent_name="c") as turn:
            pass
        with pytest.raises(RuntimeError, match="async with"):
            turn.start_soon(tool, "z")
        with pytest.raises(ValueError, match="propagate is"):
            async with session.start_turn(agent_name="d") as turn:
                turn.start_soon(tool, "z", propagate="no")  # type: ignore[arg-type]
    return {
        "a": ("s", None),
        "b": ("s", None),
        "c": ("s", None),
        "d": ("s", None, "ValueError"),
        "y": ("s", "b"),
    }


@scenario
async def test_inherit_link_and_detach(rig: Rig) -> Tree:
    """A started task is in the turn, linked to it in traces of its own, or free of the conversation."""

    async def work(name: str) -> None:
        async with ga.start_tool(name):
            await tool(f"in-{name}")

    async def free() -> None:
        assert ga.current_session() is None
        assert ga.current_turn() is None
        async with ga.Session(session_id="t") as own, own.start_turn(agent_name="b"):
            await tool("z")

    async def linked_turn() -> None:
        async with ga.start_turn(agent_name="c"):
            await tool("u")

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        turn.start_soon(work, "x")
        turn.start_soon(work, "y", propagate="link")
        turn.start_soon(free, propagate="detach")
        turn.start_soon(linked_turn, propagate="link")
    assert rig.links("y") == ["a"]
    assert rig.links("in-y") == []
    assert rig.links("b") == []
    return {
        "a": ("s", None),
        "x": ("s", "a"),
        "in-x": ("s", "x"),
        "y": ("s", None),
        "in-y": ("s", "y"),
        "b": ("t", None),
        "z": ("t", "b"),
        "c": ("s", None),
        "u": ("s", "c"),
    }


@scenario
async def test_a_turn_that_a_linked_task_starts(rig: Rig) -> Tree:
    """A turn is linked to what the task is linked to, also once scopes were entered and left there."""

    async def work() -> None:
        async with ga.start_turn(agent_name="b"):
            await anyio.lowlevel.checkpoint()
        async with session.start_turn(agent_name="c"):
            await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        turn.start_soon(work, propagate="link")
    assert rig.links("b") == rig.links("c") == ["a"]
    return {"a": ("s", None), "b": ("s", None), "c": ("s", None)}


@scenario
async def test_propagate_as_a_block(rig: Rig) -> Tree:
    """Code that starts its own tasks chooses with a block; the tasks keep the choice, the block's end restores."""
    ready = anyio.Event()

    async def work(name: str) -> None:
        await ready.wait()
        async with ga.start_tool(name):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
            before = get_current()
            with ga.propagate("inherit"):
                group.start_soon(work, "x")
                assert ga.current_turn() is not None
            with ga.propagate("link"):
                group.start_soon(work, "y")
                assert ga.current_session() is session
                assert ga.current_turn() is None
            with ga.propagate("detach"):
                group.start_soon(work, "z")
                assert ga.current_session() is None
                with ga.propagate("inherit"):
                    assert ga.current_session() is None
            assert get_current() is before
            with pytest.raises(ValueError, match="propagate is"):
                with ga.propagate("no"):  # type: ignore[arg-type]
                    pass
            assert get_current() is before
        ready.set()
    assert rig.links("x") == ["a"]
    assert rig.links("y") == ["a"]
    assert rig.links("z") == []
    rig.expected_logs = 2
    return {"a": ("s", None), "x": ("s", None), "y": ("s", None), "z": (None, None)}


@scenario
async def test_inheriting_a_link(rig: Rig) -> Tree:
    """What inherits from a linked part is linked as that is; the span that is linked to is not current there."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        with ga.propagate("link"), ga.propagate("inherit"):
            with rig.tracer.start_as_current_span("foreign"):
                pass
            await tool("x")
            with ga.propagate("link"):
                await tool("y")
    assert rig.links("x") == rig.links("y") == ["a"]
    return {"a": ("s", None), "foreign": ("s", None), "x": ("s", None), "y": ("s", None)}


@scenario
async def test_a_worker_that_is_detached(rig: Rig) -> Tree:
    """A worker that the first conversation happens to start keeps nothing of it."""
    send, receive = anyio.create_memory_object_stream[str](8)

    async def worker() -> None:
        with receive:
            async for name in receive:
                async with ga.Session(session_id=f"job-{name}") as session, session.start_turn(agent_name=f"a-{name}"):
                    await tool(f"x-{name}")

    async with anyio.create_task_group() as group:
        async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
            with ga.propagate("detach"):
                group.start_soon(worker)
            await send.send("1")
        await send.send("2")
        send.close()
    assert rig.links("a-1") == []
    return {
        "a": ("s", None),
        **{f"a-{name}": (f"job-{name}", None) for name in "12"},
        **{f"x-{name}": (f"job-{name}", f"a-{name}") for name in "12"},
    }


@scenario
async def test_shielded_scopes(rig: Rig) -> Tree:
    """A body that is shielded finishes its work though the turn is cancelled around it."""
    async with ga.Session(session_id="s") as session:
        with anyio.CancelScope() as scope:
            async with session.start_turn(agent_name="a") as turn:
                turn.start_soon(stuck, "x")
                await anyio.wait_all_tasks_blocked()
                with anyio.CancelScope(shield=True):
                    scope.cancel()
                    await tool("y")
    return {"a": ("s", None, "cancelled"), "x": ("s", "a", "cancelled"), "y": ("s", "a")}


@scenario
async def test_tasks_of_many_turns_at_once(rig: Rig) -> Tree:
    """Fifty turns with three tasks each, one in five of them failing."""

    async def run(number: int) -> None:
        try:
            async with session.start_turn(agent_name=f"a{number}") as turn:
                for letter in "xy":
                    turn.start_soon(tool, f"{letter}{number}")
                await anyio.wait_all_tasks_blocked()
                if number % 5 == 0:
                    turn.start_soon(failing, ValueError())
        except* ValueError:
            pass

    async with ga.Session(session_id="s") as session:
        for number in range(50):
            session.start_soon(run, number)
    expected: Tree = {f"{letter}{number}": ("s", f"a{number}") for number in range(50) for letter in "xy"}
    for number in range(50):
        expected[f"a{number}"] = ("s", None) if number % 5 else ("s", None, "ValueError")
    return expected


@scenario
async def test_start_soon_in_a_plain_generator(rig: Rig) -> Tree:
    """A turn held over yields runs its tasks; an error doesn't cancel the consumer, who is not in the block."""
    error = ValueError("broken")
    consumer_got_on = False

    async def answer(session: ga.Session) -> AsyncIterator[int]:
        async with session.start_turn(agent_name="a") as turn:
            await turn.start_soon(tool, "x")
            turn.start_soon(failing, error)
            yield 1
            yield 2

    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup) as caught:
            async for _ in answer(session):
                await anyio.wait_all_tasks_blocked()
                consumer_got_on = True
        assert caught.value.exceptions == (error,)
    assert consumer_got_on
    return {"a": ("s", None, "ValueError"), "x": ("s", "a")}


@scenario
async def test_turns_with_tasks_left_in_any_order(rig: Rig) -> Tree:
    """Turns of one task that have tasks of their own may be left in any order."""
    session = ga.Session(session_id="s")
    first = await session.start_turn(agent_name="a").__aenter__()
    first.start_soon(tool, "x")
    second = await session.start_turn(agent_name="b").__aenter__()
    second.start_soon(tool, "y")
    await first.__aexit__(None, None, None)
    with anyio.move_on_after(60):
        await tool("z")
    await second.__aexit__(None, None, None)
    session.end()
    with anyio.move_on_after(60):
        await anyio.lowlevel.checkpoint()
    return {"a": ("s", None), "b": ("s", None), "x": ("s", "a"), "y": ("s", "b"), "z": ("s", "b")}


@scenario
async def test_a_turn_with_tasks_left_in_another_task(rig: Rig) -> Tree:
    """A turn entered here, with tasks, and left in another task waits for them there."""
    session = ga.Session(session_id="s")
    turn = await session.start_turn(agent_name="a").__aenter__()
    with anyio.move_on_after(60):
        turn.start_soon(tool, "x")

    async def leave() -> None:
        await turn.__aexit__(None, None, None)

    async with anyio.create_task_group() as group:
        group.start_soon(leave)
    session.end()
    assert ends(rig) == ["x", "a"]
    with ga.Session(session_id="t"):
        pass
    return {"a": ("s", None), "x": ("s", "a")}


@scenario
async def test_awaiting_a_failed_task(rig: Rig) -> Tree:
    """Awaiting a task that failed raises its error, once the block was left."""
    error = ValueError("broken")
    children: list[Any] = []
    async with ga.Session(session_id="s") as session:
        with pytest.raises(BaseExceptionGroup):
            async with session.start_turn(agent_name="a") as turn:
                children.append(turn.start_soon(failing, error))
        with pytest.raises(ValueError, match="broken"):
            await children[0]
    await settle()
    return {"a": ("s", None, "ValueError")}


@scenario
async def test_without_a_set_up(rig: Rig) -> Tree:
    """Without a set-up tasks run, fail and are waited for just the same."""
    await rig.tracing.aclose(1)
    async with ga.Session() as session:
        with pytest.raises(BaseExceptionGroup):
            async with session.start_turn() as turn:
                assert await turn.start_soon(tool, "x") == "x"
                turn.start_soon(failing, ValueError())
    return {}
