"""Texts within bounds: cut to their beginning with a marker, replaced by a redactor, valid as UTF-8."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

MAX_CONTENT_BYTES: Final = 2 * 1024 * 1024
# What a redactor is shown beyond the part of a text that is kept, so that no secret is cut before it is found.
OVERLAP: Final = 16 * 1024
TEXT_BYTES: Final = 40
"""What a text takes at most when it is cut to its marker."""
FAILED: Final = "[content dropped: the redactor failed]"
LONGEST_KEY: Final = 1024
_LONG_NUMBER: Final = 10**8  # a phone's, a card's or a person's number; shorter ones are counts and keys
_WORD_ASKED: Final = "x"

Replace: TypeAlias = Callable[[str, str | None], str]
"""Replaces a text, which in a mapping stands under a name."""


class Head(str):
    """The beginning of a text that is too long to be looked at as a whole; `note` is the marker that tells so."""

    note: str = ""


def head_of(text: str, length: int) -> Head:
    """The first characters of a text."""
    head = Head(utf8(text[:length]))
    head.note = length_note(text)
    return head


def length_note(text: str) -> str:
    """The marker of a text that is cut."""
    if isinstance(text, Head):
        return text.note
    if text.isascii():
        return f"…[{len(text)} bytes, truncated]"
    # Counting the bytes of any other text means encoding it.
    if len(text) <= MAX_CONTENT_BYTES:
        return f"…[{len(utf8(text).encode())} bytes, truncated]"
    return f"…[{len(text)} characters, truncated]"


def shorten(text: str, limit_bytes: int) -> str:
    """The text within `limit_bytes` of UTF-8, with a marker that says how much is missing."""
    if type(text) is not Head:
        if len(text) * 4 <= limit_bytes:
            return text
        if len(text) <= limit_bytes and len(utf8(text).encode()) <= limit_bytes:
            return text
    marker = length_note(text)
    room = max(limit_bytes - len(marker.encode()), 0)
    return utf8(text[:room]).encode()[:room].decode("utf-8", "ignore") + marker


def utf8(text: str) -> str:
    """The text as UTF-8 can say it: a lone surrogate becomes U+FFFD."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def changed(text: str, on_text: Replace | None, limit: int, name: str | None = None) -> str:
    """The text as it may be kept: at most `limit` characters of it, and never half of what `on_text` would replace."""
    if len(text) > limit and type(text) is not Head:
        text = head_of(text, limit + OVERLAP)
    if on_text is None:
        return text if isinstance(text, Head) else utf8(text)
    if not isinstance(text, Head):
        return on_text(text, name)
    found = Head(on_text(str(text), name)[:-OVERLAP])
    found.note = text.note
    return found


def changed_number(value: float, on_text: Replace | None) -> float | str:
    """The number, or what is kept of one that may say who somebody is: a text, if `on_text` makes another of it."""
    if on_text is None or -_LONG_NUMBER < value < _LONG_NUMBER:
        return value
    if isinstance(value, float) and not value.is_integer():  # which infinity and NaN are not either
        return value
    digits = digits_of(int(value))
    found = on_text(digits, None)
    return value if found == digits else found


def digits_of(value: int) -> str:
    """An integer as text; of one that is too long only how long it is."""
    # Python refuses, or takes minutes, to write an integer of a million digits; a member of an enumeration is its name.
    return str(int(value)) if value.bit_length() < 10_000 else f"[integer of {value.bit_length()} bits, truncated]"


def hidden(value: Any, on_text: Replace, name: str) -> str | None:
    """What stands for a number or a structure whose name has its texts replaced; None if it may be looked into."""
    if value is None or isinstance(value, str | bool):
        return None
    found = on_text(_WORD_ASKED, name)
    return None if found == _WORD_ASKED else found


def name_of(key: str | bytes) -> str:
    """A key as a redactor is told it: its end, where it is very long."""
    end = key[-LONGEST_KEY:]
    return end.decode("latin-1") if isinstance(end, bytes) else utf8(str.__str__(end))


def to_base64(data: bytes | bytearray) -> str:
    """Media as a text."""
    from base64 import b64encode  # most programs never record any, and it would be a tenth of what they load

    return b64encode(data).decode("ascii")


def from_base64(coded: str | bytes) -> bytes:
    """What a text in base64 says.

    Raises:
        ValueError: It says nothing.
    """
    from base64 import b64decode

    return b64decode(coded)
