"""What callers have in their hands as messages: strings, what chat APIs take and answer, or `Message` itself.

Known are the chat-message dicts and items of the OpenAI and Anthropic APIs, their SDKs' model objects and the
conventions' own dicts. Everything is copied into frozen data here, so that a list which the caller goes on appending to
stays as it was. A value of no known shape raises `FieldError`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias, cast

import msgspec

from ._blocks import (
    MAX_MEDIA,
    PARTS,
    RESULT_ENDING,
    copied,
    function_call,
    inlined,
    plain,
    structure_bytes,
    wire_part,
)
from ._copying import CutList
from ._encoding import as_dict
from ._faults import FieldError, PartError, each, reason_of, whole
from ._messages import (
    BlobPart,
    Dumps,
    FilePart,
    GenericPart,
    Message,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallResponsePart,
    ToolDefinition,
    UriPart,
)
from ._outcome import class_name
from ._texts import MAX_CONTENT_BYTES

MessageLike: TypeAlias = Message | str | Mapping[str, Any] | Dumps
MessagesLike: TypeAlias = MessageLike | Iterable[MessageLike]
InstructionsLike: TypeAlias = str | TextPart | Mapping[str, Any] | Iterable[str | TextPart | Mapping[str, Any]]
ToolsLike: TypeAlias = Iterable[ToolDefinition | Mapping[str, Any]]

_Dict: TypeAlias = Mapping[str, Any]

# What is taken of one value, on the caller's thread: messages and parts together, and tools.
_MAX_PARTS: Final = 3_000
_MAX_TOOLS: Final = 1_000
_FEW_PARTS: Final = 5  # whose size is looked at afterwards, with that of the message
# How far an iterator of messages, which may have no end, is read for its last ones.
_MAX_READ: Final = 30_000

# Who says what has no role: messages of LangChain, content blocks, items.
_SPEAKERS: Final = {
    "human": "user",
    "system": "system",
    "tool": "tool",
    "tool_result": "tool",
    "tool_call_response": "tool",
    **dict.fromkeys(("ai", "AIMessageChunk", "reasoning", "thinking", "redacted_thinking"), "assistant"),
    "server_tool_call_response": "assistant",
}
# Where a message of the chat APIs has what it says.
_TELLING: Final = frozenset(
    {"content", "tool_calls", "function_call", "refusal", "audio", "reasoning", "reasoning_content"}
)
_CALL_LISTS: Final = ("tool_calls", "invalid_tool_calls")


def to_input_messages(value: object) -> Sequence[Message]:
    """What goes to the model: a plain string is the user's."""
    return to_messages(value, "user")


def to_output_messages(value: object) -> Sequence[Message]:
    """What came from the model: a plain string is the assistant's."""
    return to_messages(value, "assistant")


def to_messages(value: object, role: str) -> Sequence[Message]:
    """Messages from one message or an iterable of them; plain strings get `role`."""
    if type(value) is list or type(value) is tuple:
        return _newest(cast("list[object]", value), role)
    if isinstance(value, str | Message) or as_dict(value) is not None:
        return _newest([value], role)
    if not isinstance(value, Iterable):
        raise FieldError(f"not a message: {class_name(type(value))}")
    return _newest(list(islice(cast(Iterable[object], value), _MAX_READ)), role)


def _newest(items: list[object], role: str) -> Sequence[Message]:
    """Messages from the last items; where there are too many, the first one says so."""
    found: list[Message] = []
    reasons: list[str] = []
    left, room, structures = _MAX_PARTS, MAX_MEDIA, MAX_CONTENT_BYTES
    for item in reversed(items):
        if left <= 0 or structures <= 0:
            return _cut(found, items, reasons)
        left -= 1
        try:
            message = _checked(item) if type(item) is Message else _to_message(item, role)
        except PartError as exc:
            message = exc.kept
            reasons += exc.reasons
        except Exception as exc:
            reasons.append(reason_of(exc))
            continue
        left -= len(message.parts)
        for part in message.parts:
            if type(part) is UriPart:
                parts, room = inlined(message.parts, room)
                message = msgspec.structs.replace(message, parts=parts)
                break
            if type(part) is not TextPart:
                structures -= structure_bytes(part)
        found.append(message)
    found.reverse()
    return whole(tuple(found), found, reasons)


