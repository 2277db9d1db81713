"""Whole replies of the model APIs, and streams of their chunks, recorded as they come."""

from __future__ import annotations

import gc
import itertools
import json
import tracemalloc
import weakref
from collections import deque
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


def test_what_is_recorded_by_hand_between_two_streams(spans: Traced, turn: ga.Turn) -> None:
    """It stands against the second stream as well, however it came to replace what the first one told."""
    with turn.start_llm("m", provider_name="p") as llm:
        list(llm.stream(_STREAMS["chat"], record=True))
        llm.record(output_messages=["mine"], response_id="mine")
        llm.usage = ga.Usage(input_tokens=1)
        list(llm.stream([{**chunk, "model": "m-2"} for chunk in _STREAMS["chat"]], record=True))
    told = spans.one("chat m").attributes
    assert "mine" in told["gen_ai.output.messages"]
    assert (told["gen_ai.response.id"], told["gen_ai.usage.input_tokens"]) == ("mine", 1)
    assert told["gen_ai.response.model"] == "m-2"


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


def _fragment(name: str | None, arguments: Any, **more: Any) -> dict[str, Any]:
    return _chat_chunk(tool_calls=[{"function": {"name": name, "arguments": arguments}, **more}])


_TWO = [{"id": "a", "name": "track", "arguments": {"id": 7}}, {"id": "b", "name": "refund", "arguments": {"id": 8}}]


@pytest.mark.parametrize(
    ("chunks", "calls"),
    [
        pytest.param(
            [_fragment("track", '{"id": 7}', id="a", index=0), _fragment("refund", '{"id": 8}', id="b", index=0)],
            _TWO,
            id="all at one place",
        ),
        pytest.param(
            [_fragment("track", '{"id": 7}', id="a"), _fragment("refund", '{"id": 8}', id="b")], _TWO, id="no place"
        ),
        pytest.param(
            [_fragment("track", "", id="a"), _fragment(None, '{"id"'), _fragment(None, ": 7}")],
            _TWO[:1],
            id="fragments without a place",
        ),
        pytest.param(
            [_fragment("track", "", id="a"), _fragment("track", '{"id": 7}', id="a")], _TWO[:1], id="all told again"
        ),
        pytest.param(
            [_fragment("track", '{"id":', id="a", index=0), _fragment(None, "7}", id="other", index=0)],
            _TWO[:1],
            id="an id for each fragment",
        ),
        pytest.param([_fragment("track", {"id": 7}, id="a", index=0)], _TWO[:1], id="arguments as an object"),
        pytest.param(
            [
                _chat_chunk(tool_calls=[{"index": 0, "id": "a", "custom": {"name": "sh", "input": "l"}}]),
                _chat_chunk(tool_calls=[{"index": 0, "custom": {"input": "s"}}]),
            ],
            [{"id": "a", "name": "sh", "arguments": "ls"}],
            id="custom",
        ),
        pytest.param(
            [
                _chat_chunk(function_call={"name": "track", "arguments": '{"id"'}),
                _chat_chunk(function_call={"arguments": ": 7}"}),
            ],
            [{"name": "track", "arguments": {"id": 7}}],
            id="the only one",
        ),
    ],
)
def test_streamed_calls(
    spans: Traced, turn: ga.Turn, chunks: list[dict[str, Any]], calls: list[dict[str, Any]]
) -> None:
    """However a service says which fragment belongs to which call, each is recorded as the call that it is."""
    list(turn.start_llm("m", provider_name="p").stream(chunks, record=True))
    (message,) = spans.json("gen_ai.output.messages")
    assert message["parts"] == [{"type": "tool_call", **call} for call in calls]
    assert spans.faults == {}


def _raw_choice(**choice: Any) -> dict[str, Any]:
    return {"id": "r-1", "choices": [{"index": 0, **choice}]}


