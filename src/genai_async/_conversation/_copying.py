"""Copies of whatever callers hand over, by a walk that looks at a bounded number of values.

It runs on the caller's thread: how long it takes is not up to what somebody's tool returned.
"""

from __future__ import annotations

import codecs
import string
from collections.abc import Mapping
from typing import Any, Final, cast

import msgspec

from ._encoding import MAPPINGS, MAX_VALUES, Reader, encoded_within, encoder, readable
from ._messages import NAMED_PARTS, Message
from ._texts import (
    FAILED,
    LONGEST_KEY,
    MAX_CONTENT_BYTES,
    OVERLAP,
    TEXT_BYTES,
    Head,
    Replace,
    changed,
    changed_number,
    digits_of,
    from_base64,
    hidden,
    length_note,
    name_of,
    shorten,
    to_base64,
    utf8,
)

_CODED_OVERLAP: Final = OVERLAP * 6  # as much in base64, where a character has up to four bytes
_NUMBER_BYTES: Final = 8

# What the conventions' schemas ask for, and what below it is the caller's own again.
_SCHEMA_KEYS: Final = frozenset(
    {"role", "parts", "type", "content", "name", "id", "arguments", "response", "modality", "mime_type", "uri"}
    | {"file_id", "description", "parameters", "is_error", "finish_reason"}
)
_WORD_KEYS: Final = frozenset({"role", "type", "modality", "mime_type", "id", "finish_reason"})
_TYPE_KEYS: Final = frozenset({"type"})
_LABEL_KEYS: Final = ("name", "Name", "key", "Key")
_VALUE_KEYS: Final = frozenset({"value", "Value"})
_FREE_FORM: Final = frozenset({"arguments", "response", "parameters"})
_OWN_TYPES: Final = frozenset(
    {"text", "reasoning", "tool_call", "tool_call_response", "blob", "uri", "file", "function"}
)
_WORD_CHARACTERS: Final = string.ascii_letters + string.digits + "_./:+-"
_LONGEST_WORD: Final = 64
_LONGEST_GIVEN_WORD: Final = 256
_FROM_URL_SAFE: Final = bytes.maketrans(b"-_", b"+/")
_SPACES: Final = b" \t\n\r\v\f"
_OWN_STRUCTS: Final = (Message, *NAMED_PARTS)


class CutList(list[Any]):
    """A list whose first or last item is a marker; `total` is how many items there were."""

    total: int = 0


class CutDict(dict[str, Any]):
    """A mapping with a marker; `total` is how many items there were."""

    total: int = 0


