"""What callers have in their hands becomes the conventions' messages."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from tests.pace import paces

import genai_async as ga

from .support import Traced, attributes_of, traced

# The conventions' schemas are not part of this repository; where they lie beside it, they are asked as well.
_SCHEMAS = Path(__file__).parents[3] / "shared" / "semconv"
_FILES = {
    "gen_ai.input.messages": "gen-ai-input-messages.json",
    "gen_ai.output.messages": "gen-ai-output-messages.json",
    "gen_ai.system_instructions": "gen-ai-system-instructions.json",
    "gen_ai.tool.definitions": "gen-ai-tool-definitions.json",
}


def check_schema(key: str, value: Any) -> None:
    """Hold a content attribute against the conventions' own schema, where that is at hand."""
    path = _SCHEMAS / _FILES[key]
    if path.exists():
        schema = json.loads(path.read_text())
        if key == "gen_ai.output.messages":
            # Since this copy of the schema the reason has become optional.
            schema["$defs"]["OutputMessage"]["required"].remove("finish_reason")
        jsonschema.Draft202012Validator(schema).validate(value)


Convert = Callable[[Any], Any]


@pytest.fixture
def heard(spans: Traced, turn: ga.Turn) -> Convert:
    """What a model call's input messages become."""

    def convert(value: Any) -> Any:
        turn.start_llm("m", provider_name="p", input_messages=value).end()
        found = spans.json("gen_ai.input.messages")
        if found is not None:
            check_schema("gen_ai.input.messages", found)
        return found

    return convert


@pytest.fixture
def said(spans: Traced, turn: ga.Turn) -> Convert:
    """What a model call's output messages become."""

    def convert(value: Any) -> Any:
        turn.start_llm("m", provider_name="p").record(output_messages=value).end()
        found = spans.json("gen_ai.output.messages")
        if found is not None:
            check_schema("gen_ai.output.messages", found)
        return found

    return convert


class Dumped:
    """An object of an SDK, as far as we know those: it dumps itself as the dict of the API."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self, **options: Any) -> dict[str, Any]:
        return self.fields


class City(BaseModel):
    name: str


class Parsed(BaseModel):
    """A message as the OpenAI client gives it for structured output: with more in it than its types say."""

    role: str = "assistant"
    content: str
    parsed: None = None


class Plain:
    """An object whose dump takes no options."""

    def model_dump(self) -> dict[str, Any]:
        return {"role": "assistant", "content": "so", "input_tokens": 3}


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "content": content}


def message(role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), **more}


SOUND = base64.b64encode(b"sound").decode()

PARTS: dict[str, tuple[Any, Any]] = {
    "text": (ga.TextPart("a"), text("a")),
    "reasoning": (ga.ReasoningPart("hm"), {"type": "reasoning", "content": "hm"}),
    "tool call": (
        ga.ToolCallPart("t", "1", {"a": 0}),
        {"type": "tool_call", "name": "t", "id": "1", "arguments": {"a": 0}},
    ),
    "tool call without id": (ga.ToolCallPart("t"), {"type": "tool_call", "name": "t"}),
    "tool response": (
        ga.ToolCallResponsePart({"a": None}, "1"),
        {"type": "tool_call_response", "response": {"a": None}, "id": "1"},
    ),
    "blob": (
        ga.BlobPart.of(b"sound", modality="audio", mime_type="audio/wav"),
        {"type": "blob", "modality": "audio", "content": SOUND, "mime_type": "audio/wav"},
    ),
    "uri": (ga.UriPart("image", "http://x/y"), {"type": "uri", "modality": "image", "uri": "http://x/y"}),
    "file": (ga.FilePart("document", "f-1"), {"type": "file", "modality": "document", "file_id": "f-1"}),
    "generic": (ga.GenericPart("odd", {"n": 1}), {"type": "odd", "n": 1}),
    "empty text": (ga.TextPart(""), text("")),
}


@pytest.mark.parametrize(("part", "expected"), PARTS.values(), ids=PARTS)
def test_parts_have_the_conventions_shape(heard: Convert, part: Any, expected: dict[str, Any]) -> None:
    """Each kind of part stands on the span as the conventions' schema says, absent fields left out."""
    assert heard(ga.Message("user", (part,))) == [message("user", expected)]


@pytest.mark.parametrize(("part", "expected"), PARTS.values(), ids=PARTS)
def test_the_conventions_own_dicts_are_taken(heard: Convert, part: Any, expected: dict[str, Any]) -> None:
    """What is in the conventions' shape already stays as it is."""
    assert heard([message("user", expected, name="ann")]) == [message("user", expected, name="ann")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ga.Message.user("hi"), message("user", text("hi"))),
        (ga.Message.user("hi", name="ann"), message("user", text("hi"), name="ann")),
        (ga.Message.system("be kind"), message("system", text("be kind"))),
        (ga.Message.assistant("so"), message("assistant", text("so"))),
        (ga.Message.assistant(), message("assistant")),
        (ga.Message.assistant(""), message("assistant", text(""))),
        (
            ga.Message.assistant("so", tool_calls=[ga.ToolCallPart("t", "1")]),
            message("assistant", text("so"), {"type": "tool_call", "name": "t", "id": "1"}),
        ),
        (
            ga.Message.tool_result("1", [1, None]),
            message("tool", {"type": "tool_call_response", "response": [1, None], "id": "1"}),
        ),
        (ga.Message("user", "whole text"), message("user", text("whole text"))),  # type: ignore[arg-type]
        (ga.Message("user", [ga.TextPart("in a list")]), message("user", text("in a list"))),
    ],
)
def test_messages_have_the_conventions_shape(heard: Convert, given: ga.Message, expected: dict[str, Any]) -> None:
    """Each way to make a message gives the one that it says."""
    assert heard(given) == [expected]


def test_a_string_is_what_its_side_says(heard: Convert, said: Convert) -> None:
    """A plain string is the user's on the way in and the model's on the way out, alone or in a list."""
    assert heard("q") == [message("user", text("q"))]
    assert heard(["q", ga.Message.system("s")]) == [message("user", text("q")), message("system", text("s"))]
    assert said("a") == [message("assistant", text("a"))]
    assert said(iter(["a", "b"])) == [message("assistant", text("a")), message("assistant", text("b"))]


