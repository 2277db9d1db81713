"""What callers may record, as data: a field's attribute, and the check that its value must pass."""

# Without `from __future__ import annotations`: a TypedDict compiles each annotation that is a string, which for those
# here would take a millisecond of the import.

import math
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final, TypedDict, cast
from urllib.parse import urlsplit

import msgspec

from . import _semconv as sc
from ._blocks import decoded
from ._chat import (
    InstructionsLike,
    MessagesLike,
    ToolsLike,
    to_input_messages,
    to_instructions,
    to_output_messages,
    to_tool_definitions,
)
from ._encoding import as_dict
from ._faults import FieldError, each, is_sentinel, whole
from ._messages import Dumps, Usage
from ._outcome import class_name

Check = Callable[[Any], Any]


class Field(msgspec.Struct, frozen=True):
    """One recordable value: its attribute's name and the check that turns what callers give into what is recorded.

    `is_content` sends the value through the content gate at once: the caller may change it later, and one text is less
    to keep than a history of messages. If it `is_message`, it has one of the conventions' shapes. A check raises
    `FieldError` for what cannot be recorded, and returns None for what the conventions leave out.
    """

    key: str
    check: Check
    is_content: bool = False
    is_message: bool = False
    is_plain: bool = False


_MAX_TEXTS: Final = 1_000
_JSON: Final[frozenset[type[object]]] = frozenset({dict, list, int, float, bool, type(None)})
_INDENTED: Final = 256  # JSON may begin with spaces, and whoever writes prose does not begin with many


def text(value: Any) -> str:
    """A string; a member of an enumeration is the text that it stands for."""
    if type(value) is str:
        return value
    if not isinstance(value, str):
        raise FieldError(f"expected a string, not {type(value).__name__}")
    return str.__str__(value)


def count(value: Any) -> int:
    """An integer that isn't negative."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"expected an integer, not {type(value).__name__}")
    if value < 0:
        raise FieldError("expected an integer that isn't negative")
    return int(value)


def integer(value: Any) -> int:
    """An integer of either sign."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise FieldError(f"expected an integer, not {type(value).__name__}")
    return int(value)


def number(value: Any) -> float:
    """A finite number, as the double that the conventions ask for."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FieldError(f"expected a number, not {type(value).__name__}")
    if not math.isfinite(value):
        raise FieldError("expected a finite number")
    return float(value)


def texts(value: Any) -> list[str]:
    """Strings in order; a single string is a list of one."""
    if type(value) is list:
        items = cast("list[Any]", value)
        if len(items) <= _MAX_TEXTS and {*map(type, items)} == {str}:
            return items.copy()
    if isinstance(value, str):
        return [text(value)]
    if not isinstance(value, Iterable):
        raise FieldError(f"expected strings, not {type(value).__name__}")
    given = list(islice(cast("Iterable[Any]", value), _MAX_TEXTS + 1))
    if len(given) > _MAX_TEXTS:
        given[_MAX_TEXTS] = None  # which is no text, and counted
    kept, reasons = each(text, given)
    return whole(kept, kept, reasons)


def only_true(value: Any) -> bool | None:
    """A flag that the conventions want only when it is set."""
    if not isinstance(value, bool):
        raise FieldError(f"expected a bool, not {type(value).__name__}")
    return value or None


def choices(value: Any) -> int | None:
    """A number of choices, left out when it is the usual one."""
    found = count(value)
    return None if found == 1 else found


def tool_value(value: Any) -> Any:
    """A tool's arguments or result; JSON text of an object or array is taken as the value that it means."""
    if isinstance(value, str):
        return decoded(value) if value[:_INDENTED].lstrip()[:1] in {"{", "["} else value
    if type(value) not in _JSON and is_sentinel(value):
        raise FieldError("nothing is passed")
    return value


def _message(key: str, check: Check) -> Field:
    return Field(key, check, is_content=True, is_message=True)


_CONTENT: Final[dict[str, Field]] = {
    "system_instructions": _message(sc.SYSTEM_INSTRUCTIONS, to_instructions),
    "input_messages": _message(sc.INPUT_MESSAGES, to_input_messages),
    "output_messages": _message(sc.OUTPUT_MESSAGES, to_output_messages),
    "tool_definitions": _message(sc.TOOL_DEFINITIONS, to_tool_definitions),
}

_SHARED_OPTIONS: Final[dict[str, Field]] = {
    "model": Field(sc.REQUEST_MODEL, text, is_plain=True),
    "max_tokens": Field(sc.REQUEST_MAX_TOKENS, count),
    "temperature": Field(sc.REQUEST_TEMPERATURE, number),
    "top_p": Field(sc.REQUEST_TOP_P, number),
    "stop_sequences": Field(sc.REQUEST_STOP_SEQUENCES, texts),
    "frequency_penalty": Field(sc.REQUEST_FREQUENCY_PENALTY, number),
    "presence_penalty": Field(sc.REQUEST_PRESENCE_PENALTY, number),
    "choice_count": Field(sc.REQUEST_CHOICE_COUNT, choices),
    "seed": Field(sc.REQUEST_SEED, integer),
    "output_type": Field(sc.OUTPUT_TYPE, text, is_plain=True),
    "finish_reasons": Field(sc.RESPONSE_FINISH_REASONS, texts),
}

