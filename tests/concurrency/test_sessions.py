"""Sessions and turns side by side, inside each other, and left in any order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.context import get_current

import genai_async as ga

from .rig import Rig, Tree, is_trio, scenario


async def _talk(name: str) -> None:
    async with ga.Session(session_id=name) as session:
        await anyio.lowlevel.checkpoint()
        async with session.start_turn(agent_name=f"turn-{name}"):
            await anyio.lowlevel.checkpoint()
            async with ga.start_llm(f"llm-{name}", provider_name="p"):
                await anyio.lowlevel.checkpoint()
                async with ga.start_tool(f"tool-{name}"):
                    await anyio.lowlevel.checkpoint()


def _talked(*names: str) -> Tree:
    tree: Tree = {}
    for name in names:
        tree[f"turn-{name}"] = (name, None)
        tree[f"llm-{name}"] = (name, f"turn-{name}")
        tree[f"tool-{name}"] = (name, f"llm-{name}")
    return tree


@scenario
async def test_sessions_in_a_task_group(rig: Rig) -> Tree:
    """Sessions in sibling tasks never see each other."""
    names = [f"s{number}" for number in range(20)]
    async with anyio.create_task_group() as group:
        for name in names:
            group.start_soon(_talk, name)
    return _talked(*names)


@scenario
async def test_sessions_in_gather(rig: Rig) -> Tree:
    """Sessions in gathered coroutines never see each other."""
    if is_trio():
        pytest.skip("gather is asyncio's")
    names = [f"s{number}" for number in range(20)]
    await asyncio.gather(*[_talk(name) for name in names])
    return _talked(*names)


@scenario
async def test_parallel_tools_by_handle(rig: Rig) -> Tree:
    """Tools that run at once through their turn's handle are its children."""

    async def run(turn: ga.Turn, name: str) -> None:
        async with turn.start_tool(name):
            await anyio.lowlevel.checkpoint()
            async with ga.start_llm(f"in-{name}", provider_name="p"):
                await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with anyio.create_task_group() as group:
            for name in ("x", "y", "z"):
                group.start_soon(run, turn, name)
    tools: Tree = dict.fromkeys("xyz", ("s", "a"))
    return {"a": ("s", None), **tools, **{f"in-{name}": ("s", name) for name in "xyz"}}


@scenario
async def test_parallel_tools_by_ambience(rig: Rig) -> Tree:
    """Tools that run at once in tasks of the turn find it without a handle."""

    async def run(name: str) -> None:
        async with ga.start_tool(name):
            await anyio.lowlevel.checkpoint()
            async with ga.start_subagent(f"in-{name}"):
                await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        async with anyio.create_task_group() as group:
            for name in ("x", "y", "z"):
                group.start_soon(run, name)
    tools: Tree = dict.fromkeys("xyz", ("s", "a"))
    return {"a": ("s", None), **tools, **{f"in-{name}": ("s", name) for name in "xyz"}}


@scenario
async def test_two_sessions_interleaved_in_one_task(rig: Rig) -> Tree:
    """What is left first though it was entered first takes nothing away from what was entered after it."""
    first, second = ga.Session(session_id="s1"), ga.Session(session_id="s2")
    await first.__aenter__()
    turn1 = await first.start_turn(agent_name="a1").__aenter__()
    await second.__aenter__()
    turn2 = await second.start_turn(agent_name="a2").__aenter__()
    with turn1.start_tool("x1"):
        assert ga.current_turn() is turn1
    assert ga.current_turn() is turn2
    await turn1.__aexit__(None, None, None)
    await first.__aexit__(None, None, None)
    assert ga.current_session() is second
    with ga.start_tool("x2"):
        await anyio.lowlevel.checkpoint()
    await turn2.__aexit__(None, None, None)
    assert ga.current_session() is second
    await second.__aexit__(None, None, None)
    assert ga.current_session() is None
    return {"a1": ("s1", None), "a2": ("s2", None), "x1": ("s1", "a1"), "x2": ("s2", "a2")}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (1, 3, 2, 0), (2, 0, 3, 1)])