class Copier:
    """Copies values into built-in ones that are the copy's own, as far as its budgets reach.

    A list or mapping has a marker where items of it are left out; long texts become a `Head`.

    Args:
        values: How many values it may look at.
        structure_bytes: How long the JSON of all but the texts may be; it can only be estimated.
        text_length: How many characters of a text are looked at.
        on_text: Replaces each text and long number, keys of mappings too, except for the words of the conventions.
        reads_names: Whether `on_text` is told the names of what stands in mappings.
        reader: What reads the objects in the value, if some of them were read before.
    """

    __slots__ = (
        "_hidden",
        "_keys",
        "_on_text",
        "_reader",
        "_reads_names",
        "_structure_bytes",
        "_text_length",
        "_values",
        "has_cut",
        "used_bytes",
    )

    def __init__(
        self,
        values: int = MAX_VALUES,
        structure_bytes: int = MAX_CONTENT_BYTES,
        text_length: int = MAX_CONTENT_BYTES,
        on_text: Replace | None = None,
        *,
        reads_names: bool = False,
        reader: Reader | None = None,
    ) -> None:
        self._values = values
        self._structure_bytes = structure_bytes
        self._text_length = text_length
        self._on_text = on_text
        self._reads_names = reads_names
        self._reader = reader
        # Keys come again in each row of a table.
        self._keys: dict[str, str] = {}
        self._hidden: dict[str, str | None] = {}
        self.used_bytes: int = 0
        self.has_cut: bool = False
        """Whether the copy has a `Head` in it."""

    def copy(self, value: Any, is_message: bool, *, is_outermost: bool = False, name: str | None = None) -> Any:
        """The copy; `is_message` as for the gate. Of the outermost list the last items stay, of others the first.

        What stands in a mapping is copied with its name, and so are the items of a list there.
        """
        self._values -= 1
        if isinstance(value, str):
            return self._text(value, name)
        if isinstance(value, dict):
            return self._mapping(cast("dict[Any, Any]", value), is_message)
        if isinstance(value, list | tuple):
            return self._list(cast("list[Any]", value), is_message, is_outermost, name)
        self.used_bytes += _NUMBER_BYTES
        if value is None:
            return None
        if isinstance(value, int | float):
            return self._number(value)
        return self._other(value, is_message, name)

    def _has_room(self) -> bool:
        return self._values > 0 and self.used_bytes < self._structure_bytes

    def _text(self, text: str, name: str | None = None) -> str:
        return self._counted(changed(text, self._on_text, self._text_length, name))

    def _number(self, value: float) -> float | str:
        if isinstance(value, int) and value.bit_length() > 63:
            return self._text(digits_of(value))
        found = changed_number(value, self._on_text)
        return self._counted(found) if isinstance(found, str) else found

    def _counted(self, found: str) -> str:
        if type(found) is Head:
            self.has_cut = True
        self.used_bytes += min(len(found), TEXT_BYTES) + 3
        return found

    def _mapping(self, value: Mapping[Any, Any], is_message: bool) -> dict[str, Any]:
        found: dict[str, Any] = {}
        self.used_bytes += 2
        if is_message:
            self._say(value, found)
            if len(found) == len(value):
                return found
        label = _label_of(value) if self._reads_names else None
        for key, item in value.items():
            if is_message and key in _SCHEMA_KEYS:
                continue
            if not self._has_room():
                return self._cut_dict(found, value)
            written = key if isinstance(key, str) else _written(key)
            name = key if isinstance(key, bytes) else written
            if label is not None and written in _VALUE_KEYS:
                name = label
            kept = self._key(written)
            found[kept if kept not in found else _numbered(kept, found)] = self._under(name, item)
        return found

    def _say(self, value: Mapping[Any, Any], found: dict[str, Any]) -> None:
        """Copy what the schemas know, whether there is room or not: without it the rest would not be valid."""
        kind = value.get("type", "text")
        is_own = isinstance(kind, str) and kind in _OWN_TYPES
        words = _WORD_KEYS if is_own else _TYPE_KEYS
        for key, item in value.items():
            if key not in _SCHEMA_KEYS:
                continue
            self.used_bytes += len(key) + 4
            said = self._said(item, value.get("mime_type")) if key == "content" and kind == "blob" else None
            if said is not None:
                found[key] = said
            elif key in words and isinstance(item, str) and len(item) <= _LONGEST_GIVEN_WORD:
                self.used_bytes += len(item)
                is_word = self._on_text is None or _is_word(item)
                found[key] = utf8(item) if is_word else changed(item, self._on_text, self._text_length)
            elif key == "parameters" and kind == "function":
                found[key] = self._schema(item)
            else:
                found[key] = self.copy(item, is_own and key not in _FREE_FORM)

    def _schema(self, value: Any) -> Any:
        # Names in a JSON Schema are those of what a tool takes, and what stands under them is no value.
        reads_names, self._reads_names = self._reads_names, False
        try:
            return self.copy(value, is_message=False)
        finally:
            self._reads_names = reads_names

    def _cut_dict(self, found: dict[str, Any], value: Mapping[Any, Any]) -> CutDict:
        self.used_bytes += TEXT_BYTES
        cut = CutDict(found)
        cut.total = value.total if isinstance(value, CutDict) else len(value)
        cut["truncated"] = f"[{cut.total} items, truncated]"
        return cut

    def _under(self, key: str | bytes, item: Any) -> Any:
        on_text = self._on_text
        if on_text is None or not self._reads_names:
            return self.copy(item, is_message=False)
        name = name_of(key)
        if item is None or isinstance(item, str | bool):
            return self.copy(item, is_message=False, name=name)
        if name not in self._hidden:
            self._hidden[name] = hidden(item, on_text, name)
        found = self._hidden[name]
        return self.copy(item, is_message=False, name=name) if found is None else self._counted(found)

    def _key(self, key: str) -> str:
        found = self._keys.get(key)
        if found is None:
            found = shorten(changed(key, self._on_text, LONGEST_KEY), LONGEST_KEY)
            if type(key) is str:
                self._keys[key] = found
        self.used_bytes += len(found) + 4
        return found

    def _list(
        self, items: list[Any] | tuple[Any, ...], is_message: bool, is_outermost: bool, name: str | None
    ) -> list[Any]:
        total = items.total if isinstance(items, CutList) else len(items)
        if isinstance(items, CutList):
            items = items[1:] if is_outermost else items[:-1]
        self.used_bytes += 2
        if self._reads_names and not is_message and len(items) == total == 2 and isinstance(items[0], str | bytes):
            # A name and a value, as servers have headers.
            return [self.copy(items[0], is_message, name=name), self._under(items[0], items[1])]
        found: list[Any] = []
        for item in reversed(items) if is_outermost else items:
            if not self._has_room():
                break
            self.used_bytes += 1
            found.append(self.copy(item, is_message, name=name))
        if len(found) < total:
            self.used_bytes += TEXT_BYTES
            found = CutList(found)
            found.total = total
            sample = (items[-1] if is_outermost else items[0]) if is_message and items else None
            found.append(note_like(sample, f"[{total} items, truncated]"))
        if is_outermost:
            found.reverse()
        return found

    def _other(self, value: Any, is_message: bool, name: str | None) -> Any:
        if isinstance(value, bytes | bytearray):
            return self._bytes(value, name)
        if isinstance(value, _OWN_STRUCTS):
            return self._mapping(_fields_of(value), is_message)
        if issubclass(type(value), MAPPINGS):
            return self._mapping(value, is_message)
        # Sets and data classes can only be taken as a whole, and of a model what it says.
        reader = self._reader = self._reader or Reader()
        if encoded_within(value, MAX_CONTENT_BYTES, reader=reader) is None:
            said = reader.said(value)
            return f"[{type(value).__name__}, truncated]" if said is None else self.copy(said, is_message, name=name)
        plain = msgspec.to_builtins(value, enc_hook=reader.read, str_keys=True, builtin_types=(bytes, bytearray))
        return self.copy(plain, is_message, name=name)

    def _said(self, media: object, mime_type: object) -> str | None:
        """Media that are text, in base64 again after a redactor has read them; None for any other."""
        if self._on_text is None or not isinstance(media, str):
            return None
        encoded, mark, rest = media.partition("…")
        note = mark + rest  # it was cut before it came here, or is too long to be read as a whole
        longest = self._text_length + _CODED_OVERLAP
        if len(encoded) > longest:
            encoded, note = encoded[:longest], note or length_note(media)
        text = _text_in(encoded, mime_type, is_whole=not note)
        if text is None:
            return None
        if note:
            text = Head(text)
            text.note = note
        found = changed(text, self._on_text, self._text_length)
        again = to_base64(found.encode())
        if not isinstance(found, Head):
            return self._counted(media if _is_same(again, encoded) else again)
        head = Head(again)
        head.note = found.note
        return self._counted(head)

    def _bytes(self, value: bytes | bytearray, name: str | None) -> str:
        """What bytes say, for a redactor to read: in base64 no secret could be found. Base64, as JSON has it, else."""
        is_whole = len(value) <= self._text_length
        head = value if is_whole else value[: self._text_length + OVERLAP]
        text = None if self._on_text is None else _decoded(head, "strict" if is_whole else "ignore")
        if text is None:
            text = to_base64(head)
        if not is_whole:
            text = Head(text)
            text.note = f"…[{len(value)} bytes, truncated]"
        return self._text(text, name)