CALL = {"type": "tool_call", "name": "track", "id": "call_1", "arguments": {"id": 7}}
OPENAI: dict[str, tuple[Any, Any]] = {
    "text": ({"role": "user", "content": "hi", "name": "ann"}, message("user", text("hi"), name="ann")),
    "developer": ({"role": "developer", "content": "be kind"}, message("developer", text("be kind"))),
    "blocks": (
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        message("user", text("a"), text("b")),
    ),
    "tool calls": (
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "track", "arguments": '{"id": 7}'}}
            ],
        },
        message("assistant", CALL),
    ),
    "a tool call that is not JSON": (
        {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "t", "arguments": '{"id": '}}]},
        message("assistant", {"type": "tool_call", "name": "t", "id": "1", "arguments": '{"id": '}),
    ),
    "function call": (
        {"role": "assistant", "content": None, "function_call": {"name": "t", "arguments": "{}"}},
        message("assistant", {"type": "tool_call", "name": "t", "arguments": {}}),
    ),
    "tool result": (
        {"role": "tool", "tool_call_id": "call_1", "content": "Osaka"},
        message("tool", {"type": "tool_call_response", "response": "Osaka", "id": "call_1"}),
    ),
    "tool result in blocks": (
        {
            "role": "tool",
            "tool_call_id": "1",
            "content": [{"type": "text", "text": "O"}, {"type": "text", "text": "k"}],
        },
        message("tool", {"type": "tool_call_response", "response": "Ok", "id": "1"}),
    ),
    "function result": (
        {"role": "function", "name": "t", "content": "4"},
        message("tool", {"type": "tool_call_response", "response": "4"}),
    ),
    "image address": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/i.png", "detail": "low"}}]},
        message("user", {"type": "uri", "modality": "image", "uri": "https://x/i.png"}),
    ),
    "image data": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        message("user", {"type": "blob", "modality": "image", "content": "AAAA", "mime_type": "image/png"}),
    ),
    "audio": (
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}}]},
        message("user", {"type": "blob", "modality": "audio", "content": SOUND, "mime_type": "audio/wav"}),
    ),
    "file by id": (
        {"role": "user", "content": [{"type": "file", "file": {"file_id": "f-1"}}]},
        message("user", {"type": "file", "modality": "document", "file_id": "f-1"}),
    ),
    "file as data": (
        {
            "role": "user",
            "content": [{"type": "file", "file": {"file_data": "data:text/plain,a%20b", "name": "n"}}],
        },
        message(
            "user",
            {
                "type": "blob",
                "modality": "document",
                "content": base64.b64encode(b"a b").decode(),
                "mime_type": "text/plain",
            },
        ),
    ),
    "file as bare base64": (
        {"role": "user", "content": [{"type": "file", "file": {"file_data": "AAAA"}}]},
        message("user", {"type": "blob", "modality": "document", "content": "AAAA"}),
    ),
    "refusal": (
        {"role": "assistant", "content": None, "refusal": "I will not"},
        message("assistant", text("I will not")),
    ),
    "spoken answer": (
        {"role": "assistant", "content": None, "audio": {"id": "a-1", "data": SOUND, "transcript": "hi"}},
        message("assistant", text("hi"), {"type": "blob", "modality": "audio", "content": SOUND}),
    ),
    "custom tool call": (
        {"role": "assistant", "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "code", "input": "{}"}}]},
        message("assistant", {"type": "tool_call", "name": "code", "id": "1", "arguments": "{}"}),
    ),
    "spoken answer by id": (
        {"role": "assistant", "audio": {"id": "a-1"}},
        message("assistant", {"type": "file", "modality": "audio", "file_id": "a-1"}),
    ),
    "reasoning": (
        {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
        message("assistant", {"type": "reasoning", "content": "2+2"}, text("4")),
    ),
    "model object": (
        Dumped(role="assistant", content="4", refusal=None, tool_calls=None, function_call=None, audio=None),
        message("assistant", text("4")),
    ),
}


@pytest.mark.parametrize(("given", "expected"), OPENAI.values(), ids=OPENAI)
def test_openai_chat_messages(heard: Convert, given: Any, expected: dict[str, Any]) -> None:
    """The chat messages of the OpenAI API are read as what they say."""
    assert heard([given]) == [expected]
    assert heard(given) == [expected]


RESPONSES: dict[str, tuple[Any, Any]] = {
    "input": (
        {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        message("user", text("hi")),
    ),
    "output": (
        {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "so"}]},
        message("assistant", text("so")),
    ),
    "refusal": (
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        message("assistant", text("no")),
    ),
    "custom tool call": (
        {"type": "custom_tool_call", "id": "x", "call_id": "1", "name": "code", "input": "print(1)"},
        message("assistant", {"type": "tool_call", "name": "code", "id": "1", "arguments": "print(1)"}),
    ),
    "custom tool call output": (
        {"type": "custom_tool_call_output", "call_id": "1", "output": "1"},
        message("tool", {"type": "tool_call_response", "response": "1", "id": "1"}),
    ),
    "reasoning that is hidden": (
        {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "zz"},
        message("assistant", {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": "zz"}),
    ),
    "reasoning and its summary": (
        {"type": "reasoning", "summary": [{"text": "short"}], "content": [{"type": "reasoning_text", "text": "long"}]},
        message("assistant", {"type": "reasoning", "content": "long"}),
    ),
    "a tool on another server": (
        {"type": "mcp_call", "id": "m", "name": "t", "server_label": "s", "arguments": '{"a":1}', "error": None},
        message(
            "assistant",
            {
                "type": "server_tool_call",
                "id": "m",
                "name": "t",
                "server_tool_call": {"type": "mcp", "server_label": "s", "arguments": {"a": 1}},
            },
        ),
    ),
    "function call": (
        {"type": "function_call", "id": "fc", "call_id": "call_1", "name": "track", "arguments": '{"id": 7}'},
        message("assistant", CALL),
    ),
    "function call output": (
        {"type": "function_call_output", "call_id": "call_1", "output": "Osaka"},
        message("tool", {"type": "tool_call_response", "response": "Osaka", "id": "call_1"}),
    ),
    "reasoning": (
        {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "one"}, {"text": "two"}]},
        message("assistant", {"type": "reasoning", "content": "one\ntwo"}),
    ),
    "image": (
        {"role": "user", "content": [{"type": "input_image", "image_url": "https://x/i"}]},
        message("user", {"type": "uri", "modality": "image", "uri": "https://x/i"}),
    ),
    "image by id": (
        {"role": "user", "content": [{"type": "input_image", "file_id": "f-1"}]},
        message("user", {"type": "file", "modality": "image", "file_id": "f-1"}),
    ),
    "file by address": (
        {"role": "user", "content": [{"type": "input_file", "file_url": "https://x/f"}]},
        message("user", {"type": "uri", "modality": "document", "uri": "https://x/f"}),
    ),
    "an item of another kind": (
        {"type": "computer_call", "id": "cc", "status": "completed"},
        message("assistant", {"type": "computer_call", "id": "cc", "status": "completed"}),
    ),
    "a search that the provider ran": (
        {"type": "web_search_call", "id": "ws", "status": "completed"},
        message(
            "assistant",
            {
                "type": "server_tool_call",
                "id": "ws",
                "name": "web_search",
                "server_tool_call": {"type": "web_search", "status": "completed"},
            },
        ),
    ),
}


@pytest.mark.parametrize(("given", "expected"), RESPONSES.values(), ids=RESPONSES)
def test_openai_responses_items(heard: Convert, given: Any, expected: dict[str, Any]) -> None:
    """The items of the OpenAI Responses API stand in a conversation as messages of whoever made them."""
    assert heard([given]) == [expected]
    assert heard([Dumped(**given)]) == [expected]


