"""The public API as callers write it. Never run: mypy and pyright check it, and that is the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import assert_type

import httpx
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span

import genai_async as ga
from genai_async.export import ExportConfig, Exporter, ExportProcessor, RetryPolicy, ThreadHost

version: str = ga.__version__


def redact(text: str) -> str:
    return text.replace("secret", "***")


def redact_more(text: str) -> str | None:
    return ga.redact_secrets(text)


def on_drop(drop: ga.Drop) -> None:
    assert_type(drop.reason, str)
    assert_type(drop.count, int)


async def set_up() -> None:
    async with ga.tracing() as tracing:
        assert_type(tracing, ga.Tracing)
        assert_type(tracing.stats(), ga.ExportStats)
        assert_type(tracing.faults, Mapping[str, int])
        outcome = await tracing.flush(timeout=5)
        assert_type(outcome, ga.FlushResult)
        assert_type(outcome.dropped, Mapping[str, int])
        assert_type(outcome.complete, bool)
        assert_type(await tracing.aclose(), ga.FlushResult)

    options = ga.tracing(
        endpoint="http://localhost:4318",
        headers={"x-api-key": "key"},
        timeout=10,
        compression="gzip",
        service_name="support",
        resource=Resource({"deployment.environment.name": "test"}),
        capture_content=False,
        redact=redact,
        max_queue_bytes=2**20,
        max_batch_bytes=2**16,
        max_batch_spans=100,
        schedule_delay=0.5,
        shutdown_timeout=2.5,
        spool=Path("spool"),
        on_drop=on_drop,
        sampler=ga.ConversationSampler(0.1),
        tracer_provider=TracerProvider(),
        transport=httpx.MockTransport(lambda _: httpx.Response(200)),
        record_cancellation_as_error=False,
        redact_others=False,
    )
    async with options:
        pass


def as_ours(error: ga.GenAIAsyncError) -> ga.GenAIAsyncError:
    return error


def set_up_a_script() -> None:
    tracing = ga.configure(service_name="script", resource={"service.version": "1"}, endpoint=None)
    assert_type(tracing.shutdown(timeout=1), ga.FlushResult)
    try:
        tracing.start()
    except ga.ClosedError as exc:
        assert_type(as_ours(exc), ga.GenAIAsyncError)
    except ga.ConfigurationError as exc:
        assert_type(as_ours(exc), ga.GenAIAsyncError)
        raise ValueError from exc


async def chunks() -> AsyncIterator[bytes]:
    yield b"chunk"


class Both:
    def __iter__(self) -> Iterator[bytes]:
        yield b"chunk"

    def __aiter__(self) -> AsyncIterator[bytes]:
        return chunks()


async def look_up(parcel: int, *, strict: bool = True) -> str:
    return f"{parcel} {strict}"


class Reply:
    """What a provider's client gives, as pydantic makes it."""

    def model_dump(self, *, mode: str = "python", exclude_none: bool = False) -> dict[str, object]:
        return {"role": "assistant", "content": f"{mode} {exclude_none}"}


def record_a_reply(turn: ga.Turn, reply: Reply) -> None:
    llm = turn.start_llm("m", provider_name="p", input_messages=[ga.Message.user("?"), reply, {"role": "user"}])
    llm.record(output_messages=[reply], usage=reply)
    llm.usage = reply
    llm.record(response=reply).record(response={"choices": []})
    ga.log_turn(output_messages=[reply], usage=reply)


async def converse() -> None:
    async with ga.Session(agent_name="support-bot", model="gpt-4o", attributes={"tenant": 7}) as session:
        assert_type(session, ga.Session)
        assert_type(session.session_id, str)
        async with session.start_turn("Where is my parcel?", start_time=datetime.now(UTC)) as turn:
            assert_type(turn, ga.Turn)
            assert_type(turn.conversation_id, str | None)
            assert_type(turn.trace_id, str)
            assert_type(turn.context, Context)
            assert_type(turn.span, Span)
            assert_type(turn.is_recording, bool)
            assert_type(turn.user("Hello?").set_attributes({"a": 1}), ga.Turn)
            task = turn.start_soon(look_up, 7, name="look up")
            assert_type(task, ga.ChildTask[str])
            assert_type(await task, str)
            turn.start_soon(look_up, 7, propagate="link")
            turn.task_group.start_soon(look_up, 7)
            turn.task_group.cancel_scope.cancel()
            await call_model(turn)
            await run_tool(turn)
            assert_type(turn.record(output_messages=["Osaka."], finish_reasons=["stop"]), ga.Turn)
        assert_type(await turn.delivered(timeout=1), bool)


