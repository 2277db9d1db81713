"""The part of the worker that keeps spans on disk: when to write, what to send next, what to delete."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import anyio

from ._buffer import Batch, Buffer
from ._config import ExportConfig
from ._spool import Load, Segment, Spool
from ._trouble import Troubles

__all__ = ["OffLoop", "Store"]

_T = TypeVar("_T")

# A span is safe after this; waiting a little makes one file of many spans.
_STOW_DELAY = 0.05
# A disk that fails is left alone for so long, and spans stay in memory meanwhile.
_REPAIR_DELAY = 10.0
# A directory opens in milliseconds; one that does not (a mount that hangs) is not waited for any longer.
_OPEN_PATIENCE = 1.0


class OffLoop(Protocol):
    """Calls a blocking function where it holds nobody up."""

    async def __call__(self, func: Callable[..., _T], *args: Any) -> _T: ...


class Store:
    """Joins a spool with the books of a buffer; used by the worker only."""

    def __init__(self, config: ExportConfig, spool: Spool, buffer: Buffer, troubles: Troubles) -> None:
        self._config = config
        self._spool = spool
        self._buffer = buffer
        self._troubles = troubles
        self._broken_until = 0.0
        self._is_opening = True
        self._is_late = False
        self.is_busy = False

    @property
    def is_awaited(self) -> bool:
        """Whether what others left on disk will be known soon; spans are kept for the disk until then."""
        return self._is_opening and not self._is_late

    async def lose_patience(self) -> None:
        """Wait for the directory as long as is bearable; spans are sent from memory if it does not answer."""
        await anyio.sleep(_OPEN_PATIENCE)
        self._is_late = True

    def is_usable(self, now: float) -> bool:
        """Whether spans go to disk now; while the disk fails, or does not answer, they are sent from memory."""
        return now >= self._broken_until and not (self._is_opening and self._is_late)

    def stow_due(self, now: float, wanted: float) -> float:
        """When the spans in the queue are to be written; infinity without any, or while some are being written.

        Somebody waits for the spans up to the number `wanted`, here and below.
        """
        oldest = self._buffer.oldest()
        if oldest is None or self.is_busy or self._is_opening or not self.is_usable(now):
            return math.inf
        if self._buffer.is_full() or self._buffer.head <= wanted:
            return now
        return oldest + min(_STOW_DELAY, self._config.schedule_delay)

    def send_due(self, now: float, wanted: float) -> float:
        """When the next spans on disk are to be sent."""
        spool, config = self._spool, self._config
        if (segment := spool.next) is None:
            return math.inf
        is_full = spool.waiting_spans >= config.max_batch_spans or spool.waiting_bytes >= config.max_batch_bytes
        if is_full or segment.first <= wanted or segment.attempts:
            return now
        return segment.since + config.schedule_delay

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits on disk, nothing is being written and it is known what others left there."""
        return self._spool.next is None and not self.is_busy and not self._is_opening

    async def open(self, off_loop: OffLoop) -> None:
        """Take our place in the directory, with what dead processes left there."""
        if self._spool.is_open:
            return
        try:
            found = await off_loop(self._spool.open)
        except (OSError, ValueError) as exc:
            self._break(exc)
            return
        finally:
            self._is_opening = False
        for segment in found:
            self._spool.add(segment)
            self._buffer.adopt(segment)

    async def stow(self, batch: Batch, off_loop: OffLoop) -> None:
        """Write a batch; if the disk fails it goes back to the queue and is sent from memory."""
        waiting = [batch]
        try:
            await self.open(off_loop)
            if self._spool.size_bytes + batch.size_bytes > self._config.max_spool_bytes:
                self._buffer.settle(batch, {"spool_full": len(batch.spans)})
            elif self._spool.is_open:
                segment = await off_loop(self._write, waiting)
                self._buffer.stow(batch, segment)
                self._spool.add(segment)
            else:
                self._buffer.put_back(batch)
        except (OSError, ValueError) as exc:
            self._buffer.put_back(batch)
            self._break(exc)
        finally:
            waiting.clear()
            self.is_busy = False

    def _write(self, waiting: list[Batch]) -> Segment:
        """Write the batch; where nobody waits for that any more, its spans go another way, and the file away."""
        (batch,) = waiting
        segment = self._spool.write(batch.spans, len(batch.spans))
        if not waiting:
            self._spool.unlink(Load([segment], segment.count))
        return segment

    def next_load(self) -> Load | None:
        """The spans on disk to send next."""
        return self._spool.lift(self._config.max_batch_spans, self._config.max_batch_bytes)

    async def read(self, load: Load, off_loop: OffLoop) -> Batch | None:
        """The spans of a load, in flight; None if none can be read, or all of them are too old."""
        if load.since < time.monotonic() - self._config.max_spool_age:
            self._buffer.drop_spooled("spool_expired", load.left)
            await self._delete(load, off_loop)
            return None
        batch = self._buffer.lift(load, await off_loop(self._spool.read, load))
        if batch.spans:
            return batch
        self._buffer.settle(batch)
        await self._delete(load, off_loop)
        return None

    def returned(self, load: Load) -> None:
        """A load could not be delivered now."""
        self._spool.give_back(load)

    async def settled(self, load: Load, count: int, off_loop: OffLoop) -> None:
        """So many spans of a load are delivered or given up."""
        load.left -= count
        if load.left <= 0:
            await self._delete(load, off_loop)

    def take_back(self) -> None:
        """Nobody delivers loads nor writes any more; whoever did may have been stopped anywhere."""
        self._spool.give_all_back()
        self.is_busy = False

    def close(self) -> None:
        """Leave what is on disk to the next process."""
        with suppress(OSError, ValueError):
            self._spool.close()

    def forget(self) -> None:
        """In a forked child: all of it is the parent's."""
        with suppress(OSError, ValueError):
            self._spool.forget()

    async def _delete(self, load: Load, off_loop: OffLoop) -> None:
        if not self._spool.discard(load):
            return  # it was taken back meanwhile, and is somebody else's to deliver
        self._buffer.release(load)
        try:
            await off_loop(self._spool.unlink, load)
        except (OSError, ValueError) as exc:
            self._break(exc)

    def _break(self, exc: Exception) -> None:
        self._broken_until = time.monotonic() + _REPAIR_DELAY
        self._troubles.report("spool", f"the spool cannot be used, spans stay in memory: {type(exc).__name__}")
