"""What waits for delivery, as bytes, and the books that say where every ended span is.

Each span that is queued gets the next sequence number. Numbers leave the queue in order, so a batch
is a range of them and "is this span settled?" needs no memory per span.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import TYPE_CHECKING

import msgspec

from ._encode import Group

if TYPE_CHECKING:
    from ._spool import Load, Segment

__all__ = ["ENTRY_BYTES", "Batch", "Books", "Buffer"]

ENTRY_BYTES = 128
"""What a waiting span takes beside its bytes: a bytes header, a tuple and a slot in the queue."""

_PATIENCE = 4


class Batch(msgspec.Struct, eq=False):
    """Consecutive spans that travel together; `attempts` counts the requests that failed.

    Spans that were read from disk (`load`) have no sequence numbers here, their segments have them.
    """

    first: int
    last: int
    spans: list[tuple[Group, bytes]]
    since: float
    attempts: int = 0
    load: Load | None = None
    size_bytes: int = 0
    """The bytes of the spans and of each of their groups, without what joins them; summed up where it is not known."""

    def __post_init__(self) -> None:
        if not self.size_bytes:
            groups = {group for group, _ in self.spans}
            self.size_bytes = sum(map(_group_bytes, groups)) + sum(len(data) for _, data in self.spans)

    @property
    def memory_bytes(self) -> int:
        """What the batch takes of `max_queue_bytes`."""
        return self.size_bytes + ENTRY_BYTES * len(self.spans)

    def part(self, start: int, spans: list[tuple[Group, bytes]]) -> Batch:
        """These of its spans, the first of which is number `start`, as a batch of their own."""
        first = self.first + start
        first, last = (first, first + len(spans) - 1) if self.load is None else (self.first, self.last)
        return Batch(first, last, spans, self.since, self.attempts, self.load)

    @property
    def rank(self) -> tuple[int, int]:
        """Oldest first; but a batch that keeps failing lets the others pass now and then, lest it stop them all."""
        return self.attempts // _PATIENCE, self.first


class Books(msgspec.Struct):
    """Totals since the exporter was made."""

    ended: int = 0
    delivered: int = 0
    dropped: Counter[str] = msgspec.field(default_factory=Counter[str])
    spooled: int = 0
    in_flight: int = 0
    queued: int = 0
    memory_bytes: int = 0


class Buffer:
    """A queue bounded in bytes, the batches taken from it, and the books over both; any thread may call.

    A finalizer that the garbage collector runs while the lock is held may end a span and so call `add` within
    another call of the same thread. The lock is re-entrant, and no call leaves the books half written at a point
    where objects are made, so such a span simply comes next.
    """

    def __init__(
        self, max_bytes: int, full_spans: int, full_bytes: int, clock: Callable[[], float], position: int = 0
    ) -> None:
        self._max_bytes = max_bytes
        self._full_spans = full_spans
        self._full_bytes = full_bytes
        self._clock = clock
        self._lock = threading.RLock()
        self._queue: deque[tuple[Group, bytes]] = deque()
        self._queue_bytes = 0
        self._tail: Group | None = None
        """The group of the newest span in the queue."""
        # How often each group begins in the queue anew: its bytes count once, however many scopes take turns.
        self._runs: dict[Group, int] = {}
        self.position = position
        """The number of the newest span that was queued; 0 before the first, or what a parent process had come to."""
        # Times are noted once per so many spans: (sequence number, clock), the first one at or before the head.
        self._marks: deque[tuple[int, float]] = deque()
        self._returned: list[Batch] = []
        self._flying: dict[Batch, None] = {}
        # Until they are delivered or given up, waiting or not: ours, whose numbers ascend, and those of dead processes.
        self._segments: list[Segment] = []
        self._inherited: dict[Segment, None] = {}
        self._segments_spans = 0
        self._books = Books()
        self._untold: Counter[str] = Counter()

    @property
    def head(self) -> int:
        """The number of the oldest span that was never sent, or one more than the newest if there is none."""
        return self.position - len(self._queue) + 1

    def add(self, group: Group, data: bytes) -> bool:
        """Queue one span or drop it; True when the worker should look, which is once per full batch or idle time."""
        item = group, data
        size = len(data)
        books, marks = self._books, self._marks
        with self._lock:
            waiting = len(self._queue)
            if not marks or self.position + 1 - marks[-1][0] >= self._full_spans:
                marks.append((self.position + 1, self._clock()))
            # Spans that follow each other mostly share a group, and to look it up costs: runs are counted, not spans.
            runs = 0
            if group is not self._tail:
                runs = self._runs.get(group, 0) + 1
                if runs == 1:
                    size += len(group[0]) + len(group[1])
            if books.memory_bytes + size + ENTRY_BYTES > self._max_bytes:
                if not self._queue:
                    marks.clear()
                return self.drop("queue_full")
            before = self._queue_bytes
            # A signal's handler may raise after each call: so there is one, after all that must go with it.
            if runs:
                self._runs[group] = runs
            self._tail = group
            self.position += 1
            self._queue_bytes = before + size
            books.memory_bytes += size + ENTRY_BYTES
            books.queued += 1
            books.ended += 1
            self._queue.append(item)
        return not waiting or waiting + 1 == self._full_spans or before < self._full_bytes <= before + size

    def drop(self, reason: str, count: int = 1) -> bool:
        """Count spans that ended and were never queued; True when the worker should look."""
        with self._lock:
            # Given up before it has ended: where this is interrupted, as by too deep a recursion, nothing is half done.
            self._give_up(reason, count)
            self._books.ended += count
            return self._untold[reason] == count

    def is_full(self) -> bool:
        """Whether the queue holds a whole batch."""
        return len(self._queue) >= self._full_spans or self._queue_bytes >= self._full_bytes

    def oldest(self) -> float | None:
        """About when the oldest span in the queue was added, or None when it is empty."""
        with self._lock:
            return self._head_time() if self._queue else None

    def has_returned(self) -> bool:
        """Whether a batch waits to be sent once more."""
        return bool(self._returned)

    def take(self, *, fresh: bool) -> Batch | None:
        """The next batch, now in flight: one that came back, or, if `fresh`, spans that were never sent."""
        with self._lock:
            fresh = fresh and bool(self._queue)
            if self._returned and not (fresh and self._returned[0].rank[0]):
                batch = self._returned.pop(0)
            elif fresh:
                batch = self._cut()
            else:
                return None
            return self._launch(batch)

    def has_unstowed(self) -> bool:
        """Whether a batch waits to be sent once more that is not on disk."""
        with self._lock:
            return any(batch.load is None for batch in self._returned)

    def take_unstowed(self) -> Batch | None:
        """Spans that are not on disk, now in flight to it: a batch that came back, or some that were never sent."""
        with self._lock:
            for batch in self._returned:
                if batch.load is None:
                    self._returned.remove(batch)
                    return self._launch(batch)
            return self._launch(self._cut()) if self._queue else None

    def stow(self, batch: Batch, segment: Segment) -> bool:
        """A batch in flight is on disk now, and takes no memory; False if it was given up meanwhile."""
        with self._lock:
            if not self._land(batch):
                return False
            segment.first, segment.last, segment.attempts = batch.first, batch.last, batch.attempts
            self._hold(segment)
            self._books.memory_bytes -= batch.memory_bytes
            self._books.spooled += len(batch.spans)
            return True

    def lift(self, load: Load, spans: list[tuple[Group, bytes]]) -> Batch:
        """Spans that were on disk are in flight; those that could not be read again are given up.

        There may be more than were counted: somebody wrote them into our file, and they are ours now.
        """
        with self._lock:
            if (more := len(spans) - load.left) > 0:
                self._books.ended += more
                self._books.spooled += more
                load.left = len(spans)
            batch = Batch(0, -1, spans, self._clock(), load.attempts, load)
            self._flying[batch] = None
            self._books.memory_bytes += batch.memory_bytes
            self._books.in_flight += len(spans)
            self._books.spooled -= len(spans)
            if lost := load.left - len(spans):
                self.drop_spooled("spool_corrupt", lost)
                load.left = len(spans)
            return batch

    def adopt(self, segment: Segment) -> None:
        """What a dead process left on disk is ours now; its spans have the number 0, before all of ours."""
        with self._lock:
            self._hold(segment)
            self._books.ended += segment.count
            self._books.spooled += segment.count

    def release(self, load: Load) -> None:
        """All spans of these segments are delivered or given up."""
        with self._lock:
            for segment in load.segments:
                if self._let_go(segment):
                    self._segments_spans -= segment.count

    def drop_spooled(self, reason: str, count: int) -> None:
        """Give up spans that are on disk."""
        with self._lock:
            self._books.spooled -= count
            self._give_up(reason, count)

    def settle(self, batch: Batch, dropped: Mapping[str, int] | None = None) -> None:
        """A batch in flight is done: its spans are delivered, save those dropped."""
        with self._lock:
            if self._land(batch):
                lost = sum((dropped or {}).values())
                self._books.delivered += len(batch.spans) - lost
                self._books.memory_bytes -= batch.memory_bytes
                for reason, count in (dropped or {}).items():
                    self._give_up(reason, count)

    def put_back(self, batch: Batch, *parts: Batch) -> None:
        """A batch in flight waits again, whole or as the given parts of it."""
        with self._lock:
            if self._land(batch):
                self._books.memory_bytes -= batch.memory_bytes
                for part in parts or (batch,):
                    if part.load is not None and not part.load.is_split:
                        self._books.spooled += len(part.spans)
                        continue
                    insort(self._returned, part, key=_rank)
                    self._books.memory_bytes += part.memory_bytes
                    self._books.queued += len(part.spans)

    def put_all_back(self) -> None:
        """Everything in flight waits again: whoever was sending is gone, and what it sent may have arrived."""
        with self._lock:
            for batch in list(self._flying):
                batch.attempts += 1
                self.put_back(batch)

    def drop_all(self, reason: str) -> int:
        """Give up everything that waits or flies, and say how many spans that was."""
        with self._lock:
            self.put_all_back()
            stowed = sum(len(batch.spans) for batch in self._returned if batch.load is not None)
            self._books.spooled += stowed
            count = self._books.queued - stowed
            self._queue.clear()
            self._marks.clear()
            self._returned.clear()
            self._runs.clear()
            self._tail = None
            self._queue_bytes = self._books.memory_bytes = self._books.queued = 0
            if count:
                self._give_up(reason, count)
            return count

    def unsettled(self, first: int, last: int) -> int:
        """How many spans with `first < number <= last` still wait or fly and are not on disk."""
        with self._lock:
            ranges = [(batch.first, batch.last) for batch in (*self._returned, *self._flying)]
            ranges.append((self.head, self.position))
        return sum(max(0, min(last, high) - max(first + 1, low) + 1) for low, high in ranges)

    def has_stowed(self, first: int, last: int) -> bool:
        """Whether a span with `first < number <= last` is on disk and neither delivered nor given up."""
        with self._lock:
            if first < 0 and self._inherited:
                return True
            index = bisect_right(self._segments, last, key=_first)
            return index > 0 and self._segments[index - 1].last > first

    def stowed(self, last: int) -> int:
        """How many spans up to this number are on disk, and in segments that are not wholly delivered or given up."""
        with self._lock:
            newer = 0
            for segment in reversed(self._segments):
                if segment.last <= last:
                    break
                newer += segment.last - max(last, segment.first - 1)
            return self._segments_spans - newer

    def books(self) -> Books:
        """The books as they are now, all at one instant."""
        with self._lock:
            now = self._books
            return Books(
                now.ended,
                now.delivered,
                Counter(now.dropped),
                now.spooled,
                now.in_flight,
                now.queued,
                now.memory_bytes,
            )

    def waiting_since(self) -> float | None:
        """About when the oldest span of all that wait or fly was added."""
        with self._lock:
            times = [batch.since for batch in (*self._returned, *self._flying)]
            if self._queue:
                times.append(self._head_time())
        return min(times, default=None)

    def untold(self) -> Mapping[str, int]:
        """Drops by reason since the last call, for whoever reports them."""
        with self._lock:
            told, self._untold = self._untold, Counter()
            return told

    def _hold(self, segment: Segment) -> None:
        if segment.is_inherited:
            self._inherited[segment] = None
        else:
            insort(self._segments, segment, key=_first)
        self._segments_spans += segment.count

    def _let_go(self, segment: Segment) -> bool:
        """Whether the segment was still held."""
        if segment.is_inherited:
            return self._inherited.pop(segment, segment) is None
        index = bisect_left(self._segments, segment.first, key=_first)
        is_held = index < len(self._segments) and self._segments[index] is segment
        if is_held:
            del self._segments[index]
        return is_held

    def _launch(self, batch: Batch) -> Batch:
        self._flying[batch] = None
        self._books.queued -= len(batch.spans)
        self._books.in_flight += len(batch.spans)
        return batch

    def _give_up(self, reason: str, count: int) -> None:
        self._books.dropped[reason] += count
        self._untold[reason] += count

    def _land(self, batch: Batch) -> bool:
        """Whether the batch was still in flight; it may have been given up meanwhile."""
        if batch not in self._flying:
            return False
        del self._flying[batch]
        self._books.in_flight -= len(batch.spans)
        return True

    def _head_time(self) -> float:
        head = self.head
        while len(self._marks) > 1 and self._marks[1][0] <= head:
            self._marks.popleft()
        return self._marks[0][1]

    def _cut(self) -> Batch:
        """Take spans from the head of the queue up to the size of a batch, one at least."""
        first, since = self.head, self._head_time()
        queue = self._queue
        spans = [queue.popleft()]
        latest, data = spans[0]
        groups = {latest}
        size = _group_bytes(latest) + len(data)
        released = 0
        while queue and len(spans) < self._full_spans:
            group, data = queue[0]
            larger = size + len(data) + (0 if group is latest or group in groups else _group_bytes(group))
            if larger > self._full_bytes:
                break
            if group is not latest:
                released += self._end_run(latest)
                groups.add(group)
            size, latest = larger, group
            spans.append(queue.popleft())
        if not queue:
            self._marks.clear()
            self._tail = None
        if not queue or queue[0][0] is not latest:
            released += self._end_run(latest)
        # A group may be in the batch and stay in the queue: then it takes its bytes twice.
        shared = sum(map(_group_bytes, groups)) - released
        self._queue_bytes -= size - shared
        self._books.memory_bytes += shared
        return Batch(first, first + len(spans) - 1, spans, since, size_bytes=size)

    def _end_run(self, group: Group) -> int:
        """The last span of a run leaves the queue; returns how many bytes its group has taken until now."""
        self._runs[group] -= 1
        if self._runs[group]:
            return 0
        del self._runs[group]
        return _group_bytes(group)


_first = attrgetter("first")


def _group_bytes(group: Group) -> int:
    return len(group[0]) + len(group[1])


def _rank(batch: Batch) -> tuple[int, int]:
    return batch.rank
