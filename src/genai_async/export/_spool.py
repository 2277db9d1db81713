"""Spans on disk until they are delivered, in the file format of OpenTelemetry: a TracesData in JSON per line.

A process writes segments `<owner>-<number>.jsonl` and holds a lock on `<owner>.lock` while it lives. Whoever gets
the lock of another owner knows that it is dead and renames its segments to his own; as a rename succeeds for one
only, no segment has two owners. Nothing is synced to the platter: what is written outlives the process, not a
failing machine. Files of other names are left alone.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import secrets
import stat
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ._body import body
from ._encode import Group
from ._line import look

try:
    import fcntl
except ImportError:  # Windows: nobody can be told dead there, so what a process left waits for a directory's last user
    fcntl = None  # type: ignore[assignment]

__all__ = ["Load", "Segment", "Spool"]

# Others may write here, too: a link leads elsewhere, and opening a FIFO waits for whoever writes into it.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_SEGMENT = re.compile(r"([0-9a-f]{16})-([0-9]{10})\.jsonl")
_UNFINISHED = re.compile(r"([0-9a-f]{16})-([0-9]{10})\.part")
_OURS = re.compile(r"([0-9a-f]{16})(-[0-9]{10}\.(jsonl|part)|\.lock)")


@dataclass(slots=True, eq=False)
class Segment:
    """One file: so many spans, on disk since then by the monotonic clock, as the other one may be set.

    `first` and `last` are their sequence numbers; those of another process have 0.
    """

    path: Path
    count: int
    size_bytes: int
    since: float
    attempts: int = 0
    is_inherited: bool = False
    first: int = 0
    last: int = 0


@dataclass(slots=True, eq=False)
class Load:
    """Segments that are being delivered together, and how many of their spans are not settled yet."""

    segments: list[Segment]
    left: int
    is_split: bool = False

    @property
    def first(self) -> int:
        """The least of their sequence numbers."""
        return min(segment.first for segment in self.segments)

    @property
    def last(self) -> int:
        """The greatest of their sequence numbers."""
        return max(segment.last for segment in self.segments)

    @property
    def since(self) -> float:
        """When the newest of them was written."""
        return max(segment.since for segment in self.segments)

    @property
    def attempts(self) -> int:
        """Requests for these spans that failed."""
        return max(segment.attempts for segment in self.segments)


class Spool:
    """The segments of one process in a directory.

    `open`, `write`, `read`, `unlink` and `close` touch the disk: they block and raise OSError, and change nothing here,
    so they may run in another thread. The others belong to the loop that sends.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._owner = ""
        self._lock = -1
        self._numbers = itertools.count(1)
        self._waiting: deque[Segment] = deque()
        self._out: dict[Load, None] = {}
        self.size_bytes = 0
        self.waiting_bytes = 0
        self.waiting_spans = 0

    def open(self) -> list[Segment]:
        """Make the directory usable and take over what dead processes left, to be added."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own()
        return self._take_over()

    @property
    def is_open(self) -> bool:
        """Whether this process has its place in the directory."""
        return self._lock >= 0

    @property
    def next(self) -> Segment | None:
        """The segment that waits to be sent before all others."""
        return self._waiting[0] if self._waiting else None

    def write(self, spans: Iterable[tuple[Group, bytes]], count: int) -> Segment:
        """Put spans on disk, all of them, or an error and none; the segment is to be added."""
        self._hold()
        final = self._next_path()
        unfinished = final.with_suffix(".part")
        line = body(spans) + b"\n"
        try:
            with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(line)
            path = unfinished.rename(final)
        except OSError:
            unfinished.unlink(missing_ok=True)
            raise
        return Segment(path, count, len(line), time.monotonic())

    def lift(self, max_spans: int, max_bytes: int) -> Load | None:
        """The next segments, as many as fit into one request and one at least.

        Those of other processes travel apart from ours: what is in them may be refused, and costs nobody else then.
        """
        taken: list[Segment] = []
        spans = size = 0
        while self._waiting:
            segment = self._waiting[0]
            spans, size = spans + segment.count, size + segment.size_bytes
            is_full = spans > max_spans or size > max_bytes
            if taken and (is_full or segment.is_inherited != taken[0].is_inherited):
                break
            taken.append(self._waiting.popleft())
            self._count(segment, -1)
        return self._load(taken)

    def _load(self, segments: list[Segment]) -> Load | None:
        if not segments:
            return None
        load = Load(segments, sum(segment.count for segment in segments))
        self._out[load] = None
        return load

    def give_all_back(self) -> None:
        """Every segment that nobody is delivering any more waits again."""
        for load in list(self._out):
            if not load.is_split:
                self.give_back(load)

    def give_back(self, load: Load) -> None:
        """The segments wait again, before all others, after a request that failed or may have; only once."""
        if load not in self._out:
            return
        del self._out[load]
        self._waiting.extendleft(reversed(load.segments))
        for segment in load.segments:
            segment.attempts += 1
            self._count(segment, 1)

    def read(self, load: Load) -> list[tuple[Group, bytes]]:
        """The spans of a load; lines that are torn or no traces yield none."""
        self._hold()
        found: list[tuple[Group, bytes]] = []
        for segment in load.segments:
            try:
                found += _spans(segment.path, is_ours=not segment.is_inherited)
            except OSError:  # somebody deleted it
                continue
        return found

    def discard(self, load: Load) -> bool:
        """The segments are delivered or given up; False where they wait again."""
        if load not in self._out:
            return False
        del self._out[load]
        self.size_bytes -= sum(segment.size_bytes for segment in load.segments)
        return True

    def unlink(self, segments: Iterable[Segment]) -> None:
        """Delete the files of discarded segments."""
        for segment in segments:
            segment.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave the directory: what is still in it is for the next process."""
        if self._lock >= 0:
            if not self.size_bytes:
                self._lock_path(self._owner).unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = -1

    def forget(self) -> None:
        """In a forked child: the segments are the parent's, and so is its lock."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _own(self) -> None:
        """Take a place of our own; another process may tidy up the lock file before it is locked."""
        while self._lock < 0:
            self._owner = secrets.token_hex(8)
            self._lock = self._claim()

    def _claim(self) -> int:
        """Our lock file, made and locked, or -1 if another process was faster."""
        path = self._lock_path(self._owner)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            if _lock(fd) and path.exists():
                return fd
        except OSError as exc:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise OSError(exc.errno, f"no locks can be had: {exc.strerror}") from exc
        os.close(fd)
        return -1

    def _hold(self) -> None:
        """Keep our lock file young, as what is old is tidied away; make it again if it was, lest we pass for dead."""
        if not self.is_open:
            raise OSError(errno.EBADF, "closed")
        with suppress(OSError):
            try:
                os.utime(self._lock_path(self._owner))
            except FileNotFoundError:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if (fd := self._claim()) >= 0:
                    os.close(self._lock)
                    self._lock = fd

    def _lock_path(self, owner: str) -> Path:
        return self._directory / f"{owner}.lock"

    def _take_over(self) -> list[Segment]:
        names: dict[str, list[str]] = {}
        for name in sorted(entry.name for entry in self._directory.iterdir()):
            if match := _OURS.fullmatch(name):
                names.setdefault(match[1], []).append(name)
        taken: list[Segment] = []
        for owner, files in names.items():
            if owner != self._owner and (f"{owner}.lock" not in files or self._is_dead(owner)):
                with suppress(OSError):  # what was taken before stays so
                    taken += self._inherit(files)
        return taken

    def _is_dead(self, owner: str) -> bool:
        """Whether nobody holds the lock; if so its file goes, and the segments are anyone's to rename."""
        if fcntl is None:
            return False
        path = self._lock_path(owner)
        try:
            fd = os.open(path, os.O_RDWR | _CAREFULLY)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        try:
            if not _lock(fd):
                return False
            path.unlink(missing_ok=True)
            return True
        except OSError:
            return False
        finally:
            os.close(fd)

    def _inherit(self, names: Iterable[str]) -> Iterator[Segment]:
        for name in names:
            path = self._directory / name
            if _UNFINISHED.fullmatch(name):  # its spans were never accepted
                path.unlink(missing_ok=True)
            elif _SEGMENT.fullmatch(name) and (segment := self._rename(path)) is not None:
                yield segment

    def _rename(self, path: Path) -> Segment | None:
        """Make a segment ours; None if another process was faster, or if there is no span in it."""
        try:
            if not stat.S_ISREG(path.lstat().st_mode):
                return None
            mine = path.rename(self._next_path())
            status = mine.stat()
            count = len(_spans(mine, is_ours=False))
            if count:
                age = max(time.time() - status.st_mtime, 0)  # the clock may have been set back since
                return Segment(mine, count, status.st_size, time.monotonic() - age, is_inherited=True)
            mine.rename(mine.with_suffix(".bad"))
        except OSError:
            pass
        return None

    def add(self, segment: Segment) -> None:
        """A segment is on disk and waits."""
        self.size_bytes += segment.size_bytes
        self._waiting.append(segment)
        self._count(segment, 1)

    def _count(self, segment: Segment, sign: int) -> None:
        self.waiting_spans += sign * segment.count
        self.waiting_bytes += sign * segment.size_bytes

    def _next_path(self) -> Path:
        return self._directory / f"{self._owner}-{next(self._numbers):010}.jsonl"


def _lock(fd: int) -> bool:
    """Whether nobody else holds the lock; an OSError where there are no locks, as on some file systems of a network."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _careful(path: str, flags: int) -> int:
    return os.open(path, flags | _CAREFULLY)


def _spans(path: Path, *, is_ours: bool) -> list[tuple[Group, bytes]]:
    found: list[tuple[Group, bytes]] = []
    with open(path, "rb", opener=_careful) as file:  # pathlib's has no opener
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "no regular file")
        for line in file:
            try:
                found += [(group, span) for group, span in look(line, is_ours=is_ours) if span is not None]
            except (ValueError, RecursionError):  # torn or foreign
                continue
    return found
