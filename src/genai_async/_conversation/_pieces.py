"""What is kept of texts that come in pieces: a bounded part of each, however many pieces there are."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ._cutting import shrink
from ._encoding import as_dict, encoded_within
from ._texts import Head

_TEXTS: Final = 8
_MANY: Final = 500
_MAX_PIECES: Final = 1_000  # calls, blocks and items: there are more only in what is no reply


class Room:
    """How much of one reply may be kept: of each text what an attribute can hold, of all some times as much.

    Each has its own, so that long thoughts leave room for the answer, and one choice for the next.

    Args:
        each: How many characters a text may have; 0 where no content is recorded.
    """

    __slots__ = ("each", "left", "missed")

    def __init__(self, each: int) -> None:
        self.each: int = each
        self.left: int = each * _TEXTS
        self.missed: str | None = None
        """What could not be kept or read, if there was anything; it says no more than of which kind."""

    def has_place(self, count: int) -> bool:
        """Whether there may be one more beside so many."""
        if count >= _MAX_PIECES:
            self.missed = "there are more pieces than a reply has"
        return count < _MAX_PIECES and self.each > 0

    def hold(self, value: object) -> dict[str, Any] | None:
        """What came in one piece, as a dict of its own; the texts of a large one are cut. None for what is no dict."""
        found = as_dict(value)
        if found is None:
            return None
        most = min(self.each, self.left)
        try:
            encoded = encoded_within(found, most)
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
            encoded = None  # what is not quite JSON becomes so when it is cut
        cut = shrink(found, most, is_message=False) if encoded is None else None
        self.left -= len(encoded or cut or b"")
        if encoded is not None:
            return {**found}
        held: dict[str, Any] = {} if cut is None else msgspec.json.decode(cut)
        if "type" in held:
            return held
        self.missed = "there is more than an attribute has room for"
        return None


class Text:
    """One text, and of one that is too long its beginning, with a marker that says how long it was."""

    __slots__ = ("_joined", "_kept", "_pieces", "_room", "_size")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._kept = 0
        self._size = 0
        self._joined: list[str] = []
        self._pieces: list[str] = []

    def add(self, piece: object) -> None:
        """Add a piece; what is no text says nothing."""
        if not isinstance(piece, str):
            return
        room, size = self._room, len(piece)
        self._size += size
        if size > room.left or size > room.each - self._kept:
            size = min(room.left, room.each - self._kept)
            piece = piece[:size]
        if not size:
            return
        room.left -= size
        self._kept += size
        self._pieces.append(piece)
        if len(self._pieces) == _MANY:
            # Of a few letters each they take many times what is in them.
            self._joined.append("".join(self._pieces))
            self._pieces.clear()

    def drop(self) -> None:
        """Keep nothing of it: it has come as a whole."""
        self._room.left += self._kept

    def whole(self) -> str:
        """The text so far."""
        text = "".join([*self._joined, *self._pieces])
        if self._kept == self._size:
            return text
        head = Head(text)
        head.note = f"…[{self._size} characters, truncated]"
        return head