ANTHROPIC: dict[str, tuple[Any, Any]] = {
    "text": ({"role": "user", "content": [{"type": "text", "text": "hi", "cache_control": {}}]}, text("hi")),
    "image data": (
        {
            "role": "user",
            "content": [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}],
        },
        {"type": "blob", "modality": "image", "content": "AAAA", "mime_type": "image/png"},
    ),
    "image address": (
        {"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://x/i"}}]},
        {"type": "uri", "modality": "image", "uri": "https://x/i"},
    ),
    "image by id": (
        {"role": "user", "content": [{"type": "image", "source": {"type": "file", "file_id": "f"}}]},
        {"type": "file", "modality": "image", "file_id": "f"},
    ),
    "document": (
        {
            "role": "user",
            "content": [
                {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "AAAA"}}
            ],
        },
        {"type": "blob", "modality": "document", "content": "AAAA", "mime_type": "application/pdf"},
    ),
    "document as text": (
        {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "abc"}}]},
        {"type": "document", "source": {"type": "text", "data": "abc"}},
    ),
    "tool use": (
        {"role": "assistant", "content": [{"type": "tool_use", "id": "call_1", "name": "track", "input": {"id": 7}}]},
        CALL,
    ),
    "tool result": (
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "Osaka"}]},
        {"type": "tool_call_response", "response": "Osaka", "id": "1"},
    ),
    "tool result in blocks": (
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "Osaka"}]}],
        },
        {"type": "tool_call_response", "response": "Osaka", "id": "1"},
    ),
    "failed tool result": (
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "1", "content": "lost", "is_error": True}],
        },
        {"type": "tool_call_response", "response": "lost", "id": "1", "is_error": True},
    ),
    "thinking": (
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]},
        {"type": "reasoning", "content": "hm"},
    ),
    "thinking that is hidden": (
        {"role": "assistant", "content": [{"type": "redacted_thinking", "data": "xx"}]},
        {"type": "redacted_thinking", "data": "xx"},
    ),
    "tool of the provider": (
        {"role": "assistant", "content": [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}]},
        {
            "type": "server_tool_call",
            "id": "s",
            "name": "web_search",
            "server_tool_call": {"type": "web_search", "input": {}},
        },
    ),
    "tool on another server": (
        {
            "role": "assistant",
            "content": [{"type": "mcp_tool_use", "id": "s", "name": "t", "server_name": "x", "input": {}}],
        },
        {
            "type": "server_tool_call",
            "id": "s",
            "name": "t",
            "server_tool_call": {"type": "mcp", "server_name": "x", "input": {}},
        },
    ),
    "result from the provider": (
        {
            "role": "assistant",
            "content": [{"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"title": "T"}]}],
        },
        {
            "type": "server_tool_call_response",
            "id": "s",
            "server_tool_call_response": {"type": "web_search", "content": [{"title": "T"}]},
        },
    ),
}


@pytest.mark.parametrize(("given", "expected"), ANTHROPIC.values(), ids=ANTHROPIC)
def test_anthropic_messages(heard: Convert, given: Any, expected: dict[str, Any]) -> None:
    """The messages of the Anthropic API are read as what they say, also where the SDK's objects hold them."""
    assert heard([given]) == [message(given["role"], expected)]
    in_objects = Dumped(**{**given, "content": given["content"]}, type="message", stop_reason="end_turn")
    assert heard([in_objects]) == [message(given["role"], expected)]
    blocks = [Dumped(**block) for block in given["content"]]
    assert heard({"role": given["role"], "content": blocks}) == [message(given["role"], expected)]


@pytest.mark.parametrize(
    ("block", "role"),
    [
        ({"type": "tool_result", "tool_use_id": "1", "content": "Osaka"}, "tool"),
        ({"type": "web_search_tool_result", "tool_use_id": "s", "content": []}, "assistant"),
        ({"type": "tool_use", "id": "1", "name": "t", "input": {}}, "assistant"),
        ({"type": "server_tool_use", "id": "1", "name": "t", "input": {}}, "assistant"),
        ({"type": "thinking", "thinking": "hm"}, "assistant"),
        ({"type": "text", "text": "hi"}, "user"),
        ({"type": "text", "content": "hi"}, "user"),
        ({"type": "blob", "modality": "image", "content": "AAAA"}, "user"),
        ({"type": "image", "source": {"type": "url", "url": "https://x/i"}}, "user"),
    ],
)
def test_a_content_block_by_itself(heard: Convert, block: dict[str, Any], role: str) -> None:
    """A block that stands among messages is what it is in one, ids and all, said by whoever says such."""
    (inside,) = heard([{"role": role if role != "tool" else "user", "content": [block]}])
    assert heard([block]) == heard([Dumped(**block)]) == [{**inside, "role": role}]


LANGCHAIN: dict[str, tuple[Any, Any]] = {
    "system": ({"content": "be kind", "type": "system", "id": None}, message("system", text("be kind"))),
    "human": ({"content": "hi", "type": "human", "name": "ann"}, message("user", text("hi"), name="ann")),
    "a call": (
        {
            "content": "",
            "type": "ai",
            "tool_calls": [{"name": "track", "args": {"id": 7}, "id": "call_1", "type": "tool_call"}],
        },
        message("assistant", text(""), CALL),
    ),
    "a call that is no JSON": (
        {
            "content": [],
            "type": "AIMessageChunk",
            "tool_calls": [],
            "invalid_tool_calls": [{"name": "t", "args": "{x", "id": "1", "type": "invalid_tool_call", "error": "e"}],
        },
        message("assistant", {"type": "tool_call", "name": "t", "id": "1", "arguments": "{x"}),
    ),
    "a call that is in the content, too": (
        {
            "content": [text("a"), {"type": "tool_use", "id": "call_1", "name": "track", "input": {"id": 7}}],
            "type": "ai",
            "tool_calls": [
                {"name": "track", "args": {"id": 7}, "id": "call_1", "type": "tool_call"},
                {"name": "t", "args": {}, "id": "call_2", "type": "tool_call"},
            ],
        },
        message("assistant", text("a"), CALL, {"type": "tool_call", "name": "t", "id": "call_2", "arguments": {}}),
    ),
    "a result": (
        {"content": "Osaka", "type": "tool", "name": "track", "tool_call_id": "call_1", "status": "success"},
        message("tool", {"type": "tool_call_response", "response": "Osaka", "id": "call_1"}),
    ),
    "media": (
        {
            "type": "human",
            "content": [
                {"type": "image", "source_type": "base64", "data": "AAAA", "mime_type": "image/png"},
                {"type": "audio", "base64": "AAAA"},
                {"type": "image", "url": "https://x/i"},
            ],
        },
        message(
            "user",
            {"type": "blob", "modality": "image", "content": "AAAA", "mime_type": "image/png"},
            {"type": "blob", "modality": "audio", "content": "AAAA"},
            {"type": "uri", "modality": "image", "uri": "https://x/i"},
        ),
    ),
    "reasoning": (
        {"type": "ai", "content": [{"type": "reasoning", "reasoning": "hm"}]},
        message("assistant", {"type": "reasoning", "content": "hm"}),
    ),
}


@pytest.mark.parametrize(("given", "expected"), LANGCHAIN.values(), ids=LANGCHAIN)
def test_langchain_messages(heard: Convert, given: dict[str, Any], expected: Any) -> None:
    """The types of LangChain's messages say who speaks."""
    assert heard([Dumped(additional_kwargs={}, **given)]) == [expected]


def test_langchain_instructions(spans: Traced, turn: ga.Turn) -> None:
    """A system message of LangChain's is text for the instructions."""
    given = Dumped(type="system", content="be kind")
    turn.start_llm("m", provider_name="p", system_instructions=[given]).end()
    assert spans.json("gen_ai.system_instructions") == [text("be kind")]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "text"},
        {"type": "text", "text": 5},
        {"type": "image_url", "image_url": 5},
        {"type": "tool_use"},
        {"type": "function", "function": None},
        {"type": "image", "source": None},
        {"type": "reasoning", "summary": 4},
        {"type": "input_audio"},
        {"type": "file", "file": {}},
        {"type": "blob", "modality": "image"},
    ],
)
def test_parts_of_a_known_type_and_an_unknown_shape_are_kept(heard: Convert, part: dict[str, Any]) -> None:
    """A part that looks otherwise than its type says stays as it came."""
    assert heard([{"role": "user", "content": [part, {"type": "text", "text": "and this"}]}]) == [
        message("user", part, text("and this"))
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        5,
        [5],
        {"nothing": "known"},
        [["nested"]],
        {"role": "user", "content": 5},
        {"role": "user"},
        Dumped(role="user", additional_kwargs={}, blocks=[{"block_type": "text", "text": "hi"}]),
        {"role": "user", "content": [{"no": "type"}]},
        ga.Message(5, ()),  # type: ignore[arg-type]
        ga.Message("user", None),  # type: ignore[arg-type]
        ga.Message("user", (5,)),  # type: ignore[arg-type]
        ga.Message("user", (), 5),  # type: ignore[arg-type]
        ga.Message("user", (), finish_reason=5),  # type: ignore[arg-type]
        ga.Message("user", (ga.TextPart(5),)),  # type: ignore[arg-type]
        ga.Message("user", (ga.ToolCallPart(5),)),  # type: ignore[arg-type]
        ga.Message("user", (ga.ToolCallPart("t", 5),)),  # type: ignore[arg-type]
        ga.Message("user", (ga.GenericPart(5),)),  # type: ignore[arg-type]
        ga.Message("user", (ga.GenericPart("x", 5),)),  # type: ignore[arg-type]
        SimpleNamespace(role="user", content="hi"),
    ],
)
def test_what_is_no_message_is_dropped(heard: Convert, spans: Traced, wrong: Any) -> None:
    """Something of no known shape is dropped and counted, never guessed at."""
    assert heard(wrong) is None
    assert spans.faults == {"LLM.input_messages": 1}


