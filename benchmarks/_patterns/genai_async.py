"""This library."""

from __future__ import annotations

import asyncio
import os
from contextlib import AbstractContextManager, aclosing, nullcontext
from typing import Any

from ._library import Body, Chunks

os.environ["OTEL_TRACES_EXPORTER"] = "none"

import genai_async as ga


class Handle:
    def __init__(self, span: Any) -> None:
        self._span = span

    def __enter__(self) -> Handle:
        self._span.__enter__()
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self._span.__exit__(*exc)

    def start(self) -> Handle:
        return self  # a span starts when it is made

    def end(self) -> None:
        self._span.end()

    def llm(self, name: str) -> Handle:
        return Handle(self._span.start_llm(name, provider_name="p"))

    def tool(self, name: str) -> Handle:
        return Handle(self._span.start_tool(name))

    def stream(self, chunks: Chunks) -> Chunks:
        return self._span.stream(chunks)


class Session:
    def __init__(self, conversation_id: str) -> None:
        self._session = ga.Session(session_id=conversation_id)

    def __enter__(self) -> Session:
        self._session.__enter__()
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self._session.__exit__(*exc)

    def turn(self, name: str) -> Handle:
        return Handle(self._session.start_turn(agent_name=name))


class Library:
    packages = ("genai-async", "opentelemetry-sdk")
    id_attribute = "gen_ai.conversation.id"
    without_id = ()

    def __init__(self) -> None:
        self._tracing = ga.configure(shutdown_timeout=1)
        self.provider = self._tracing.provider

    def session(self, conversation_id: str) -> Session:
        return Session(conversation_id)

    def llm(self, name: str) -> Handle:
        return Handle(ga.start_llm(name, provider_name="p"))

    def tool(self, name: str) -> Handle:
        return Handle(ga.start_tool(name))

    def stream(self, turn: Handle | None, name: str, chunks: Chunks) -> Chunks:
        return (turn or self).llm(name).stream(chunks)

    def streamed_turn(self, conversation_id: str, name: str, body: Body) -> Chunks:
        @ga.isolated
        async def answer() -> Chunks:
            async with (
                ga.Session(session_id=conversation_id) as session,
                session.start_turn(agent_name=name),
                aclosing(body()) as items,
            ):
                async for item in items:
                    yield item

        return answer()

    def adopt(self, turn: Handle) -> AbstractContextManager[Any]:
        return nullcontext()

    async def in_thread(self, work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, work)
