"""Turns what callers have in their hands into messages: strings, the chat-message dicts and items of the
OpenAI and Anthropic APIs, their SDKs' model objects, the conventions' own dicts, or `Message` itself.

Everything is copied into frozen data here, so that a list which the caller goes on appending to stays as it was.
A value of no known shape raises `FieldError`; a part of an unknown type becomes a `GenericPart`.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeAlias, cast
from urllib.parse import unquote_to_bytes

import msgspec

from ._copying import Copier
from ._encoding import as_dict, encoded_within, readable
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
    ToolCallPart,
    ToolCallResponsePart,
    ToolDefinition,
    UriPart,
    modality_of,
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
# How far an iterator of messages, which may have no end, is read for its last ones.
_MAX_READ: Final = 30_000
# JSON that is longer is not decoded, and copied only as far as `Copier` goes.
_MAX_JSON_BYTES: Final = 256 * 1024


def to_messages(value: object, role: str) -> tuple[Message, ...]:
    """Messages from one message or an iterable of them; plain strings get `role`."""
    if type(value) is list or type(value) is tuple:
        return _newest(cast("list[object]", value), role)
    if isinstance(value, str | Message) or as_dict(value) is not None:
        return _newest([value], role)
    if not isinstance(value, Iterable):
        raise FieldError(f"not a message: {class_name(type(value))}")
    return _newest(list(islice(cast(Iterable[object], value), _MAX_READ)), role)


def _newest(items: list[object], role: str) -> tuple[Message, ...]:
    """Messages from the last items; where there are too many, the first one says so."""
    found: list[Message] = []
    reasons: list[str] = []
    left, room = _MAX_PARTS, _MAX_MEDIA
    for item in reversed(items):
        if left <= 0:
            found.append(Message.system(_missing(items)))
            break
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
                parts, room = _inlined(message.parts, room)
                message = msgspec.structs.replace(message, parts=parts)
                break
        found.append(message)
    found.reverse()
    return whole(tuple(found), found, reasons)


def _missing(items: Collection[object]) -> str:
    return f"[{len(items)} items, truncated]"


def _bounded(given: object) -> list[object] | tuple[object, ...]:
    """The first of too many parts, and a part that says so."""
    items = cast("list[object]", given)
    if not isinstance(given, list | tuple):
        items = list(islice(items, _MAX_PARTS + 1))
    return items if len(items) <= _MAX_PARTS else [*items[:_MAX_PARTS], TextPart(_missing(items))]


def to_input_messages(value: object) -> tuple[Message, ...]:
    """What goes to the model: a plain string is the user's."""
    return to_messages(value, "user")


def to_output_messages(value: object) -> tuple[Message, ...]:
    """What came from the model: a plain string is the assistant's."""
    return to_messages(value, "assistant")


def to_instructions(value: object) -> tuple[Part, ...]:
    """System instructions as text parts, from strings, parts, `{"type": "text"}` dicts or whole system messages."""
    single = isinstance(value, str | msgspec.Struct) or as_dict(value) is not None
    found, reasons = each(_instruction, [value] if single else _bounded(value))
    parts = [part for item in found for part in (item.parts if isinstance(item, Message) else (item,))]
    return whole(_inlined(parts, _MAX_MEDIA)[0], parts, reasons)


def _instruction(item: object) -> Message | Part:
    if isinstance(item, str):
        return TextPart(item)
    found = None if isinstance(item, Message) else as_dict(item)
    if isinstance(item, Message) or (found is not None and ("role" in found or found.get("type") in _SPEAKERS)):
        return _to_message(item, "system")
    return _flat(_to_part(item))


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
            definition[key] = _copied(given)
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


def _flat(part: Part) -> Part:
    if isinstance(part, GenericPart):
        if not isinstance(part.type, str):
            raise FieldError("a message part needs a type")
        # On the wire the data stands beside the type, which no struct can say.
        return cast(Part, {**_copied(part.data), "type": part.type})
    return msgspec.convert(_copied(part), type(part))


def _copied(value: object) -> Any:
    """A copy that nobody else holds; the caller may go on changing what was given."""
    if type(value) in _PLAIN_PARTS or _is_short(value):
        try:
            return msgspec.to_builtins(value, enc_hook=readable, str_keys=True)
        except (TypeError, ValueError, OverflowError):
            pass  # such as a key that is no text
    return Copier().copy(value, is_message=isinstance(value, msgspec.Struct))