def _cut(newest: list[Message], items: list[object], reasons: list[str]) -> Sequence[Message]:
    found = CutList([*newest, Message.system(_missing(items))])
    found.total = len(items)  # or whoever cuts more of it would take the note for one of them
    found.reverse()
    return whole(found, found, reasons)


def to_instructions(value: object) -> tuple[Part, ...]:
    """System instructions as text parts, from strings, parts, `{"type": "text"}` dicts or whole system messages."""
    single = isinstance(value, str | msgspec.Struct) or as_dict(value) is not None
    found, reasons = each(_instruction, [value] if single else _bounded(value))
    parts = [part for item in found for part in (item.parts if isinstance(item, Message) else (item,))]
    return whole(inlined(parts, MAX_MEDIA)[0], parts, reasons)


def _instruction(item: object) -> Message | Part:
    if isinstance(item, str):
        return TextPart(item)
    found = None if isinstance(item, Message) else as_dict(item)
    if isinstance(item, Message) or (found is not None and ("role" in found or found.get("type") in _SPEAKERS)):
        return _to_message(item, "system")
    return wire_part(item)


def to_tool_definitions(value: object) -> tuple[dict[str, Any], ...]:
    """Tool definitions in the conventions' shape, from `ToolDefinition` or the OpenAI and Anthropic dicts."""
    is_single = isinstance(value, ToolDefinition | Mapping)
    items: list[object] = [value] if is_single else list(islice(cast(Iterable[object], value), _MAX_READ))
    if len(items) > _MAX_TOOLS:
        items[_MAX_TOOLS:] = [{"type": "function", "name": "truncated", "description": _missing(items)}]
    found, reasons = each(_to_tool_definition, items)
    return whole(tuple(found), found, reasons)


def _to_tool_definition(item: object) -> dict[str, Any]:
    found = msgspec.structs.asdict(item) if isinstance(item, ToolDefinition) else as_dict(item)
    if found is None:
        raise FieldError(f"not a tool definition: {type(item).__name__}")
    source = found.get("function") if isinstance(found.get("function"), Mapping) else found
    source = cast(_Dict, source)
    kind = found.get("type") or "function"
    # Tools that the provider runs itself have a type and sometimes no name; the schema asks for both.
    definition = {"type": kind, "name": source.get("name") or (kind if kind != "function" else None)}
    if not isinstance(definition["type"], str) or not isinstance(definition["name"], str):
        raise FieldError("a tool definition needs a type and a name")
    for key, names in (("description", ("description",)), ("parameters", ("parameters", "input_schema"))):
        given = next((source[name] for name in names if source.get(name) is not None), None)
        if given is not None:
            definition[key] = copied(given)
    return definition


def _to_message(value: object, role: str) -> Message:
    if isinstance(value, Message):
        return _checked(value)
    if isinstance(value, str):
        return Message(role, (TextPart(value),))
    found = as_dict(value)
    if found is None:
        raise FieldError(f"not a message: {class_name(type(value))}")
    return _from_dict(found, role)


def _checked(message: Message) -> Message:
    """The same message where its shape is right; structs don't check what they are built with."""
    parts = message.parts
    if type(parts) is not tuple:
        # Read once: it may be an iterator.
        parts = (TextPart(parts),) if isinstance(parts, str) else tuple(cast("Iterable[Part]", _bounded(parts)))
    for part in parts:
        if type(part) is not TextPart or type(part.content) is not str:
            break
    else:
        if type(message.role) is str and parts is message.parts and message.name is message.finish_reason is None:
            return message
    if not isinstance(message.role, str) or not isinstance(message.name, str | None):
        raise FieldError("a message's role and name must be strings")
    if not isinstance(message.finish_reason, str | None):
        raise FieldError("a message's finish reason must be a string")
    return _message(message.role, parts, message.name, message.finish_reason)


def _from_dict(value: _Dict, role: str) -> Message:
    spoken_by = _role_of(value, role)
    name = value.get("name") if spoken_by != "tool" and isinstance(value.get("name"), str) else None
    if "parts" in value:
        reason = value.get("finish_reason")
        return _message(spoken_by, value["parts"], name, reason if isinstance(reason, str) else None)
    is_told = "content" in value or not _TELLING.isdisjoint(value)
    if "role" not in value:
        kind = value.get("type")
        if isinstance(kind, str) and (not is_told or kind in PARTS or kind.endswith(RESULT_ENDING)):
            # A content block by itself, or one of the many items of the OpenAI Responses API.
            return _message(spoken_by, (value,), None)
    if not is_told:
        raise FieldError("a message needs content, tool calls or parts")
    return _message(spoken_by, _chat_parts(value, spoken_by), name)


