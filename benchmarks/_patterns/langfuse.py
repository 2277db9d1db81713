"""Langfuse: ids by `propagate_attributes`, at once inside each turn; streams by `@observe`.

It would do around a turn, too, but would then also change the id of the span around it. A handle knows no session id,
so what is made by one propagates it again: more than the documentation asks for, but what somebody does who works
with handles. Threads get a copy of the context.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, aclosing
from typing import Any

from langfuse import Langfuse, observe, propagate_attributes
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ._library import Body, Chunks


class Handle:
    def __init__(self, parent: Any, name: str, kind: str, session_id: str | None = None) -> None:
        self._parent, self._options, self.session_id = parent, {"name": name, "as_type": kind}, session_id
        self._stack = ExitStack()

    def __enter__(self) -> Handle:
        with ExitStack() as stack:
            self.observation = stack.enter_context(self._parent.start_as_current_observation(**self._options))
            if self.session_id:
                stack.enter_context(propagate_attributes(session_id=self.session_id))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return self._stack.__exit__(*exc)

    def start(self) -> Handle:
        with ExitStack() as stack:
            if self.session_id:
                stack.enter_context(propagate_attributes(session_id=self.session_id))
            self.observation = self._parent.start_observation(**self._options)
        return self

    def end(self) -> None:
        self.observation.end()

    def llm(self, name: str) -> Handle:
        return Handle(self.observation, name, "generation", self.session_id)

    def tool(self, name: str) -> Handle:
        return Handle(self.observation, name, "tool", self.session_id)


class Session:
    """There is none but the id."""

    def __init__(self, client: Langfuse, session_id: str) -> None:
        self._client, self._id = client, session_id

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: Any) -> bool | None:
        return None

    def turn(self, name: str) -> Handle:
        return Handle(self._client, name, "agent", self._id)


class Library:
    packages = ("langfuse", "opentelemetry-sdk")
    id_attribute = "session.id"
    without_id = ()

    def __init__(self) -> None:
        self.provider = TracerProvider()
        self._client = Langfuse(
            public_key="pk-none",
            secret_key="sk-none",
            base_url="http://127.0.0.1:9",
            tracer_provider=self.provider,
            span_exporter=InMemorySpanExporter(),
        )

    def session(self, conversation_id: str) -> Session:
        return Session(self._client, conversation_id)

    def llm(self, name: str) -> Handle:
        return Handle(self._client, name, "generation")

    def tool(self, name: str) -> Handle:
        return Handle(self._client, name, "tool")

    def stream(self, turn: Handle | None, name: str, chunks: Chunks) -> Chunks:
        generation = (turn or self).llm(name).start()

        async def read() -> Chunks:
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield chunk
            finally:
                generation.end()

        return read()

    def streamed_turn(self, conversation_id: str, name: str, body: Body) -> Chunks:
        @observe(name=name, as_type="agent")
        async def answer() -> Chunks:
            with propagate_attributes(session_id=conversation_id):
                async with aclosing(body()) as items:
                    async for item in items:
                        yield item

        return answer()

    def adopt(self, turn: Handle) -> AbstractContextManager[Any]:
        return propagate_attributes(session_id=turn.session_id)

    async def in_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(None, contextvars.copy_context().run, work)