def test_arguments_that_json_does_not_know_become_text(heard: Convert) -> None:
    """Values inside of tool calls are kept as far as JSON can say them."""
    value = {"when": object, "n": float("nan"), "huge": 1 << 70, 3: (1, 2), "b": b"ab"}
    (found,) = heard(ga.Message.assistant(tool_calls=[ga.ToolCallPart("t", "1", value)]))
    assert found["parts"][0]["arguments"] == {
        "when": "<class 'object'>",
        "n": None,
        "huge": 1 << 70,
        "3": [1, 2],
        "b": "YWI=",
    }


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("be kind", [text("be kind")]),
        (["a", ga.TextPart("b")], [text("a"), text("b")]),
        ({"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}, [text("a")]),
        ([{"type": "text", "text": "a"}, {"type": "text", "content": "b"}], [text("a"), text("b")]),
        (ga.Message.system("a"), [text("a")]),
        ([ga.Message.system("a"), "b"], [text("a"), text("b")]),
        ({"role": "system", "content": "a"}, [text("a")]),
        ([{"role": "developer", "content": [{"type": "text", "text": "a"}]}], [text("a")]),
        (Dumped(role="system", content="a"), [text("a")]),
        (ga.GenericPart("odd", {"n": 1}), [{"type": "odd", "n": 1}]),
    ],
)
def test_system_instructions(spans: Traced, turn: ga.Turn, given: Any, expected: Any) -> None:
    """Instructions are text parts, from strings, parts, the APIs' blocks or whole system messages."""
    turn.start_llm("m", provider_name="p", system_instructions=given).end()
    found = spans.json("gen_ai.system_instructions")
    assert found == expected
    check_schema("gen_ai.system_instructions", found)


SHAPE = {"type": "object", "properties": {"id": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ga.ToolDefinition("t"), {"type": "function", "name": "t"}),
        (
            ga.ToolDefinition("t", "does it", SHAPE),
            {"type": "function", "name": "t", "description": "does it", "parameters": SHAPE},
        ),
        (
            {"type": "function", "function": {"name": "t", "description": "d", "parameters": SHAPE, "strict": True}},
            {"type": "function", "name": "t", "description": "d", "parameters": SHAPE},
        ),
        (
            {"type": "function", "name": "t", "parameters": SHAPE},
            {"type": "function", "name": "t", "parameters": SHAPE},
        ),
        (
            {"name": "t", "description": "d", "input_schema": SHAPE},
            {"type": "function", "name": "t", "description": "d", "parameters": SHAPE},
        ),
        ({"type": "web_search"}, {"type": "web_search", "name": "web_search"}),
        ({"type": "bash_20250124", "name": "bash"}, {"type": "bash_20250124", "name": "bash"}),
        (Dumped(name="t", input_schema=SHAPE), {"type": "function", "name": "t", "parameters": SHAPE}),
    ],
)
def test_tool_definitions(spans: Traced, turn: ga.Turn, given: Any, expected: dict[str, Any]) -> None:
    """Tool definitions are the conventions', from our own and from the dicts of both APIs."""
    turn.start_llm("m", provider_name="p", tool_definitions=[given]).end()
    found = spans.json("gen_ai.tool.definitions")
    assert found == [expected]
    check_schema("gen_ai.tool.definitions", found)


@pytest.mark.parametrize("wrong", [5, "text", [5], [{}], [{"type": 5, "name": "t"}], [ga.ToolDefinition(5)]])  # type: ignore[arg-type]
def test_what_is_no_tool_definition_is_dropped(spans: Traced, turn: ga.Turn, wrong: Any) -> None:
    """A definition without a name, or of another kind of value, is dropped and counted."""
    turn.start_llm("m", provider_name="p", tool_definitions=wrong).end()
    assert spans.json("gen_ai.tool.definitions") is None
    assert spans.faults == {"LLM.tool_definitions": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"content": b"sound", "mime_type": "audio/wav"}, PARTS["blob"][1]),
        ({"content": b"sound", "modality": "audio"}, {"type": "blob", "modality": "audio", "content": SOUND}),
        (
            {"uri": "https://x/y", "mime_type": "image/png"},
            {"type": "uri", "modality": "image", "uri": "https://x/y", "mime_type": "image/png"},
        ),
        ({"uri": "https://x/y"}, {"type": "uri", "modality": "document", "uri": "https://x/y"}),
        (
            {"uri": "data:image/png;base64,AAAA"},
            {"type": "blob", "modality": "image", "content": "AAAA", "mime_type": "image/png"},
        ),
        ({"file_id": "f-1"}, {"type": "file", "modality": "document", "file_id": "f-1"}),
        (
            {"file_id": "f-1", "modality": "video", "mime_type": "video/mp4"},
            {"type": "file", "modality": "video", "file_id": "f-1", "mime_type": "video/mp4"},
        ),
    ],
)
def test_media(spans: Traced, turn: ga.Turn, given: dict[str, Any], expected: dict[str, Any]) -> None:
    """Media that a model makes are parts of what it answers: bytes, an address or a file's id."""
    turn.start_llm("m", provider_name="p").output("look").attach_media(**given).end()
    found = spans.json("gen_ai.output.messages")
    assert found == [message("assistant", text("look"), expected)]
    check_schema("gen_ai.output.messages", found)


