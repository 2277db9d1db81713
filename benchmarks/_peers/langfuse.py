"""Langfuse's SDK, delivering to its OTLP endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from langfuse import Langfuse, propagate_attributes

from benchmarks._workload import AGENT, INPUT_TOKENS, MODEL, OUTPUT_TOKENS, TOOL, Exchange, Turn, work


class Peer:
    async def open(self, url: str) -> None:
        self._langfuse = Langfuse(public_key="pk", secret_key="sk", base_url=url, otel_compression="none")

    @contextmanager
    def conversation(self, conversation_id: str) -> Iterator[Turn]:
        with propagate_attributes(session_id=conversation_id):
            yield self._turn

    async def _turn(self, latency: float) -> None:
        said = Exchange.next()
        langfuse = self._langfuse
        asked = [{"role": "user", "content": said.question}]
        answered = {"role": "assistant", "content": said.answer}
        with langfuse.start_as_current_observation(name=AGENT, as_type="agent", input=asked) as agent:
            with langfuse.start_as_current_observation(
                name=f"chat {MODEL}",
                as_type="generation",
                model=MODEL,
                input=asked,
                model_parameters={"temperature": 0.2, "max_tokens": 500},
            ) as chat:
                await work(latency)
                chat.update(
                    output=answered,
                    usage_details={"input": INPUT_TOKENS, "output": OUTPUT_TOKENS},
                    metadata={"response_id": said.response_id, "finish_reason": "stop"},
                )
            with langfuse.start_as_current_observation(
                name=TOOL, as_type="tool", input=said.arguments, metadata={"call_id": said.call_id}
            ) as tool:
                await work(0)
                tool.update(output=said.result)
            agent.update(output=answered)

    async def flush(self) -> None:
        await asyncio.to_thread(self._langfuse.flush)

    async def close(self) -> None:
        await asyncio.to_thread(self._langfuse.shutdown)
