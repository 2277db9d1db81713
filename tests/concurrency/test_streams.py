"""Streams of chunks, and generators that hold a span over their yields."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
from opentelemetry.context import get_current

import genai_async as ga
from genai_async.testing import capture

from .rig import Rig, Tree, scenario, settle

FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"


async def chunks(count: int = 3, error: BaseException | None = None) -> AsyncIterator[int]:
    for number in range(count):
        await anyio.lowlevel.checkpoint()
        yield number
    if error is not None:
        raise error


async def endless() -> AsyncIterator[int]:
    yield 0
    await anyio.sleep_forever()


class Response:
    """What a client library returns: an iterable that holds a connection."""

    def __init__(self) -> None:
        self.is_closed = False

    async def __aiter__(self) -> AsyncIterator[int]:
        for number in range(3):
            await anyio.lowlevel.checkpoint()
            yield number

    async def aclose(self) -> None:
        self.is_closed = True


@scenario
async def test_a_stream_that_completes(rig: Rig) -> Tree:
    """The call ends with its stream, with the time of the first chunk, and the chunks are untouched."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        items = [object(), object()]

        async def source() -> AsyncIterator[object]:
            for item in items:
                yield item

        llm = turn.start_llm("m", provider_name="p")
        assert [item async for item in llm.stream(source())] == items
        assert llm.is_ended
    assert (rig.span("m").attributes or {})[FIRST_CHUNK] >= 0
    return {"a": ("s", None), "m": ("s", "a")}


@scenario
async def test_a_stream_that_fails(rig: Rig) -> Tree:
    """What the source raises comes through and is the call's error."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        with pytest.raises(ValueError, match="broken"):
            async for _ in turn.start_llm("m", provider_name="p").stream(chunks(2, ValueError("broken"))):
                pass
    return {"a": ("s", None), "m": ("s", "a", "ValueError")}


@scenario
async def test_a_stream_that_is_cancelled(rig: Rig) -> Tree:
    """A cancelled consumer makes the call a cancelled one."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        with anyio.CancelScope() as scope:
            async for _ in turn.start_llm("m", provider_name="p").stream(endless()):
                scope.cancel()
    return {"a": ("s", None), "m": ("s", "a", "cancelled")}


@scenario
async def test_a_stream_that_times_out(rig: Rig) -> Tree:
    """A deadline that passes while a chunk is awaited is a time-out."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        with anyio.move_on_after(0.01):
            async for _ in turn.start_llm("m", provider_name="p").stream(endless()):
                pass
    return {"a": ("s", None), "m": ("s", "a", "timeout")}


@scenario
async def test_a_stream_that_is_closed_early(rig: Rig) -> Tree:
    """Closing a stream closes the response and ends the call as abandoned."""
    response = Response()
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        stream = turn.start_llm("m", provider_name="p").stream(response)
        assert await anext(stream) == 0
        await stream.aclose()
        await stream.aclose()
    assert response.is_closed
    return {"a": ("s", None), "m": ("s", "a", "abandoned")}


@scenario
async def test_a_stream_as_a_block_that_is_left_early(rig: Rig) -> Tree:
    """`async with` closes the response, however it is left."""
    response = Response()
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with turn.start_llm("m", provider_name="p").stream(response) as stream:
            async for _ in stream:
                break
    assert response.is_closed
    return {"a": ("s", None), "m": ("s", "a", "abandoned")}


@scenario
async def test_a_stream_as_a_block_that_completes(rig: Rig) -> Tree:
    """A stream that was read to its end is no abandoned one because its block is left."""
    response = Response()
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with turn.start_llm("m", provider_name="p").stream(response) as stream:
            assert [item async for item in stream] == [0, 1, 2]
    assert response.is_closed
    return {"a": ("s", None), "m": ("s", "a")}


@scenario
async def test_a_stream_whose_block_fails(rig: Rig) -> Tree:
    """The consumer's own error is the call's, and comes out of the block."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        with pytest.raises(KeyError):
            async with turn.start_llm("m", provider_name="p").stream(chunks()) as stream:
                async for _ in stream:
                    raise KeyError
    return {"a": ("s", None), "m": ("s", "a", "KeyError")}


