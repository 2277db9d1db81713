"""The coroutine that waits for batches and sends them.

There is one way back for what could not be sent: it returns to the queue, and the worker leaves the
collector alone for a while. So retries never hold spans apart from the accounting, data is kept for as
long as memory allows, and a collector that is down sees one request at a time, not one per batch.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from .._loop import Signal, is_cancellation
from ._buffer import Batch, Buffer
from ._config import ExportConfig
from ._pause import Pause
from ._reply import SendError, failure, verdict
from ._retry import Action, Verdict
from ._sender import Sender
from ._split import smaller
from ._stats import Drop
from ._suppress import sending_context, suppressed
from ._trouble import Troubles, printable
from ._watch import Watches

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ._spool import Load
    from ._store import Store

__all__ = ["Worker"]

# A thousand times as many may come out of an answer's compression, and so much takes about a millisecond.
_INLINE_REPLY_BYTES = 1024
# Of the time that an end may take, a tenth and so many seconds at most are for the disk to take what was not sent.
_SAVE_TIME = 0.25
# Reasons for drops that say why by themselves; and those that only follow from something else. Of all others it is
# told where they arise.
_CAUSES = {"spool_full", "spool_corrupt"}
_TOLD_HERE = {"queue_full", "shutdown", "closed", "spool_expired", *_CAUSES}


class Worker:
    """Takes batches from a buffer and sends them, several at once; lives as long as its exporter."""

    def __init__(self, config: ExportConfig, buffer: Buffer, troubles: Troubles, store: Store | None) -> None:
        self._config = config
        self._store = store
        self._buffer = buffer
        self.watches = Watches(self.is_over)
        self._has_left = False
        self._troubles = troubles
        self._clock = time.monotonic
        self.signal = Signal()
        self.close_at = math.inf
        self._save_at = math.inf
        self.is_closing = False
        self.is_telling = False
        """Whether drops are being reported; what ends meanwhile is looked at afterwards."""
        self.requests = 0
        self.retried = 0
        self._wanted = -1.0  # those of dead processes have the number 0
        self._open = 0
        self._pause = Pause(config.retry)

    def want(self, position: float) -> None:
        """Somebody waits for the spans up to this number: send at once, even if the collector failed lately."""
        self._wanted = max(self._wanted, position)
        self._pause.hurry()
        self.signal.set()

    def close(self, deadline: float) -> None:
        """Send what there is until `deadline` on the monotonic clock, then end."""
        if deadline < self.close_at:
            self.close_at = deadline
            self._save_at = deadline - min(max(deadline - self._clock(), 0) / 10, _SAVE_TIME)
        self.is_closing = True
        if self._store is not None:
            self._store.hurry()
        self.want(math.inf)

    def is_settled(self, first: int, last: int, since: float | None = None) -> bool:
        """Whether all spans with `first < number <= last` were delivered or dropped.

        With `since`, a time, disk is good enough for them if the collector has failed from then on, or the disk does
        not answer. Who also waits for what dead processes left has a `first` below 0.
        """
        store = self._store
        if self._buffer.unsettled(first, last):
            return False
        if store is None or not (self._buffer.has_stowed(first, last) or (first < 0 and store.is_awaited)):
            return True
        return since is not None and (store.is_stuck or self._pause.is_declined(since, self._clock()))

    def is_over(self, first: int, last: int, since: float | None) -> bool:
        """Whether there is nothing to wait for: these spans are settled, or nobody sends any more."""
        return self._has_left or self.is_settled(first, last, since)

    @property
    def is_opening(self) -> bool:
        """Whether it is not known yet what dead processes left on disk."""
        return self._store is not None and not self._store.is_known

    def take_back(self) -> None:
        """Nobody sends any more: all that was under way waits again, in memory and on disk."""
        self._buffer.put_all_back()
        if self._store is not None:
            self._store.take_back()

    async def run(self, *, is_alone: bool) -> None:
        """Send until closed; `is_alone` means that nobody else uses this loop, so work need not go to other threads.

        Cancellation ends it at once; what was in flight waits in the buffer again.
        """
        sender = Sender(self._config, is_alone=is_alone)
        self._open = 0
        try:
            await sender.off_loop(sending_context)
            with suppressed():
                async with anyio.create_task_group() as group:
                    group.start_soon(sender.warm)
                    await self._serve(group, sender)
                    group.cancel_scope.cancel()
        finally:
            self.take_back()
            with anyio.CancelScope(shield=True), suppress(Exception):
                await self._save()
                await sender.aclose()

    async def _serve(self, group: TaskGroup, sender: Sender) -> None:
        store = self._store
        if store is not None:
            # Beside the sending: a disk that hangs must not hold it up.
            group.start_soon(self._when_known, store.open)
            group.start_soon(self._when_known, store.lose_patience)
        while not self._is_done():
            self.signal.clear()
            self.tell_drops()
            now = self._clock()
            due = self._due(now)
            if due <= now and self._begin(group, sender, now):
                continue
            disk_due = math.inf if store is None else self._work_on_disk(group, store, now)
            if disk_due > now:
                with anyio.move_on_after(max(min(due, disk_due, self._end_at(now)) - now, 0)):
                    await self.signal.wait()

    def _work_on_disk(self, group: TaskGroup, store: Store, now: float) -> float:
        """Start to take over or to write what is due, and say when to look again."""
        take_due = store.take_due(now)
        if take_due <= now:
            store.begin_taking()
            group.start_soon(self._when_known, store.take_over)
            return now
        stow_due = store.stow_due(now, self._wanted) if self._has_room(now) else math.inf
        if stow_due <= now and (batch := self._buffer.take_unstowed()) is not None:
            store.is_busy = True
            group.start_soon(self._stow, batch, store, self._is_refused(now))
            return now
        return min(take_due, stow_due)

    async def _when_known(self, step: Callable[..., Awaitable[None]], *args: object) -> None:
        """Look again, and have others do so, once it is clearer what is on disk."""
        await step(*args)
        self.watches.tell()
        self.signal.set()

    def _begin(self, group: TaskGroup, sender: Sender, now: float) -> bool:
        """Start a request, if there is something to send."""
        batch = self._buffer.take(fresh=not self._stores(now) and self._fresh_due() <= now)
        store = self._store
        if batch is not None:
            group.start_soon(self._deliver, batch, sender)
        elif store is not None and (load := store.next_load(now, self._wanted)) is not None:
            group.start_soon(self._deliver_load, load, sender, store)
        else:
            return False
        self._open += 1
        return True

    async def _stow(self, batch: Batch, store: Store, is_refused: bool) -> None:
        try:
            await store.stow(batch, is_refused=is_refused)
        except BaseException as exc:
            await _pass_own(exc)
            self._buffer.put_back(batch)
        self._tell(batch)

    def _tell(self, done: Batch | Load) -> None:
        """Something has become of these spans: look again, and have those do so who wait for them."""
        self.watches.tell(done.first, done.last)
        if self._store is not None and self._store.is_stuck:
            self.watches.tell_patient()
        self.signal.set()

    def _stores(self, now: float) -> bool:
        return self._store is not None and self._store.is_usable(now) and self._has_room(now)

    def _has_room(self, now: float) -> bool:
        """Whether spans are written: those for which there is no room are sent while the collector takes them."""
        return self._store is not None and (not self._store.is_full or self._is_refused(now))

    def _is_refused(self, now: float) -> bool:
        """Whether the collector takes nothing at present."""
        return self._pause.is_failing or self._pause.until > now

    def _is_done(self) -> bool:
        if not self.is_closing:
            return False
        now = self._clock()
        if now >= self._end_at(now):
            return True
        if self._open or self._buffer.unsettled(0, self._buffer.position):
            return False
        # What is on disk is sent while that goes well, and may stay there otherwise.
        store, pause = self._store, self._pause
        is_futile = pause.is_failing or pause.until >= self.close_at
        return store is None or store.is_empty or (is_futile and not store.is_looking)

    def _end_at(self, now: float) -> float:
        """When sending ends: while the disk may take what is in memory, that needs some time, too."""
        return (
            self._save_at if self._stores(now) and self._buffer.unsettled(0, self._buffer.position) else self.close_at
        )

    async def _save(self) -> None:
        """Write what could not be sent by the end."""
        store = self._store
        if store is None or not self.is_closing:
            return
        with anyio.move_on_after(max(self.close_at - self._clock(), 0)):
            while store.is_usable(self._clock()) and (batch := self._buffer.take_unstowed()) is not None:
                await store.stow(batch, is_refused=True)

    def _due(self, now: float) -> float:
        """When the next batch may leave; infinity if only a signal can change the answer."""
        # After a failure one request at a time asks whether the collector is back.
        if self._open >= (1 if self._pause.is_failing else self._config.max_requests):
            return math.inf
        return max(self._ready(now), self._pause.until)

    def _ready(self, now: float) -> float:
        if self._buffer.has_returned():
            return now
        fresh = math.inf if self._stores(now) else self._fresh_due()
        return fresh if self._store is None else min(fresh, self._store.send_due(now, self._wanted))

    def _fresh_due(self) -> float:
        """When spans that were never sent may leave."""
        oldest = self._buffer.oldest()
        if oldest is None:
            return math.inf
        if self._buffer.is_full() or self._buffer.head <= self._wanted:
            return 0.0
        return oldest + self._config.schedule_delay

    async def _deliver_load(self, load: Load, sender: Sender, store: Store) -> None:
        batch = await store.read(load)
        if batch is not None:
            await self._deliver(batch, sender)
        else:
            self._open -= 1
            self._tell(load)

    async def _deliver(self, batch: Batch, sender: Sender) -> None:
        try:
            with suppressed():
                decided = await self._attempt(batch, sender)
                parts = await sender.off_loop(smaller, batch) if decided.action is Action.SPLIT else []
        except Exception as exc:  # ours or a transport's
            decided, parts = failure(exc), []
        except BaseException as exc:
            await _pass_own(exc)
            decided, parts = Verdict(Action.RETRY, detail="the request was cancelled"), []
        self._apply(batch, decided, parts)
        if self._store is not None and batch.load is not None:
            if decided.action is Action.RETRY:
                if not batch.load.is_split:
                    self._store.returned(batch.load)
            elif not parts:
                await self._store.settled(batch.load, len(batch.spans))
        self._open -= 1
        self._tell(batch if batch.load is None else batch.load)

    async def _attempt(self, batch: Batch, sender: Sender) -> Verdict:
        content = await sender.content(batch)
        if content is None:
            return Verdict(Action.SPLIT, detail="over the cap on requests")
        self.requests += 1
        self.retried += batch.attempts > 0
        try:
            with anyio.fail_after(self._config.timeout):
                reply = await sender.post(content)
        except SendError as fault:
            if fault.is_retryable:
                return Verdict(Action.RETRY, detail=fault.kind)
            return Verdict(Action.DROP, "unsendable", detail=fault.kind, is_ours=True)
        except TimeoutError:
            return Verdict(Action.RETRY, detail="timeout")
        if len(reply.raw) > _INLINE_REPLY_BYTES:
            return await sender.off_loop(verdict, reply, len(batch.spans), time.time())
        return verdict(reply, len(batch.spans), time.time())

    def _apply(self, batch: Batch, decided: Verdict, parts: list[Batch]) -> None:
        detail = printable(decided.detail, self._config.secrets) if decided.detail else ""
        where = self._config.origin
        count = len(batch.spans)
        if decided.action is Action.RETRY:
            batch.attempts += 1
            self._buffer.put_back(batch)
            is_hurried = bool(self.watches) or self.is_closing
            chance = random.random()  # noqa: S311 (no secret)
            self._pause.fail(self._clock(), chance, after=decided.after, is_hurried=is_hurried)
            self.watches.tell_patient()
            kind, fault = "retry", f"{where} does not take spans"
            if decided.is_ours:
                kind, fault = "shortage", "spans cannot be sent now"
            self._troubles.report(kind, f"{fault}, they are kept for later: {detail}", count)
            return
        self._pause.succeed()
        if parts:
            if batch.load is not None:
                batch.load.is_split = True
            self._buffer.put_back(batch, *parts)
        elif decided.action is Action.DELIVERED:
            self._buffer.settle(batch, {"partial_success": decided.rejected} if decided.rejected else None)
            if detail:
                self._troubles.report("partial_success", f"{where} says: {detail}", decided.rejected)
        else:
            reason = "too_large" if decided.action is Action.SPLIT else decided.reason
            self._buffer.settle(batch, {reason: count})
            fault = "spans cannot be sent" if decided.is_ours else f"{where} refused spans for good"
            self._troubles.report(reason, f"{fault} ({reason}): {detail}", count)

    def leave(self) -> None:
        """The exporter is closed: say what was not said, and leave the directory of the spool."""
        self._has_left = True
        self.tell_drops()
        if self._store is not None:
            self._store.close()

    def abandon(self) -> None:
        """In a forked child: what is on disk is the parent's."""
        if self._store is not None:
            self._store.forget()

    def tell_drops(self) -> None:
        """Report the drops since the last time to `on_drop`."""
        if self.is_telling:
            return  # what it is told of ended spans that were dropped, too: they are for the next time
        self.is_telling = True
        try:
            self._tell_drops()
        finally:
            self.is_telling = False

    def _tell_drops(self) -> None:
        for reason, count in self._buffer.untold().items():
            if reason in _TOLD_HERE:
                self._troubles.report(reason, f"spans dropped: {reason}", count, is_cause=reason in _CAUSES)
            if self._config.on_drop is not None:
                with suppress(Exception):
                    self._config.on_drop(Drop(reason, count, self._troubles.latest or ""))


async def _pass_own(exc: BaseException) -> None:
    """Let a cancellation of the worker go on; one of this task or request alone was somebody's who cancels all tasks.

    Raises:
        BaseException: It is no cancellation, or the worker's.
    """
    if not is_cancellation(exc):
        raise exc
    await anyio.lowlevel.checkpoint_if_cancelled()
