"""Spans on disk until they are delivered, in the file format of OpenTelemetry: a TracesData in JSON per line.

A process writes segments `<owner>-<number>.jsonl` and holds a lock on `<owner>.lock` while it lives. Whoever gets
the lock of another owner knows that it is dead and renames its segments to his own, some at a time; as a rename
succeeds for one only, no segment has two owners. Nothing is synced to the platter: what is written outlives the
process, not a failing machine. Files of other names are left alone.
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

from .._errors import GenAIAsyncError
from ._body import body
from ._encode import Group
from ._line import look

try:
    import fcntl
except ImportError:  # Windows: nobody can be told dead there, so what a process left waits for a directory's last user
    fcntl = None  # type: ignore[assignment]

__all__ = ["Load", "Segment", "Spool", "Waiting", "disk_bytes"]

# Others may write here, too: a link leads elsewhere, and opening a FIFO waits for whoever writes into it.
_CAREFULLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

_OURS = re.compile(r"[0-9a-f]{16}(-[0-9]{10}\.(jsonl|part)|\.lock)")

_BLOCK_BYTES = 4096
_PATIENCE = 4
# So many files are read, or deleted, at once at most, lest the next ones to be written wait for long.
_MAX_FILES = 100


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


class NoLocksError(GenAIAsyncError, OSError):
    """The file system knows no locks, so nobody could tell whether a process is dead."""


class Waiting:
    """Segments that wait to be sent, in this order, and how much is in them."""

    __slots__ = ("_segments", "size_bytes", "spans")

    def __init__(self) -> None:
        self._segments: deque[Segment] = deque()
        self.spans = 0
        self.size_bytes = 0

    @property
    def next(self) -> Segment | None:
        """The segment that waits to be sent before all others."""
        return self._segments[0] if self._segments else None

    def add(self, segments: Iterable[Segment], *, first: bool = False) -> None:
        """These wait, too, after all others or before them."""
        segments = list(segments)
        if first:
            self._segments.extendleft(reversed(segments))
        else:
            self._segments.extend(segments)
        self.spans += sum(segment.count for segment in segments)
        self.size_bytes += sum(segment.size_bytes for segment in segments)

    def take(self) -> Segment:
        """The next one, which waits no more."""
        segment = self._segments.popleft()
        self.spans -= segment.count
        self.size_bytes -= segment.size_bytes
        return segment


class Spool:
    """The segments of one process in a directory: `ours`, and the `inherited` ones of dead processes.

    The latter travel apart: what is in them may be refused, and costs nobody else then.
    `open`, `take_over`, `write`, `read`, `unlink` and `close` touch the disk: they block and raise OSError, and change
    nothing that the others use, so they may run in another thread. The others belong to the loop that sends.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._owner = ""
        self._lock = -1
        self._numbers = itertools.count(1)
        self._found: Iterator[Segment | None] = iter(())
        self._out: dict[Load, None] = {}
        self.ours = Waiting()
        self.inherited = Waiting()
        self.size_bytes = 0
        """What the segments take of the disk."""

    def open(self) -> None:
        """Make the directory usable and take our place in it."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._own()
        self._found = self._find()

    def take_over(self, seconds: float) -> tuple[list[Segment], bool]:
        """Make some of what dead processes left ours, for about so long.

        Returns:
            The segments, to be added, and whether those were all.
        """
        stop = time.monotonic() + seconds
        taken: list[Segment] = []
        try:
            for segment in self._found:
                if segment is not None:
                    taken.append(segment)
                if time.monotonic() >= stop:
                    return taken, False
        except OSError:
            if not taken:  # what has been taken is ours whatever becomes of the rest
                raise
        return taken, True

    @property
    def is_open(self) -> bool:
        """Whether this process has its place in the directory."""
        return self._lock >= 0

    @property
    def is_empty(self) -> bool:
        """Whether no segment waits to be sent."""
        return self.ours.next is self.inherited.next is None

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

    def lift(self, waiting: Waiting, max_spans: int, max_bytes: int) -> Load:
        """The next segments of some that wait, as many as fit into one request and one at least."""
        taken = [waiting.take()]
        spans, size = taken[0].count, taken[0].size_bytes
        while (segment := waiting.next) is not None and len(taken) < _MAX_FILES:
            spans, size = spans + segment.count, size + segment.size_bytes
            if spans > max_spans or size > max_bytes:
                break
            taken.append(waiting.take())
        load = Load(taken, sum(segment.count for segment in taken))
        self._out[load] = None
        return load

    def give_all_back(self) -> None:
        """Every segment that nobody is delivering any more waits again."""
        for load in list(self._out):
            if not load.is_split:
                self.give_back(load)

    def give_back(self, load: Load) -> None:
        """The segments wait again after a request that failed or may have; only once.

        They do so before all others, save now and then, as they may be what makes requests fail.
        """
        if load not in self._out:
            return
        del self._out[load]
        for segment in load.segments:
            segment.attempts += 1
        self._line_of(load.segments[0]).add(load.segments, first=load.attempts % _PATIENCE > 0)

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
        self.size_bytes -= sum(disk_bytes(segment.size_bytes) for segment in load.segments)
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
            raise NoLocksError(f"no locks can be had: {exc.strerror}") from exc
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

    def _find(self) -> Iterator[Segment | None]:
        """What dead processes left, made ours when it is asked for; None where that was a step without a result."""
        names: list[str] = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if _OURS.fullmatch(entry.name):
                    names.append(entry.name)
                yield None
        are_dead = {self._owner: False}
        while names:
            name = names.pop()
            owner = name[:16]
            if owner not in are_dead:
                are_dead[owner] = self._is_dead(owner)
            yield self._inherit(name) if are_dead[owner] else None

    def _is_dead(self, owner: str) -> bool:
        """Whether nobody holds the lock; if so its file goes, and the segments are anyone's to rename."""
        path = self._lock_path(owner)
        if fcntl is None:
            return not path.exists()
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

    def _inherit(self, name: str) -> Segment | None:
        path = self._directory / name
        if path.suffix == ".part":  # its spans were never accepted
            with suppress(OSError):
                path.unlink(missing_ok=True)
        return self._rename(path) if path.suffix == ".jsonl" else None

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
        except (OSError, MemoryError):  # it stays where it is, for another process
            pass
        return None

    def add(self, segment: Segment) -> None:
        """A segment is on disk and waits."""
        self.size_bytes += disk_bytes(segment.size_bytes)
        self._line_of(segment).add([segment])

    def _line_of(self, segment: Segment) -> Waiting:
        return self.inherited if segment.is_inherited else self.ours

    def _next_path(self) -> Path:
        return self._directory / f"{self._owner}-{next(self._numbers):010}.jsonl"


def disk_bytes(size_bytes: int) -> int:
    """What a file of this size takes of the disk: whole blocks, which counts where files are small."""
    return -(-size_bytes // _BLOCK_BYTES) * _BLOCK_BYTES


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