@scenario
async def test_a_stream_that_is_dropped(rig: Rig) -> Tree:
    """A stream that is left unread and collected ends its call as abandoned, without a word."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async for _ in turn.start_llm("m", provider_name="p").stream(chunks()):
            break
        turn.start_llm("n", provider_name="p").stream(chunks())
        await settle()
        assert {span.name for span in rig.recorder.ended} == {"chat m", "chat n"}
    return {"a": ("s", None), "m": ("s", "a", "abandoned"), "n": ("s", "a", "abandoned")}


@scenario
async def test_a_stream_inside_its_calls_block(rig: Rig) -> Tree:
    """Inside the call's own block, the block ends the span: what the last chunk tells can still be recorded."""
    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        async with turn.start_llm("m", provider_name="p") as llm:
            async for number in llm.stream(chunks()):
                llm.output(str(number))
                with ga.start_tool(f"x{number}"):
                    await anyio.lowlevel.checkpoint()
            assert not llm.is_ended
            llm.record(response_id="r")
        async with turn.start_llm("n", provider_name="p") as llm:
            async for _ in llm.stream(chunks()):
                break
            await settle()
    assert (rig.span("m").attributes or {})["gen_ai.response.id"] == "r"
    return {
        "a": ("s", None),
        "m": ("s", "a"),
        **{f"x{number}": ("s", "m") for number in range(3)},
        "n": ("s", "a", "abandoned"),
    }


@scenario
async def test_a_stream_read_in_another_task(rig: Rig) -> Tree:
    """A stream may be begun in one task and read to its end in another."""

    async def read_on(stream: Any) -> None:
        async for _ in stream:
            pass

    async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
        stream = turn.start_llm("m", provider_name="p").stream(chunks())
        await anext(stream)
        async with anyio.create_task_group() as group:
            group.start_soon(read_on, stream)
    return {"a": ("s", None), "m": ("s", "a")}


@scenario
async def test_interleaved_streams_by_handle(rig: Rig) -> Tree:
    """Streams of two sessions read alternately in one task give their tools the right parents by handle."""

    async def answer(session: ga.Session, name: str) -> AsyncIterator[str]:
        turn = session.start_turn(agent_name=f"a-{name}")
        llm = turn.start_llm(f"m-{name}", provider_name="p")
        async for number in llm.stream(chunks()):
            with llm.start_tool(f"x-{name}{number}"):
                await anyio.lowlevel.checkpoint()
            yield name
        turn.end()

    first, second = ga.Session(session_id="s1"), ga.Session(session_id="s2")
    await _alternate(answer(first, "1"), answer(second, "2"))
    return _answered("1", "2")


def _answered(*names: str) -> Tree:
    tree: Tree = {}
    for name in names:
        tree |= {f"a-{name}": (f"s{name}", None), f"m-{name}": (f"s{name}", f"a-{name}")}
        tree |= {f"x-{name}{number}": (f"s{name}", f"m-{name}") for number in range(3)}
    return tree


async def _alternate(*streams: AsyncIterator[Any]) -> None:
    left = list(streams)
    while left:
        for stream in tuple(left):
            if await anext(stream, None) is None:
                left.remove(stream)


@scenario
async def test_interleaved_streams_by_ambience(rig: Rig) -> Tree:
    """Two isolated streams read alternately in one task each see only what they have entered themselves."""

    @ga.isolated
    async def answer(name: str) -> AsyncIterator[str]:
        async with ga.Session(session_id=f"s{name}"), ga.start_turn(agent_name=f"a-{name}"):
            async with ga.start_llm(f"m-{name}", provider_name="p") as llm:
                async for number in llm.stream(chunks()):
                    with ga.start_tool(f"x-{name}{number}"):
                        await anyio.lowlevel.checkpoint()
                        yield name

    before = get_current()
    streams = [answer("1"), answer("2"), answer("3")]
    for stream in streams:
        await anext(stream)
        assert get_current() is before
        assert ga.current_session() is None
    await _alternate(*streams)
    return _answered("1", "2", "3")