@pytest.mark.parametrize("given", [{}, {"content": b"", "uri": "x"}, {"uri": "x", "file_id": "y"}])
def test_media_are_one_thing(spans: Traced, turn: ga.Turn, given: dict[str, Any]) -> None:
    """Without exactly one of the three there is nothing to record."""
    turn.start_llm("m", provider_name="p").attach_media(**given).end()
    assert spans.faults == {"LLM.attach_media": 1}
    assert spans.json("gen_ai.output.messages") is None


def test_models_are_dumped_without_a_word(spans: Traced, turn: ga.Turn) -> None:
    """What pydantic would warn of is neither said nor lost, wherever a model is read."""
    given = Parsed.model_construct(content='{"name":"Osaka"}', parsed=City(name="Osaka"), input_tokens=3)
    for model in (given, Plain()):
        llm = turn.start_llm("m", provider_name="p", input_messages=[model], tool_definitions=[model])
        llm.record(output_messages=model, usage=model).end()
        assert spans.json("gen_ai.input.messages") == spans.json("gen_ai.output.messages")
        turn.start_tool("t", arguments=[model]).end()
        assert spans.json("gen_ai.tool.call.arguments")[0]["role"] == "assistant"
    assert spans.faults == {"LLM.tool_definitions": 2, "LLM.usage": 1}


@pytest.mark.parametrize("redact", [None, str], ids=["plain", "redacted"])
@pytest.mark.parametrize("is_long", [False, True])
def test_a_reason_in_a_message_is_kept(redact: Any, is_long: bool) -> None:
    """Why a message ended stays where the conventions' own dict says it, also when the message is cut."""
    content = "x" * (5_000_000 if is_long else 1)
    given: Any = [message("assistant", text(content), finish_reason="stop")]
    given.append(ga.Message("assistant", (ga.TextPart("y"),), finish_reason="length"))
    with traced(redact=redact) as spans:
        ga.start_llm("m", provider_name="p").record(output_messages=given).output("z").attach_media(b"m").end()
        found = spans.json("gen_ai.output.messages")
    assert [message["finish_reason"] for message in found] == ["stop", "length"]
    assert found[0]["parts"][0]["content"].endswith("truncated]" if is_long else "x")


def test_a_message_without_text_leaves_the_pieces(spans: Traced, turn: ga.Turn) -> None:
    """An empty text beside tool calls, as clients have it, does not stand for what was streamed."""
    with turn.start_llm("m", provider_name="p") as llm:
        llm.think("Hm.").output("Let me ").output("look.")
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        llm.record(output_messages=[{"role": "assistant", "content": "", "tool_calls": [call]}])
    (message,) = json.loads(spans.last().attributes["gen_ai.output.messages"])
    said = [part["content"] for part in message["parts"] if part["type"] in {"text", "reasoning"}]
    assert said[:2] == ["Hm.", "Let me look."]
    assert [part["type"] for part in message["parts"]][-1] == "tool_call"


def test_pieces_of_a_stream_become_one_message(spans: Traced, turn: ga.Turn) -> None:
    """What the model thinks and says in pieces is one message."""
    turn.start_llm("m", provider_name="p").think("2+").output("fo").think("2").output("ur").end()
    spoken = ({"type": "reasoning", "content": "2+2"}, text("four"))
    assert spans.json("gen_ai.output.messages") == [message("assistant", *spoken)]


def test_empty_pieces_take_no_memory(spans: Traced, turn: ga.Turn) -> None:
    """Empty pieces of a stream are not kept, except for one that says that there was a text."""
    with turn.start_llm("m", provider_name="p") as llm:
        for _ in range(1000):
            llm.output("")
        assert len(llm._waiting["pieces"]) == 1
    assert spans.json("gen_ai.output.messages") == [message("assistant", text(""))]


def test_a_users_messages_are_added_in_no_time(spans: Traced, turn: ga.Turn) -> None:
    """A message is added at the same cost however many there are; of too many the newest stay, and a note."""
    few = paces(lambda: [turn.user("hello") for _ in range(200)], tries=1)
    for number in range(8_000):
        turn.user(str(number))
    many = paces(lambda: [turn.user("hello") for _ in range(200)], tries=1)
    assert many < 10 * few + 3
    turn.user("last").end()
    note, *rest = spans.json("gen_ai.input.messages")
    assert "truncated" in note["parts"][0]["content"]
    assert [said["parts"][0]["content"] for said in (*rest[-203:-201], rest[-1])] == ["7998", "7999", "last"]
    assert 1_000 < len(rest) < 3_001


def test_pieces_join_the_message_that_was_recorded(spans: Traced, turn: ga.Turn) -> None:
    """One message is one choice: what comes beside a recorded answer is part of the last one."""
    llm = turn.start_llm("m", provider_name="p").think("hm").attach_media(b"x", mime_type="image/png")
    llm.record(output_messages=["one", "two", ga.Message.tool_result("c", 1)]).end()
    first, second, third = spans.json("gen_ai.output.messages")
    assert first == message("assistant", text("one"))
    assert [part["type"] for part in second["parts"]] == ["reasoning", "text", "blob"]
    assert third["role"] == "tool"


@pytest.mark.parametrize("is_recorded_first", [False, True])
@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (["It is in Osaka."], [message("assistant", text("It is in Osaka."))]),
        (["so", ga.Message.assistant()], [message("assistant", text("so")), message("assistant")]),
        (
            [ga.Message.assistant(tool_calls=[ga.ToolCallPart("t", "1")])],
            [message("assistant", text("It is in Osaka."), {"type": "tool_call", "name": "t", "id": "1"})],
        ),
        ([ga.Message.user("q")], [message("user", text("q")), message("assistant", text("It is in Osaka."))]),
        ([{"role": "model", "content": "It is in Osaka."}], [message("model", text("It is in Osaka."))]),
    ],
)
def test_an_answer_is_recorded_once(
    spans: Traced, turn: ga.Turn, recorded: Any, expected: Any, is_recorded_first: bool
) -> None:
    """Text that is recorded in a message stands for its pieces, in whichever order they come."""
    llm = turn.start_llm("m", provider_name="p")
    if is_recorded_first:
        llm.record(output_messages=recorded)
    llm.output("It is ").output("in Osaka.")
    if not is_recorded_first:
        llm.record(output_messages=recorded)
    llm.end()
    assert spans.json("gen_ai.output.messages") == expected


def test_what_a_model_says_is_kept_within_bounds() -> None:
    """With capture off nothing is kept, else no more than an attribute can hold; the rest is counted."""
    with traced(capture_content=False) as spans:
        llm = ga.start_llm("m", provider_name="p").output("x").think("y").attach_media(b"z")
        assert "pieces" not in llm._waiting
        llm.end()
        assert "gen_ai.output.messages" not in spans.last().attributes
    with traced() as spans:
        llm = ga.start_llm("m", provider_name="p").think("why")
        for _ in range(50):
            llm.output("x" * 100_000).attach_media(bytes(100_000))
        kept = sum(len(piece.content) for piece in llm._waiting["pieces"])  # type: ignore[union-attr]
        llm.output("x" * 10**7).end()
    assert 4_000_000 < kept < 5_000_000
    assert spans.faults["LLM.output"] == 50 - 22 + 1
    assert spans.faults["LLM.attach_media"] > 20
    assert len(spans.last().attributes["gen_ai.output.messages"]) <= 2 * 1024 * 1024
    assert spans.json("gen_ai.output.messages")[0]["parts"][0] == {"type": "reasoning", "content": "why"}


