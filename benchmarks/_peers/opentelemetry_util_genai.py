"""OpenTelemetry's own GenAI helpers on top of the SDK."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks._workload import AGENT, INPUT_TOKENS, MODEL, OUTPUT_TOKENS, PROVIDER, TOOL, Exchange, Turn, work

from ._otel import SDK

os.environ["OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"] = "SPAN_ONLY"

from opentelemetry.util.genai.handler import TelemetryHandler
from opentelemetry.util.genai.types import InputMessage, OutputMessage, TextPart


def _question(said: Exchange) -> list[InputMessage]:
    return [InputMessage("user", [TextPart(said.question)])]


def _answer(said: Exchange) -> list[OutputMessage]:
    return [OutputMessage("assistant", [TextPart(said.answer)], "stop")]


class Peer(SDK):
    async def open(self, url: str) -> None:
        self._handler = TelemetryHandler(tracer_provider=self.set_up(url))

    @contextmanager
    def conversation(self, conversation_id: str) -> Iterator[Turn]:
        yield partial(self._turn, conversation_id)

    async def _turn(self, conversation_id: str, latency: float) -> None:
        said = Exchange.next()
        handler = self._handler
        with handler.invoke_local_agent(
            request_model=MODEL, agent_name=AGENT, conversation_id=conversation_id
        ) as agent:
            agent.input_messages = _question(said)
            with handler.inference(PROVIDER, request_model=MODEL) as chat:
                chat.input_messages = _question(said)
                chat.temperature, chat.max_tokens = 0.2, 500
                await work(latency)
                chat.output_messages = _answer(said)
                chat.input_tokens, chat.output_tokens = INPUT_TOKENS, OUTPUT_TOKENS
                chat.response_id, chat.response_model_name = said.response_id, MODEL
                chat.finish_reasons = ["stop"]
            with handler.tool(TOOL, agent_name=AGENT) as tool:
                tool.tool_call_id = said.call_id
                tool.arguments = said.arguments
                await work(0)
                tool.tool_result = said.result
            agent.output_messages = _answer(said)
            agent.input_tokens, agent.output_tokens = INPUT_TOKENS, OUTPUT_TOKENS
            agent.finish_reasons = ["stop"]