@scenario
async def test_interleaved_plain_generators_by_handle(rig: Rig) -> Tree:
    """Plain generators read alternately close their blocks in any order; at the end nothing is left standing."""

    async def answer(name: str, count: int) -> AsyncIterator[str]:
        async with ga.Session(session_id=f"s{name}") as session, session.start_turn(agent_name=f"a-{name}") as turn:
            for number in range(count):
                with turn.start_tool(f"x-{name}{number}"):
                    await anyio.lowlevel.checkpoint()
                yield name

    await _alternate(answer("1", 2), answer("2", 3), answer("3", 1))
    expected: Tree = {}
    for name, count in (("1", 2), ("2", 3), ("3", 1)):
        expected[f"a-{name}"] = (f"s{name}", None)
        expected |= {f"x-{name}{number}": (f"s{name}", f"a-{name}") for number in range(count)}
    return expected


async def _plain(session: ga.Session) -> AsyncIterator[int]:
    async with session.start_turn(agent_name="a"):
        async with ga.start_llm("m", provider_name="p"):
            for number in range(3):
                yield number


async def _consumer_is_free(session: ga.Session) -> None:
    """What the consumer starts after the generator is gone belongs to nothing that has ended."""
    assert ga.current_turn() is None
    assert ga.current_llm() is None
    async with session.start_turn(agent_name="b"):
        with ga.start_tool("y"):
            await anyio.lowlevel.checkpoint()


@scenario
async def test_a_plain_generator_read_to_its_end(rig: Rig) -> Tree:
    """A block around `yield` that is read to its end leaves nothing behind."""
    async with ga.Session(session_id="s") as session:
        before = get_current()
        assert [number async for number in _plain(session)] == [0, 1, 2]
        assert get_current() is before
        await _consumer_is_free(session)
    return {"a": ("s", None), "m": ("s", "a"), "b": ("s", None), "y": ("s", "b")}


_LEFT: Tree = {"a": ("s", None, "abandoned"), "m": ("s", "a", "abandoned"), "b": ("s", None), "y": ("s", "b")}


@scenario
async def test_a_plain_generator_that_is_broken_off(rig: Rig) -> Tree:
    """Breaking out ends the spans when the generator is collected; the consumer is free of them then."""
    async with ga.Session(session_id="s") as session:
        async for _ in _plain(session):
            break
        await settle()
        await _consumer_is_free(session)
    return _LEFT


@scenario
async def test_a_plain_generator_that_is_closed_here(rig: Rig) -> Tree:
    """Closing it in the consumer's task gives the consumer's context back at once, object for object."""
    async with ga.Session(session_id="s") as session:
        before = get_current()
        async with contextlib.aclosing(_plain(session)) as stream:
            await anext(stream)
        assert get_current() is before
        await _consumer_is_free(session)
    return _LEFT


@scenario
async def test_a_plain_generator_that_is_closed_elsewhere(rig: Rig) -> Tree:
    """Closing it in another task neither raises nor touches that task's context."""

    async def close(stream: Any) -> None:
        async with ga.Session(session_id="other") as other, other.start_turn(agent_name="c"):
            before = get_current()
            await stream.aclose()
            assert get_current() is before
            with ga.start_tool("z"):
                await anyio.lowlevel.checkpoint()

    async with ga.Session(session_id="s") as session:
        stream = _plain(session)
        await anext(stream)
        async with anyio.create_task_group() as group:
            group.start_soon(close, stream)
        await _consumer_is_free(session)
    return {**_LEFT, "c": ("other", None), "z": ("other", "c")}


@scenario
async def test_a_plain_generator_advanced_in_several_tasks(rig: Rig) -> Tree:
    """Each step may be taken by another task."""

    async def step(stream: Any) -> None:
        before = get_current()
        await anext(stream, None)
        with ga.start_turn(agent_name=f"t{len(rig.recorder.started)}"):
            await anyio.lowlevel.checkpoint()
        assert ga.current_session() is session
        del before

    async with ga.Session(session_id="s") as session:
        stream = _plain(session)
        for _ in range(4):
            async with anyio.create_task_group() as group:
                group.start_soon(step, stream)
        await _consumer_is_free(session)
    return {
        "a": ("s", None),
        "m": ("s", "a"),
        **{f"t{number}": ("s", None) for number in (2, 3, 4, 5)},
        "b": ("s", None),
        "y": ("s", "b"),
    }