@pytest.mark.parametrize(
    "chunk",
    [
        _raw_choice(text=_TEXT, finish_reason="stop"),
        _raw_choice(message={"content": _TEXT}, finish_reason="stop"),
        _chat_chunk(content=[{"type": "text", "text": _TEXT}]),
        _chat_chunk(audio={"id": "au_1", "transcript": _TEXT}),
    ],
    ids=["text", "message", "blocks", "audio"],
)
def test_where_services_have_the_text(spans: Traced, turn: ga.Turn, chunk: dict[str, Any]) -> None:
    """The older completions, services that stream messages, Mistral, and models that speak."""
    list(turn.start_llm("m", provider_name="p").stream([chunk], record=True))
    assert spans.json("gen_ai.output.messages")[0]["parts"] == [{"type": "text", "content": _TEXT}]
    assert spans.faults == {}


def test_rarer_streams(spans: Traced, turn: ga.Turn) -> None:
    """Thoughts as blocks, usage where Groq has it, and a conversation that Anthropic has summed up."""
    thought = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}
    ending = {**_chat_chunk("stop", content=_TEXT), "x_groq": {"usage": _CHAT_USAGE}}
    list(turn.start_llm("m", provider_name="p").stream([_chat_chunk(content=[thought]), ending], record=True))
    parts = [{"type": "reasoning", "content": "Hm."}, {"type": "text", "content": _TEXT}]
    assert spans.json("gen_ai.output.messages")[0]["parts"] == parts
    assert spans.last().attributes["gen_ai.usage.input_tokens"] == 12
    events = [
        _block("start", 0, "content_block", {"type": "compaction", "content": None}),
        _block("delta", 0, "delta", {"type": "compaction_delta", "content": _TEXT}),
    ]
    list(turn.start_llm("m", provider_name="p").stream(events, record=True))
    assert spans.json("gen_ai.output.messages")[0]["parts"] == [{"type": "compaction", "content": _TEXT}]
    assert spans.faults == {}


@pytest.mark.parametrize(
    "chunk",
    [
        _chat_chunk(pictures=["one"]),
        _chat_chunk(content=[{"type": "picture"}]),
        _chat_chunk(audio={"data": "AAAA"}),
        {"choices": [{"index": 10**9, "delta": {"content": _TEXT}}]},
        _block("delta", 1, "delta", {"type": "picture_delta"}),
    ],
    ids=str,
)
def test_what_a_stream_says_in_another_way(spans: Traced, turn: ga.Turn, chunk: dict[str, Any]) -> None:
    """What is not known is counted, once for a stream."""
    begin = _STREAMS["message" if "type" in chunk else "chat"][:7]
    list(turn.start_llm("m", provider_name="p").stream([*begin, chunk, chunk], record=True))
    assert spans.faults == {"LLM.stream": 1}
    assert '"Let me ' in spans.last().attributes["gen_ai.output.messages"]


_BEGUN = {"type": "response.created", "response": {"id": "r-1", "status": "in_progress", "output": []}}


def _event(kind: str, **event: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "output_index": 0, **event}


