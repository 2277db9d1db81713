"""The coroutine that waits for batches and sends them.

There is one way back for what could not be sent: it returns to the queue, and the worker leaves the
collector alone for a while. So retries never hold spans apart from the accounting, data is kept for as
long as memory allows, and a collector that is down sees one request at a time, not one per batch.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from .._loop import Signal, is_cancellation
from ._body import body, gzipped
from ._buffer import Batch, Buffer
from ._config import ExportConfig
from ._fork import importing
from ._pause import Pause
from ._reply import MAX_REQUEST_BYTES, SendError, verdict
from ._retry import Action, Verdict
from ._split import smaller
from ._stats import Drop
from ._suppress import sending_context, suppressed
from ._trouble import Troubles, printable
from ._watch import Watches

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from ._spool import Load
    from ._store import Store
    from ._transport import Transport

__all__ = ["Worker"]

_T = TypeVar("_T")

# About what takes a millisecond here: joining runs at some GB/s, compressing at some 50 MB/s.
_INLINE_JOIN_BYTES = 2 * 2**20
_INLINE_GZIP_BYTES = 32 * 2**10
# A thousand times as many may come out of an answer's compression.
_INLINE_REPLY_BYTES = 1024
_CLOSE_TIMEOUT = 0.1


class Worker:
    """Takes batches from a buffer and sends them, several at once; lives as long as its exporter."""

    def __init__(
        self, config: ExportConfig, buffer: Buffer, watches: Watches, troubles: Troubles, store: Store | None
    ) -> None:
        self._config = config
        self._store = store
        self._buffer = buffer
        self._watches = watches
        self._troubles = troubles
        self._clock = time.monotonic
        self.signal = Signal()
        self.close_at = math.inf
        self.is_closing = False
        self.is_telling = False
        """Whether drops are being reported; what ends meanwhile is looked at afterwards."""
        self.requests = 0
        self.retried = 0
        self.rejected = 0
        self._wanted = 0
        self._open = 0
        self._pause = Pause(config.retry)

    def want(self, position: int) -> None:
        """Somebody waits for the spans up to this number: send at once, even if the collector failed lately."""
        self._wanted = max(self._wanted, position)
        if self._store is not None:
            self._store.is_hurried = True
        self._pause.hurry()
        self.signal.set()

    def close(self, deadline: float) -> None:
        """Send what there is until `deadline` on the monotonic clock, then end."""
        self.close_at = min(self.close_at, deadline)
        self.is_closing = True
        self.want(self._buffer.position)

    async def run(self, *, is_alone: bool) -> None:
        """Send until closed; `is_alone` means that nobody else uses this loop, so work need not go to other threads.

        Cancellation ends it at once; what was in flight waits in the buffer again.
        """
        session = _Session(self._config, is_alone=is_alone)
        self._open = 0
        try:
            await session.off_loop(sending_context)
            with suppressed():
                async with anyio.create_task_group() as group:
                    group.start_soon(session.warm)
                    await self._serve(group, session)
                    group.cancel_scope.cancel()
        finally:
            self._buffer.put_all_back()
            if self._store is not None:
                self._store.give_all_back()
            with anyio.CancelScope(shield=True), suppress(Exception):
                await session.aclose()

    async def _serve(self, group: TaskGroup, session: _Session) -> None:
        if self._store is not None:
            # Beside the sending: a disk that hangs must not hold it up.
            self._store.expect(self._clock())
            group.start_soon(self._open_store, self._store, session)
        while not self._is_done():
            self.signal.clear()
            self.tell_drops()
            now = self._clock()
            due = self._due(now)
            if due <= now and self._begin(group, session, now):
                continue
            stow_due = math.inf if self._store is None else self._store.stow_due(now)
            if stow_due <= now and (batch := self._buffer.take_fresh()) is not None:
                self._begin_to_stow(group, session, batch)
                continue
            with anyio.move_on_after(max(min(due, stow_due, self.close_at) - now, 0)):
                await self.signal.wait()

    async def _open_store(self, store: Store, session: _Session) -> None:
        await store.open(session.off_loop)
        self.signal.set()

    def _begin(self, group: TaskGroup, session: _Session, now: float) -> bool:
        """Start a request, if there is something to send."""
        batch = self._buffer.take(fresh=not self._stores(now) and self._fresh_due() <= now)
        if batch is not None:
            group.start_soon(self._deliver, batch, session)
        elif self._store is not None and (load := self._store.next_load()) is not None:
            group.start_soon(self._deliver_load, load, session, self._store)
        else:
            return False
        self._open += 1
        return True

    def _begin_to_stow(self, group: TaskGroup, session: _Session, batch: Batch) -> None:
        store = self._store
        if store is None:
            return
        store.is_busy = True

        async def stow() -> None:
            try:
                await store.stow(batch, session.off_loop)
            except BaseException as exc:
                await _pass_own(exc)
                self._buffer.put_back(batch)
            self._watches.tell()
            self.signal.set()

        group.start_soon(stow)

    def _stores(self, now: float) -> bool:
        return self._store is not None and self._store.is_usable(now)

    def _is_done(self) -> bool:
        if not self.is_closing:
            return False
        if self._clock() >= self.close_at:
            return True
        if self._open or self._buffer.unsettled(0, self._buffer.position):
            return False
        # What is on disk is sent while that goes well, and may stay there otherwise.
        return self._store is None or self._store.is_empty or self._pause.is_failing

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
        return fresh if self._store is None else min(fresh, self._store.send_due(now))

    def _fresh_due(self) -> float:
        """When spans that were never sent may leave."""
        oldest = self._buffer.oldest()
        if oldest is None:
            return math.inf
        if self._buffer.is_full() or self._buffer.head <= self._wanted:
            return 0.0
        return oldest + self._config.schedule_delay

    async def _deliver_load(self, load: Load, session: _Session, store: Store) -> None:
        batch = await store.read(load, session.off_loop)
        if batch is not None:
            await self._deliver(batch, session)
        else:
            self._open -= 1
            self.signal.set()

    async def _deliver(self, batch: Batch, session: _Session) -> None:
        try:
            with suppressed():
                decided = await self._attempt(batch, session)
                parts = await session.off_loop(smaller, batch) if decided.action is Action.SPLIT else []
        except Exception as exc:  # ours or a transport's: such a batch would fail again and again
            decided, parts = Verdict(Action.DROP, "unsendable", detail=type(exc).__name__), []
        except BaseException as exc:
            await _pass_own(exc)
            decided, parts = Verdict(Action.RETRY, detail="the request was cancelled"), []
        self._apply(batch, decided, parts)
        if self._store is not None and batch.load is not None:
            if decided.action is Action.RETRY:
                if not batch.load.is_split:
                    self._store.returned(batch.load)
            elif not parts:
                await self._store.settled(batch.load, len(batch.spans), session.off_loop)
        self._open -= 1
        self._watches.tell()
        self.signal.set()

    async def _attempt(self, batch: Batch, session: _Session) -> Verdict:
        content = await session.content(batch)
        if content is None:
            return Verdict(Action.SPLIT, detail="over the cap on requests")
        self.requests += 1
        self.retried += batch.attempts > 0
        try:
            with anyio.fail_after(self._config.timeout):
                transport = await session.transport()
                reply = await transport.post(content, session.headers)
        except SendError as fault:
            return Verdict(Action.RETRY if fault.is_retryable else Action.DROP, "unsendable", detail=fault.kind)
        except TimeoutError:
            return Verdict(Action.RETRY, detail="timeout")
        if len(reply.raw) > _INLINE_REPLY_BYTES:
            return await session.off_loop(verdict, reply, len(batch.spans), time.time())
        return verdict(reply, len(batch.spans), time.time())

    def _apply(self, batch: Batch, decided: Verdict, parts: list[Batch]) -> None:
        detail = printable(decided.detail, self._config.secrets) if decided.detail else ""
        where = self._config.origin
        count = len(batch.spans)
        if decided.action is Action.RETRY:
            batch.attempts += 1
            self._buffer.put_back(batch)
            is_hurried = bool(self._watches) or self.is_closing
            chance = random.random()  # noqa: S311 (no secret)
            self._pause.fail(self._clock(), chance, after=decided.after, is_hurried=is_hurried)
            self._troubles.report("retry", f"{where} does not take spans, they are kept for later: {detail}", count)
            return
        self._pause.succeed()
        if parts:
            if batch.load is not None:
                batch.load.is_split = True
            self._buffer.put_back(batch, *parts)
        elif decided.action is Action.DELIVERED:
            self.rejected += decided.rejected
            self._buffer.settle(batch, {"partial_success": decided.rejected} if decided.rejected else None)
            if detail:
                self._troubles.report("partial_success", f"{where} says: {detail}", decided.rejected)
        else:
            reason = "too_large" if decided.action is Action.SPLIT else decided.reason
            self._buffer.settle(batch, {reason: count})
            self._troubles.report(reason, f"{where} refused spans for good ({reason}): {detail}", count)

    def leave(self) -> None:
        """The exporter is closed: say what was not said, and leave the directory of the spool."""
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
            if reason in {"queue_full", "shutdown"}:
                self._troubles.report(reason, f"spans dropped: {reason}", count, is_cause=False)
            if self._config.on_drop is not None:
                with suppress(Exception):
                    self._config.on_drop(Drop(reason, count, self._troubles.latest or ""))


class _Session:
    """The connections of one run of the worker, and the choice of where to work."""

    def __init__(self, config: ExportConfig, *, is_alone: bool) -> None:
        self._config = config
        self._is_alone = is_alone
        self._is_gzip = config.compression == "gzip"
        self._lock = anyio.Lock()
        # Not the default limiter: the program's own work in threads must not hold up delivery, nor the reverse.
        self._threads = anyio.CapacityLimiter(config.max_requests)
        self._transport: Transport | None = None
        self.headers = {"Content-Encoding": "gzip"} if self._is_gzip else {}

    async def warm(self) -> None:
        """Make the connections' set-up ready before the first batch; what fails here fails again there, and counts."""
        with suppress(Exception):
            await self.transport()

    async def transport(self) -> Transport:
        """The connections, made when first asked for.

        Raises:
            SendError: They cannot be made now.
        """
        async with self._lock:
            if self._transport is None:
                self._transport = await self.off_loop(_connect, self._config)
            return self._transport

    async def content(self, batch: Batch) -> bytes | None:
        """The bytes to send, or None if they are more than may be sent."""
        size = batch.size_bytes
        if size > MAX_REQUEST_BYTES:
            return None
        if size > (_INLINE_GZIP_BYTES if self._is_gzip else _INLINE_JOIN_BYTES):
            return await self.off_loop(self._content, batch)
        return self._content(batch)

    def _content(self, batch: Batch) -> bytes | None:
        content = body(batch.spans)
        if len(content) > MAX_REQUEST_BYTES:
            return None
        return gzipped(content) if self._is_gzip else content

    async def off_loop(self, func: Callable[..., _T], *args: Any) -> _T:
        """Call `func` where it holds nobody up."""
        if self._is_alone:
            return func(*args)
        return await anyio.to_thread.run_sync(func, *args, abandon_on_cancel=True, limiter=self._threads)

    async def aclose(self) -> None:
        if self._transport is not None:
            with anyio.move_on_after(_CLOSE_TIMEOUT):
                await self._transport.aclose()


async def _pass_own(exc: BaseException) -> None:
    """Let a cancellation of the worker go on; one of this task or request alone was somebody's who cancels all tasks.

    Raises:
        BaseException: It is no cancellation, or the worker's.
    """
    if not is_cancellation(exc):
        raise exc
    await anyio.lowlevel.checkpoint_if_cancelled()


def _connect(config: ExportConfig) -> Transport:
    # httpx takes 0.1 s and more to import, TLS as long to set up: here it happens in a thread. OpenSSL has locks of its
    # own, which stay locked in a child that is forked meanwhile, so forks wait for both.
    try:
        with importing:
            from ._transport import Transport

            return Transport(config.with_credentials())
    except Exception as exc:  # a proxy that cannot be used, a store that cannot be read: it may be mended while we wait
        raise SendError(f"cannot set up the connection: {type(exc).__name__}", is_retryable=True) from exc
