"""Whole replies of the model APIs, and streams of their chunks, recorded as they come."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import pydantic
import pytest

import genai_async as ga

from .support import Traced, traced

_CHAT_USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": None,
}
_TEXT = "Let me look."
_CALL = {"type": "tool_call", "name": "track", "id": "call_1", "arguments": {"id": 7}}


def _tool_call(name: str | None, arguments: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


CHAT = {
    "id": "r-1",
    "model": "m-1",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": _TEXT,
                "tool_calls": [_tool_call("track", '{"id": 7}', id="call_1")],
            },
        }
    ],
    "usage": _CHAT_USAGE,
}
RESPONSE = {
    "id": "r-1",
    "model": "m-1",
    "object": "response",
    "status": "completed",
    "incomplete_details": None,
    "output": [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": _TEXT}]},
        {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "track", "arguments": '{"id": 7}'},
    ],
    "usage": {"input_tokens": 12, "input_tokens_details": {"cached_tokens": 4}, "output_tokens": 9},
}
MESSAGE = {
    "id": "r-1",
    "model": "m-1",
    "type": "message",
    "role": "assistant",
    "stop_reason": "tool_use",
    "content": [
        {"type": "thinking", "thinking": "Hm.", "signature": "s"},
        {"type": "text", "text": _TEXT, "citations": None},
        {"type": "tool_use", "id": "call_1", "name": "track", "input": {"id": 7}},
    ],
    "usage": {"input_tokens": 8, "cache_read_input_tokens": 4, "cache_creation_input_tokens": None, "output_tokens": 9},
}
LANGCHAIN = {
    "type": "ai",
    "content": _TEXT,
    "id": "lc_run--1",
    "tool_calls": [{"type": "tool_call", "name": "track", "args": {"id": 7}, "id": "call_1"}],
    "response_metadata": {"id": "r-1", "model_name": "m-1", "finish_reason": "tool_calls"},
    "usage_metadata": {"input_tokens": 12, "output_tokens": 9, "input_token_details": {"cache_read": 4}},
}
_REPLIES = {"chat": CHAT, "response": RESPONSE, "message": MESSAGE, "langchain": LANGCHAIN}
_REASONS = {"chat": "tool_calls", "response": "stop", "message": "tool_use", "langchain": "tool_calls"}


def _chat_chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "r-1", "model": "m-1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def _block(kind: str, place: int, name: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": f"content_block_{kind}", "index": place, name: value}


_STREAMS: dict[str, list[dict[str, Any]]] = {
    "chat": [
        _chat_chunk(role="assistant", content=""),
        _chat_chunk(content="Let me "),
        _chat_chunk(content="look."),
        _chat_chunk(tool_calls=[_tool_call("track", "", id="call_1", index=0)]),
        _chat_chunk(tool_calls=[{"index": 0, "function": {"arguments": '{"id"'}}]),
        _chat_chunk(tool_calls=[{"index": 0, "function": {"arguments": ": 7}"}}]),
        _chat_chunk("tool_calls"),
        {"id": "r-1", "model": "m-1", "choices": [], "usage": _CHAT_USAGE},
    ],
    "response": [
        {"type": "response.created", "response": {**RESPONSE, "status": "in_progress", "output": [], "usage": None}},
        {"type": "response.output_item.done", "output_index": 0, "item": RESPONSE["output"][0]},  # type: ignore[index]
        {"type": "response.output_text.delta", "output_index": 1, "delta": "Let me "},
        {"type": "response.output_text.delta", "output_index": 1, "delta": "look."},
        {"type": "response.output_item.done", "output_index": 1, "item": RESPONSE["output"][1]},  # type: ignore[index]
        {"type": "response.completed", "response": RESPONSE},
    ],
    "message": [
        {"type": "message_start", "message": {**MESSAGE, "content": [], "stop_reason": None}},
        _block("start", 0, "content_block", {"type": "thinking", "thinking": "", "signature": ""}),
        _block("delta", 0, "delta", {"type": "thinking_delta", "thinking": "Hm."}),
        _block("delta", 0, "delta", {"type": "signature_delta", "signature": "s"}),
        {"type": "ping"},
        _block("start", 1, "content_block", {"type": "text", "text": "", "citations": None}),
        _block("delta", 1, "delta", {"type": "text_delta", "text": "Let me "}),
        _block("delta", 1, "delta", {"type": "text_delta", "text": "look."}),
        _block("start", 2, "content_block", {"type": "tool_use", "id": "call_1", "name": "track", "input": {}}),
        _block("delta", 2, "delta", {"type": "input_json_delta", "partial_json": '{"id"'}),
        _block("delta", 2, "delta", {"type": "input_json_delta", "partial_json": ": 7}"}),
        {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}},
        {"type": "message_stop"},
    ],
}


class _Model(pydantic.BaseModel, extra="allow"):
    """What a client makes of JSON: fields that it knows, and others that came along."""

    id: Any = None
    choices: Any = None
    usage: Any = None


def _as_objects(value: Any) -> Any:
    if isinstance(value, list):
        return [_as_objects(item) for item in value]
    if not isinstance(value, dict):
        return value
    read = {name: item if name == "input" else _as_objects(item) for name, item in value.items()}
    return _Model.model_construct(**read)


def _as_dicts(value: Any) -> Any:
    return value


_SHAPES = pytest.mark.parametrize("shape", [_as_dicts, _as_objects])


def _check(spans: Traced, api: str) -> None:
    told = spans.one("chat m").attributes
    assert (told["gen_ai.response.id"], told["gen_ai.response.model"]) == ("r-1", "m-1")
    assert told["gen_ai.response.finish_reasons"] == [_REASONS[api]]
    counts = [told[f"gen_ai.usage.{name}"] for name in ("input_tokens", "output_tokens", "cache_read.input_tokens")]
    assert counts == [12, 9, 4]
    (message,) = json.loads(told["gen_ai.output.messages"])
    assert message["role"] == "assistant"
    thoughts = [{"type": "reasoning", "content": "Hm."}] if api in {"response", "message"} else []
    assert message["parts"] == [*thoughts, {"type": "text", "content": _TEXT}, _CALL]
    assert spans.faults == {}


@_SHAPES
@pytest.mark.parametrize("api", _REPLIES)
def test_a_whole_reply(spans: Traced, turn: ga.Turn, api: str, shape: Callable[[Any], Any]) -> None:
    """One field tells messages, calls, usage, id, model and reasons, of each API's reply, as object and as dict."""
    reply = shape(_REPLIES[api])
    if api == "langchain" and shape is _as_objects:
        # LangChain's messages are models with plain dicts in them.
        reply = _Model.model_construct(**LANGCHAIN)
    with turn.start_llm("m", provider_name="p") as llm:
        llm.record(response=reply)
    _check(spans, api)