@pytest.mark.parametrize(
    ("events", "parts"),
    [
        pytest.param(
            [_event("reasoning_summary_text.delta", delta=piece) for piece in ("H", "m.")],
            [{"type": "reasoning", "content": "Hm."}],
            id="reasoning",
        ),
        pytest.param([_event("refusal.delta", delta="No")], [{"type": "text", "content": "No"}], id="refusal"),
        pytest.param(
            [_event("output_text.delta", content_index=place, delta=text) for place, text in enumerate(("one", "two"))],
            [{"type": "text", "content": "one"}, {"type": "text", "content": "two"}],
            id="two parts",
        ),
        pytest.param(
            [
                _event("output_item.added", item={"type": "function_call", "call_id": "call_1", "name": "track"}),
                _event("function_call_arguments.delta", delta='{"id":'),
                _event("function_call_arguments.delta", delta=" 7}"),
            ],
            [_CALL],
            id="a call",
        ),
        pytest.param(
            [_event("output_item.added", item={"type": "function_call", "call_id": "call_1", "name": "track"})],
            [{"type": "tool_call", "name": "track", "id": "call_1"}],
            id="a call's name",
        ),
        pytest.param(
            [
                _event("output_item.done", item={"type": "message", "content": [{"type": "output_text", "text": "a"}]}),
                _event("output_text.delta", output_index=1, delta="b"),
            ],
            [{"type": "text", "content": "a"}, {"type": "text", "content": "b"}],
            id="an item and a text",
        ),
    ],
)
@pytest.mark.parametrize("is_resumed", [False, True])
def test_what_came_of_a_response(
    spans: Traced, turn: ga.Turn, events: list[dict[str, Any]], parts: list[dict[str, Any]], is_resumed: bool
) -> None:
    """Of a response that is broken off, and of one that is resumed in the middle, all that was said is recorded."""
    chunks = events if is_resumed else [_BEGUN, *events]
    with turn.start_llm("m", provider_name="p").stream([*chunks, _BEGUN], record=True) as stream:
        for _ in chunks:
            next(stream)
    assert spans.json("gen_ai.output.messages") == [{"role": "assistant", "parts": parts}]
    assert spans.last().attributes["gen_ai.response.finish_reasons"] == ["error"]
    assert spans.faults == {}


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_a_response_that_has_failed(spans: Traced, turn: ga.Turn, status: str) -> None:
    """The conventions' word for a reason that never came is `error`."""
    turn.start_llm("m", provider_name="p").record(response={**RESPONSE, "status": status}).end()
    assert spans.last().attributes["gen_ai.response.finish_reasons"] == ["error"]


def _of_choice(place: int, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "r-1", "choices": [{"index": place, "delta": delta, "finish_reason": finish_reason}]}


@pytest.mark.parametrize("in_block", [False, True])
@pytest.mark.parametrize(
    ("chunks", "reasons"),
    [
        ([_of_choice(0, content="zero"), _of_choice(1, "stop", content="one")], ["error", "stop", "error"]),
        ([_of_choice(0, "stop", content="zero")], ["stop", "error", "error"]),
        ([_of_choice(2, "stop", content="two")], ["error", "error", "stop"]),
    ],
)
def test_reasons_stand_where_their_choices_do(
    spans: Traced, turn: ga.Turn, chunks: list[dict[str, Any]], reasons: list[str], in_block: bool
) -> None:
    """Where a stream is broken off, `error` stands for each choice that had not ended."""
    llm = turn.start_llm("m", provider_name="p", choice_count=3)
    if in_block:
        llm.__enter__()
    with llm.stream([*chunks, *chunks], record=True) as stream:
        for _ in chunks:
            next(stream)
    if in_block:
        llm.__exit__(None, None, None)
    told = spans.last().attributes
    assert told["gen_ai.response.finish_reasons"] == reasons
    assert told["error.type"] == "abandoned"


def test_the_reasons_of_a_whole_reply(spans: Traced, turn: ga.Turn) -> None:
    """A choice without one has its place, too."""
    choices = [{"message": None, "finish_reason": None}, CHAT["choices"][0]]  # type: ignore[index]
    turn.start_llm("m", provider_name="p").record(response={**CHAT, "choices": choices}).end()
    assert spans.last().attributes["gen_ai.response.finish_reasons"] == ["error", "tool_calls"]


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
    nothing: Any = NotGiven()
    beside = dict.fromkeys(("usage", "response_model", "response_id", "output_messages", "finish_reasons"), nothing)
    turn.start_llm("m", provider_name="p").record(response=RESPONSE, **beside).end()
    assert spans.last().attributes["gen_ai.response.id"] == "r-1"
    assert spans.last().attributes["gen_ai.usage.input_tokens"] == 12
    assert _TEXT in spans.last().attributes["gen_ai.output.messages"]
    assert spans.faults == {}


def test_long_streams_keep_what_an_attribute_holds(spans: Traced, turn: ga.Turn) -> None:
    """Of endless text as much is held as can be recorded."""
    llm = turn.start_llm("m", provider_name="p")
    for _ in llm.stream(("a" * 2**16 for _ in range(100)), record=True):
        pass
    (message,) = spans.json("gen_ai.output.messages")
    assert message["parts"][0]["content"].endswith(f"…[{100 * 2**16} characters, truncated]")


