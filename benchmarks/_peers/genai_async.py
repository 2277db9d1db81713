"""This library, with the options that it has by default."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import genai_async as ga
from benchmarks._workload import AGENT, INPUT_TOKENS, MODEL, OUTPUT_TOKENS, PROVIDER, TOOL, Exchange, Turn, work


class Peer:
    async def open(self, url: str) -> None:
        self._tracing = ga.tracing(endpoint=url, service_name="bench")
        await self._tracing.__aenter__()

    @contextmanager
    def conversation(self, conversation_id: str) -> Iterator[Turn]:
        with ga.Session(session_id=conversation_id, agent_name=AGENT, model=MODEL) as session:
            yield partial(self._turn, session)

    async def _turn(self, session: ga.Session, latency: float) -> None:
        said = Exchange.next()
        async with session.start_turn(said.question) as turn:
            async with turn.start_llm(
                MODEL,
                provider_name=PROVIDER,
                input_messages=[ga.Message.user(said.question)],
                temperature=0.2,
                max_tokens=500,
            ) as llm:
                await work(latency)
                llm.record(
                    output_messages=[ga.Message.assistant(said.answer)],
                    usage=ga.Usage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS),
                    response_id=said.response_id,
                    response_model=MODEL,
                    finish_reasons=["stop"],
                )
            async with turn.start_tool(TOOL, arguments=said.arguments, call_id=said.call_id) as tool:
                await work(0)
                tool.result = said.result
            turn.record(output_messages=[ga.Message.assistant(said.answer)])

    async def flush(self) -> None:
        outcome = await self._tracing.flush(timeout=60)
        assert outcome.complete and not outcome.dropped, outcome

    async def close(self) -> None:
        await self._tracing.__aexit__(None, None, None)
