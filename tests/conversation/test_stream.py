"""Streams of clients without `await`, and those that can be read in both ways."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

import pytest

import genai_async as ga
from genai_async._conversation._stream import Stream
from genai_async._testing._record import SpanRecord

from .support import Traced

FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"


class Response:
    """What a client without `await` returns: an iterable that holds a connection."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.closed = 0
        self._error = error

    def __iter__(self) -> Iterator[str]:
        yield from ("It is ", "in Osaka.")
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self.closed += 1


class Either(Response):
    """What can be read in both ways, as `opentelemetry-instrumentation-openai-v2` wraps what the client returns."""

    async def __aiter__(self) -> AsyncIterator[str]:
        for chunk in iter(self):
            yield chunk


def _call(spans: Traced) -> SpanRecord:
    assert spans.open == []
    assert spans.faults == {}
    return spans.one("chat m")


def test_a_plain_stream_that_completes(spans: Traced) -> None:
    """The call ends with its stream, with the time of the first chunk, and the chunks are untouched."""
    chunks = [object(), object()]
    llm = ga.Session().start_turn().start_llm("m", provider_name="p")
    assert list(llm.stream(iter(chunks))) == chunks
    assert llm.is_ended
    call = spans.one("chat m")
    assert call.attributes[FIRST_CHUNK] >= 0
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.status == "UNSET"
    assert spans.faults == {}


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_plain_stream_that_fails(spans: Traced, error: BaseException) -> None:
    """What the source raises comes through and is the call's error."""
    with ga.Session() as session, session.start_turn() as turn:
        llm = turn.start_llm("m", provider_name="p")
        with pytest.raises(type(error)) as caught:
            for chunk in llm.stream(Response(error)):
                llm.output(chunk)
    assert caught.value is error
    call = _call(spans)
    assert call.attributes["error.type"] == type(error).__name__
    assert "It is in Osaka." in call.attributes["gen_ai.output.messages"]


def test_a_plain_stream_as_a_block(spans: Traced) -> None:
    """`with` closes the response, however it is left; broken off is abandoned, read to its end is not."""
    response = Response()
    with ga.Session() as session, session.start_turn() as turn:
        with turn.start_llm("whole", provider_name="p").stream(response) as stream:
            assert len(list(stream)) == 2
        assert response.closed == 1
        with turn.start_llm("part", provider_name="p").stream(response) as stream:
            next(stream)
        assert response.closed == 2
        with pytest.raises(KeyError), turn.start_llm("failed", provider_name="p").stream(response) as stream:
            raise KeyError
    assert response.closed == 3
    found = [spans.one(f"chat {name}").attributes.get("error.type") for name in ("whole", "part", "failed")]
    assert found == [None, "abandoned", "KeyError"]


def test_a_plain_stream_inside_its_calls_block(spans: Traced) -> None:
    """There the block ends the span, and what the last chunk tells can still be recorded."""
    with ga.Session() as session, session.start_turn() as turn:
        with turn.start_llm("m", provider_name="p") as llm:
            for chunk in llm.stream(Response()):
                llm.output(chunk)
                ga.start_tool(chunk).end()
            llm.record(response_id="r")
        with turn.start_llm("n", provider_name="p") as llm:
            for _ in llm.stream(Response()):
                break
            gc.collect()
    call = _call(spans)
    assert call.attributes["gen_ai.response.id"] == "r"
    assert spans.one("execute_tool in Osaka.").parent_span_id == call.span_id
    assert spans.one("chat n").attributes["error.type"] == "abandoned"


def test_a_plain_stream_that_is_dropped(spans: Traced) -> None:
    """A stream that is left unread and collected ends its call as abandoned, without a word."""
    with ga.Session() as session, session.start_turn() as turn:
        for _ in turn.start_llm("m", provider_name="p").stream(Response()):
            break
        gc.collect()
        assert spans.open == ["invoke_agent"]
    assert _call(spans).attributes["error.type"] == "abandoned"


def test_a_plain_stream_read_in_threads(spans: Traced) -> None:
    """A client that blocks is read in a thread, even in another one for each chunk."""
    stream = ga.Session().start_turn().start_llm("m", provider_name="p").stream(Response())
    found: list[str | None] = []
    for _ in range(3):
        thread = threading.Thread(target=lambda: found.append(next(stream, None)))
        thread.start()
        thread.join()
    assert found == ["It is ", "in Osaka.", None]
    assert "error.type" not in spans.one("chat m").attributes


def test_closing_a_plain_stream_closes_all_of_it() -> None:
    """The response is closed though its iterator's clean-up fails, and what is both is closed once."""

    class Failing(Response):
        def __iter__(self) -> Iterator[str]:
            try:
                yield from super().__iter__()
            finally:
                raise OSError("clean-up")

    failing, whole = Failing(), iter(["a"])
    stream = ga.start_llm("m", provider_name="p").stream(failing)
    next(stream)
    with pytest.raises(OSError, match="clean-up"):
        stream.close()
    assert failing.closed == 1
    ga.start_llm("m", provider_name="p").stream(whole).close()
    assert next(whole) == "a"


@pytest.mark.parametrize("kind", [Response, Either])
def test_a_response_that_wants_to_be_awaited(kind: type[Response]) -> None:
    """Read without `await`, a response whose `close` has to be awaited is left open, and nothing warns."""

    class Awaited(kind):  # type: ignore[misc, valid-type]
        async def close(self) -> None:
            self.closed += 1

    response = Awaited()
    with ga.start_llm("m", provider_name="p").stream(response) as stream:
        assert list(stream) == ["It is ", "in Osaka."]
    gc.collect()
    assert response.closed == 0


@pytest.mark.anyio
async def test_close_by_the_name_that_clients_have(spans: Traced) -> None:
    """`await stream.close()` closes as `aclose` does."""
    response = Either()
    stream: ga.Stream[str] = Stream(ga.start_llm("m", provider_name="p"), response, None)
    await anext(stream)
    await stream.close()
    assert response.closed == 1
    assert spans.one("chat m").attributes["error.type"] == "abandoned"


def test_a_response_of_a_class_that_answers_nothing() -> None:
    """What cannot be read fails where it is read, as it would by itself."""

    class Silent(type):
        def __getattr__(cls, name: str) -> Any:
            raise RuntimeError(name)

    class Odd(metaclass=Silent): ...

    stream = ga.start_llm("m", provider_name="p").stream(Odd())  # type: ignore[call-overload]
    assert not isinstance(stream, Iterable)


def test_a_stream_that_can_be_read_in_both_ways(spans: Traced) -> None:
    """It still can be, and each kind of stream is asked for by what it can do: frameworks ask so before they read."""
    llm = ga.start_llm("m", provider_name="p")
    either: Any = llm.stream(Either())
    assert list(either) == ["It is ", "in Osaka."]
    other: Any = ga.start_llm("n", provider_name="p").stream(Either())

    async def read() -> list[str]:
        async with other as stream:
            return [chunk async for chunk in stream]

    assert asyncio.run(read()) == ["It is ", "in Osaka."]
    assert [span.attributes.get("error.type") for span in spans.spans] == [None, None]
    plain: object = ga.start_llm("m", provider_name="p").stream(Response())
    assert isinstance(plain, Iterable)
    assert not isinstance(plain, AsyncIterable)
    assert isinstance(either, AsyncIterable)
    del plain, either