_LONG = {
    "chat": [
        *(_chat_chunk(reasoning="Hm." * 1000) for _ in range(10)),
        *(_chat_chunk(content=f"{_TEXT}") for _ in range(3000)),
        _fragment("track", '{"id": 7}', id="call_1", index=0),
        {"choices": [{"index": 1, "delta": {"content": _TEXT}, "finish_reason": "stop"}]},
        {**_chat_chunk("tool_calls"), "usage": _CHAT_USAGE},
    ],
    "message": [
        *_STREAMS["message"][:2],
        *(_block("delta", 0, "delta", {"type": "thinking_delta", "thinking": "Hm." * 1000}) for _ in range(10)),
        *_STREAMS["message"][5:],
    ],
}


@pytest.mark.parametrize("api", _LONG)
def test_a_long_text_leaves_room(monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    """What a service tells has no part in the room for texts, and a long text none in that of the others."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2000")
    with traced() as found:
        list(ga.Session().start_turn().start_llm("m", provider_name="p").stream(_LONG[api], record=True))
        told = found.one("chat m").attributes
        messages = json.loads(told["gen_ai.output.messages"])
    reasons = ["tool_calls", "stop"] if api == "chat" else ["tool_use"]
    assert told["gen_ai.response.finish_reasons"] == reasons
    assert told["gen_ai.usage.output_tokens"] == 9
    assert messages[0]["parts"][-1] == _CALL
    assert messages[0]["parts"][0]["content"].endswith("[30000 characters, truncated]")
    assert messages[-1]["parts"][-1 if api == "chat" else 1]["content"] == _TEXT
    assert found.faults == {}


def _single() -> Iterator[dict[str, Any]]:
    for number in range(50_001):
        yield _chat_chunk(content=chr(0x4E00 + number % 20_000))


def _items() -> Iterator[dict[str, Any]]:
    for number in range(31):
        item = {"type": "image_generation_call", "result": f"{number}" + "A" * 2**20}
        yield _event("output_item.done", output_index=number, item=item)


def _blocks() -> Iterator[dict[str, Any]]:
    for number in range(31):
        yield _block("start", number, "content_block", {"type": "text", "text": f"{number}" + "A" * 2**20})


@pytest.mark.parametrize("capture", [False, True])
@pytest.mark.parametrize(
    ("chunks", "count", "most"), [(_single, 50_000, 300_000), (_items, 30, 19_000_000), (_blocks, 30, 19_000_000)]
)
def test_what_is_held_of_a_stream(chunks: Callable[[], Iterator[Any]], count: int, most: int, capture: bool) -> None:
    """Not much more than what is kept of its texts, and nothing of them where content is not recorded."""
    with traced(capture_content=capture):
        stream = ga.Session().start_turn().start_llm("m", provider_name="p").stream(chunks(), record=True)
        tracemalloc.start()
        try:
            deque(itertools.islice(stream, count), maxlen=0)
            gc.collect()
            held = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        # The stream itself has the chunk at hand.
        assert held < (most if capture else 1_100_000)
        stream.close()


@pytest.mark.parametrize("is_ended_first", [False, True])
def test_nothing_is_held_after_the_end(spans: Traced, turn: ga.Turn, is_ended_first: bool) -> None:
    """Whoever keeps the stream does not keep the reply."""

    class Reply(dict[str, Any]): ...

    reply = Reply(RESPONSE)
    llm = turn.start_llm("m", provider_name="p")
    events = [{**_STREAMS["response"][-1], "response": reply}]
    stream = llm.stream((events.pop() for _ in range(1)), record=True)
    next(stream)
    if is_ended_first:
        llm.end()
    else:
        list(stream)
    kept = weakref.ref(reply)
    del reply
    gc.collect()
    assert kept() is None
    assert _TEXT in spans.last().attributes["gen_ai.output.messages"]


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