def _is_short(value: object) -> bool:
    try:
        return encoded_within(value, _MAX_JSON_BYTES) is not None
    except (TypeError, ValueError, OverflowError):
        return False  # what is not quite JSON is looked at by the copier


_OWN_PARTS: Final = (
    TextPart,
    ReasoningPart,
    ToolCallPart,
    ToolCallResponsePart,
    BlobPart,
    UriPart,
    FilePart,
    GenericPart,
)
# Their texts are not copied, however long.
_PLAIN_PARTS: Final = frozenset({TextPart, ReasoningPart, BlobPart, UriPart, FilePart})


def _from_dict(value: _Dict, role: str) -> Message:
    spoken_by = _role_of(value, role)
    name = value.get("name") if spoken_by != "tool" and isinstance(value.get("name"), str) else None
    if "parts" in value:
        reason = value.get("finish_reason")
        return _message(spoken_by, value["parts"], name, reason if isinstance(reason, str) else None)
    is_told = "content" in value or not _TELLING.isdisjoint(value)
    if "role" not in value:
        kind = value.get("type")
        if isinstance(kind, str) and (not is_told or kind in _PARTS or kind.endswith(_RESULT)):
            # A content block by itself, or one of the many items of the OpenAI Responses API.
            return _message(spoken_by, (value,), None)
    if not is_told:
        raise FieldError("a message needs content, tool calls or parts")
    return _message(spoken_by, _chat_parts(value, spoken_by), name)


def _message(role: str, parts: Iterable[object], name: str | None, finish_reason: str | None = None) -> Message:
    found, reasons = each(_wire_part, _bounded(parts))
    return whole(Message(role, tuple(found), name, finish_reason), found, reasons)


def _wire_part(part: object) -> Part:
    return TextPart(part) if type(part) is str else _flat(_to_part(part))


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
    return "assistant" if kind.endswith(("_call", "_use", _RESULT)) else role


def _chat_parts(value: _Dict, role: str) -> Iterable[object]:
    if role == "tool":
        yield ToolCallResponsePart(_plain(value.get("content")), value.get("tool_call_id"))
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
        yield _function_call(value["function_call"], None)


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


def _content_parts(content: object) -> Collection[object]:
    if content is None:
        return ()
    if isinstance(content, str) or as_dict(content) is not None:
        return (content,)
    if isinstance(content, Iterable):
        return _bounded(cast(object, content))
    raise FieldError(f"not message content: {type(content).__name__}")


def _plain(content: object) -> object:
    """A tool result's content: text blocks become their text, anything else stays the value that it is."""
    if isinstance(content, list):
        blocks = cast("list[Any]", content)
        texts = [cast(_Dict, block).get("text") if isinstance(block, Mapping) else None for block in blocks]
        if texts and all(isinstance(text, str) for text in texts):
            return "".join(cast("list[str]", texts))
    return cast(object, content)


def decoded(arguments: object) -> object:
    """Tool arguments as the value that their JSON text means; text that isn't JSON stays text."""
    if not isinstance(arguments, str) or len(arguments) > _MAX_JSON_BYTES:
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments


def _to_part(value: object) -> Part:
    if isinstance(value, str):
        return TextPart(value)
    if isinstance(value, _OWN_PARTS):
        return value
    found = as_dict(value)
    if found is None:
        raise FieldError(f"not a message part: {type(value).__name__}")
    kind = found.get("type")
    if not isinstance(kind, str):
        # A bare OpenAI tool call of older clients has no type.
        if isinstance(found.get("function"), Mapping):
            return _openai_tool_call(found)
        raise FieldError("a message part needs a type")
    try:
        make = _PARTS.get(kind, _server_result if kind.endswith(_RESULT) else _generic)
        return make(found)
    except (KeyError, TypeError, AttributeError, ValueError):
        # Known by name but not by shape: kept as it came rather than lost.
        return _generic(found)


def _generic(value: _Dict) -> Part:
    return GenericPart(value["type"], {key: item for key, item in value.items() if key != "type"})


def _text(value: _Dict) -> Part:
    content = value["text"] if "text" in value else value["content"]
    if not isinstance(content, str):
        raise FieldError("text must be a string")
    return TextPart(content)