def holdable(value: object) -> Any:
    """What an attribute can hold in place of a value that JSON could: built-in ones, and text for what is none."""
    try:
        return msgspec.to_builtins(value, enc_hook=readable, str_keys=True, builtin_types=(bytes,))
    except (TypeError, ValueError, OverflowError):
        return Copier().copy(value, is_message=False)  # such as a key that is no text


def note_like(item: Any, marker: str) -> object:
    """The marker in the shape of the items among which it stands: messages, parts and tools, or anything."""
    if isinstance(item, Message) or (isinstance(item, dict) and "parts" in item):
        return {"role": "system", "parts": [{"type": "text", "content": marker}]}
    if isinstance(item, msgspec.Struct) or (isinstance(item, dict) and "type" in item):
        return {"type": "text", "name": "truncated", "content": marker}
    return marker


def _numbered(key: str, found: Mapping[str, Any]) -> str:
    """A key that a redactor has made of another one, as well: each keeps what stands under it."""
    number = len(found) + 1
    while (numbered := f"{key} ({number})") in found:
        number += 1
    return numbered


def _label_of(value: Mapping[Any, Any]) -> str | None:
    """What a pair like `{"name": ..., "value": ...}` says that its value is, as environments and headers are listed."""
    if "value" not in value and "Value" not in value:
        return None
    labels = (value.get(key) for key in _LABEL_KEYS)
    return next((label for label in labels if isinstance(label, str)), None)


