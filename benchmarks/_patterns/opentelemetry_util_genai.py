"""OpenTelemetry's GenAI helpers: ids by `conversation_id=`, parents by `context=`, streams in its wrapper.

It writes the id on the spans that the semantic conventions define it for, which leaves tools out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.stream import AsyncStreamWrapper

from ._library import Body, Chunks


class Handle:
    def __init__(self, handler: TelemetryHandler, make: Callable[..., Any], context: Context | None = None) -> None:
        self._handler, self._make, self._context = handler, make, context

    def __enter__(self) -> Handle:
        self.invocation = self._make(context=self._context)
        self.invocation.__enter__()
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self.invocation.__exit__(*exc)

    def start(self) -> Handle:
        self.invocation = self._make(context=self._context)
        self.invocation.suspend()
        return self

    def end(self) -> None:
        self.invocation.stop()

    def llm(self, name: str) -> Handle:
        return llm(self._handler, name, self.invocation.context)

    def tool(self, name: str) -> Handle:
        return tool(self._handler, name, self.invocation.context)


def llm(handler: TelemetryHandler, name: str, context: Context | None = None) -> Handle:
    return Handle(handler, lambda **options: handler.inference("p", request_model=name, **options), context)


def tool(handler: TelemetryHandler, name: str, context: Context | None = None) -> Handle:
    return Handle(handler, lambda **options: handler.tool(name, **options), context)


class Session:
    """There is none but the id."""

    def __init__(self, handler: TelemetryHandler, conversation_id: str) -> None:
        self._handler, self._id = handler, conversation_id

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return None

    def turn(self, name: str) -> Handle:
        def make(**options: Any) -> Any:
            return self._handler.invoke_local_agent(agent_name=name, conversation_id=self._id, **options)

        return Handle(self._handler, make)


class Stream(AsyncStreamWrapper[int]):
    def _process_chunk(self, chunk: int) -> None: ...

    def _on_stream_end(self) -> None:
        self._self_invocation.stop()

    def _on_stream_error(self, error: BaseException) -> None:
        self._self_invocation.fail(error)


class Library:
    packages = ("opentelemetry-util-genai", "opentelemetry-sdk")
    id_attribute = "gen_ai.conversation.id"
    without_id = ("execute_tool ",)

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._handler = TelemetryHandler(tracer_provider=self.provider)

    def session(self, conversation_id: str) -> Session:
        return Session(self._handler, conversation_id)

    def llm(self, name: str) -> Handle:
        return llm(self._handler, name)

    def tool(self, name: str) -> Handle:
        return tool(self._handler, name)

    def stream(self, turn: Handle | None, name: str, chunks: Chunks) -> Chunks:
        return Stream(chunks, (turn or self).llm(name).start().invocation)  # type: ignore[return-value]

    def streamed_turn(self, conversation_id: str, name: str, body: Body) -> Chunks:
        turn = self.session(conversation_id).turn(name).start()
        return Stream(body(), turn.invocation)  # type: ignore[return-value]

    def adopt(self, turn: Handle) -> AbstractContextManager[Any]:
        return nullcontext()

    async def in_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work)