@pytest.mark.anyio
async def test_spans_left_in_any_order(rig: Rig, order: tuple[int, ...]) -> None:
    """After spans were left in any order, the innermost open one is current, and at last what was there before."""
    before = get_current()
    session = ga.Session(session_id="s")
    handles: list[Any] = [session.start_turn(agent_name="n0")]
    handles[0].__enter__()
    for number in range(1, 4):
        handles.append(ga.start_tool(f"n{number}").__enter__())
    still = set(range(4))
    expected: Tree = {"n0": ("s", None), **{f"n{n}": ("s", f"n{n - 1}") for n in range(1, 4)}}
    for left in order:
        handles[left].__exit__(None, None, None)
        still.discard(left)
        if still:
            innermost = max(still)
            with ga.start_tool(f"after-{left}") as probe:
                assert probe.span.parent.span_id == handles[innermost].span.get_span_context().span_id
            expected[f"after-{left}"] = ("s", f"n{innermost}")
    assert get_current() is before
    rig.check(expected)


@scenario
async def test_nested_sessions(rig: Rig) -> Tree:
    """Leaving an inner session gives the outer one back; its turn is linked to the span that was current."""
    async with ga.Session(session_id="outer") as outer, outer.start_turn(agent_name="a"):
        async with ga.Session(session_id="inner") as inner:
            assert ga.current_session() is inner
            async with inner.start_turn(agent_name="b"):
                with ga.start_tool("x"):
                    await anyio.lowlevel.checkpoint()
        assert ga.current_session() is outer
        with ga.start_tool("y"):
            await anyio.lowlevel.checkpoint()
    assert rig.links("b") == ["a"]
    return {"a": ("outer", None), "b": ("inner", None), "x": ("inner", "b"), "y": ("outer", "a")}


@scenario
async def test_a_turn_that_continues_the_trace(rig: Rig) -> Tree:
    """With `continue_trace` a turn is a child of the current span, while that has not ended."""
    with rig.tracer.start_as_current_span("request"):
        async with ga.Session(session_id="s", continue_trace=True) as session:
            async with session.start_turn(agent_name="a"):
                await anyio.lowlevel.checkpoint()
    return {"request": (None, None), "a": ("s", "request")}


@scenario
async def test_a_turn_is_linked_to_what_was_current(rig: Rig) -> Tree:
    """A turn is the root of its own trace, linked to the request it answers."""
    with rig.tracer.start_as_current_span("request"):
        async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
            await anyio.lowlevel.checkpoint()
    assert rig.links("a") == ["request"]
    return {"request": (None, None), "a": ("s", None)}


@scenario
async def test_a_session_opened_by_a_parent_and_used_in_children(rig: Rig) -> Tree:
    """Children start turns of the session they find or are given; the turns are roots, side by side."""

    async def found(name: str) -> None:
        async with ga.start_turn(agent_name=name):
            await anyio.lowlevel.checkpoint()
            with ga.start_tool(f"tool-{name}"):
                await anyio.lowlevel.checkpoint()

    async def given(session: ga.Session, name: str) -> None:
        async with session.start_turn(agent_name=name):
            await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session, anyio.create_task_group() as group:
        group.start_soon(found, "a")
        group.start_soon(found, "b")
        group.start_soon(given, session, "c")
    return {
        "a": ("s", None),
        "b": ("s", None),
        "c": ("s", None),
        "tool-a": ("s", "a"),
        "tool-b": ("s", "b"),
    }


@scenario
async def test_hundreds_of_turns_of_one_session_at_once(rig: Rig) -> Tree:
    """Three hundred turns that are all open at once keep their children to themselves."""
    count = 300
    waiting = 0
    go = anyio.Event()

    async def run(number: int) -> None:
        nonlocal waiting
        async with session.start_turn(agent_name=f"a{number}") as turn:
            waiting += 1
            if waiting == count:
                go.set()
            await go.wait()
            async with ga.start_llm(f"l{number}", provider_name="p"):
                await anyio.lowlevel.checkpoint()
            with turn.start_tool(f"x{number}"):
                await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session, anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(run, number)
    expected: Tree = {f"a{n}": ("s", None) for n in range(count)}
    for number in range(count):
        expected |= {f"l{number}": ("s", f"a{number}"), f"x{number}": ("s", f"a{number}")}
    return expected


