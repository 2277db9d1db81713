"""The agents' tools: real work over the files of one folder, bounded however big it is."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

_MAX_FILES = 300
_MAX_FILES_A_CALL = 20
_MAX_FILE_BYTES = 32 << 10
_SKIPPED = {".git", ".hg", ".nox", ".tox", ".venv", "__pycache__", "build", "dist", "node_modules", "venv"}


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder's files, as paths relative to `root`; every tool returns plain JSON values."""

    root: Path
    files: tuple[str, ...]

    @classmethod
    def survey(cls, root: Path) -> Folder:
        """The first few hundred files under `root`, without hidden, installed and built ones."""
        return cls(root, tuple(sorted(islice(_walk(root), _MAX_FILES))))

    def list_files(self, suffix: str = "") -> list[str]:
        """The files whose names end so."""
        return [file for file in self.files if file.endswith(suffix)][:_MAX_FILES_A_CALL]

    def grep(self, pattern: str, suffix: str = "") -> list[dict[str, Any]]:
        """The lines that match a regular expression, ten at most."""
        found = re.compile(pattern, re.IGNORECASE)
        hits = (
            {"file": file, "line": number, "text": line.strip()[:80]}
            for file in self.list_files(suffix)
            for number, line in enumerate(self.read(file).splitlines(), 1)
            if found.search(line)
        )
        return list(islice(hits, 10))

    def read(self, file: str) -> str:
        """The beginning of a file.

        Raises:
            FileNotFoundError: there is no such file in this folder.
        """
        path = (self.root / file).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise FileNotFoundError(f"{file} is outside the folder")
        with path.open("rb") as stream:
            return stream.read(_MAX_FILE_BYTES).decode(errors="replace")

    def count(self, file: str) -> dict[str, int]:
        """How many lines, words and characters a file has."""
        text = self.read(file)
        return {"lines": text.count("\n"), "words": len(text.split()), "characters": len(text)}

    def query(self, sql: str) -> list[list[Any]]:
        """The rows that SQL selects from the table `files(path, suffix, bytes)`, twenty at most.

        Raises:
            sqlite3.OperationalError: SQLite does not understand it.
        """
        database = sqlite3.connect(":memory:")
        try:
            database.execute("CREATE TABLE files (path TEXT, suffix TEXT, bytes INTEGER)")
            database.executemany("INSERT INTO files VALUES (?, ?, ?)", map(self._row, self.files))
            return [list(row) for row in database.execute(sql).fetchmany(20)]
        finally:
            database.close()

    def _row(self, file: str) -> tuple[str, str, int]:
        path = self.root / file
        try:
            return file, path.suffix, path.stat().st_size
        except OSError:  # gone since the survey
            return file, path.suffix, 0


def _walk(root: Path) -> Iterator[str]:
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(filter(_is_wanted, folders))
        for name in sorted(filter(_is_wanted, names)):
            path = Path(folder, name)
            if _is_readable(path):
                yield path.relative_to(root).as_posix()


def _is_readable(path: Path) -> bool:
    try:
        if not path.is_file() or path.is_symlink():
            return False
        with path.open("rb"):
            return True
    except OSError:  # not ours to read, or in a folder that may be listed and not entered
        return False


def _is_wanted(name: str) -> bool:
    # A name that is no text in the file system's encoding has parts that neither a terminal nor SQLite takes.
    return name not in _SKIPPED and not name.startswith(".") and name.isprintable()
