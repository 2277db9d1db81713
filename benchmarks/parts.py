"""What each part costs: `python -m benchmarks.parts`.

CPU time of the running thread, the least of many rounds, and what one call leaves behind on the heap at its peak.
Ratios to the floor (msgspec over a prebuilt dict) hold from machine to machine; microseconds do not.
"""

from __future__ import annotations

import asyncio
import gc
import os
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
from opentelemetry.context import attach, get_current
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import INVALID_SPAN, SpanKind

import genai_async as ga
from genai_async._conversation._chat import to_input_messages
from genai_async._conversation._content import Gate
from genai_async._conversation._scope import enter, leave
from genai_async._tracer import Provider
from genai_async.export._buffer import Buffer
from genai_async.export._encode import Encoder

from ._report import machine, note, save, say, table
from ._workload import AGENT, INPUT_TOKENS, MODEL, OUTPUT_TOKENS, PROVIDER, TOOL, Exchange

_ROUNDS, _CALLS = 15, 2000
_START = {
    "gen_ai.operation.name": "chat",
    "gen_ai.conversation.id": "0190d0c7-1f4e-7c3a-9d5b-0a1b2c3d4e5f",
    "gen_ai.provider.name": PROVIDER,
    "gen_ai.request.model": MODEL,
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call takes: microseconds of CPU, and bytes of heap at its peak."""

    us: float
    peak_bytes: int


def measured(func: Callable[[], object]) -> Cost:
    """The least of many rounds, without the loop around it."""
    least = min(_timed(func) for _ in range(_ROUNDS)) - min(_timed(_nothing) for _ in range(_ROUNDS))
    tracemalloc.start()
    func()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    func()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return Cost(max(least, 0), peak)


def _timed(func: Callable[[], object]) -> float:
    gc.collect()
    calls = range(_CALLS)
    began = time.thread_time()
    for _ in calls:
        func()
    return (time.thread_time() - began) / _CALLS * 1e6


def _nothing() -> None:
    pass


class Keep(SpanProcessor):
    """Holds the newest span that ended."""

    span: ReadableSpan

    def on_end(self, span: ReadableSpan) -> None:
        self.span = span


def _ending() -> dict[str, Any]:
    said = Exchange.next()
    gate = Gate(capture=True)
    return {
        "gen_ai.request.temperature": 0.2,
        "gen_ai.request.max_tokens": 500,
        "gen_ai.input.messages": gate.json([ga.Message.user(said.question)]),
        "gen_ai.output.messages": gate.json([ga.Message.assistant(said.answer)]),
        "gen_ai.usage.input_tokens": INPUT_TOKENS,
        "gen_ai.usage.output_tokens": OUTPUT_TOKENS,
        "gen_ai.response.id": said.response_id,
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.agent.name": "support-bot",
    }


def span_parts() -> dict[str, Cost]:
    """A `chat` span with two messages of 600 bytes and 14 attributes, from its start to bytes in the queue."""
    provider, keep, ending = Provider(), Keep(), _ending()
    tracer, context = provider.get_tracer("bench"), get_current()
    provider.add_span_processor(keep)
    sdk = TracerProvider(shutdown_on_exit=False)
    sdk_tracer = sdk.get_tracer("bench")
    encoder = Encoder()
    buffer = Buffer(2**40, 512, 2**30, time.monotonic)

    def life() -> None:
        span = tracer.start_span(f"chat {MODEL}", context, SpanKind.CLIENT, _START)
        span.set_attributes(ending)
        span.end()

    def sdk_life() -> None:
        span = sdk_tracer.start_span(f"chat {MODEL}", context, SpanKind.CLIENT, _START)
        span.set_attributes(ending)
        span.end()

    class Encode(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            encoder.span(span)

    encoding = Provider()
    encoding.add_span_processor(Encode())
    encoding_tracer = encoding.get_tracer("bench")

    def start_to_bytes() -> None:
        span = encoding_tracer.start_span(f"chat {MODEL}", context, SpanKind.CLIENT, _START)
        span.set_attributes(ending)
        span.end()

    life()
    group, data = encoder.group(keep.span), encoder.span(keep.span)
    prebuilt = msgspec.json.decode(data)
    to_json = msgspec.json.Encoder().encode
    return {
        "floor: msgspec over the prebuilt value": measured(lambda: to_json(prebuilt)),
        "span life (start, 10 attributes, end)": measured(life),
        "the same with the SDK's span": measured(sdk_life),
        "encode": measured(lambda: encoder.span(keep.span)),
        "one span, start to bytes": measured(start_to_bytes),
        "buffer": measured(lambda: buffer.add(group, data)),
    }


def room_parts() -> dict[str, Cost]:
    """Ambient state and messages."""
    said = Exchange.next()
    messages = [ga.Message.user(said.question)]
    gate = Gate(capture=True)
    built = to_input_messages(messages)
    before = get_current()
    costs = {
        "ambient enter and exit": measured(lambda: leave(enter(None, None, INVALID_SPAN)[0])),
        "message: build": measured(lambda: ga.Message.user(said.question)),
        "message: check": measured(lambda: to_input_messages(messages)),
        "message: to JSON text": measured(lambda: gate.json(built)),
    }
    attach(before)
    return costs


def turn(session: ga.Session, said: Exchange) -> None:
    """The turn of `benchmarks.compare`, without its waiting."""
    with session.start_turn(said.question) as current:
        with current.start_llm(
            MODEL,
            provider_name=PROVIDER,
            input_messages=[ga.Message.user(said.question)],
            temperature=0.2,
            max_tokens=500,
        ) as llm:
            llm.record(
                output_messages=[ga.Message.assistant(said.answer)],
                usage=ga.Usage(input_tokens=INPUT_TOKENS, output_tokens=OUTPUT_TOKENS),
                response_id=said.response_id,
                response_model=MODEL,
                finish_reasons=["stop"],
            )
        with current.start_tool(TOOL, arguments=said.arguments, call_id=said.call_id) as tool:
            tool.result = said.result
        current.record(output_messages=[ga.Message.assistant(said.answer)])


def session_parts(state: str) -> dict[str, Cost]:
    """A turn, and a span alone, as the user writes them."""
    said = Exchange.next()
    session = ga.Session(agent_name=AGENT, model=MODEL)

    def by_hand() -> None:
        parent.start_tool(TOOL).end()

    def by_with() -> None:
        with parent.start_tool(TOOL):
            pass

    with session, session.start_turn() as parent:
        return {
            f"{state}: a turn of 3 spans with content": measured(lambda: turn(session, said)),
            f"{state}: one span, started and ended": measured(by_hand),
            f"{state}: one span in a `with` block": measured(by_with),
        }


async def set_up_parts() -> dict[str, Cost]:
    """The same in a set-up that only queues, so that nothing is measured but the caller's share."""
    network = httpx.MockTransport(lambda request: httpx.Response(200, json={}))
    costs = session_parts("not set up")
    async with ga.tracing(transport=network, sampler=ALWAYS_OFF):
        costs |= session_parts("set up, not sampled")
    async with ga.tracing(transport=network, max_queue_bytes=2**30, schedule_delay=3600):
        costs |= session_parts("traced")
    return costs


def import_cost(rounds: int = 15) -> dict[str, float]:
    """CPU milliseconds of whole processes that import a module, medians; rounds take turns."""
    modules = ("time", "opentelemetry.sdk.trace", "genai_async", "httpx")
    found: dict[str, list[float]] = {name: [] for name in modules}
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    for number in range(rounds + 1):
        for name in modules:
            code = f"import time, {name}; print(time.process_time() * 1e3)"
            answer = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
            )
            if number:  # the first one writes what was compiled
                found[name].append(float(answer.stdout))
    return {name: statistics.median(values) for name, values in found.items()}


