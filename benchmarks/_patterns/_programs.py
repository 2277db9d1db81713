"""The programs. Each gives the tree that must have come of it: by name, the conversation id and the right parents."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

from ._library import Body, Chunks, Handle, Library

Row: TypeAlias = tuple[str, tuple[str | None, ...]]
Tree: TypeAlias = dict[str, Row]
Program: TypeAlias = Callable[[Library], Awaitable[Tree]]

PROGRAMS: dict[str, Program] = {}


def _program(title: str) -> Callable[[Program], Program]:
    def register(program: Program) -> Program:
        PROGRAMS[title] = program
        return program

    return register


def _row(conversation_id: str, *parents: str | None) -> Row:
    return conversation_id, parents or (None,)


async def pause() -> None:
    """Let the others run."""
    await asyncio.sleep(0)


async def settle() -> None:
    """Let finalizers run, and what they have scheduled."""
    for _ in range(3):
        gc.collect()
        for _ in range(5):
            await pause()


async def _chunks() -> Chunks:
    for number in range(3):
        await pause()
        yield number


async def _go_on(library: Library) -> Tree:
    """What the same task does next: it must not be under anything that came before."""
    with library.session("next") as session, session.turn("next-turn"), library.tool("next-tool"):
        await pause()
    return {"next-turn": _row("next"), "next-tool": _row("next", "next-turn")}


async def _alternate(*streams: AsyncIterator[Any]) -> None:
    left = list(streams)
    while left:
        for stream in tuple(left):
            if await anext(stream, None) is None:
                left.remove(stream)


@_program("sessions in gather")
async def sessions_in_gather(library: Library) -> Tree:
    async def talk(name: str) -> None:
        with library.session(name) as session:
            await pause()
            with session.turn(f"a-{name}"):
                await pause()
                with library.llm(f"m-{name}"):
                    await pause()
                    with library.tool(f"x-{name}"):
                        await pause()

    names = [f"s{number}" for number in range(20)]
    await asyncio.gather(*[talk(name) for name in names])
    tree: Tree = {}
    for name in names:
        tree |= {f"a-{name}": _row(name), f"m-{name}": _row(name, f"a-{name}"), f"x-{name}": _row(name, f"m-{name}")}
    return tree


def _tools(names: str) -> Tree:
    """Tools of a turn `a`, each with a model call, which a library may put under the turn."""
    tree: Tree = {"a": _row("s")}
    for name in names:
        tree |= {name: _row("s", "a"), f"in-{name}": _row("s", name, "a")}
    return tree


@_program("parallel tools by handle")
async def parallel_tools_by_handle(library: Library) -> Tree:
    async def run(turn: Handle, name: str) -> None:
        with turn.tool(name):
            await pause()
            with library.llm(f"in-{name}"):
                await pause()

    with library.session("s") as session, session.turn("a") as turn:
        await asyncio.gather(*[run(turn, name) for name in "xyz"])
    return _tools("xyz")


@_program("parallel tools by ambience")
async def parallel_tools_by_ambience(library: Library) -> Tree:
    async def run(name: str) -> None:
        with library.tool(name):
            await pause()
            with library.llm(f"in-{name}"):
                await pause()

    with library.session("s") as session, session.turn("a"):
        await asyncio.gather(*[run(name) for name in "xyz"])
    return _tools("xyz")


@_program("two sessions in one task, closed out of order")
async def two_sessions_in_one_task(library: Library) -> Tree:
    first, second = library.session("s1"), library.session("s2")
    first.__enter__()
    turn1 = first.turn("a1").__enter__()
    second.__enter__()
    turn2 = second.turn("a2").__enter__()
    with turn1.tool("x1"):
        await pause()
    turn1.__exit__(None, None, None)
    first.__exit__(None, None, None)
    with library.tool("x2"):
        await pause()
    turn2.__exit__(None, None, None)
    second.__exit__(None, None, None)
    # The second turn may be in the first one's trace: that was current when it began.
    return {"a1": _row("s1"), "a2": _row("s2", None, "a1"), "x1": _row("s1", "a1"), "x2": _row("s2", "a2")}


@_program("interleaved streams by handle")
async def interleaved_streams_by_handle(library: Library) -> Tree:
    async def read(turn: Handle, name: str) -> AsyncGenerator[str, None]:
        number = 0
        async for _ in library.stream(turn, f"m{name}", _chunks()):
            with turn.tool(f"x{name}-{number}"):
                await pause()
            number += 1
            yield name
        turn.end()

    tree: Tree = {}
    with library.session("s1") as one, library.session("s2") as two:
        await _alternate(read(one.turn("a1").start(), "1"), read(two.turn("a2").start(), "2"))
    for name in "12":
        tree |= {f"a{name}": _row(f"s{name}"), f"m{name}": _row(f"s{name}", f"a{name}")}
        tree |= {f"x{name}-{number}": _row(f"s{name}", f"a{name}") for number in range(3)}
    return tree


@_program("interleaved streams by ambience")
async def interleaved_streams_by_ambience(library: Library) -> Tree:
    def body(name: str) -> Body:
        async def answer() -> Chunks:
            async with contextlib.aclosing(library.stream(None, f"m{name}", _chunks())) as chunks:
                async for number in chunks:
                    with library.tool(f"x{name}-{number}"):
                        await pause()
                    yield number

        return answer

    await _alternate(*[library.streamed_turn(f"s{name}", f"a{name}", body(name)) for name in "12"])
    tree: Tree = {}
    for name in "12":
        tree |= {f"a{name}": _row(f"s{name}"), f"m{name}": _row(f"s{name}", f"a{name}")}
        tree |= {f"x{name}-{number}": _row(f"s{name}", f"m{name}", f"a{name}") for number in range(3)}
    return tree


@_program("model stream left by break")
async def model_stream_left_by_break(library: Library) -> Tree:
    with library.session("s") as session:
        with session.turn("a") as turn:
            async for _ in library.stream(turn, "m", _chunks()):
                break
            await settle()
            with library.tool("x"):
                await pause()
        with session.turn("b"), library.tool("y"):
            await pause()
    return {"a": _row("s"), "m": _row("s", "a"), "x": _row("s", "a"), "b": _row("s"), "y": _row("s", "b")}


def _answer(library: Library) -> Chunks:
    async def body() -> Chunks:
        async with contextlib.aclosing(library.stream(None, "m", _chunks())) as chunks:
            async for chunk in chunks:
                yield chunk

    return library.streamed_turn("s", "a", body)


_ANSWER: Tree = {"a": _row("s"), "m": _row("s", "a")}


@_program("streamed turn left by break")
async def streamed_turn_left_by_break(library: Library) -> Tree:
    async for _ in _answer(library):
        break
    await settle()
    return _ANSWER | await _go_on(library)


@_program("streamed turn found by the garbage collector")
async def streamed_turn_collected(library: Library) -> Tree:
    stream = _answer(library)
    await anext(stream)
    cycle: list[Any] = [stream]
    cycle.append(cycle)
    del stream, cycle
    await settle()
    return _ANSWER | await _go_on(library)


@_program("streamed turn closed in another task")
async def streamed_turn_closed_elsewhere(library: Library) -> Tree:
    stream = _answer(library)
    await anext(stream)
    await asyncio.create_task(stream.aclose())
    return _ANSWER | await _go_on(library)


@_program("time limit inside a streamed turn")
async def time_limit_inside(library: Library) -> Tree:
    async def body() -> Chunks:
        async with asyncio.timeout(0.05), contextlib.aclosing(library.stream(None, "m", _chunks())) as chunks:
            async for chunk in chunks:
                yield chunk
            await asyncio.Event().wait()

    began = time.monotonic()
    with contextlib.suppress(TimeoutError):
        async for _ in library.streamed_turn("s", "a", body):
            await pause()
    if time.monotonic() - began > 2:
        raise AssertionError("the time limit was not kept")
    return _ANSWER | await _go_on(library)


async def _plain(library: Library) -> Chunks:
    with library.session("s") as session, session.turn("a"), library.llm("m"):
        for number in range(3):
            await pause()
            yield number


@_program("plain generator with a turn, left by break")
async def plain_generator_left_by_break(library: Library) -> Tree:
    async for _ in _plain(library):
        break
    await settle()
    return _ANSWER | await _go_on(library)


@_program("plain generator with a turn, closed in another task")
async def plain_generator_closed_elsewhere(library: Library) -> Tree:
    stream = _plain(library)
    await anext(stream)
    await asyncio.create_task(stream.aclose())
    return _ANSWER | await _go_on(library)


@_program("thread pool (`run_in_executor`) with a handle")
async def thread_pool(library: Library) -> Tree:
    def work(turn: Handle, name: str) -> None:
        with turn.tool(name), library.llm(f"in-{name}"):
            pass

    with library.session("s") as session, session.turn("a") as turn:
        await asyncio.gather(*[library.in_thread(functools.partial(work, turn, name)) for name in "xyz"])
    return _tools("xyz")


@_program("background task that outlives turn and session")
async def background_task(library: Library) -> Tree:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def background(turn: Handle) -> None:
        with turn.tool("x"):
            begun.set()
            await gate.wait()
            with library.llm("in-x"):
                await pause()
        with turn.tool("late"):
            await pause()

    with library.session("s") as session, session.turn("a") as turn:
        task = asyncio.create_task(background(turn))
        await begun.wait()
    with library.session("t") as other, other.turn("b"):
        gate.set()
        await task
        with library.tool("y"):
            await pause()
    return _tools("x") | {"late": _row("s", "a"), "b": _row("t"), "y": _row("t", "b")}


@_program("worker pool fed through a queue")
async def worker_pool(library: Library) -> Tree:
    queue: asyncio.Queue[tuple[Handle, str] | None] = asyncio.Queue()

    async def worker() -> None:
        while (job := await queue.get()) is not None:
            turn, name = job
            with library.adopt(turn), turn.tool(name), library.llm(f"in-{name}"):
                await pause()
            queue.task_done()

    async def talk(name: str) -> None:
        with library.session(name) as session, session.turn(f"a-{name}") as turn:
            for number in range(3):
                queue.put_nowait((turn, f"x-{name}{number}"))
            await queue.join()

    workers = [asyncio.create_task(worker()) for _ in range(2)]
    await asyncio.gather(talk("s1"), talk("s2"))
    for _ in workers:
        queue.put_nowait(None)
    await asyncio.gather(*workers)
    tree: Tree = {}
    for name in ("s1", "s2"):
        tree[f"a-{name}"] = _row(name)
        for tool in (f"x-{name}{number}" for number in range(3)):
            tree |= {tool: _row(name, f"a-{name}"), f"in-{tool}": _row(name, tool, f"a-{name}")}
    return tree


@_program("started here, ended in another task")
async def ended_elsewhere(library: Library) -> Tree:
    queue: asyncio.Queue[Handle] = asyncio.Queue()

    async def closer() -> None:
        while True:
            (await queue.get()).end()
            queue.task_done()

    task = asyncio.create_task(closer())
    with library.session("s") as session:
        turn = session.turn("a").start()
        for handle in (turn.llm("m").start(), turn):
            queue.put_nowait(handle)
        await queue.join()
        with session.turn("b"), library.tool("y"):
            await pause()
    task.cancel()
    await asyncio.wait([task])
    return {"a": _row("s"), "m": _row("s", "a"), "b": _row("s"), "y": _row("s", "b")}


@_program("cancelled turn")
async def cancelled_turn(library: Library) -> Tree:
    begun = asyncio.Event()

    async def talk() -> None:
        with library.session("s") as session, session.turn("a"), library.tool("x"):
            begun.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(talk())
    await begun.wait()
    task.cancel()
    await asyncio.wait([task])
    return {"a": _row("s"), "x": _row("s", "a")} | await _go_on(library)


@_program("timed-out turn")
async def timed_out_turn(library: Library) -> Tree:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            with library.session("s") as session, session.turn("a"), library.tool("x"):
                await asyncio.Event().wait()
    return {"a": _row("s"), "x": _row("s", "a")} | await _go_on(library)


@_program("nested sessions")
async def nested_sessions(library: Library) -> Tree:
    with library.session("outer") as outer, outer.turn("a"):
        with library.session("inner") as inner, inner.turn("b"), library.tool("x"):
            await pause()
        with library.tool("y"):
            await pause()
    return {"a": _row("outer"), "b": _row("inner", None, "a"), "x": _row("inner", "b"), "y": _row("outer", "a")}


@_program("foreign span inside a turn")
async def foreign_span(library: Library) -> Tree:
    tracer = library.provider.get_tracer("somebody.else")
    with library.session("s") as session, session.turn("a"):
        with tracer.start_as_current_span("f"):
            await pause()
        with library.tool("x"), tracer.start_as_current_span("g"):
            await pause()
    return {"a": _row("s"), "f": _row("s", "a"), "x": _row("s", "a"), "g": _row("s", "x")}


@_program("session opened by a parent, used in children")
async def session_used_in_children(library: Library) -> Tree:
    with library.session("s") as session:

        async def child(name: str) -> None:
            with session.turn(f"a{name}"), library.tool(f"x{name}"):
                await pause()

        for name in "123":
            await asyncio.create_task(child(name))
    return {f"a{name}": _row("s") for name in "123"} | {f"x{name}": _row("s", f"a{name}") for name in "123"}


@_program("many turns of one session at once")
async def many_turns_at_once(library: Library) -> Tree:
    with library.session("s") as session:

        async def exchange(number: int) -> None:
            with session.turn(f"a{number}"):
                await pause()
                with library.tool(f"x{number}"):
                    await pause()

        await asyncio.gather(*[exchange(number) for number in range(20)])
    return {f"a{n}": _row("s") for n in range(20)} | {f"x{n}": _row("s", f"a{n}") for n in range(20)}