def _reasoning(value: _Dict) -> Part:
    content = next((value[name] for name in ("content", "thinking", "reasoning") if value.get(name) is not None), None)
    if isinstance(content, str):
        return ReasoningPart(content)
    pieces = cast("Iterable[_Dict]", content or value["summary"])
    said = [str(piece["text"]) for piece in pieces]
    if not said:
        raise FieldError("nothing of it can be read")
    return ReasoningPart("\n".join(said))


def _refusal(value: _Dict) -> Part:
    return TextPart(value["refusal"])


def _function_call(value: _Dict, call_id: str | None) -> Part:
    return ToolCallPart(value["name"], call_id, decoded(value.get("arguments")))


def _openai_tool_call(value: _Dict) -> Part:
    return _function_call(value["function"], value.get("id"))


def _responses_call(value: _Dict) -> Part:
    return _function_call(value, value.get("call_id", value.get("id")))


def _custom_call(value: _Dict) -> Part:
    called = value.get("custom", value)
    return ToolCallPart(called["name"], value.get("call_id", value.get("id")), called.get("input"))


def _own_call(value: _Dict) -> Part:
    # LangChain says `args`.
    return ToolCallPart(value["name"], value.get("id"), decoded(value.get("arguments", value.get("args"))))


def _server_call(value: _Dict) -> Part:
    """A tool that the provider ran: what is said of it is the provider's own."""
    kind = value["type"]
    tool = value["name"] if kind == "server_tool_use" else kind.removesuffix("_call").removesuffix("_tool_use")
    details = _details(value, tool)
    if "arguments" in details:
        details["arguments"] = decoded(details["arguments"])
    name = value.get("name", tool)
    return GenericPart("server_tool_call", {"id": value.get("id"), "name": name, "server_tool_call": details})


def _server_result(value: _Dict) -> Part:
    details = _details(value, value["type"].removesuffix(_RESULT))
    call_id = details.pop("tool_use_id", None)
    return GenericPart("server_tool_call_response", {"id": call_id, "server_tool_call_response": details})


def _details(value: _Dict, tool: str) -> dict[str, Any]:
    said = {key: item for key, item in value.items() if item is not None and key not in ("id", "name", "type")}
    return {"type": tool, **said}


def _tool_use(value: _Dict) -> Part:
    return ToolCallPart(value["name"], value.get("id"), value.get("input"))


def _tool_result(value: _Dict) -> Part:
    response, call_id = _plain(value.get("content")), value.get("tool_use_id")
    if value.get("is_error") is True:
        return GenericPart("tool_call_response", {"response": response, "id": call_id, "is_error": True})
    return ToolCallResponsePart(response, call_id)


def _own_response(value: _Dict) -> Part:
    return ToolCallResponsePart(value["response"], value.get("id"))


def _call_output(value: _Dict) -> Part:
    return ToolCallResponsePart(_plain(value.get("output")), value.get("call_id"))


def _image_url(value: _Dict) -> Part:
    given = value["image_url"]
    return _at(cast(_Dict, given)["url"] if isinstance(given, Mapping) else given, "image")


def _input_image(value: _Dict) -> Part:
    if value.get("file_id"):
        return FilePart("image", value["file_id"])
    return _image_url(value)


def _audio(value: _Dict) -> Part:
    given = value["input_audio"]
    return BlobPart("audio", given["data"], f"audio/{given['format']}" if given.get("format") else None)


def _file(value: _Dict) -> Part:
    if isinstance(value.get("modality"), str):
        return FilePart(value["modality"], value["file_id"], value.get("mime_type"))
    given = cast(_Dict, value.get("file") if isinstance(value.get("file"), Mapping) else value)
    if given.get("file_id"):
        return FilePart("document", given["file_id"])
    data = given.get("file_data")
    if isinstance(data, str) and not _is_data(data):
        return BlobPart("document", data)
    return _at(given.get("file_url") or data, "document")


def _sourced(value: _Dict) -> Part:
    modality = value["type"]
    if "source" not in value:
        # LangChain's blocks, and those of MCP.
        data = value.get("data", value.get("base64"))
        mime_type = value.get("mime_type", value.get("mimeType"))
        return _at(value["url"], modality, mime_type) if data is None else BlobPart(modality, data, mime_type)
    source = value["source"]
    if source["type"] == "base64":
        return BlobPart(modality, source["data"], source.get("media_type"))
    if source["type"] == "file":
        return FilePart(modality, source["file_id"])
    return _at(source["url"], modality) if source["type"] == "url" else _generic(value)