def _message(role: str, parts: Iterable[object], name: str | None, finish_reason: str | None = None) -> Message:
    given = _bounded(parts)
    found, reasons = each(wire_part, given) if len(given) < _FEW_PARTS else _first(given)
    return whole(Message(role, tuple(found), name, finish_reason), found, reasons)


def _first(parts: Collection[object]) -> tuple[list[Part], list[str]]:
    """The first parts, and as many structures as an attribute holds."""
    room = MAX_CONTENT_BYTES

    def wired(part: object) -> Part:
        nonlocal room
        found = wire_part(part)
        room -= structure_bytes(found)
        return found

    def within() -> Iterator[object]:
        for part in parts:
            if room <= 0:
                yield TextPart(_missing(parts))
                return
            yield part

    return each(wired, within())


def _role_of(value: _Dict, role: str) -> str:
    given = value.get("role")
    if isinstance(given, str):
        return "tool" if given == "function" else given
    # LangChain's messages say by their type who speaks. Content blocks and the items of the OpenAI Responses API stand
    # in a conversation without a role of their own.
    kind = value.get("type")
    if not isinstance(kind, str):
        return role
    if kind in _SPEAKERS:
        return _SPEAKERS[kind]
    if kind.endswith("_output"):
        return "tool"
    return "assistant" if kind.endswith(("_call", "_use", RESULT_ENDING)) else role


def _chat_parts(value: _Dict, role: str) -> Iterable[object]:
    if role == "tool":
        yield ToolCallResponsePart(plain(value.get("content")), value.get("tool_call_id"))
        return
    thought = value.get("reasoning_content") or value.get("reasoning")
    if isinstance(thought, str):
        yield ReasoningPart(thought)
    blocks = _content_parts(value.get("content"))
    yield from blocks
    if isinstance(value.get("refusal"), str):
        yield TextPart(value["refusal"])
    spoken = value.get("audio")
    if isinstance(spoken, Mapping):
        yield from _spoken(cast(_Dict, spoken))
    for name in _CALL_LISTS:
        calls = value.get(name)
        if calls:
            yield from _calls_beside(blocks, _bounded(calls))
    if isinstance(value.get("function_call"), Mapping):
        yield function_call(value["function_call"], None)


def _content_parts(content: object) -> Collection[object]:
    if content is None:
        return ()
    if isinstance(content, str) or as_dict(content) is not None:
        return (content,)
    if isinstance(content, Iterable):
        return _bounded(cast(object, content))
    raise FieldError(f"not message content: {type(content).__name__}")


def _spoken(audio: _Dict) -> Iterable[Part]:
    """What an OpenAI model said aloud: words and sound when it answers, and only their id when it is sent back."""
    if isinstance(audio.get("transcript"), str):
        yield TextPart(audio["transcript"])
    if isinstance(audio.get("data"), str):
        yield BlobPart("audio", audio["data"])
    else:
        yield FilePart("audio", audio["id"]) if isinstance(audio.get("id"), str) else GenericPart("audio", audio)


def _calls_beside(blocks: Collection[object], calls: Collection[object]) -> Iterable[object]:
    """The calls that do not stand in the content: LangChain lists them all."""
    if not blocks:
        return calls
    told = {call_id for block in blocks if (call_id := _call_id(block)) is not None}
    return [call for call in calls if _call_id(call) not in told] if told else calls


def _call_id(block: object) -> str | None:
    if not isinstance(block, Mapping):
        return None
    given = cast(_Dict, block).get("call_id") or cast(_Dict, block).get("id")
    return given if isinstance(given, str) else None


def _bounded(given: object) -> list[object] | tuple[object, ...]:
    """The first of too many parts, and a part that says so."""
    items = cast("list[object]", given)
    if not isinstance(given, list | tuple):
        items = list(islice(items, _MAX_PARTS + 1))
    return items if len(items) <= _MAX_PARTS else [*items[:_MAX_PARTS], TextPart(_missing(items))]


def _missing(items: Collection[object]) -> str:
    return f"[{len(items)} items, truncated]"