@scenario
async def test_a_turn_of_a_subagent_and_its_calls(rig: Rig) -> Tree:
    """Calls inside a sub-agent are the sub-agent's, and the turn's again after it."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        async with ga.start_subagent("sub"):
            async with ga.start_llm("m1", provider_name="p"):
                await anyio.lowlevel.checkpoint()
        async with ga.start_llm("m2", provider_name="p"):
            await anyio.lowlevel.checkpoint()
    return {"a": ("s", None), "sub": ("s", "a"), "m1": ("s", "sub"), "m2": ("s", "a")}


@scenario
async def test_a_worker_pool_fed_through_a_queue(rig: Rig) -> Tree:
    """Long-lived workers give each job's spans to the turn that comes with the job, never to an earlier one."""
    send, jobs = anyio.create_memory_object_stream[tuple[ga.Turn, str, anyio.Event]](4)

    async def worker() -> None:
        async for turn, name, done in jobs:
            async with turn.start_tool(f"x-{name}"):
                await anyio.lowlevel.checkpoint()
                with ga.start_llm(f"m-{name}", provider_name="p"):
                    await anyio.lowlevel.checkpoint()
            done.set()

    async def ask(name: str) -> None:
        async with ga.Session(session_id=name) as session, session.start_turn(agent_name=f"a-{name}") as turn:
            done = anyio.Event()
            await send.send((turn, name, done))
            await done.wait()

    names = [f"s{number}" for number in range(12)]
    with jobs:
        async with anyio.create_task_group() as workers:
            for _ in range(3):
                workers.start_soon(worker)
            async with send, anyio.create_task_group() as group:
                for name in names:
                    group.start_soon(ask, name)
    expected: Tree = {}
    for name in names:
        expected |= {
            f"a-{name}": (name, None),
            f"x-{name}": (name, f"a-{name}"),
            f"m-{name}": (name, f"x-{name}"),
        }
    return expected


@scenario
async def test_a_worker_started_inside_a_turn(rig: Rig) -> Tree:
    """A worker started inside the first turn works for later turns under their own ids, by their handles."""
    send, receive = anyio.create_memory_object_stream[tuple[ga.Turn, str]](8)

    async def worker() -> None:
        with receive:
            async for turn, name in receive:
                with turn.start_tool(name):
                    await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        async with ga.Session(session_id="s1") as session, session.start_turn(agent_name="a1") as turn:
            group.start_soon(worker)
            await send.send((turn, "x1"))
            await anyio.wait_all_tasks_blocked()
        async with ga.Session(session_id="s2") as session, session.start_turn(agent_name="a2") as turn:
            await send.send((turn, "x2"))
            await anyio.wait_all_tasks_blocked()
        send.close()
    return {"a1": ("s1", None), "a2": ("s2", None), "x1": ("s1", "a1"), "x2": ("s2", "a2")}


@scenario
async def test_a_background_task_that_outlives_its_turn(rig: Rig) -> Tree:
    """A task that outlives its turn is a root linked to it, of the same conversation, and never its child."""
    turn_is_over, session_is_over = anyio.Event(), anyio.Event()

    async def background() -> None:
        with ga.start_tool("early"):
            await anyio.lowlevel.checkpoint()
        await turn_is_over.wait()
        with ga.start_tool("late"):
            await anyio.lowlevel.checkpoint()
            with ga.start_llm("below", provider_name="p"):
                await anyio.lowlevel.checkpoint()
        await session_is_over.wait()
        with ga.start_tool("later"):
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        async with ga.Session(session_id="s") as session:
            async with session.start_turn(agent_name="a"):
                group.start_soon(background)
                await anyio.wait_all_tasks_blocked()
            turn_is_over.set()
            await anyio.wait_all_tasks_blocked()
        session_is_over.set()
    assert rig.links("late") == ["a"]
    assert rig.links("later") == ["a"]
    rig.expected_logs = 1
    return {
        "a": ("s", None),
        "early": ("s", "a"),
        "late": ("s", None),
        "below": ("s", "late"),
        "later": ("s", None),
    }