@_SHAPES
@pytest.mark.parametrize("api", _STREAMS)
def test_a_streamed_reply(spans: Traced, turn: ga.Turn, api: str, shape: Callable[[Any], Any]) -> None:
    """The chunks of a stream are recorded as the reply that they stand for, and reach the consumer untouched."""
    chunks = shape(_STREAMS[api])
    llm = turn.start_llm("m", provider_name="p")
    passed = list(llm.stream(chunks, record=True))
    assert all(one is other for one, other in zip(passed, chunks, strict=True))
    _check(spans, api)


@_SHAPES
@pytest.mark.parametrize("api", _STREAMS)
def test_a_streamed_reply_that_is_broken_off(
    spans: Traced, turn: ga.Turn, api: str, shape: Callable[[Any], Any]
) -> None:
    """What had come until then is recorded."""
    enough = {"chat": 2, "response": 3, "message": 7}[api]
    with turn.start_llm("m", provider_name="p").stream(shape(_STREAMS[api]), record=True) as chunks:
        for _ in range(enough):
            next(chunks)
    told = spans.one("chat m").attributes
    assert told["error.type"] == "abandoned"
    assert told["gen_ai.response.id"] == "r-1"
    assert '"Let me "' in told["gen_ai.output.messages"]
    assert spans.faults == {}


def test_a_stream_that_its_call_does_not_wait_for(spans: Traced, session: ga.Session) -> None:
    """Where the session or the call itself is ended first, what had come until then is recorded."""
    stream = session.start_turn().start_llm("m", provider_name="p").stream(_STREAMS["message"], record=True)
    for _ in range(7):
        next(stream)
    session.end()
    assert '"Let me "' in spans.one("chat m").attributes["gen_ai.output.messages"]
    list(stream)
    assert spans.faults == {}