def test_one_piece_that_is_too_long_is_cut(spans: Traced, turn: ga.Turn) -> None:
    """What is said at once is kept so far as an attribute can hold it, with a marker."""
    llm = turn.start_llm("m", provider_name="p").output("x" * 10**7)
    assert len(llm._waiting["pieces"][0].content) < 3_000_000  # type: ignore[union-attr]
    llm.end()
    assert "truncated" in spans.json("gen_ai.output.messages")[0]["parts"][0]["content"]


@pytest.mark.parametrize("kind", ["function_call_output", "computer_call_output", "local_shell_call_output"])
def test_outputs_of_calls_are_the_tools(spans: Traced, turn: ga.Turn, kind: str) -> None:
    """Items of the Responses API that hold what came of a call are said by the tool."""
    turn.start_llm("m", provider_name="p", input_messages=[{"type": kind, "call_id": "c", "output": "o"}]).end()
    assert spans.json("gen_ai.input.messages")[0]["role"] == "tool"


def test_usage_as_litellm_has_it(spans: Traced, turn: ga.Turn) -> None:
    """OpenAI's totals stay what they are beside Anthropic's counts of the cache."""
    given = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cache_read_input_tokens": 4,
        "cache_creation_input_tokens": 0,
    }
    turn.start_llm("m", provider_name="p").record(usage=given).end()
    found = spans.last().attributes
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (10, 5)
    assert found["gen_ai.usage.cache_read.input_tokens"] == 4
    assert found["gen_ai.usage.cache_write.input_tokens"] == 0


def test_a_later_usage_replaces_all_of_an_earlier_one(spans: Traced, turn: ga.Turn) -> None:
    """Usage is one field."""
    llm = turn.start_llm("m", provider_name="p").record(usage=ga.Usage(input_tokens=12))
    llm.record(usage={"output_tokens": 34}).end()
    assert "gen_ai.usage.input_tokens" not in spans.last().attributes


class Some(IntEnum):
    TEN = 10


def test_counts_may_be_any_integers(spans: Traced, session: ga.Session) -> None:
    """A member of an integer enumeration counts, for the call and for its turn."""
    with session.start_turn() as turn:
        turn.start_llm("m", provider_name="p").record(usage=ga.Usage(Some.TEN, True)).end()
    for span in spans.spans:
        assert type(span.attributes["gen_ai.usage.input_tokens"]) is int
        assert "gen_ai.usage.output_tokens" not in span.attributes


def test_the_users_words_come_after_what_was_given(spans: Traced, session: ga.Session) -> None:
    """A turn's input is what it was given, then what the user says, at the start and later."""
    session.start_turn("two", input_messages=["one"], system_instructions="kindly").user("three").end()
    assert spans.json("gen_ai.input.messages") == [message("user", text(n)) for n in ("one", "two", "three")]
    assert spans.json("gen_ai.system_instructions") == [text("kindly")]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ga.Usage(0, 0), {"input_tokens": 0, "output_tokens": 0}),
        (
            ga.Usage(*range(14)),
            {
                "input_tokens": 0,
                "output_tokens": 1,
                "reasoning.output_tokens": 2,
                "cache_read.input_tokens": 3,
                "cache_write.input_tokens": 4,
                "text.input_tokens": 5,
                "image.input_tokens": 6,
                "audio.input_tokens": 7,
                "text.output_tokens": 8,
                "image.output_tokens": 9,
                "audio.output_tokens": 10,
                "text.cache_read.input_tokens": 11,
                "image.cache_read.input_tokens": 12,
                "audio.cache_read.input_tokens": 13,
            },
        ),
        (
            {"input_tokens": 3, "output_tokens": 4, "cache_read_tokens": 0},
            {
                "input_tokens": 3,
                "output_tokens": 4,
                "cache_read.input_tokens": 0,
            },
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "total_tokens": 30,
                "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 5, "audio_tokens": None},
            },
            {
                "input_tokens": 10,
                "output_tokens": 20,
                "cache_read.input_tokens": 4,
                "audio.input_tokens": 0,
                "reasoning.output_tokens": 5,
            },
        ),
        (
            {
                "prompt_tokens": 10,
                "prompt_tokens_details": Dumped(cached_tokens=4),
                "completion_tokens_details": object(),
            },
            {"input_tokens": 10, "cache_read.input_tokens": 4},
        ),
        (
            {
                "input_tokens": 30,
                "output_tokens": 4,
                "input_token_details": {"cache_read": 10, "cache_creation": 2, "audio": 1},
                "output_token_details": {"reasoning": 3, "audio": 0},
            },
            {
                "input_tokens": 30,
                "output_tokens": 4,
                "cache_read.input_tokens": 10,
                "cache_write.input_tokens": 2,
                "audio.input_tokens": 1,
                "reasoning.output_tokens": 3,
                "audio.output_tokens": 0,
            },
        ),
        (
            {
                "input_tokens": 10,
                "input_tokens_details": {"cached_tokens": 4},
                "output_tokens": 20,
                "output_tokens_details": {"reasoning_tokens": 5, "image_tokens": 6},
            },
            {
                "input_tokens": 10,
                "output_tokens": 20,
                "cache_read.input_tokens": 4,
                "reasoning.output_tokens": 5,
                "image.output_tokens": 6,
            },
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 20,
                "cache_read_input_tokens": 3,
                "cache_creation_input_tokens": 4,
            },
            {"input_tokens": 17, "output_tokens": 20, "cache_read.input_tokens": 3, "cache_write.input_tokens": 4},
        ),
        (
            Dumped(
                input_tokens=10,
                output_tokens=20,
                cache_read_input_tokens=None,
                cache_creation_input_tokens=None,
                service_tier="standard",
            ),
            {"input_tokens": 10, "output_tokens": 20},
        ),
        (
            {
                "input_tokens": 10,
                "output_tokens": 20,
                "cache_read_input_tokens": 0,
                "output_tokens_details": {"thinking_tokens": 5},
            },
            {"input_tokens": 10, "output_tokens": 20, "cache_read.input_tokens": 0, "reasoning.output_tokens": 5},
        ),
        (
            {"input_tokens": 10, "output_tokens": 20, "output_tokens_details": {"thinking_tokens": 5}},
            {"input_tokens": 10, "output_tokens": 20, "reasoning.output_tokens": 5},
        ),
        (
            {
                "prompt_tokens": 10,
                "completion_tokens": 20,
                "prompt_cache_hit_tokens": 4,
                "prompt_cache_miss_tokens": 6,
            },
            {"input_tokens": 10, "output_tokens": 20, "cache_read.input_tokens": 4},
        ),
    ],
)
def test_usage(spans: Traced, turn: ga.Turn, given: Any, expected: dict[str, int]) -> None:
    """Token counts of our own and of both APIs are the conventions', with 0 kept and what is not given left out."""
    turn.start_llm("m", provider_name="p").record(usage=given).end()
    found = spans.last().attributes.items()
    assert {key[13:]: value for key, value in found if key.startswith("gen_ai.usage.")} == expected


@dataclass
class Counted:
    """Usage as agent frameworks keep it, with counts of their own."""

    requests: int = 1
    input_tokens: int = 30
    output_tokens: int = 4
    cache_read_tokens: int = 10