@scenario
async def test_an_ended_handle_is_honoured(rig: Rig) -> Tree:
    """A handle that is held is always the parent, also after its span has ended."""
    async with ga.Session(session_id="s") as session:
        async with session.start_turn(agent_name="a") as turn:
            await anyio.lowlevel.checkpoint()
        with turn.start_tool("x"):
            with ga.start_llm("m", provider_name="p"):
                await anyio.lowlevel.checkpoint()
    return {"a": ("s", None), "x": ("s", "a"), "m": ("s", "x")}


@scenario
async def test_started_here_and_ended_in_another_task(rig: Rig) -> Tree:
    """A span that is left or ended in another task ends once, and neither task keeps or loses anything."""
    async with ga.Session(session_id="s1") as session:
        turn = session.start_turn(agent_name="a")
        tool = turn.start_tool("x")
        entered = await turn.start_tool("y").__aenter__()

        async def elsewhere() -> None:
            before = get_current()
            async with ga.Session(session_id="s2") as other, other.start_turn(agent_name="b"):
                standing = get_current()
                tool.end()
                await entered.__aexit__(None, None, None)
                turn.end()
                assert get_current() is standing
                with ga.start_tool("z"):
                    await anyio.lowlevel.checkpoint()
            assert get_current() is before

        async with anyio.create_task_group() as group:
            group.start_soon(elsewhere)
        # Here it still stands, ended: it is nobody's parent any more.
        assert ga.current_turn() is None
        assert ga.current_session() is session
        async with session.start_turn(agent_name="c"):
            await anyio.lowlevel.checkpoint()
    return {
        "a": ("s1", None),
        "x": ("s1", "a"),
        "y": ("s1", "a"),
        "b": ("s2", None),
        "z": ("s2", "b"),
        "c": ("s1", None),
    }


@scenario
async def test_a_handle_entered_in_two_tasks_at_once(rig: Rig) -> Tree:
    """A turn that several tasks enter at once is current in each; the first to leave ends it."""

    async def run(name: str) -> None:
        with turn:
            await anyio.lowlevel.checkpoint()
            with turn.start_tool(name):
                await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session:
        turn = session.start_turn(agent_name="a")
        async with anyio.create_task_group() as group:
            for name in "xyz":
                group.start_soon(run, name)
    return {"a": ("s", None), **dict.fromkeys("xyz", ("s", "a"))}


@scenario
async def test_ending_a_session_ends_what_is_open(rig: Rig) -> Tree:
    """Leaving a session ends what is open under it, innermost first, also where other tasks are inside."""
    async with ga.Session(session_id="s") as session:
        turn = session.start_turn(agent_name="a")
        llm = turn.start_llm("m", provider_name="p")
        llm.start_tool("x")
    assert [span.name.split()[-1] for span in rig.recorder.ended] == ["x", "m", "a"]
    return {"a": ("s", None), "m": ("s", "a"), "x": ("s", "m")}


@scenario
async def test_the_set_up_ends_before_the_spans(rig: Rig) -> Tree:
    """Blocks that are left after the set-up was closed raise nothing."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        await rig.tracing.aclose(1)
        with ga.start_tool("x"):
            await anyio.lowlevel.checkpoint()
        async with session.start_turn(agent_name="b") as late:
            await anyio.lowlevel.checkpoint()
        assert not late.is_recording
    return {"a": ("s", None), "x": ("s", "a")}


@scenario
async def test_a_call_beside_one_whose_agent_has_ended(rig: Rig) -> Tree:
    """A model call beside another goes under what is still open above it: never under what ended, nor under a call."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        async with ga.start_subagent("sub") as sub, ga.start_llm("m1", provider_name="p"):
            sub.end()
            ga.start_llm("beside-1", provider_name="p").end()
            ga.start_tool("below-1").end()
        async with ga.start_llm("m2", provider_name="p"), ga.start_tool("x") as tool:
            async with ga.start_llm("m3", provider_name="p"):
                tool.end()
                ga.start_llm("beside-3", provider_name="p").end()
    return {
        "a": ("s", None),
        "sub": ("s", "a"),
        "m1": ("s", "sub"),
        "beside-1": ("s", "a"),
        "below-1": ("s", "m1"),
        "m2": ("s", "a"),
        "x": ("s", "m2"),
        "m3": ("s", "x"),
        "beside-3": ("s", "a"),
    }


