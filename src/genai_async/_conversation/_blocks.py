"""What stands in a message as its parts: content blocks, calls and results of tools, media, items of APIs.

A part of an unknown type becomes a `GenericPart`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, cast
from urllib.parse import unquote_to_bytes

import msgspec

from ._copying import Copier
from ._encoding import Reader, as_dict, encoded_within, encoder, readable
from ._faults import FieldError
from ._messages import (
    NAMED_PARTS,
    BlobPart,
    FilePart,
    GenericPart,
    Part,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolCallResponsePart,
    UriPart,
    modality_of,
)
from ._texts import MAX_CONTENT_BYTES, Head, to_base64

_Dict: TypeAlias = Mapping[str, Any]

# JSON that is longer is not decoded, and copied only as far as `Copier` goes.
_MAX_JSON_BYTES: Final = 256 * 1024
_SHORT_BYTES: Final = 4096
# What an attribute holds, with room for the rest.
MAX_MEDIA: Final = MAX_CONTENT_BYTES * 7 // 8
_MAX_BYTES: Final = MAX_CONTENT_BYTES // 2  # what base64 makes of it fits, with room for the rest
# What is not in base64 takes so much longer to read.
_ESCAPES: Final = 16
_LONGEST_HEAD: Final = 1_000

_OWN_PARTS: Final = (*NAMED_PARTS, GenericPart)
# Their texts are not copied, however long.
_PLAIN_PARTS: Final = frozenset({TextPart, ReasoningPart, BlobPart, UriPart, FilePart})


def wire_part(part: object) -> Part:
    """A part as it goes out: a copy of its own, in the shape of the conventions."""
    return TextPart(part) if type(part) is str else _flat(_to_part(part))


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
        make = PARTS.get(kind, _server_result if kind.endswith(RESULT_ENDING) else _generic)
        return make(found)
    except (KeyError, TypeError, AttributeError, ValueError):
        # Known by name but not by shape: kept as it came rather than lost.
        return _generic(found)


def _flat(part: Part) -> Part:
    if isinstance(part, GenericPart):
        if not isinstance(part.type, str):
            raise FieldError("a message part needs a type")
        # On the wire the data stands beside the type, which no struct can say.
        return cast(Part, {**copied(part.data), "type": part.type})
    if isinstance(part, TextPart | ReasoningPart) and type(part.content) is Head:
        return part
    return msgspec.convert(copied(part), type(part))


def copied(value: object) -> Any:
    """A copy that nobody else holds; the caller may go on changing what was given."""
    reader: Reader | None = None
    try:
        is_short = type(value) in _PLAIN_PARTS or encoded_within(value, _SHORT_BYTES) is not None
        if not is_short:
            reader = Reader()
            is_short = encoded_within(value, _MAX_JSON_BYTES, reader=reader) is not None
        if is_short:
            return msgspec.to_builtins(value, enc_hook=readable if reader is None else reader.read, str_keys=True)
    except (TypeError, ValueError, OverflowError):
        pass  # what is not quite JSON, such as a key that is no text
    return Copier(reader=reader).copy(value, is_message=isinstance(value, msgspec.Struct))


def structure_bytes(part: Part) -> int:
    """How long the JSON of a part is that is more than a text: so much of it was copied."""
    if isinstance(part, ToolCallPart | ToolCallResponsePart):
        held: object = part.arguments if isinstance(part, ToolCallPart) else part.response
    else:
        held = part
    if not isinstance(held, dict | list):
        return 0
    try:
        return len(encoder.encode(held))
    except (TypeError, ValueError, OverflowError):
        return 0  # what is not quite JSON


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


def function_call(value: _Dict, call_id: str | None) -> Part:
    """A call as the OpenAI API has it: a name, and arguments as JSON text."""
    return ToolCallPart(value["name"], call_id, decoded(value.get("arguments")))


def _openai_tool_call(value: _Dict) -> Part:
    return function_call(value["function"], value.get("id"))


def _responses_call(value: _Dict) -> Part:
    return function_call(value, value.get("call_id", value.get("id")))


def _custom_call(value: _Dict) -> Part:
    called = value.get("custom", value)
    return ToolCallPart(called["name"], value.get("call_id", value.get("id")), called.get("input"))


def _own_call(value: _Dict) -> Part:
    # LangChain says `args`.
    return ToolCallPart(value["name"], value.get("id"), decoded(value.get("arguments", value.get("args"))))


def _tool_use(value: _Dict) -> Part:
    return ToolCallPart(value["name"], value.get("id"), value.get("input"))


def decoded(arguments: object) -> object:
    """Tool arguments as the value that their JSON text means; text that isn't JSON stays text."""
    if not isinstance(arguments, str) or len(arguments) > _MAX_JSON_BYTES:
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return arguments


