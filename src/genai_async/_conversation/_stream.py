"""A streamed model response, passed through untouched and timed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from inspect import isawaitable, iscoroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar, cast

if TYPE_CHECKING:
    from ._chunks import Assembly
    from ._llm import ModelCall

_Chunk = TypeVar("_Chunk")
_Read_co = TypeVar("_Read_co", covariant=True)


class Either(AsyncIterable[_Read_co], Iterable[_Read_co], Protocol[_Read_co]):
    """A response that can be read in both ways, as LiteLLM and instrumentations wrap what clients return."""


class Passage(Generic[_Chunk]):
    """What passes the chunks of a response on, however it is read: the call's part in it."""

    __slots__ = ("_assembly", "_chunks", "_ended", "_is_first", "_llm", "_source")

    def __init__(
        self, llm: ModelCall, source: AsyncIterable[_Chunk] | Iterable[_Chunk], assembly: Assembly | None
    ) -> None:
        self._ended = False
        self._llm = llm
        self._source = source
        self._chunks: Any = None
        self._is_first = True
        self._assembly = assembly
        llm.record(stream=True)

    def __del__(self) -> None:
        # Started and then dropped: nobody will read the rest.
        if not self._ended:
            self._end(GeneratorExit())

    def _note_chunk(self, chunk: _Chunk) -> None:
        if self._assembly is not None:
            self._read(self._assembly, chunk)
        if self._is_first:
            self._is_first = False
            # From the request on, and that went out when the call's span started.
            started_ns = getattr(self._llm.span, "start_time", None)
            if started_ns is not None:
                self._llm.record(time_to_first_chunk=max(time.time_ns() - started_ns, 0) / 1e9)

    def _read(self, assembly: Assembly, chunk: _Chunk) -> None:
        try:
            assembly.add(chunk)
        except Exception as exc:  # whatever a client's object does when it is read
            self._llm.drop_chunk(exc)

    def _end(self, error: BaseException | None) -> None:
        if self._ended:
            return
        self._ended = True
        assembly, self._assembly = self._assembly, None
        if assembly is not None:
            self._llm.fill(assembly)
        if not self._llm.is_entered:
            self._llm.end(error=error)
        elif isinstance(error, GeneratorExit):
            self._llm.note_cut()
        elif error is not None:
            self._llm.record_error(error)


class Stream(Passage[_Chunk]):
    """Passes the chunks of a response through and records when they came.

    The model call ends when the stream does: completed, failed, cancelled, closed early or abandoned, each told apart.
    Inside the call's own `with` block it is that block which ends the span, so that what only the end of the stream
    tells, such as usage, can still be recorded. Chunks are pulled in the consumer's task.

        async for chunk in llm.stream(response):
            llm.output(chunk.text)

        async with llm.stream(response) as chunks:   # closes the response, however the block is left
            async for chunk in chunks: ...
    """

    __slots__ = ()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Chunk:
        try:
            if self._chunks is None:
                self._chunks = aiter(cast("AsyncIterable[_Chunk]", self._source))
            chunk = await anext(cast("AsyncIterator[_Chunk]", self._chunks))
        except StopAsyncIteration:
            self._end(None)
            raise
        except BaseException as exc:
            self._end(exc)
            raise
        self._note_chunk(chunk)
        return chunk

    async def aclose(self) -> None:
        """Stop early: close the response and end the call as abandoned, unless it has ended."""
        self._end(GeneratorExit())
        # The iterator first: it may be a generator over the response, with clean-up of its own.
        try:
            await _close(self._chunks)
        finally:
            if self._chunks is not self._source:
                await _close(self._source)

    async def close(self) -> None:
        """The same as `aclose`, under the name that it has in the OpenAI and Anthropic clients."""
        await self.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self._end(exc)
        await self.aclose()


class SyncStream(Passage[_Chunk]):
    """The same for a client without `await`: what `llm.stream` makes of a plain iterable.

    Chunks are pulled in the consumer's thread; `with` and `close()` stand for `async with` and `aclose()`.

        for chunk in llm.stream(response):
            llm.output(chunk.text)
    """

    __slots__ = ()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> _Chunk:
        try:
            if self._chunks is None:
                self._chunks = iter(cast("Iterable[_Chunk]", self._source))
            chunk = next(cast("Iterator[_Chunk]", self._chunks))
        except StopIteration:
            self._end(None)
            raise
        except BaseException as exc:
            self._end(exc)
            raise
        self._note_chunk(chunk)
        return chunk

    def close(self) -> None:
        """Stop early: close the response and end the call as abandoned, unless it has ended."""
        self._end(GeneratorExit())
        try:
            _close_plainly(self._chunks)
        finally:
            if self._chunks is not self._source:
                _close_plainly(self._source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            self._end(exc)
        self.close()


class EitherStream(Stream[_Chunk], SyncStream[_Chunk]):
    """Of a response that can be read in both ways: `close` is that of a plain stream, `aclose` is awaited."""

    __slots__ = ()

    def close(self) -> Any:
        """Stop early, without `await`."""
        return SyncStream[_Chunk].close(self)


def stream_of(
    llm: ModelCall, source: AsyncIterable[_Chunk] | Iterable[_Chunk], assembly: Assembly | None
) -> Stream[_Chunk] | SyncStream[_Chunk]:
    """The response passed through in the way that it can be read: others ask by `__aiter__` how to read on."""
    kind = type(source)
    if not issubclass(kind, Iterable):
        return Stream(llm, source, assembly)  # whatever is none of both fails where it is read
    return (EitherStream if issubclass(kind, AsyncIterable) else SyncStream)(llm, source, assembly)


async def _close(closable: object) -> None:
    close: Any = getattr(closable, "aclose", None) or getattr(closable, "close", None)
    closing = close() if close is not None else None
    if isawaitable(closing):
        await closing


def _close_plainly(closable: object) -> None:
    close: Any = getattr(closable, "close", None)
    closing = close() if close is not None else None
    if iscoroutine(closing):
        closing.close()  # or Python says that nobody awaited it
