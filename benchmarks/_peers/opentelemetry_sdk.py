"""OpenTelemetry's SDK with attributes written by hand."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from opentelemetry.trace import SpanKind

from benchmarks._workload import AGENT, INPUT_TOKENS, MODEL, OUTPUT_TOKENS, PROVIDER, TOOL, Exchange, Turn, work

from ._otel import SDK


def _messages(role: str, text: str) -> str:
    return json.dumps([{"role": role, "parts": [{"type": "text", "content": text}]}])


class Peer(SDK):
    async def open(self, url: str) -> None:
        self._tracer = self.set_up(url).get_tracer("bench")

    @contextmanager
    def conversation(self, conversation_id: str) -> Iterator[Turn]:
        yield partial(self._turn, conversation_id)

    async def _turn(self, conversation_id: str, latency: float) -> None:
        said = Exchange.next()
        common = {"gen_ai.conversation.id": conversation_id}
        agent: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": AGENT,
            "gen_ai.request.model": MODEL,
            **common,
        }
        with self._tracer.start_as_current_span(f"invoke_agent {AGENT}", attributes=agent) as turn:
            turn.set_attribute("gen_ai.input.messages", _messages("user", said.question))
            await self._chat(said, common, latency)
            await self._tool(said, common)
            turn.set_attributes(
                {
                    "gen_ai.output.messages": _messages("assistant", said.answer),
                    "gen_ai.usage.input_tokens": INPUT_TOKENS,
                    "gen_ai.usage.output_tokens": OUTPUT_TOKENS,
                    "gen_ai.response.finish_reasons": ["stop"],
                }
            )

    async def _chat(self, said: Exchange, common: dict[str, str], latency: float) -> None:
        request: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": MODEL,
            "gen_ai.request.temperature": 0.2,
            "gen_ai.request.max_tokens": 500,
            **common,
        }
        with self._tracer.start_as_current_span(f"chat {MODEL}", kind=SpanKind.CLIENT, attributes=request) as span:
            span.set_attribute("gen_ai.input.messages", _messages("user", said.question))
            await work(latency)
            span.set_attributes(
                {
                    "gen_ai.output.messages": _messages("assistant", said.answer),
                    "gen_ai.usage.input_tokens": INPUT_TOKENS,
                    "gen_ai.usage.output_tokens": OUTPUT_TOKENS,
                    "gen_ai.response.id": said.response_id,
                    "gen_ai.response.model": MODEL,
                    "gen_ai.response.finish_reasons": ["stop"],
                }
            )

    async def _tool(self, said: Exchange, common: dict[str, str]) -> None:
        call: dict[str, Any] = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": TOOL,
            "gen_ai.tool.call.id": said.call_id,
            "gen_ai.agent.name": AGENT,
            **common,
        }
        with self._tracer.start_as_current_span(f"execute_tool {TOOL}", attributes=call) as span:
            span.set_attribute("gen_ai.tool.call.arguments", json.dumps(said.arguments))
            await work(0)
            span.set_attribute("gen_ai.tool.call.result", json.dumps(said.result))