_REMOTE: Final[dict[str, Field]] = {
    "provider_name": Field(sc.PROVIDER, text, is_plain=True),
    "server_address": Field(sc.SERVER_ADDRESS, text, is_plain=True),
    "server_port": Field(sc.SERVER_PORT, count),
    "previous_response_id": Field(sc.REQUEST_PREVIOUS_RESPONSE_ID, text, is_plain=True),
}

AGENT_FIELDS: Final[dict[str, Field]] = {**_CONTENT, **_SHARED_OPTIONS}

REMOTE_AGENT_FIELDS: Final[dict[str, Field]] = {
    **AGENT_FIELDS,
    **_REMOTE,
    "agent_id": Field(sc.AGENT_ID, text, is_plain=True),
    "agent_version": Field(sc.AGENT_VERSION, text, is_plain=True),
}

LLM_FIELDS: Final[dict[str, Field]] = {
    **_CONTENT,
    **_SHARED_OPTIONS,
    **_REMOTE,
    "top_k": Field(sc.REQUEST_TOP_K, count),
    "stream": Field(sc.REQUEST_STREAM, only_true),
    "reasoning_level": Field(sc.REQUEST_REASONING_LEVEL, text, is_plain=True),
    "prompt_name": Field(sc.PROMPT_NAME, text, is_plain=True),
    "prompt_version": Field(sc.PROMPT_VERSION, text, is_plain=True),
    "compacted": Field(sc.CONVERSATION_COMPACTED, only_true),
    "response_id": Field(sc.RESPONSE_ID, text, is_plain=True),
    "response_model": Field(sc.RESPONSE_MODEL, text, is_plain=True),
    "time_to_first_chunk": Field(sc.RESPONSE_TIME_TO_FIRST_CHUNK, number),
}

TOOL_FIELDS: Final[dict[str, Field]] = {
    "call_id": Field(sc.TOOL_CALL_ID, text, is_plain=True),
    "tool_type": Field(sc.TOOL_TYPE, text, is_plain=True),
    "description": Field(sc.TOOL_DESCRIPTION, text, is_plain=True),
    "arguments": Field(sc.TOOL_CALL_ARGUMENTS, tool_value, is_content=True),
    "result": Field(sc.TOOL_CALL_RESULT, tool_value, is_content=True),
}

USAGE_KEYS: Final = (
    sc.USAGE_INPUT_TOKENS,
    sc.USAGE_OUTPUT_TOKENS,
    sc.USAGE_REASONING_TOKENS,
    sc.USAGE_CACHE_READ_TOKENS,
    sc.USAGE_CACHE_WRITE_TOKENS,
    sc.USAGE_TEXT_INPUT_TOKENS,
    sc.USAGE_IMAGE_INPUT_TOKENS,
    sc.USAGE_AUDIO_INPUT_TOKENS,
    sc.USAGE_TEXT_OUTPUT_TOKENS,
    sc.USAGE_IMAGE_OUTPUT_TOKENS,
    sc.USAGE_AUDIO_OUTPUT_TOKENS,
    sc.USAGE_TEXT_CACHE_READ_TOKENS,
    sc.USAGE_IMAGE_CACHE_READ_TOKENS,
    sc.USAGE_AUDIO_CACHE_READ_TOKENS,
)
"""The attributes of `Usage`, in the order of its fields."""


_DETAILS: Final = frozenset(
    {"input_tokens_details", "output_tokens_details", "input_token_details", "output_token_details"}
)


def to_usage(value: object) -> Usage:
    """Usage from `Usage`, or from the usage object or dict of the OpenAI and Anthropic APIs, or what has their fields.

    Anthropic counts cached input apart; the conventions' `input_tokens` includes it, so it is added here.
    """
    if isinstance(value, Usage):
        return value
    found = _counts_in(value)
    if found is None:
        raise FieldError(f"expected Usage or a mapping, not {class_name(type(value))}")
    # In this order: LiteLLM tells OpenAI's totals, which include what was cached, and Anthropic's counts of the cache.
    if "prompt_tokens" in found or "completion_tokens" in found:
        return _openai_usage(found)
    if "cache_read_input_tokens" in found or "cache_creation_input_tokens" in found:
        return _anthropic_usage(found)
    if not _DETAILS.isdisjoint(found):
        return _openai_usage(found)
    if found.keys().isdisjoint(Usage.__struct_fields__):
        raise FieldError(f"there are no token counts in {class_name(type(value))}")
    return Usage(**{name: found.get(name) for name in Usage.__struct_fields__})