@scenario
async def test_a_plain_generator_into_which_an_error_is_thrown(rig: Rig) -> Tree:
    """An error thrown in is the spans' error and comes out as it is."""
    async with ga.Session(session_id="s") as session:
        stream: Any = _plain(session)
        await anext(stream)
        error = KeyError("k")
        with pytest.raises(KeyError) as caught:
            await stream.athrow(error)
        assert caught.value is error
        await _consumer_is_free(session)
    return {**_LEFT, "a": ("s", None, "KeyError"), "m": ("s", "a", "KeyError")}


@scenario
async def test_a_plain_generator_whose_consumer_is_cancelled(rig: Rig) -> Tree:
    """A cancelled consumer ends the spans as cancelled where the generator was waiting."""

    async def answer(session: ga.Session) -> AsyncIterator[int]:
        async with session.start_turn(agent_name="a"), ga.start_llm("m", provider_name="p"):
            yield 1
            await anyio.sleep_forever()

    async with ga.Session(session_id="s") as session:
        with anyio.CancelScope() as scope:
            async for _ in answer(session):
                scope.cancel()
        await _consumer_is_free(session)
    return {**_LEFT, "a": ("s", None, "cancelled"), "m": ("s", "a", "cancelled")}


@scenario
async def test_a_sync_generator_that_holds_a_turn(rig: Rig) -> Tree:
    """A sync generator that is dropped ends its span, and the consumer's context is its own again."""

    def answer(session: ga.Session) -> Any:
        with session.start_turn(agent_name="a"), ga.start_llm("m", provider_name="p"):
            yield 1
            yield 2

    async with ga.Session(session_id="s") as session:
        before = get_current()
        for _ in answer(session):
            break
        await settle()
        assert get_current() is before
        await _consumer_is_free(session)
    return _LEFT


@scenario
async def test_a_contextmanager_that_yields_a_turn(rig: Rig) -> Tree:
    """A turn held by an `asynccontextmanager` is current in the block, and gone after it."""

    @contextlib.asynccontextmanager
    async def conversation() -> AsyncIterator[ga.Turn]:
        async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
            yield turn

    async with conversation() as turn:
        assert ga.current_turn() is turn
        with ga.start_tool("x"):
            await anyio.lowlevel.checkpoint()
    return {"a": ("s", None), "x": ("s", "a")}


@pytest.mark.anyio
async def test_closing_a_stream_closes_all_of_it() -> None:
    """The response is closed though its iterator's clean-up fails, and what is both is closed once."""

    class Response:
        closed = 0

        async def __aiter__(self) -> AsyncIterator[int]:
            try:
                yield 1
                yield 2
            finally:
                raise OSError("clean-up")

        async def aclose(self) -> None:
            self.closed += 1

    class Iterator(Response):
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> int:
            return 1

    for response in (Response(), Iterator()):
        with contextlib.suppress(OSError):
            async with ga.start_llm("m", provider_name="p").stream(response) as chunks:
                async for _ in chunks:
                    break
        assert response.closed == 1


@pytest.mark.anyio
async def test_what_cannot_be_iterated_fails_its_call() -> None:
    """An error in making the iterator is the call's error, and the caller sees it."""
    with capture() as captured:
        with pytest.raises(TypeError):
            async for _ in ga.start_llm("m", provider_name="p").stream(cast(Any, 5)):
                pass
    assert captured.one("chat m").attributes["error.type"] == "TypeError"


def test_a_thread_that_is_gone_holds_nothing() -> None:
    """What was entered in a thread that has died is ended with its session."""
    held: list[ga.Turn] = []
    with capture(), ga.Session() as session:
        thread = threading.Thread(target=lambda: held.append(session.start_turn().__enter__()))
        thread.start()
        thread.join()
    assert held[0].is_ended