_ENTER = """
import asyncio, time, genai_async
async def main():
    spent = time.thread_time()
    tracing = genai_async.tracing(endpoint="http://127.0.0.1:9")
    await tracing.__aenter__()
    print((time.thread_time() - spent) * 1e3)
    await tracing.aclose(0)
began = time.thread_time()
asyncio.run(main())
"""


def enter_cost(rounds: int = 9) -> float:
    """CPU milliseconds of the loop's thread in `async with tracing()`, in a fresh process: the median."""
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    return statistics.median(
        float(
            subprocess.run(
                [sys.executable, "-c", _ENTER], check=True, capture_output=True, text=True, env=environment
            ).stdout.split()[0]
        )
        for _ in range(rounds)
    )


def main() -> None:
    """Measure all parts and print them."""
    note("parts of a span")
    costs = span_parts() | room_parts()
    floor = costs["floor: msgspec over the prebuilt value"].us
    note("turns")
    costs |= asyncio.run(set_up_parts())
    note("imports")
    imports, entering = import_cost(), enter_cost()
    rows = [[name, f"{cost.us:.2f}", f"{cost.us / floor:.1f}", cost.peak_bytes] for name, cost in costs.items()]
    say(f"{machine()}\n")
    say(table(["", "us", "x floor", "heap, bytes"], rows) + "\n")
    sdk = imports["opentelemetry.sdk.trace"]
    say(table(["import", "ms", "x SDK"], [[name, f"{ms:.0f}", f"{ms / sdk:.2f}"] for name, ms in imports.items()]))
    say(f"\nloop's thread in `async with tracing()`, first time in a process: {entering:.1f} ms")
    parts = {name: {"us": cost.us, "x_floor": cost.us / floor, "heap": cost.peak_bytes} for name, cost in costs.items()}
    save("parts", {"parts": parts, "import_ms": imports, "enter_ms": entering})


if __name__ == "__main__":
    main()