@pytest.mark.anyio
async def test_an_async_stream(spans: Traced, turn: ga.Turn) -> None:
    """Chunks that are awaited are read alike, and what they told can be asked for at the end of the stream."""

    async def response() -> AsyncIterator[dict[str, Any]]:
        for chunk in _STREAMS["chat"]:
            yield chunk

    async with turn.start_llm("m", provider_name="p") as llm:
        async for _ in llm.stream(response(), record=True):
            pass
        assert llm.usage is not None
        assert llm.usage.input_tokens == 12
    _check(spans, "chat")


def test_blocks_that_begin_with_nothing(spans: Traced, turn: ga.Turn) -> None:
    """An odd block costs none of the others."""
    events = [
        _block("start", 0, "content_block", {"type": "text", "text": None}),
        _block("delta", 0, "delta", {"type": "text_delta", "text": _TEXT}),
        _block("start", 1, "content_block", {"type": "tool_use", "id": "call_1", "name": "track", "input": {}}),
        _block("delta", 1, "delta", {"type": "input_json_delta", "partial_json": '{"id":'}),
        _block("delta", 9, "delta", {"type": "text_delta", "text": "of no block"}),
    ]
    list(turn.start_llm("m", provider_name="p").stream(events, record=True))
    (message,) = spans.json("gen_ai.output.messages")
    assert message["parts"] == [{"type": "text", "content": _TEXT}, {**_CALL, "arguments": '{"id":'}]


def test_what_is_passed_beside_a_reply_goes_before(spans: Traced, turn: ga.Turn) -> None:
    """In whatever order, and a later reply replaces an earlier one."""
    turn.start_llm("m", provider_name="p").record(
        finish_reasons=["mine"], response=CHAT, usage={"input_tokens": 1}
    ).end()
    first = spans.last().attributes
    assert first["gen_ai.response.finish_reasons"] == ["mine"]
    assert first["gen_ai.usage.input_tokens"] == 1
    assert "gen_ai.usage.cache_read.input_tokens" not in first
    llm = turn.start_llm("m", provider_name="p").record(response={**CHAT, "id": "r-0"})
    llm.record(response=MESSAGE, response_model=None).end()
    second = spans.last().attributes
    assert second["gen_ai.response.id"] == "r-1"
    assert second["gen_ai.response.finish_reasons"] == ["tool_use"]


def test_what_is_recorded_by_hand_stands_for_what_a_stream_tells(spans: Traced, turn: ga.Turn) -> None:
    """The stream fills in what nobody has recorded; pieces collected beside it are not recorded twice."""
    with turn.start_llm("m", provider_name="p") as llm:
        llm.record(output_messages=["mine"], usage=ga.Usage(input_tokens=1))
        for _ in llm.stream(_STREAMS["chat"], record=True):
            llm.output("piece")
        llm.record(finish_reasons=["mine"])
    told = spans.one("chat m").attributes
    assert spans.json("gen_ai.output.messages") == [
        {"role": "assistant", "parts": [{"type": "text", "content": "mine"}]}
    ]
    assert told["gen_ai.usage.input_tokens"] == 1
    assert told["gen_ai.response.finish_reasons"] == ["mine"]
    assert told["gen_ai.response.model"] == "m-1"


def test_a_second_try_in_the_same_call(spans: Traced, turn: ga.Turn) -> None:
    """What the last stream of a call tells is what counts, and one of which nothing came tells nothing."""

    def failing() -> Iterator[dict[str, Any]]:
        yield {**_STREAMS["chat"][1], "id": "r-0", "model": "m-0"}
        raise ConnectionError

    with turn.start_llm("m", provider_name="p") as llm:
        assert list(llm.stream([], record=True)) == []
        with pytest.raises(ConnectionError):
            list(llm.stream(failing(), record=True))
        list(llm.stream(_STREAMS["chat"], record=True))
    _check(spans, "chat")


