"""The part of the worker that keeps spans on disk: when to write, what to send next, what to delete."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future
from contextlib import suppress

import anyio

from ._buffer import Batch, Buffer
from ._config import ExportConfig
from ._disk import Disk, outcome
from ._spool import Load, Segment, Spool
from ._trouble import Troubles

__all__ = ["Store"]

# A span is safe after this; waiting a little makes one file of many spans.
_STOW_DELAY = 0.05
# A disk that fails is left alone for so long, and spans stay in memory meanwhile.
_REPAIR_DELAY = 10.0
# A directory opens, and a file goes, in milliseconds; if not (a mount that hangs), nobody waits for it any longer.
_PATIENCE = 1.0
# The same for a file that is written or read, which a disk that is busy may put off. It is less than the end of a
# set-up takes unless told otherwise: there is time left to send the spans from memory.
_LONG_PATIENCE = 3.0


class Store:
    """Joins a spool with the books of a buffer; used by the worker only."""

    def __init__(self, config: ExportConfig, spool: Spool, buffer: Buffer, troubles: Troubles) -> None:
        self._config = config
        self._spool = spool
        self._buffer = buffer
        self._troubles = troubles
        self._disk = Disk()
        self._broken_until = 0.0
        self._opening: Future[list[Segment]] | None = None
        self.is_opening = True
        """Whether it is not known yet what others left on disk."""
        self._is_late = False
        self.is_busy = False

    @property
    def is_awaited(self) -> bool:
        """Whether what others left on disk will be known soon; spans are kept for the disk until then."""
        return self.is_opening and not (self._is_late and self._disk.is_busy)

    @property
    def is_stuck(self) -> bool:
        """Whether the disk does not answer: what is there cannot be sent for now."""
        return (self.is_opening and not self.is_awaited) or self._disk.is_stuck(_LONG_PATIENCE)

    async def lose_patience(self) -> None:
        """Wait for the directory as long as is bearable; spans are sent from memory if it does not answer."""
        await anyio.sleep(_PATIENCE)
        self._is_late = True

    def is_usable(self, now: float) -> bool:
        """Whether spans go to disk now; while the disk fails, or does not answer, they are sent from memory."""
        return now >= self._broken_until and not self.is_stuck

    def stow_due(self, now: float, wanted: float) -> float:
        """When the spans in the queue are to be written; infinity without any, or while some are being written.

        Somebody waits for the spans up to the number `wanted`, here and below.
        """
        oldest = self._buffer.oldest()
        if oldest is None or self.is_busy or self.is_opening or not self.is_usable(now):
            return math.inf
        if self._buffer.is_full() or self._buffer.head <= wanted:
            return now
        return oldest + min(_STOW_DELAY, self._config.schedule_delay)

    def send_due(self, now: float, wanted: float) -> float:
        """When the next spans on disk are to be sent."""
        spool, config = self._spool, self._config
        if (segment := spool.next) is None:
            return math.inf
        if self.is_stuck:
            return now + _REPAIR_DELAY
        is_full = spool.waiting_spans >= config.max_batch_spans or spool.waiting_bytes >= config.max_batch_bytes
        if is_full or segment.first <= wanted or segment.attempts:
            return now
        return segment.since + config.schedule_delay

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits on disk, nothing is being written and it is known what others left there."""
        return self._spool.next is None and not self.is_busy and not self.is_opening

    async def open(self, patience: float = math.inf) -> None:
        """Take our place in the directory, with what dead processes left there.

        What somebody has begun who does not wait any more, the next one finishes.
        """
        if self._opening is None:
            if self._spool.is_open:
                return
            self._opening = self._disk.begin(self._spool.open)
        opening = self._opening
        try:
            await outcome(opening, patience)
        except (OSError, ValueError) as exc:
            self._break(exc)
        finally:
            if self._opening is opening and opening.done():
                self._opening, self.is_opening = None, False
                for segment in () if opening.exception() else opening.result():
                    self._spool.add(segment)
                    self._buffer.adopt(segment)

    async def stow(self, batch: Batch) -> None:
        """Write a batch; if the disk fails it goes back to the queue and is sent from memory."""
        try:
            await self.open(_PATIENCE)
            if self._spool.size_bytes + batch.size_bytes > self._config.max_spool_bytes:
                self._buffer.settle(batch, {"spool_full": len(batch.spans)})
            elif self._spool.is_open:
                await self._write(batch)
            else:
                self._buffer.put_back(batch)
        except (OSError, ValueError) as exc:
            self._buffer.put_back(batch)
            self._break(exc)
        finally:
            self.is_busy = False

    async def _write(self, batch: Batch) -> None:
        writing = self._disk.begin(self._spool.write, batch.spans, len(batch.spans))
        try:
            segment = await outcome(writing, _LONG_PATIENCE)
        except BaseException:
            # The spans go another way, and the file away once it is there.
            if not writing.cancel():
                writing.add_done_callback(self._unwanted)
            raise
        if self._buffer.stow(batch, segment):
            self._spool.add(segment)
        else:
            self._unwanted(writing)

    def _unwanted(self, writing: Future[Segment]) -> None:
        if writing.exception() is None:
            self._disk.begin(self._spool.unlink, [writing.result()])

    def next_load(self) -> Load | None:
        """The spans on disk to send next."""
        return self._spool.lift(self._config.max_batch_spans, self._config.max_batch_bytes)

    async def read(self, load: Load) -> Batch | None:
        """The spans of a load, in flight; None if none can be read, or all of them are too old."""
        if load.since < time.monotonic() - self._config.max_spool_age:
            self._buffer.drop_spooled("spool_expired", load.left)
            await self._delete(load)
            return None
        try:
            spans = await outcome(self._disk.begin(self._spool.read, load), _LONG_PATIENCE)
        except (OSError, ValueError) as exc:
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
        self.is_busy = False

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
            await outcome(self._disk.begin(self._spool.unlink, load.segments), _PATIENCE)
        except (OSError, ValueError) as exc:
            self._break(exc)

    def _break(self, exc: Exception) -> None:
        self._broken_until = time.monotonic() + _REPAIR_DELAY
        cause = (isinstance(exc, OSError) and exc.strerror) or type(exc).__name__
        self._troubles.report("spool", f"the spool cannot be used, spans stay in memory: {cause}")
