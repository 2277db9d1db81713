"""Threads, executors and callbacks."""

from __future__ import annotations

import asyncio
import functools
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry.context import get_current

import genai_async as ga

from .rig import Rig, Tree, is_trio, scenario


def _by_ambience(name: str) -> None:
    before = get_current()
    with ga.start_tool(name), ga.start_llm(f"m-{name}", provider_name="p"):
        pass
    assert get_current() is before


def _by_handle(turn: ga.Turn, name: str) -> None:
    before = get_current()
    with turn.start_tool(name), ga.start_llm(f"m-{name}", provider_name="p"):
        pass
    assert get_current() is before


def _expected(*names: str) -> Tree:
    tree: Tree = {"a": ("s", None)}
    for name in names:
        tree |= {name: ("s", "a"), f"m-{name}": ("s", name)}
    return tree


@scenario
async def test_anyio_worker_threads(rig: Rig) -> Tree:
    """anyio's worker threads carry the context; what they enter stays theirs."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(anyio.to_thread.run_sync, _by_ambience, f"x{number}")
                group.start_soon(anyio.to_thread.run_sync, _by_handle, turn, f"y{number}")
    return _expected(*[f"{kind}{number}" for kind in "xy" for number in range(5)])


@scenario
async def test_asyncio_to_thread(rig: Rig) -> Tree:
    """`asyncio.to_thread` carries the context."""
    if is_trio():
        pytest.skip("asyncio's own")
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        await asyncio.gather(*[asyncio.to_thread(_by_ambience, f"x{number}") for number in range(5)])
    return _expected(*[f"x{number}" for number in range(5)])


@scenario
async def test_run_in_executor_with_a_handle(rig: Rig) -> Tree:
    """An executor carries nothing: with the handle that does not matter."""
    if is_trio():
        pytest.skip("asyncio's own")
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(2) as executor:
        async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
            runs = [loop.run_in_executor(executor, _by_handle, turn, f"x{number}") for number in range(6)]
            await asyncio.gather(*runs)
    return _expected(*[f"x{number}" for number in range(6)])


@scenario
async def test_a_thread_pool_shared_by_sessions(rig: Rig) -> Tree:
    """Threads that serve many turns keep none of them."""

    async def ask(name: str) -> None:
        async with ga.Session(session_id=name) as session, session.start_turn(agent_name=f"a-{name}") as turn:
            future = executor.submit(_by_handle, turn, f"x-{name}")
            carried = executor.submit(copy_context().run, _by_ambience, f"y-{name}")
            while not (future.done() and carried.done()):
                await anyio.lowlevel.checkpoint()
            future.result()
            carried.result()

    names = [f"s{number}" for number in range(10)]
    with ThreadPoolExecutor(2) as executor:
        async with anyio.create_task_group() as group:
            for name in names:
                group.start_soon(ask, name)
    expected: Tree = {}
    for name in names:
        expected[f"a-{name}"] = (name, None)
        for kind in "xy":
            expected |= {f"{kind}-{name}": (name, f"a-{name}"), f"m-{kind}-{name}": (name, f"{kind}-{name}")}
    return expected


@scenario
async def test_a_span_ended_on_another_thread(rig: Rig) -> Tree:
    """A span may end, or its block be left, on another thread: that one's context stays as it is."""
    async with ga.Session(session_id="s") as session:
        turn = session.start_turn(agent_name="a")
        tool = turn.start_tool("x")
        entered = turn.start_tool("y").__enter__()

        def elsewhere() -> None:
            before = get_current()
            tool.end()
            entered.__exit__(None, None, None)
            assert get_current() is before

        thread = threading.Thread(target=elsewhere)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
        turn.end()
        with ga.start_turn(agent_name="b"):
            await anyio.lowlevel.checkpoint()
    return {"a": ("s", None), "x": ("s", "a"), "y": ("s", "a"), "b": ("s", None)}


@scenario
async def test_a_plain_thread_without_a_context(rig: Rig) -> Tree:
    """A thread that carries no context has no conversation, and says so once."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        thread = threading.Thread(target=_by_ambience, args=("x",))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)
    rig.expected_logs = 1
    return {"a": ("s", None), "x": (None, None), "m-x": (None, "x")}


@scenario
async def test_loop_callbacks(rig: Rig) -> Tree:
    """`call_soon` and `add_done_callback` carry the context, and a handle works without."""
    if is_trio():
        pytest.skip("asyncio's own")
    loop = asyncio.get_running_loop()
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        loop.call_soon(_by_ambience, "x")
        loop.call_later(0, _by_ambience, "y")
        loop.call_soon_threadsafe(_by_handle, turn, "z")
        future = loop.create_future()
        future.add_done_callback(lambda _: _by_ambience("u"))
        future.set_result(None)
        tool = turn.start_tool("v")
        task = asyncio.create_task(asyncio.sleep(0))
        task.add_done_callback(lambda _: tool.end())
        await task
        done = asyncio.Event()
        loop.call_later(0.001, done.set)
        await done.wait()
    return {**_expected("x", "y", "z", "u"), "v": ("s", "a")}


@scenario
async def test_a_scope_entered_in_a_callback(rig: Rig) -> Tree:
    """What a callback enters and never leaves is seen by nobody else, and ends with the session."""
    if is_trio():
        pytest.skip("asyncio's own")
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        entered: list[ga.Tool] = []
        asyncio.get_running_loop().call_soon(lambda: entered.append(turn.start_tool("x").__enter__()))
        await asyncio.sleep(0)
        assert len(entered) == 1
        with ga.start_tool("y"):
            await asyncio.sleep(0)
    return {"a": ("s", None), "x": ("s", "a"), "y": ("s", "a")}


@scenario
async def test_from_a_thread_back_into_the_loop(rig: Rig) -> Tree:
    """A worker thread that calls back into the loop is still in its turn there."""

    async def inside(name: str) -> None:
        async with ga.start_tool(name):
            await anyio.lowlevel.checkpoint()

    def worker() -> None:
        with ga.start_subagent("sub"):
            anyio.from_thread.run(inside, "x")
            anyio.from_thread.run_sync(functools.partial(_by_ambience, "y"))

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        await anyio.to_thread.run_sync(worker)
    return {"a": ("s", None), "sub": ("s", "a"), "x": ("s", "sub"), "y": ("s", "sub"), "m-y": ("s", "y")}


@scenario
async def test_many_threads_of_one_turn(rig: Rig) -> Tree:
    """Eight threads that start and end spans of one turn at once lose none of them."""
    barrier = threading.Barrier(8)

    def work(turn: ga.Turn, thread: int) -> None:
        barrier.wait(10)
        for number in range(25):
            with turn.start_tool(f"x{thread}-{number}"):
                pass

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with anyio.create_task_group() as group:
            for thread in range(8):
                group.start_soon(anyio.to_thread.run_sync, work, turn, thread)
    return {"a": ("s", None), **{f"x{t}-{n}": ("s", "a") for t in range(8) for n in range(25)}}