def _tool_result(value: _Dict) -> Part:
    response, call_id = plain(value.get("content")), value.get("tool_use_id")
    if value.get("is_error") is True:
        return GenericPart("tool_call_response", {"response": response, "id": call_id, "is_error": True})
    return ToolCallResponsePart(response, call_id)


def _own_response(value: _Dict) -> Part:
    return ToolCallResponsePart(value["response"], value.get("id"))


def _call_output(value: _Dict) -> Part:
    return ToolCallResponsePart(plain(value.get("output")), value.get("call_id"))


def plain(content: object) -> object:
    """A tool result's content: text blocks become their text, anything else stays the value that it is."""
    if isinstance(content, list):
        blocks = cast("list[Any]", content)
        texts = [cast(_Dict, block).get("text") if isinstance(block, Mapping) else None for block in blocks]
        if texts and all(isinstance(text, str) for text in texts):
            return "".join(cast("list[str]", texts))
    return cast(object, content)


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
    details = _details(value, value["type"].removesuffix(RESULT_ENDING))
    call_id = details.pop("tool_use_id", None)
    return GenericPart("server_tool_call_response", {"id": call_id, "server_tool_call_response": details})


def _details(value: _Dict, tool: str) -> dict[str, Any]:
    said = {key: item for key, item in value.items() if item is not None and key not in ("id", "name", "type")}
    return {"type": tool, **said}


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


def _blob(value: _Dict) -> Part:
    return BlobPart(value["modality"], value["content"], value.get("mime_type"))


def _uri(value: _Dict) -> Part:
    return _at(value["uri"], value["modality"], value.get("mime_type"))


def blob_of(content: bytes, modality: str, mime_type: str | None) -> Part:
    """Media inline; of what no attribute could hold only the beginning is encoded."""
    blob = BlobPart.of(content[:_MAX_BYTES], modality=modality, mime_type=mime_type)
    if len(content) <= _MAX_BYTES:
        return blob
    return BlobPart(modality, f"{blob.content}…[{len(content)} bytes, truncated]", mime_type)


def media_from_url(url: str, modality: str | None = None, mime_type: str | None = None) -> Part:
    """A media part from an address; a `data:` URL becomes the blob that it carries."""
    if _is_data(url):
        return _blob_in(url, modality, mime_type, MAX_MEDIA)[0]
    return UriPart(modality or "document", url, mime_type)


def inlined(parts: Sequence[Part], room: int) -> tuple[tuple[Part, ...], int]:
    """The parts with what `data:` URLs carry as blobs, and the room that is left; the last ones have it first."""
    found = list(parts)
    for place in reversed(range(len(found))):
        part = found[place]
        if type(part) is UriPart and _is_data(part.uri):
            found[place], room = _blob_in(part.uri, part.modality, part.mime_type, room)
    return tuple(found), room


def _at(url: object, modality: str, mime_type: str | None = None) -> Part:
    if not isinstance(url, str):
        raise FieldError("an address must be a string")
    return UriPart(modality, url, mime_type)


def _is_data(url: str) -> bool:
    return url[:5].lower() == "data:"


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
        content = to_base64(unquote_to_bytes(url[start : start + taken]))
    if start + taken < len(url):
        content += f"…[{len(url)} bytes, truncated]"
    return BlobPart(modality or modality_of(mime_type), content, mime_type), room - cost


# How the types of what tools of the provider returned end, in Anthropic's API.
RESULT_ENDING: Final = "_tool_result"
PARTS: Final[dict[str, Callable[[_Dict], Part]]] = {
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
