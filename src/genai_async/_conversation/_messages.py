"""Messages, parts, usage and tool definitions: frozen data in the shapes of the conventions' JSON schemas.

A part's `type` is its tag on the wire. Absent optional fields are left out, `0` and `""` are kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol, TypeAlias

import msgspec

from ._texts import to_base64

__all__ = [
    "BlobPart",
    "FilePart",
    "GenericPart",
    "Message",
    "Part",
    "ReasoningPart",
    "TextPart",
    "ToolCallPart",
    "ToolCallResponsePart",
    "ToolDefinition",
    "UriPart",
    "Usage",
]


# What holds nothing but text is nothing for the garbage collector, of which a history has thousands (`gc=False`).
class _Part(msgspec.Struct, frozen=True, tag_field="type", omit_defaults=True):
    pass


class TextPart(_Part, frozen=True, tag="text", gc=False):
    """Plain text."""

    content: str


class ReasoningPart(_Part, frozen=True, tag="reasoning", gc=False):
    """What the model thought before it answered."""

    content: str


class ToolCallPart(_Part, frozen=True, tag="tool_call"):
    """The model's request to run a tool; `arguments` is the decoded value, usually a mapping."""

    name: str
    id: str | None = None
    arguments: Any = None


class ToolCallResponsePart(_Part, frozen=True, tag="tool_call_response"):
    """What a tool run returned for the call `id`; `response` is any JSON value."""

    response: Any
    id: str | None = None


class BlobPart(_Part, frozen=True, tag="blob", gc=False):
    """Media inline; `content` is base64 text, `modality` image, video, audio, document or any other word."""

    modality: str
    content: str
    mime_type: str | None = None

    @classmethod
    def of(cls, data: bytes, *, modality: str, mime_type: str | None = None) -> BlobPart:
        """Build the part from raw bytes."""
        return cls(modality, to_base64(data), mime_type)


class UriPart(_Part, frozen=True, tag="uri", gc=False):
    """Media by address; never a `data:` URL, whose content belongs into a `BlobPart`."""

    modality: str
    uri: str
    mime_type: str | None = None


class FilePart(_Part, frozen=True, tag="file", gc=False):
    """Media by the id that a provider gave to an uploaded file."""

    modality: str
    file_id: str
    mime_type: str | None = None


class GenericPart(msgspec.Struct, frozen=True):
    """A part of a type that the conventions don't name: `data` stands beside `type` on the wire."""

    type: str
    data: Mapping[str, Any] = {}


Part: TypeAlias = (
    TextPart | ReasoningPart | ToolCallPart | ToolCallResponsePart | BlobPart | UriPart | FilePart | GenericPart
)


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of a conversation: who says it, and its parts in order.

    Example:
        Message.user("Where is my parcel?")
        Message.assistant("Let me look.", tool_calls=[ToolCallPart("track", id="call_1", arguments={"id": 7})])
        Message.tool_result("call_1", {"city": "Osaka"})
    """

    role: str
    parts: tuple[Part, ...] | list[Part]
    name: str | None = None
    finish_reason: str | None = None
    """Why the model stopped, in an output message. The conventions have this for older readers: record
    `finish_reasons` of the call."""

    @classmethod
    def user(cls, text: str, *, name: str | None = None) -> Message:
        """A user's message of plain text."""
        return cls("user", (TextPart(text),), name)

    @classmethod
    def system(cls, text: str, *, name: str | None = None) -> Message:
        """A system message inside the chat history."""
        return cls("system", (TextPart(text),), name)

    @classmethod
    def assistant(
        cls, text: str | None = None, *, tool_calls: Iterable[ToolCallPart] = (), name: str | None = None
    ) -> Message:
        """The model's message: text, tool calls, or the text followed by the calls."""
        spoken = () if text is None else (TextPart(text),)
        return cls("assistant", (*spoken, *tool_calls), name)

    @classmethod
    def tool_result(cls, call_id: str | None, response: Any, *, name: str | None = None) -> Message:
        """What the tool returned for the call `call_id`, as any JSON value."""
        return cls("tool", (ToolCallResponsePart(response, call_id),), name)


class Dumps(Protocol):
    """An object of a provider's client, as pydantic makes them: its dump is the dict of the API."""

    def model_dump(self) -> dict[str, Any]:
        """The object as a dict."""
        ...


class Usage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Token counts as the provider bills them; None is "not reported", 0 is a count.

    `input_tokens` includes cached and every modality's tokens, `output_tokens` includes reasoning;
    the others are subsets of these two (GenAI conventions, inference span).
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    reasoning_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_write_tokens: int | None = None
    text_input_tokens: int | None = None
    image_input_tokens: int | None = None
    audio_input_tokens: int | None = None
    text_output_tokens: int | None = None
    image_output_tokens: int | None = None
    audio_output_tokens: int | None = None
    text_cache_read_tokens: int | None = None
    image_cache_read_tokens: int | None = None
    audio_cache_read_tokens: int | None = None


class ToolDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool that the model may call; `parameters` is a JSON Schema object."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] | None = None
    type: str = "function"


NAMED_PARTS: Final = (TextPart, ReasoningPart, ToolCallPart, ToolCallResponsePart, BlobPart, UriPart, FilePart)
MEDIA_MODALITIES: Final = frozenset({"image", "video", "audio"})


def modality_of(mime_type: str | None) -> str:
    """The modality that a MIME type tells, `document` for what is none of the three media."""
    kind = (mime_type or "").partition("/")[0]
    return kind if kind in MEDIA_MODALITIES else "document"
