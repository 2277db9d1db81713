"""The part of the worker that keeps spans on disk: when to write, what to send next, what to delete."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future
from contextlib import suppress

import anyio

from ._buffer import Batch, Buffer
from ._config import ExportConfig
from ._disk import Disk
from ._spool import Load, Segment, Spool, Waiting, disk_bytes
from ._trouble import Troubles, cause

__all__ = ["Store"]

# A span is safe after this; waiting a little makes one file of many spans.
_STOW_DELAY = 0.05
# What dead processes left is taken over for so long at a time: what else the disk has to do comes in between.
_STEP = 0.05
# A disk that fails is left alone for so long, and spans stay in memory meanwhile.
_REPAIR_DELAY = 10.0
# A directory opens, and a file goes, in milliseconds; if not (a mount that hangs), nobody waits for it any longer.
_PATIENCE = 1.0
# The same for a file that is written or read, which a disk that is busy may put off. It is less than the end of a
# set-up takes unless told otherwise: there is time left to send the spans from memory.
_LONG_PATIENCE = 3.0

_FAILURES = (OSError, ValueError, MemoryError)


class Store:
    """Joins a spool with the books of a buffer; used by the worker only."""

    def __init__(self, config: ExportConfig, spool: Spool, buffer: Buffer, troubles: Troubles) -> None:
        self._config = config
        self._spool = spool
        self._buffer = buffer
        self._troubles = troubles
        self._disk = Disk()
        self._broken_until = 0.0
        self._opening: Future[None] | None = None
        self._is_opening = True
        self._is_late = False
        self._step: Future[tuple[list[Segment], bool]] | None = None
        self._full_bytes = math.inf
        self._was_ours = False
        self._has_looked = False
        self.is_known = False
        """Whether all that dead processes left is ours, or cannot be had."""
        self.is_taking = False
        """Whether some of that is being made ours."""
        self.is_busy = False
        """Whether spans are being written."""

    @property
    def is_awaited(self) -> bool:
        """Whether it is worth waiting for what dead processes left to be known."""
        return not self.is_known and not self.is_stuck

    @property
    def is_looking(self) -> bool:
        """Whether it is about to be known if dead processes have left anything."""
        return self.is_awaited and not self._has_looked

    @property
    def is_stuck(self) -> bool:
        """Whether the disk does not answer: what is there cannot be sent for now."""
        return (self._is_opening and self._is_late and self._disk.is_busy) or self._disk.is_stuck(_LONG_PATIENCE)

    @property
    def is_full(self) -> bool:
        """Whether a batch did not fit, and nothing has gone from the disk since."""
        return self._spool.size_bytes >= self._full_bytes

    async def lose_patience(self) -> None:
        """Wait for the directory as long as is bearable; spans are sent from memory if it does not answer."""
        await anyio.sleep(_PATIENCE)
        self._is_late = True

    def hurry(self) -> None:
        """The end is near: try a disk again that has failed lately."""
        self._broken_until = 0.0

    def is_usable(self, now: float) -> bool:
        """Whether spans go to disk now; while the disk fails, or does not answer, they are sent from memory."""
        return now >= self._broken_until and not self.is_stuck

    def stow_due(self, now: float, wanted: float) -> float:
        """When spans that are in memory only are to be written; infinity if none are, or while some are being written.

        Somebody waits for the spans up to the number `wanted`, here and below.
        """
        if self.is_busy or self._is_opening or self.is_stuck:
            return math.inf
        due, oldest = math.inf, self._buffer.oldest()
        if oldest is not None:
            is_urgent = self._buffer.is_full() or self._buffer.head <= wanted
            due = now if is_urgent else oldest + min(_STOW_DELAY, self._config.schedule_delay)
        return max(now if self._buffer.has_unstowed() else due, self._broken_until)

    def take_due(self, now: float) -> float:
        """When more of what dead processes left is to be taken over: not before there is room."""
        spool = self._spool
        if self.is_known or self.is_taking or not spool.is_open or spool.size_bytes >= self._config.max_spool_bytes:
            return math.inf
        return now + _REPAIR_DELAY if self.is_stuck else max(now, self._broken_until)

    def send_due(self, now: float, wanted: float) -> float:
        """When the next spans on disk are to be sent."""
        if self.is_stuck:
            return math.inf if self._spool.is_empty else now + _REPAIR_DELAY
        return min(self._due(waiting, now, wanted) for waiting in (self._spool.ours, self._spool.inherited))

    def _due(self, waiting: Waiting, now: float, wanted: float) -> float:
        config, segment = self._config, waiting.next
        if segment is None:
            return math.inf
        is_full = waiting.spans >= config.max_batch_spans or waiting.size_bytes >= config.max_batch_bytes
        if is_full or segment.first <= wanted or segment.attempts:
            return now
        return segment.since + config.schedule_delay

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits on disk, nothing is being written and it is known what others left there."""
        return self._spool.is_empty and not self.is_busy and not self.is_awaited

    async def open(self, patience: float = math.inf) -> None:
        """Take our place in the directory.

        What somebody has begun who does not wait any more, the next one finishes.
        """
        if self._opening is None:
            if self._spool.is_open:
                return
            self._opening = self._disk.begin(self._spool.open)
        opening = self._opening
        try:
            await self._disk.outcome(opening, patience)
        except _FAILURES as exc:
            self._break(exc)
        finally:
            if self._opening is opening and opening.done():
                self._opening, self._is_opening = None, False
                self.is_known = self._has_looked = opening.exception() is not None

    def begin_taking(self) -> None:
        """Have the disk make some of what dead processes left ours, before anything that is begun later."""
        self.is_taking = True
        if self._step is None:
            self._step = self._disk.begin(self._spool.take_over, _STEP)

    async def take_over(self) -> None:
        """Take what has come of that, also where it was begun by somebody who does not wait any more."""
        if (step := self._step) is None:
            return
        try:
            await self._disk.outcome(step, _LONG_PATIENCE)
        except _FAILURES as exc:
            self._break(exc)
        finally:
            self.is_taking = False
            if self._step is step and step.done():
                self._step, self._has_looked = None, True
                taken, self.is_known = ([], True) if step.exception() else step.result()
                for segment in taken:
                    self._spool.add(segment)
                    self._buffer.adopt(segment)

    async def stow(self, batch: Batch, *, is_refused: bool) -> None:
        """Write a batch; if the disk fails it goes back to the queue and is sent from memory.

        So it does where there is no room, unless the collector takes nothing either (`is_refused`).
        """
        try:
            await self.open(_PATIENCE)
            if not self._spool.is_open:
                self._buffer.put_back(batch)
            elif self._spool.size_bytes + disk_bytes(batch.size_bytes) <= self._config.max_spool_bytes:
                await self._write(batch)
            elif is_refused:
                self._buffer.settle(batch, {"spool_full": len(batch.spans)})
            else:
                self._full_bytes = self._spool.size_bytes
                self._buffer.put_back(batch)
        except _FAILURES as exc:
            self._buffer.put_back(batch)
            self._break(exc)
        finally:
            self.is_busy = False

    async def _write(self, batch: Batch) -> None:
        writing = self._disk.begin(self._spool.write, batch.spans, len(batch.spans))
        try:
            segment = await self._disk.outcome(writing, _LONG_PATIENCE)
        except BaseException:
            # The spans go another way, and the file away once it is there.
            if not writing.cancel():
                writing.add_done_callback(self._unwanted)
            raise
        self._full_bytes = math.inf
        if self._buffer.stow(batch, segment):
            self._spool.add(segment)
        else:
            self._unwanted(writing)

    def _unwanted(self, writing: Future[Segment]) -> None:
        if writing.exception() is None:
            self._disk.begin(self._spool.unlink, [writing.result()])

    def next_load(self, now: float, wanted: float) -> Load | None:
        """The spans on disk to send now: ours and those of dead processes by turns, so that neither waits for long."""
        spool, config = self._spool, self._config
        for waiting in (spool.inherited, spool.ours) if self._was_ours else (spool.ours, spool.inherited):
            if self._due(waiting, now, wanted) <= now:
                self._was_ours = waiting is spool.ours
                return spool.lift(waiting, config.max_batch_spans, config.max_batch_bytes)
        return None

    async def read(self, load: Load) -> Batch | None:
        """The spans of a load, in flight; None if none can be read, or all of them are too old."""
        if load.since < time.monotonic() - self._config.max_spool_age:
            self._buffer.drop_spooled("spool_expired", load.left)
            await self._delete(load)
            return None
        try:
            spans = await self._disk.outcome(self._disk.begin(self._spool.read, load), _LONG_PATIENCE)
        except _FAILURES as exc:
            self._break(exc)
            self._spool.give_back(load)
            return None
        batch = self._buffer.lift(load, spans)
        if batch.spans:
            return batch
        self._buffer.settle(batch)
        await self._delete(load)
        return None

    def returned(self, load: Load) -> None:
        """A load could not be delivered now."""
        self._spool.give_back(load)

    async def settled(self, load: Load, count: int) -> None:
        """So many spans of a load are delivered or given up."""
        load.left -= count
        if load.left <= 0:
            await self._delete(load)

    def take_back(self) -> None:
        """Nobody delivers loads nor writes any more; whoever did may have been stopped anywhere."""
        self._spool.give_all_back()
        self.is_busy = self.is_taking = False

    def close(self) -> None:
        """Leave what is on disk to the next process."""
        self._disk.end(self._spool.close)

    def forget(self) -> None:
        """In a forked child: all of it is the parent's."""
        with suppress(OSError, ValueError):
            self._spool.forget()

    async def _delete(self, load: Load) -> None:
        if not self._spool.discard(load):
            return  # it was taken back meanwhile, and is somebody else's to deliver
        self._buffer.release(load)
        try:
            # The spans have arrived; but whoever waits for them may kill the process then, and they would come twice.
            await self._disk.outcome(self._disk.begin(self._spool.unlink, load.segments), _PATIENCE)
        except _FAILURES as exc:
            self._break(exc)

    def _break(self, exc: Exception) -> None:
        self._broken_until = time.monotonic() + _REPAIR_DELAY
        self._troubles.report("spool", f"the spool cannot be used, spans stay in memory: {cause(exc)}")
