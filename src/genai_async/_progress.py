"""A progress bar on one line of a terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TextIO

_WIDTH = 32


@dataclass(slots=True)
class Progress:
    """Counts up to `total` in a bar; draws nothing where nobody watches (a pipe, a file)."""

    total: int
    what: str
    stream: TextIO = field(default_factory=lambda: sys.stderr)
    done: int = 0

    def __enter__(self) -> Progress:
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._write("\r\x1b[K")

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self.done += count
        self._draw()

    def _draw(self) -> None:
        filled = _WIDTH * self.done // max(1, self.total)
        self._write(f"\r{'━' * filled}{'─' * (_WIDTH - filled)} {self.done}/{self.total} {self.what}")

    def _write(self, text: str) -> None:
        if self.stream.isatty():
            self.stream.write(text)
            self.stream.flush()