def _is_word(text: str) -> bool:
    return 0 < len(text) <= _LONGEST_WORD and not text.strip(_WORD_CHARACTERS)


def _is_textual(mime_type: str) -> bool:
    return mime_type.startswith("text/") or "json" in mime_type or "xml" in mime_type


def _text_in(encoded: str, mime_type: object, *, is_whole: bool) -> str | None:
    """The text that base64 says: of what is declared as text whatever can be read, of all else UTF-8 only."""
    is_declared = isinstance(mime_type, str) and _is_textual(mime_type.lower())
    try:
        quads = _standard(encoded)
        length = len(quads)
        # One character more says nothing, and the decoder does not mind padding that is not needed.
        quads = quads[: length - (length % 4 == 1)] + b"==" if is_whole else quads[: length // 4 * 4]
        data = from_base64(quads)
        return codecs.utf_8_decode(data, "replace" if is_declared else "strict", is_whole)[0]
    except ValueError:
        return FAILED if is_declared else None


def _standard(encoded: str) -> bytes:
    """Base64 of any kind in the standard alphabet and on one line."""
    return encoded.encode("ascii").translate(_FROM_URL_SAFE, _SPACES)


def _is_same(standard: str, encoded: str) -> bool:
    return encoded.isascii() and standard.rstrip("=").encode() == _standard(encoded).rstrip(b"=")


def _decoded(value: bytes | bytearray, errors: str) -> str | None:
    try:
        return value.decode("utf-8", errors)
    except UnicodeDecodeError:
        return None


def _fields_of(value: msgspec.Struct) -> dict[str, Any]:
    """A struct of ours as it stands on the wire: with its tag, without what has no value."""
    config = value.__struct_config__
    named = zip(value.__struct_fields__, msgspec.structs.astuple(value), strict=True)
    found = {name: item for name, item in named if item is not None or name == "response"}
    if config.tag_field is not None:
        found[config.tag_field] = config.tag
    return found


def _written(key: Any) -> str:
    """A key that is no text, as JSON has it."""
    (found,) = msgspec.json.decode(encoder.encode({key: None}))
    return cast(str, found)
