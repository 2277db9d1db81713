"""Weave's conversation API: `start_conversation`, handles from `start_turn`; its thread pool carries what is current.

A span starts only when its block is entered, so that is how one is started by hand. In a task that inherited nothing
the conversation is joined by its id.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, aclosing
from typing import Any

import weave
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from weave.conversation import start_conversation, start_llm, start_tool

from ._library import Body, Chunks


class Handle:
    def __init__(self, make: Callable[[], Any], conversation_id: str | None = None) -> None:
        self._make, self.conversation_id = make, conversation_id

    def __enter__(self) -> Handle:
        self.span = self._make()
        self.span.__enter__()
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self.span.__exit__(*exc)

    def start(self) -> Handle:
        return self.__enter__()

    def end(self) -> None:
        self.span.end()

    def llm(self, name: str) -> Handle:
        return Handle(lambda: self.span.start_llm(model=name, provider_name="p"), self.conversation_id)

    def tool(self, name: str) -> Handle:
        return Handle(lambda: self.span.start_tool(name=name), self.conversation_id)


class Session:
    def __init__(self, conversation_id: str) -> None:
        self._id = conversation_id

    def __enter__(self) -> Session:
        self._conversation = start_conversation(conversation_id=self._id)
        self._conversation.__enter__()
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self._conversation.__exit__(*exc)

    def turn(self, name: str) -> Handle:
        return Handle(lambda: self._conversation.start_turn(agent_name=name), self._id)


class Library:
    packages = ("weave", "opentelemetry-sdk")
    id_attribute = "gen_ai.conversation.id"
    without_id = ()

    def __init__(self) -> None:
        self.provider = TracerProvider()
        trace.set_tracer_provider(self.provider)

    def session(self, conversation_id: str) -> Session:
        return Session(conversation_id)

    def llm(self, name: str) -> Handle:
        return Handle(lambda: start_llm(model=name, provider_name="p"))

    def tool(self, name: str) -> Handle:
        return Handle(lambda: start_tool(name=name))

    def stream(self, turn: Handle | None, name: str, chunks: Chunks) -> Chunks:
        async def read() -> Chunks:
            async with aclosing(chunks):
                with (turn or self).llm(name):
                    async for chunk in chunks:
                        yield chunk

        return read()

    def streamed_turn(self, conversation_id: str, name: str, body: Body) -> Chunks:
        async def answer() -> Chunks:
            with self.session(conversation_id) as session, session.turn(name):
                async with aclosing(body()) as items:
                    async for item in items:
                        yield item

        return answer()

    def adopt(self, turn: Handle) -> AbstractContextManager[Any]:
        return start_conversation(conversation_id=turn.conversation_id or "")

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        with weave.ThreadPoolExecutor(1) as pool:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
