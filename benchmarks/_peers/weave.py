"""Weave's conversation API, whose spans go where OpenTelemetry's global provider sends them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from opentelemetry import trace
from weave.conversation import Conversation, Message, Usage, start_conversation

from benchmarks._workload import AGENT, INPUT_TOKENS, MODEL, OUTPUT_TOKENS, PROVIDER, TOOL, Exchange, Turn, work

from ._otel import SDK


class Peer(SDK):
    async def open(self, url: str) -> None:
        trace.set_tracer_provider(self.set_up(url))

    @contextmanager
    def conversation(self, conversation_id: str) -> Iterator[Turn]:
        with start_conversation(agent_name=AGENT, model=MODEL, conversation_id=conversation_id) as conversation:
            yield partial(self._turn, conversation)

    async def _turn(self, conversation: Conversation, latency: float) -> None:
        said = Exchange.next()
        with conversation.start_turn(user_message=said.question) as turn:
            with turn.start_llm(model=MODEL, provider_name=PROVIDER) as llm:
                llm.request_temperature, llm.request_max_tokens = 0.2, 500
                await work(latency)
                llm.record(
                    input_messages=[Message.user(said.question)],
                    output_messages=[Message(role="assistant", content=said.answer)],
                    usage=Usage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS),
                    response_id=said.response_id,
                    response_model=MODEL,
                    finish_reasons=["stop"],
                )
            with turn.start_tool(name=TOOL, arguments=json.dumps(said.arguments), tool_call_id=said.call_id) as tool:
                await work(0)
                tool.result = json.dumps(said.result)
            turn.record(output_messages=[Message(role="assistant", content=said.answer)])