def _counts_in(value: object) -> Mapping[str, Any] | None:
    found = as_dict(value)
    names = getattr(type(value), "__dataclass_fields__", None) if found is None else None
    return found if names is None else {name: getattr(value, name, None) for name in names}


def _details_in(found: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    given = next((found[name] for name in names if found.get(name)), None)
    return (None if given is None else _counts_in(given)) or {}


def _anthropic_usage(found: Mapping[str, Any]) -> Usage:
    read, written = found.get("cache_read_input_tokens"), found.get("cache_creation_input_tokens")
    fresh = found.get("input_tokens")
    total = None if fresh is None else fresh + (read or 0) + (written or 0)
    thought = _details_in(found, "output_tokens_details").get("thinking_tokens")
    return Usage(total, found.get("output_tokens"), thought, cache_read_tokens=read, cache_write_tokens=written)


def _openai_usage(found: Mapping[str, Any]) -> Usage:
    # The last of each are LangChain's, and the Realtime API's. Anthropic says `thinking_tokens`, and DeepSeek has what
    # it found in its cache beside the totals.
    received = _details_in(found, "prompt_tokens_details", "input_tokens_details", "input_token_details")
    sent = _details_in(found, "completion_tokens_details", "output_tokens_details", "output_token_details")
    cached = received.get("cached_tokens", received.get("cache_read"))
    cached = found.get("prompt_cache_hit_tokens") if cached is None else cached
    written = received.get("cache_write_tokens", received.get("cache_creation"))
    return Usage(
        found.get("prompt_tokens", found.get("input_tokens")),
        found.get("completion_tokens", found.get("output_tokens")),
        reasoning_tokens=sent.get("reasoning_tokens", sent.get("reasoning", sent.get("thinking_tokens"))),
        cache_read_tokens=found.get("cache_read_input_tokens") if cached is None else cached,
        cache_write_tokens=found.get("cache_creation_input_tokens") if written is None else written,
        text_input_tokens=received.get("text_tokens"),
        image_input_tokens=received.get("image_tokens"),
        audio_input_tokens=received.get("audio_tokens", received.get("audio")),
        text_output_tokens=sent.get("text_tokens"),
        image_output_tokens=sent.get("image_tokens"),
        audio_output_tokens=sent.get("audio_tokens", sent.get("audio")),
    )


def remote_fields(remote: Any) -> dict[str, Any]:
    """What `remote=` of a sub-agent says of the service: True, its address or URL, or a mapping of fields."""
    if remote is True:
        return {}
    if isinstance(remote, Mapping):
        return dict(cast("Mapping[str, Any]", remote))
    parts = urlsplit(text(remote) if "//" in text(remote) else f"//{remote}")
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return {"server_address": parts.hostname, "server_port": port}


class AgentFields(TypedDict, total=False):
    """What `Turn.record` and `SubAgent.record` take; None means "not given"."""

    input_messages: MessagesLike | None
    output_messages: MessagesLike | None
    system_instructions: InstructionsLike | None
    tool_definitions: ToolsLike | None
    usage: Usage | Mapping[str, Any] | Dumps | None
    finish_reasons: Iterable[str] | None
    model: str | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    stop_sequences: Iterable[str] | None
    frequency_penalty: float | None
    presence_penalty: float | None
    choice_count: int | None
    seed: int | None
    output_type: str | None


class SubAgentFields(AgentFields, total=False):
    """What `SubAgent.record` takes besides; recorded only when the agent is a remote one."""

    provider_name: str | None
    server_address: str | None
    server_port: int | None
    previous_response_id: str | None
    agent_id: str | None
    agent_version: str | None


class RequestOptions(TypedDict, total=False):
    """The options of a model request that `start_llm` takes; None means "not given"."""

    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    stop_sequences: Iterable[str] | None
    frequency_penalty: float | None
    presence_penalty: float | None
    choice_count: int | None
    seed: int | None
    output_type: str | None
    stream: bool | None
    reasoning_level: str | None
    previous_response_id: str | None
    prompt_name: str | None
    prompt_version: str | None
    compacted: bool | None


class LLMFields(RequestOptions, total=False):
    """What `LLM.record` takes; None means "not given"."""

    model: str | None
    provider_name: str | None
    server_address: str | None
    server_port: int | None
    input_messages: MessagesLike | None
    output_messages: MessagesLike | None
    system_instructions: InstructionsLike | None
    tool_definitions: ToolsLike | None
    usage: Usage | Mapping[str, Any] | Dumps | None
    response: Mapping[str, Any] | Dumps | None
    response_id: str | None
    response_model: str | None
    finish_reasons: Iterable[str] | None
    time_to_first_chunk: float | None


class ToolFields(TypedDict, total=False):
    """What `Tool.record` takes; None means "not given"."""

    arguments: Any
    result: Any
    call_id: str | None
    tool_type: str | None
    description: str | None