@scenario
async def test_a_call_beside_one_when_all_above_has_ended(rig: Rig) -> Tree:
    """Where nothing above a model call is open any more, one beside it is a root of the same conversation."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with ga.start_llm("m1", provider_name="p"):
            turn.end()
            ga.start_llm("beside", provider_name="p").end()
    return {"a": ("s", None), "m1": ("s", "a"), "beside": ("s", None)}


@scenario
async def test_a_task_that_starts_after_a_leak(rig: Rig) -> Tree:
    """What leaked into a task is put away at its next use of the library: tasks started later don't inherit it."""

    async def plain() -> AsyncGenerator[int, None]:
        async with ga.Session(session_id="dead") as dead, dead.start_turn(agent_name="d"):
            yield 1

    async def work() -> None:
        assert ga.current_session() is session
        ga.start_tool("x").end()

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a"):
        before = get_current()
        found = plain()
        await anext(found)
        async with anyio.create_task_group() as group:
            group.start_soon(found.aclose)
        assert get_current() is not before
        assert ga.current_session() is session
        assert get_current() is before
        async with anyio.create_task_group() as group:
            group.start_soon(work)
    return {"d": ("dead", None, "abandoned"), "a": ("s", None), "x": ("s", "a")}


@scenario
async def test_a_worker_pool_that_detaches(rig: Rig) -> Tree:
    """Workers that a turn happens to start, each freed of it, take every job's conversation from the job alone."""
    send, jobs = anyio.create_memory_object_stream[str](4)

    async def worker() -> None:
        async for name in jobs:
            assert ga.current_session() is None
            async with ga.Session(session_id=name) as session, session.start_turn(agent_name=f"a-{name}") as turn:
                turn.start_soon(tool, f"x-{name}")
                rig.tracer.start_span(f"http-{name}").end()
                await anyio.lowlevel.checkpoint()

    async def tool(name: str) -> None:
        async with ga.start_tool(name):
            await anyio.lowlevel.checkpoint()

    names = [f"job{number}" for number in range(60)]
    with jobs:
        async with anyio.create_task_group() as pool:
            async with ga.Session(session_id="first") as first, first.start_turn(agent_name="a"):
                with ga.propagate("detach"):
                    for _ in range(4):
                        pool.start_soon(worker)
                for name in names[:10]:
                    await send.send(name)
            async with send, ga.Session(session_id="second"):
                for name in names[10:]:
                    await send.send(name)
    expected: Tree = {"a": ("first", None)}
    for name in names:
        expected |= {
            f"a-{name}": (name, None),
            f"x-{name}": (name, f"a-{name}"),
            f"http-{name}": (name, f"a-{name}"),
        }
    return expected


@scenario
async def test_what_has_ended_around_what_is_open(rig: Rig) -> Tree:
    """A turn or call that has ended is not the current one, though a tool inside is still open and a parent."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with ga.start_llm("m", provider_name="p") as llm, ga.start_tool("x"):
            assert (ga.current_turn(), ga.current_llm()) == (turn, llm)
            llm.end()
            assert (ga.current_turn(), ga.current_llm()) == (turn, None)
            turn.end()
            assert ga.current_turn() is None
            assert ga.current_session() is session
            ga.start_tool("y").end()
    return {"a": ("s", None), "m": ("s", "a"), "x": ("s", "m"), "y": ("s", "x")}