# What an attribute holds, with room for the rest.
_MAX_MEDIA: Final = MAX_CONTENT_BYTES * 7 // 8
_MAX_BYTES: Final = MAX_CONTENT_BYTES // 2  # what base64 makes of it fits, with room for the rest
# What is not in base64 takes so much longer to read.
_ESCAPES: Final = 16
_LONGEST_HEAD: Final = 1_000


def blob_of(content: bytes, modality: str, mime_type: str | None) -> Part:
    """Media inline; of what no attribute could hold only the beginning is encoded."""
    blob = BlobPart.of(content[:_MAX_BYTES], modality=modality, mime_type=mime_type)
    if len(content) <= _MAX_BYTES:
        return blob
    return BlobPart(modality, f"{blob.content}…[{len(content)} bytes, truncated]", mime_type)


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


def _at(url: object, modality: str, mime_type: str | None = None) -> Part:
    if not isinstance(url, str):
        raise FieldError("an address must be a string")
    return UriPart(modality, url, mime_type)


def _inlined(parts: Sequence[Part], room: int) -> tuple[tuple[Part, ...], int]:
    """The parts with what `data:` URLs carry as blobs, and the room that is left; the last ones have it first."""
    found = list(parts)
    for place in reversed(range(len(found))):
        part = found[place]
        if type(part) is UriPart and _is_data(part.uri):
            found[place], room = _blob_in(part.uri, part.modality, part.mime_type, room)
    return tuple(found), room


def media_from_url(url: str, modality: str | None = None, mime_type: str | None = None) -> Part:
    """A media part from an address; a `data:` URL becomes the blob that it carries."""
    if _is_data(url):
        return _blob_in(url, modality, mime_type, _MAX_MEDIA)[0]
    return UriPart(modality or "document", url, mime_type)


def _blob_in(url: str, modality: str | None, mime_type: str | None, room: int) -> tuple[Part, int]:
    """What a `data:` URL carries, and the room that is left.

    Of what has no room only the size is said: a copy would be thrown away, and half an image shows nothing. What is not
    in base64 is a text, whose beginning says something.
    """
    head = url[5:_LONGEST_HEAD].partition(",")[0]
    mime_type = head.partition(";")[0] or mime_type
    start = len("data:,") + len(head)
    if head.lower().endswith(";base64"):
        taken = cost = len(url) - start if len(url) - start <= room else 0
        content = url[start : start + taken]
    else:
        taken = min(len(url) - start, room // _ESCAPES)
        cost = taken * _ESCAPES
        content = base64.b64encode(unquote_to_bytes(url[start : start + taken])).decode("ascii")
    if start + taken < len(url):
        content += f"…[{len(url)} bytes, truncated]"
    return BlobPart(modality or modality_of(mime_type), content, mime_type), room - cost


def _blob(value: _Dict) -> Part:
    return BlobPart(value["modality"], value["content"], value.get("mime_type"))


def _uri(value: _Dict) -> Part:
    return _at(value["uri"], value["modality"], value.get("mime_type"))


_PARTS: Final[dict[str, Callable[[_Dict], Part]]] = {
    "text": _text,
    "input_text": _text,
    "output_text": _text,
    "reasoning": _reasoning,
    "thinking": _reasoning,
    "function": _openai_tool_call,
    "function_call": _responses_call,
    "function_call_output": _call_output,
    "custom": _custom_call,
    "custom_tool_call": _custom_call,
    "custom_tool_call_output": _call_output,
    "tool_call": _own_call,
    "invalid_tool_call": _own_call,
    "tool_call_response": _own_response,
    "tool_use": _tool_use,
    "tool_result": _tool_result,
    "refusal": _refusal,
    "image_url": _image_url,
    "input_image": _input_image,
    "input_audio": _audio,
    "file": _file,
    "input_file": _file,
    "audio": _sourced,
    "image": _sourced,
    "document": _sourced,
    "blob": _blob,
    "uri": _uri,
    "server_tool_use": _server_call,
    "mcp_tool_use": _server_call,
    "web_search_call": _server_call,
    "file_search_call": _server_call,
    "code_interpreter_call": _server_call,
    "image_generation_call": _server_call,
    "mcp_call": _server_call,
}
# How the types of what tools of the provider returned end, in Anthropic's API.
_RESULT: Final = "_tool_result"
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