async def call_model(turn: ga.Turn) -> None:
    async with turn.start_llm(
        "gpt-4o",
        provider_name="openai",
        input_messages=[
            "plain text",
            {"role": "user", "content": "a dict of a chat API"},
            ga.Message.system("..."),
        ],
        tool_definitions=[ga.ToolDefinition("track", parameters={"type": "object"}), {"name": "other"}],
        temperature=0,
        max_tokens=100,
        stop_sequences=["."],
        server_address="api.openai.com",
        server_port=443,
    ) as llm:
        assert_type(llm, ga.LLM)
        assert_type(llm.usage, ga.Usage | None)
        assert_type(llm.output("text").think("thought").attach_media(b"png", mime_type="image/png"), ga.LLM)
        async for chunk in llm.stream(chunks()):
            assert_type(chunk, bytes)
        async with llm.stream(chunks()) as stream:
            assert_type(stream, ga.Stream[bytes])
        for text in llm.stream(["text"], record=True):
            assert_type(text, str)
        with llm.stream(iter([1])) as numbers:
            assert_type(numbers, ga.SyncStream[int])
        async for either in llm.stream(Both()):
            assert_type(either, bytes)
        with llm.stream(Both()) as both:
            for either in both:
                assert_type(either, bytes)
        llm.record(usage=ga.Usage(input_tokens=1, output_tokens=0), response_id="r", response_model="gpt-4o-2024")
        llm.usage = ga.Usage(1)
        llm.record_error(TimeoutError()).record_error("rate_limited")
        assert_type(llm.start_tool("track"), ga.Tool)


async def run_tool(turn: ga.Turn) -> None:
    async with turn.start_tool("track", arguments={"id": 7}, call_id="call_1", tool_type="function") as tool:
        assert_type(tool, ga.Tool)
        tool.result = await look_up(7)
        tool.record(result={"city": "Osaka"})
        async with tool.start_subagent("researcher", model="gpt-4o-mini", remote="https://agents.example") as agent:
            assert_type(agent, ga.SubAgent)
            agent.record(output_messages="done", agent_id="a-1").end(error=ValueError(), end_time=1)


def by_hand(session: ga.Session) -> None:
    turn = session.start_turn(
        input_messages=ga.Message("user", [ga.TextPart("hi")]), start_time=1_700_000_000_000_000_000
    )
    with turn.start_llm(provider_name="anthropic") as llm:
        llm.record(output_messages=[message()], usage={"input_tokens": 1})
    turn.end()
    session.end()


def message() -> ga.Message:
    return ga.Message(
        "assistant",
        [
            ga.TextPart("text"),
            ga.ReasoningPart("thought"),
            ga.ToolCallPart("track", id="call_1", arguments={"id": 7}),
            ga.ToolCallResponsePart({"city": "Osaka"}, id="call_1"),
            ga.BlobPart.of(b"png", modality="image", mime_type="image/png"),
            ga.UriPart("image", "https://example.com/image.png"),
            ga.FilePart("document", "file-1", "application/pdf"),
            ga.GenericPart("server_tool_call", {"name": "search"}),
        ],
        name="bot",
    )


@ga.isolated
async def answer(session: ga.Session, question: str) -> AsyncIterator[str]:
    async with session.start_turn(question) as turn:
        yield turn.span_id


async def over_processes(session: ga.Session) -> None:
    carrier = session.carrier(baggage=True)
    assert_type(carrier, dict[str, str])
    assert_type(ga.Session.from_carrier(carrier, agent_name="worker"), ga.Session)


@ga.tool
async def search(query: str, *, limit: int = 3) -> list[str]:
    return [query] * limit


@ga.tool(name="track", hide=["key"])
def track(parcel: int, key: str) -> str:
    return f"{parcel} {key}"


@ga.subagent(model="gpt-4o-mini", message="topic")
async def research(topic: str) -> str:
    return topic


@ga.turn(message="question", not_errors=(LookupError, KeyboardInterrupt))
async def reply(question: str) -> AsyncIterator[str]:
    yield question


async def decorated() -> None:
    assert_type(await search("query", limit=1), list[str])
    assert_type(track(7, key="key"), str)
    assert_type(await research("topic"), str)
    async for piece in reply("question"):
        assert_type(piece, str)


async def ambient() -> None:
    assert_type(ga.current_session(), ga.Session | None)
    assert_type(ga.current_turn(), ga.Turn | None)
    assert_type(ga.current_llm(), ga.LLM | None)
    async with ga.start_turn("hi"), ga.start_llm("gpt-4o", provider_name="openai", seed=1):
        assert_type(ga.start_tool("track", arguments={"id": 7}), ga.Tool)
        assert_type(ga.start_subagent("researcher"), ga.SubAgent)
    with ga.propagate("detach"):
        await asyncio.create_task(look_up(1))
    async for piece in answer(ga.Session(), "question"):
        assert_type(piece, str)


def afterwards() -> None:
    logged = ga.log_turn(
        "hi",
        session_id="c-1",
        output_messages=["hello"],
        spans=[
            ga.LoggedLLM(provider_name="openai", model="gpt-4o", fields={"usage": ga.Usage(1, 2)}),
            ga.LoggedTool(name="track", result=None, error="not_found", start_time=1, end_time=2),
            ga.LoggedSubAgent(name="researcher", spans=[ga.LoggedTool(name="read")]),
        ],
    )
    assert_type(logged, ga.LogResult)
    assert_type(logged.trace_ids, tuple[str, ...])
    assert_type(ga.log_session([ga.LoggedTurn(user_message="hi")], session_id="c-1"), ga.LogResult)


def export_of_other_spans() -> None:
    config = ExportConfig.resolve(endpoint="http://localhost:4318", retry=RetryPolicy(initial=0.1))
    exporter = Exporter(config)
    provider = TracerProvider()
    provider.add_span_processor(ExportProcessor(exporter))
    ThreadHost().start(exporter)
