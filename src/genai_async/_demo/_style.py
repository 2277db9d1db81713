"""Colours for people at a terminal; plain text for pipes, and for who asks for it (https://no-color.org)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TextIO

from .._env import text

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}


@dataclass(frozen=True, slots=True)
class Style:
    """Paints words, or leaves them as they are."""

    coloured: bool

    @classmethod
    def of(cls, stream: TextIO) -> Style:
        """What this stream can show."""
        return cls(stream.isatty() and text("NO_COLOR") is None and text("TERM") != "dumb")

    def paint(self, words: str, colour: str) -> str:
        """The words in one of the colours; widths must be set before, for escapes take none."""
        return f"\x1b[{_CODES[colour]}m{words}\x1b[0m" if self.coloured and words else words