@dataclass
class Details:
    cached_tokens: int = 4


@dataclass
class InDetail:
    input_tokens: int = 30
    input_tokens_details: Details = field(default_factory=Details)


@pytest.mark.parametrize("usage", [Counted(), InDetail()])
def test_usage_of_data_classes(spans: Traced, turn: ga.Turn, usage: Any) -> None:
    """A data class with fields that are known is read as a mapping is."""
    turn.start_llm("m", provider_name="p").record(usage=usage).end()
    found = spans.last().attributes
    assert found["gen_ai.usage.input_tokens"] == 30
    assert found["gen_ai.usage.cache_read.input_tokens"] == getattr(usage, "cache_read_tokens", 4)
    assert spans.faults == {}


@dataclass
class Uncounted:
    tokens: int = 3


@pytest.mark.parametrize("usage", [object, SimpleNamespace(input_tokens=3), Uncounted()])
def test_refused_usage_is_named(turn: ga.Turn, caplog: pytest.LogCaptureFixture, usage: Any) -> None:
    """Whoever passes another library's usage reads whose it is."""
    turn.start_llm("m", provider_name="p").record(usage=usage, output_messages=usage).end()
    names = [f"{type(usage).__module__}.".removeprefix("builtins.") + type(usage).__name__] * 2
    assert [name for name, record in zip(names, caplog.records, strict=True) if name in record.getMessage()] == names


class NotGiven:
    """What OpenAI's and Anthropic's clients have in place of what was not passed."""


@pytest.mark.parametrize("nothing", [NotGiven(), type("Omit", (), {})()])
def test_what_clients_leave_out_is_not_passed(spans: Traced, session: ga.Session, nothing: Any) -> None:
    """The sentinels of the clients, and a reason that never came, are no wrong values, and replace nothing."""
    names = ["input_messages", "system_instructions", "tool_definitions", "server_address", "temperature", "seed"]
    names += ["stop_sequences", "stream", "reasoning_level", "max_tokens"]
    turn = session.start_turn(system_instructions=nothing)
    llm = turn.start_llm("m", provider_name="p", **dict.fromkeys(names, nothing)).record(finish_reasons=["stop"])
    llm.record(finish_reasons=[None], response_id=nothing, output_messages=nothing).end()  # type: ignore[list-item]
    assert attributes_of(spans.last()) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "p",
        "gen_ai.request.model": "m",
        "gen_ai.response.finish_reasons": ["stop"],
    }
    assert spans.faults == {}


@pytest.mark.parametrize("nothing", [NotGiven(), type("Omit", (), {})()])
def test_no_span_takes_what_clients_leave_out(spans: Traced, session: ga.Session, nothing: Any) -> None:
    """Models, usage, arguments, results and addresses that are not passed count as such, and replace nothing."""
    turn = session.start_turn(model=nothing, attributes=nothing)
    llm = turn.start_llm(nothing, provider_name="p", operation=nothing, attributes=nothing)
    assert llm.model == "gpt-4o"
    llm.usage = nothing
    llm.output(nothing).think(nothing)
    llm.record(usage=nothing, stop_sequences=[nothing]).end(end_time=nothing)
    assert spans.last().name == "chat gpt-4o"
    tool = turn.start_tool("t", arguments={"id": 7}, start_time=nothing).record(arguments=nothing)
    tool.result = nothing
    tool.end()
    told = attributes_of(spans.last())
    assert told.pop("gen_ai.tool.call.arguments") == '{"id":7}'
    assert told == {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "t", "gen_ai.agent.name": "bot"}
    for remote in (nothing, {"server_address": "h", "server_port": nothing}):
        turn.start_subagent("s", remote=remote, agent_id=nothing).record(usage=nothing).end()
    turn.record(usage=nothing)
    assert spans.faults == {}


@pytest.mark.parametrize(
    "wrong", [5, "text", {"promptTokenCount": 3}, {}, {"input_tokens": "x", "cache_read_input_tokens": 1}]
)
def test_what_is_no_usage_is_dropped(spans: Traced, turn: ga.Turn, wrong: Any) -> None:
    """Something without token counts is dropped and counted."""
    turn.start_llm("m", provider_name="p").record(usage=wrong).end()
    turn.record(usage=wrong)
    assert spans.faults == {"LLM.usage": 1, "Turn.usage": 1}


IMAGE = "data:image/png;base64," + "A" * 40_000_000
FILE = "data:text/plain," + "%20" * 9_000_000
ROWS = [{"id": number, "price": number * 1.5, "name": "a name"} for number in range(60_000)]
LARGE: dict[str, Any] = {
    "messages": [{"role": "user", "content": "x"}] * 60_000,
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 60_000}],
    "own parts": [{"role": "user", "parts": [{"type": "text", "content": "a"}] * 60_000}],
    "parts everywhere": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 3000}] * 3000,
    "calls": [{"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": "{}"}}] * 60_000}],
    "a result": [{"role": "tool", "tool_call_id": "1", "content": ROWS}],
    "arguments": [{"role": "assistant", "tool_calls": [{"function": {"name": "t", "arguments": json.dumps(ROWS)}}]}],
    "an odd part": [{"role": "user", "content": [{"type": "odd", "rows": ROWS}]}],
    "an image": [{"role": "user", "content": [{"type": "image_url", "image_url": IMAGE}]}],
    "a text": [{"role": "user", "content": [{"type": "input_file", "file_data": FILE}]}],
}


@pytest.mark.parametrize("name", LARGE)
def test_messages_do_not_hold_the_loop(spans: Traced, turn: ga.Turn, name: str) -> None:
    """However long a history is, and whatever is in it, it is taken in milliseconds, with a marker and its end."""
    llm = turn.start_llm("m", provider_name="p")
    took = paces(lambda: llm.record(input_messages=LARGE[name]))
    llm.end()
    found = spans.json("gen_ai.input.messages")
    check_schema("gen_ai.input.messages", found)
    assert "truncated" in spans.last().attributes["gen_ai.input.messages"]
    assert found[-1]["role"] == LARGE[name][-1]["role"]
    assert spans.faults == {}
    assert took < 200


def test_an_address_that_is_the_medium(spans: Traced, turn: ga.Turn) -> None:
    """A `data:` URL becomes the blob that it carries, also in a part that was made by hand."""
    part = ga.UriPart("document", "data:text/plain;base64,aGVsbG8=")
    turn.start_llm("m", provider_name="p", input_messages=[ga.Message("user", (part,))]).end()
    (found,) = spans.json("gen_ai.input.messages")[0]["parts"]
    assert found == {"type": "blob", "modality": "document", "content": "aGVsbG8=", "mime_type": "text/plain"}


@pytest.mark.parametrize("is_one_message", [False, True])
def test_the_last_images_are_kept(spans: Traced, turn: ga.Turn, is_one_message: bool) -> None:
    """Of more images than an attribute holds the last ones are whole; of the others only the size is said."""
    images = [{"type": "image_url", "image_url": f"data:image/png;base64,{'ABCD' * 125_000}"}] * 20
    contents = [images] if is_one_message else [[image] for image in images]
    history = [{"role": "user", "content": content} for content in contents]
    llm = turn.start_llm("m", provider_name="p")
    took = paces(lambda: llm.record(input_messages=history))
    llm.end()
    parts = [part for found in spans.json("gen_ai.input.messages") for part in found["parts"]]
    assert [part["content"] for part in parts[-3:]] == ["ABCD" * 125_000] * 3
    assert {part["content"] for part in parts[:-3]} == {"…[500022 bytes, truncated]"}
    assert took < 20