def test_texts_and_several_choices(spans: Traced, turn: ga.Turn) -> None:
    """Plain strings are the answer's text; each choice is a message of its own, in the order of their numbers."""
    with turn.start_llm("m", provider_name="p") as llm:
        list(llm.stream(["Let me ", "look."], record=True))
    assert spans.json("gen_ai.output.messages")[0]["parts"] == [{"type": "text", "content": _TEXT}]
    chunks = [
        {"choices": [{"index": place, "delta": {"reasoning_content": "Hm.", "content": str(place)}}]}
        for place in (1, 0)
    ]
    with turn.start_llm("m", provider_name="p") as llm:
        list(llm.stream(chunks, record=True))
    parts = [message["parts"] for message in spans.json("gen_ai.output.messages")]
    thought = {"type": "reasoning", "content": "Hm."}
    assert parts == [[thought, {"type": "text", "content": place}] for place in ("0", "1")]
    assert spans.faults == {}


def test_calls_without_a_place(spans: Traced, turn: ga.Turn) -> None:
    """Services that send each call as a whole may leave out where it stands."""
    calls = [_tool_call("track", "{}", id=f"call_{number}") for number in range(2)]
    with turn.start_llm("m", provider_name="p") as llm:
        list(llm.stream([_chat_chunk(tool_calls=calls)], record=True))
    (message,) = spans.json("gen_ai.output.messages")
    assert [part["id"] for part in message["parts"]] == ["call_0", "call_1"]


class _Hostile(Mapping[str, Any]):
    def __getitem__(self, key: str) -> Any:
        raise LookupError(key)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError

    def __len__(self) -> int:
        return 1

    def get(self, key: str, default: Any = None) -> Any:
        raise RuntimeError(key)


_UNKNOWN = [5, object(), "a text", {}, {"candidates": []}, _Hostile(), ["a"]]


@pytest.mark.parametrize("reply", _UNKNOWN, ids=repr)
def test_what_is_no_reply(spans: Traced, turn: ga.Turn, reply: Any) -> None:
    """It is counted, raises nothing, and what is passed beside it is recorded."""
    with turn.start_llm("m", provider_name="p") as llm:
        llm.record(response=reply, response_id="r-1")
    assert spans.faults == {"LLM.response": 1}
    assert spans.one("chat m").attributes["gen_ai.response.id"] == "r-1"


@pytest.mark.parametrize("chunk", [5, object(), {}, _Hostile(), {"type": "unknown"}, {"choices": [5]}], ids=repr)
def test_what_is_no_chunk(spans: Traced, turn: ga.Turn, chunk: Any) -> None:
    """A stream of something else passes through, and is counted."""
    llm = turn.start_llm("m", provider_name="p")
    assert list(llm.stream([chunk], record=True)) == [chunk]
    assert spans.faults.keys() <= {"LLM.stream"}
    assert "gen_ai.output.messages" not in spans.one("chat m").attributes


def test_a_sentinel_for_no_reply(spans: Traced, turn: ga.Turn) -> None:
    """What clients say for "not passed" is not passed."""

    class NotGiven: ...

    turn.start_llm("m", provider_name="p").record(response=NotGiven(), response_id=None).end()  # type: ignore[arg-type]
    assert spans.faults == {}


def test_long_streams_keep_what_an_attribute_holds(spans: Traced, turn: ga.Turn) -> None:
    """Of endless text as much is held as can be recorded."""
    llm = turn.start_llm("m", provider_name="p")
    for _ in llm.stream(("a" * 2**16 for _ in range(100)), record=True):
        pass
    (message,) = spans.json("gen_ai.output.messages")
    assert message["parts"][0]["content"].endswith("truncated]")


@pytest.mark.parametrize("record", [False, True])
def test_without_content(record: bool) -> None:
    """With capture off the counts are recorded and the words are not; a stream is read only where that is asked for."""
    with traced(capture_content=False) as found:
        llm = ga.Session().start_turn().start_llm("m", provider_name="p")
        list(llm.stream(_STREAMS["chat"], record=record))
        told = found.one("chat m").attributes
    assert "gen_ai.output.messages" not in told
    assert ("gen_ai.usage.input_tokens" in told) is record


def test_a_logged_reply(spans: Traced) -> None:
    """Logged calls take whole replies, too."""
    ga.log_turn(spans=[ga.LoggedLLM(provider_name="p", model="m", fields={"response": CHAT})])
    _check(spans, "chat")