def test_large_media_are_cut_before_they_are_written(spans: Traced, turn: ga.Turn) -> None:
    """Of bytes that no attribute could hold only the beginning is turned into text, with a marker."""
    llm, picture = turn.start_llm("m", provider_name="p"), b"x" * 60_000_000
    took = paces(lambda: llm.attach_media(picture, mime_type="image/png"), tries=1)
    llm.end()
    (part,) = spans.json("gen_ai.output.messages")[0]["parts"]
    assert part["content"].startswith("eHh4" * 1000)
    assert part["content"].endswith("…[60000000 bytes, truncated]")
    assert took < 20


def test_many_tools_are_cut(spans: Traced, turn: ga.Turn) -> None:
    """Of more tools than anybody would read the first ones are kept."""
    tools = [{"name": f"t{number}", "input_schema": {"rows": ROWS}} for number in range(10)]
    for given in (tools, [{"name": f"t{number}"} for number in range(60_000)]):
        turn.start_llm("m", provider_name="p", tool_definitions=given).end()
        found = spans.json("gen_ai.tool.definitions")
        check_schema("gen_ai.tool.definitions", found)
        assert "truncated" in spans.last().attributes["gen_ai.tool.definitions"]
        assert len(found) < 10_000


def test_a_long_json_text_stays_text(spans: Traced, turn: ga.Turn) -> None:
    """JSON text is taken as what it means, unless reading it would hold the loop."""
    for given, kind in ((ROWS[:100], list), (ROWS, str)):
        with turn.start_tool("t") as tool:
            tool.result = json.dumps(given)
        assert type(spans.json("gen_ai.tool.call.result")) is kind


@pytest.mark.parametrize(
    "parts",
    [lambda: map(ga.TextPart, ["secret", "plans"]), lambda: iter([{"type": "text", "text": "secret"}, "plans"])],
)
def test_parts_may_come_from_an_iterator(spans: Traced, turn: ga.Turn, parts: Callable[[], Any]) -> None:
    """A message's parts are read once, whatever holds them."""
    turn.start_llm("m", provider_name="p", input_messages=[ga.Message("user", parts())]).end()
    (message,) = spans.json("gen_ai.input.messages")
    assert [part["content"] for part in message["parts"]] == ["secret", "plans"]


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "[" * 100_000}}
BROKEN = {"type": "function", "function": {"name": "f", "arguments": '{"a": "\ud800"}'}}


def test_a_bad_message_or_part_costs_itself(spans: Traced, turn: ga.Turn) -> None:
    """What cannot be recorded is counted piece by piece; all that stands beside it stays."""
    parts = ["one", 5, ga.FilePart("image", 7), {"type": "text", "text": "two"}]  # type: ignore[arg-type]
    messages = ["hello", 3, {"role": "user", "content": parts}, ga.Message("user", parts), {"oops": 1}, "bye"]
    turn.start_llm("m", provider_name="p", input_messages=messages).end()
    found = [[part["content"] for part in message["parts"]] for message in spans.json("gen_ai.input.messages")]
    assert found == [["hello"], ["one", "two"], ["one", "two"], ["bye"]]
    assert spans.faults == {"LLM.input_messages": 6}


def test_a_bad_instruction_tool_or_reason_costs_itself(spans: Traced, turn: ga.Turn) -> None:
    """So it is with instructions, tool definitions, and lists of words."""
    tools = [{"name": "a"}, {"description": "no name"}, "b", {"name": "c"}]
    llm = turn.start_llm("m", provider_name="p", system_instructions=["be", 5, "nice"], tool_definitions=tools)  # type: ignore[list-item]
    llm.record(finish_reasons=["stop", None, "length"], stop_sequences=[1, 2]).end()  # type: ignore[list-item]
    assert [part["content"] for part in spans.json("gen_ai.system_instructions")] == ["be", "nice"]
    assert [tool["name"] for tool in spans.json("gen_ai.tool.definitions")] == ["a", "c"]
    found = spans.last().attributes
    assert list(found["gen_ai.response.finish_reasons"]) == ["stop", "length"]
    assert "gen_ai.request.stop_sequences" not in found
    assert spans.faults == {
        "LLM.system_instructions": 1,
        "LLM.tool_definitions": 2,
        "LLM.finish_reasons": 1,
        "LLM.stop_sequences": 1,
    }


def test_json_text_that_cannot_be_decoded_stays_text(spans: Traced, turn: ga.Turn) -> None:
    """Arguments with half a character or a thousand brackets are kept as the text that they are."""
    turn.start_llm(
        "m", provider_name="p", input_messages=["hi", {"role": "assistant", "tool_calls": [CALL, BROKEN]}]
    ).end()
    _, message = spans.json("gen_ai.input.messages")
    assert [part["arguments"][:5] for part in message["parts"]] == ["[[[[[", '{"a":']
    turn.start_tool("t", arguments='{"a": "\ud800"}').end()
    assert spans.json("gen_ai.tool.call.arguments") == '{"a": "\ufffd"}'
    assert spans.faults == {}


@pytest.mark.parametrize("redact", [None, str], ids=["plain", "redacted"])
def test_keys_that_are_no_text_become_text(redact: Any) -> None:
    """A mapping's keys read the same in every content, with a redactor and without."""
    odd = {(1, 2): "x", None: 3, 4: 5}
    with traced(redact=redact) as spans:
        ga.start_tool("t", arguments=odd).end()
        assert spans.json("gen_ai.tool.call.arguments") == {"(1, 2)": "x", "None": 3, "4": 5}
        ga.start_llm("m", provider_name="p", input_messages=[ga.Message.tool_result("c", odd)]).end()
        (part,) = spans.json("gen_ai.input.messages")[0]["parts"]
        assert part["response"] == {"(1, 2)": "x", "None": 3, "4": 5}


def test_media_of_wrong_types_are_refused_at_the_call(spans: Traced, turn: ga.Turn) -> None:
    """An id, address or type that is no text costs its own part, not what the model said before."""
    llm = turn.start_llm("m", provider_name="p").output("the whole answer")
    for wrong in ({"file_id": 123}, {"uri": b"x"}, {"content": b"x", "mime_type": 5}, {"content": "x"}):
        llm.attach_media(**wrong)  # type: ignore[arg-type]
    llm.end()
    assert [part["content"] for part in spans.json("gen_ai.output.messages")[0]["parts"]] == ["the whole answer"]
    assert spans.faults == {"LLM.attach_media": 4}


@pytest.mark.parametrize("field", ["input_messages", "system_instructions", "tool_definitions", "stop_sequences"])
def test_an_iterable_without_end_is_read_so_far(spans: Traced, turn: ga.Turn, field: str) -> None:
    """Nothing that is recorded is read for ever."""
    item: Any = {"name": "t"} if field == "tool_definitions" else "x"
    turn.start_llm("m", provider_name="p").record(**{field: repeat(item)}).end()
    turn.start_llm("m", provider_name="p", input_messages=[ga.Message("user", repeat("x"))]).end()  # type: ignore[arg-type]
    assert len(spans.spans) == 2
