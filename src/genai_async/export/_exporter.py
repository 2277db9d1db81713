"""The exporter: takes ended spans from any thread, and says what became of them."""

from __future__ import annotations

import math
import os
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

import anyio
from opentelemetry.sdk.trace import ReadableSpan

from .._errors import ClosedError
from .._loop import Loop, Signal, any_of, is_in_loop, run_inline
from ._buffer import Buffer
from ._config import ExportConfig
from ._encode import Encoder
from ._metrics import watch
from ._stats import ExportStats, FlushResult
from ._trouble import Troubles, printable
from ._worker import Worker

if TYPE_CHECKING:
    from ._store import Store

__all__ = ["Exporter", "Keeper"]

_STUMBLE_DELAY = 1.0
# Below the number of all spans, those that dead processes left on disk among them.
_INHERITED = -1


class Keeper(Protocol):
    """Runs an exporter outside of the program's loops, by `run_alone`."""

    def launch(self) -> None:
        """Begin to run it."""

    def is_alive(self) -> bool:
        """Whether it runs or is about to."""
        ...

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that it runs in."""
        ...


class Exporter:
    """Encodes ended spans at once and sends them in batches, from whichever loop runs `run`.

    Making one costs nothing: no connection, no thread, no task.

        exporter = Exporter(ExportConfig.resolve(endpoint="http://localhost:4318"))
        provider.add_span_processor(ExportProcessor(exporter))
        task_group.start_soon(exporter.run)

    Args:
        config: Where and how to send.
    """

    def __init__(self, config: ExportConfig) -> None:
        self._config = config
        self._encoder = Encoder()
        self._keeper: Keeper | None = None
        # When the keeper is to begin at the earliest; None where it has, or there is none.
        self._launch_at: float | None = None
        self._set_up(position=0)
        _exporters.add(self)
        watch(self)

    def _set_up(self, *, position: int) -> None:
        config = self._config
        self._troubles = Troubles(time.monotonic)
        self._buffer = Buffer(
            config.max_queue_bytes, config.max_batch_spans, config.max_batch_bytes, time.monotonic, position
        )
        self._worker = Worker(config, self._buffer, self._troubles, self._store())
        # Re-entrant: a handler of signals may shut down while its own thread holds it.
        self._claims = threading.RLock()
        # The loop that sends, or the keeper that is about to bring one: until then nobody else need begin.
        self._host: Loop | Keeper | None = None
        self._left = Signal()
        self._closed = Signal()
        self._result: FlushResult | None = None

    def _store(self) -> Store | None:
        if self._config.spool is None:
            return None
        from ._spool import Spool
        from ._store import Store

        return Store(self._config, Spool(self._config.spool), self._buffer, self._troubles)

    @property
    def config(self) -> ExportConfig:
        """The options it was made with."""
        return self._config

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, and nothing is under way any more."""
        return self._result is not None

    @property
    def position(self) -> int:
        """The sequence number of the newest span that was queued; a span that is dropped at once gets none."""
        return self._buffer.position

    def accept(self, span: ReadableSpan) -> None:
        """Take an ended span: encode and queue it, or count it as dropped. Never waits, never raises."""
        try:
            if self._worker.is_closing:
                self._drop("closed")
            elif self._buffer.add(self._encoder.group(span), self._encoder.span(span)) or self._launch_at is not None:
                self._wake()
            if self._result is not None and self._buffer.drop_all("closed"):  # closed by another thread just now
                self._worker.tell_drops()
        except Exception as exc:
            self._drop("encoding")
            self._troubles.report("encoding", f"a span cannot be encoded: {type(exc).__name__}")

    def accept_line(self, line: bytes) -> int:
        """Take the spans of one line of OpenTelemetry's file format, for example of a spool, and say how many they are.

        Spans for which there is no room in the queue are dropped, as those of `accept` are.

        Raises:
            ValueError: The line is torn, or holds no traces.
            ClosedError: The exporter was closed.
        """
        from ._line import parse

        self._check_open()
        try:
            spans = list(parse(line))
        except RecursionError:
            raise ValueError("nested too deep") from None
        for group, data in spans:
            if self._buffer.add(group, data):
                self._wake()
        return len(spans)

    def _drop(self, reason: str) -> None:
        if self._buffer.drop(reason):
            self._wake()
        if self._result is not None:  # the worker has gone, so nobody else will say it
            self._worker.tell_drops()

    def _wake(self) -> None:
        if self._launch_at is not None:
            self._launch()
        if not self._worker.is_telling:
            self._worker.signal.set()

    async def run(self) -> None:
        """Send what `accept` takes until the exporter is closed; start this in a task of its own.

        Cancelling the surrounding scope does not stop it, as the spans of what was cancelled should arrive, too:
        `aclose` does. asyncio's own `Task.cancel` ends it at once, and what was in flight waits again.
        """
        await self._run(is_alone=False)

    async def run_alone(self) -> None:
        """Like `run`, in a loop that nobody else uses: work is done in place instead of in other threads."""
        await self._run(is_alone=True)

    async def _run(self, *, is_alone: bool) -> None:
        with anyio.CancelScope(shield=True):
            await self._stand_by(is_alone=is_alone)

    async def _stand_by(self, *, is_alone: bool) -> None:
        """Send whenever nobody else does, until closed."""
        while self._result is None:
            if (host := self._claim()) is not None:
                await self._work(host, is_alone=is_alone)
            else:
                await self._left.wait()

    def _claim(self) -> Loop | None:
        """Become the host, unless a loop that still exists is it, or somebody else's thread is about to have one."""
        with self._claims:
            if self._has_other_host():
                return None
            self._worker.take_back()
            self._left.clear()
            self._host = Loop()
            return self._host

    def _has_other_host(self) -> bool:
        """Whether sending is the business of a loop that still exists, or of a thread that is about to have one."""
        host = self._host
        return host is not None and host.is_alive() and not (host is self._keeper and host.is_here)

    def _is_hosted(self) -> bool:
        """Whether some loop sends, or a thread is about to have one."""
        host, keeper = self._host, self._keeper
        is_paused = isinstance(host, Loop) and not host.is_running()
        return (host is not None and host.is_alive() and not is_paused) or (keeper is not None and keeper.is_alive())

    async def _work(self, host: Loop, *, is_alone: bool) -> None:
        try:
            await self._worker.run(is_alone=is_alone)
            if self._host is host and self._worker.is_closing:
                self._finish()
        except Exception as exc:  # a fault of ours must not bring down the program's task group
            self._report_stumble(exc)
            await anyio.sleep(_STUMBLE_DELAY)
        finally:
            with self._claims:  # or who claims it in between is told that it has been left
                if self._host is host:
                    self._host = None
                    self._left.set()

    async def _until(self, done: Signal, *, is_alone: bool) -> None:
        """Wait, and send meanwhile if nobody else does: this loop may be the only one left."""
        while self._has_other_host() and not done.is_set():
            await any_of(done, self._left)
        if done.is_set():
            return
        async with anyio.create_task_group() as group:

            async def stand_by() -> None:
                await self._stand_by(is_alone=is_alone)

            group.start_soon(stand_by)
            await done.wait()
            group.cancel_scope.cancel()

    async def settled(self, first: int, last: int, timeout: float | None = None) -> bool:
        """Wait until every span with `first < number <= last` was delivered or dropped; nudges sending.

        Args:
            first: `position` before the spans ended.
            last: `position` after they ended.
            timeout: Seconds to wait at most; None waits for as long as it takes, but not for a collector that does not
                take spans which are safe on disk.

        Returns:
            Whether they were.
        """
        return await self._settle(first, last, timeout, is_alone=False)

    async def _settle(self, first: int, last: int, timeout: float | None, *, is_alone: bool) -> bool:
        with self._worker.watches.settled(first, last, _since(timeout)) as signal:
            if signal.is_set():
                # Who asks again and again (until the spool is empty, say) would keep the loop from sending else.
                await anyio.lowlevel.checkpoint()
            else:
                self._worker.want(last)
                with anyio.move_on_after(timeout):
                    await self._until(signal, is_alone=is_alone)
        return self._worker.is_settled(first, last)

    async def flush(self, timeout: float | None = None) -> FlushResult:
        """Send what waits now, in memory and on disk, and say what became of it.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes, but not for a collector that does not
                take spans which are safe on disk.

        Raises:
            ClosedError: The exporter was closed.
        """
        self._check_open()
        last = self.position
        await self._settle(_INHERITED, last, timeout, is_alone=False)
        return self._told(last)

    def flush_blocking(self, timeout: float | None = None) -> FlushResult:
        """`flush` for plain threads; on the thread of a running loop it only starts sending, as waiting would block it.

        Raises:
            ClosedError: The exporter was closed.
        """
        self._check_open()
        last = self.position
        if not self._is_hosted():
            self._send_here(lambda: self._settle(_INHERITED, last, timeout, is_alone=True))
        else:
            self._worker.want(last)
            with self._worker.watches.settled(_INHERITED, last, _since(timeout)) as signal:
                if not is_in_loop():
                    signal.wait_blocking(timeout)
        return self._told(last)

    async def aclose(self, timeout: float | None = None) -> FlushResult:
        """Send what waits, then close; what is left at the deadline is dropped as `shutdown`, save what is on disk.

        Cancellation waits for the deadline. Called again it returns the same result.

        Args:
            timeout: Seconds to take at most; None takes `shutdown_timeout` of the options.
        """
        await self._close(self._begin_close(timeout), is_alone=False)
        return self._finish()

    async def _close(self, deadline: float, *, is_alone: bool) -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(max(deadline - time.monotonic(), 0)):
            if self._result is None:
                await self._until(self._closed, is_alone=is_alone)

    def shutdown(self, timeout: float | None = None) -> FlushResult:
        """`aclose` for plain threads.

        On the thread of the loop that sends, waiting would stop the sending: there it only begins, the result
        says what is pending, and a later call says how it ended.

        Args:
            timeout: Seconds to take at most; None takes `shutdown_timeout` of the options.
        """
        deadline = self._begin_close(timeout)
        if self._result is None:
            if not self._is_hosted():
                self._send_here(lambda: self._close(deadline, is_alone=True))
            elif self._is_here():
                return self._told(self.position)
            else:
                self._closed.wait_blocking(max(deadline - time.monotonic(), 0))
        return self._finish()

    def _is_here(self) -> bool:
        host = self._host
        return host is not None and host.is_here

    def _send_here(self, func: Callable[[], Awaitable[object]]) -> None:
        """Run `func` in a loop of its own, unless one runs in this thread, which must not be held up."""
        if not is_in_loop():
            with self._claims:
                self._host = None  # gone, or stopped for now: what it had under way is sent again
            with suppress(RuntimeError):  # at the interpreter's exit it cannot be taken down in order
                try:
                    run_inline(func)
                except OSError as exc:  # there are no descriptors for a loop
                    self._report_stumble(exc)

    def stats(self) -> ExportStats:
        """The books at this instant."""
        books, worker = self._buffer.books(), self._worker
        since = self._buffer.waiting_since()
        return ExportStats(
            ended=books.ended,
            delivered=books.delivered,
            dropped=dict(books.dropped),
            spooled=books.spooled,
            queued=books.queued,
            in_flight=books.in_flight,
            queue_bytes=books.memory_bytes,
            requests=worker.requests,
            retried=worker.retried,
            rejected=books.dropped["partial_success"],
            last_error=self._troubles.latest,
            oldest_age=0.0 if since is None else max(time.monotonic() - since, 0.0),
        )

    def keep(self, keeper: Keeper) -> None:
        """Rely on `keeper` to run this, and, after a fork, to do so anew before the first span is sent."""
        self.leave_to(keeper)
        self._launch_at = -math.inf
        self._launch()

    def leave_to(self, keeper: Keeper) -> None:
        """Rely on `keeper` in child processes, which have none of the program's loops."""
        self._keeper = keeper

    def _launch(self) -> None:
        """Have the keeper begin, if it is time; while no thread can be had, whoever waits for spans sends them."""
        try:
            with self._claims:  # for several threads whose spans end at once
                if self._launch_at is None or time.monotonic() < self._launch_at:
                    return
                self._launch_at = None
                self._host = keeper = cast(Keeper, self._keeper)
                keeper.launch()
        except RuntimeError as exc:
            self._launch_at = time.monotonic() + _STUMBLE_DELAY
            self._report_stumble(exc)

    def stumble(self, exc: Exception) -> None:
        """Say what keeps a thread from running this, and hold that thread up for a moment before it tries again."""
        self._report_stumble(exc)
        self._closed.wait_blocking(_STUMBLE_DELAY)

    def _report_stumble(self, exc: Exception) -> None:
        text = printable(f"{type(exc).__name__}: {exc}", self._config.secrets)
        self._troubles.report("internal", f"the exporter stumbled: {text}", self._buffer.books().queued)

    def _forked(self) -> None:
        """In a child process: nothing waits, because the parent sends what it had, and nobody sends yet."""
        is_closed = self._worker.is_closing
        self._worker.abandon()
        # Numbers go on: spans that had started before the fork know the parent's.
        self._set_up(position=self._buffer.position)
        if is_closed:
            self._worker.close(-math.inf)
            self._finish()
        else:
            self._launch_at = None if self._keeper is None else -math.inf

    def _check_open(self) -> None:
        if self._worker.is_closing:
            raise ClosedError("the exporter is closed")

    def _begin_close(self, timeout: float | None) -> float:
        deadline = time.monotonic() + (self._config.shutdown_timeout if timeout is None else timeout)
        self._worker.close(deadline)
        return deadline

    def _told(self, last: int) -> FlushResult:
        pending = self._buffer.unsettled(0, last)
        spooled = self._buffer.stowed(last)
        books = self._buffer.books()
        # Some of a segment may be settled before the rest.
        pending = min(pending + spooled, books.spooled + books.queued + books.in_flight)
        unread = int(self._worker.is_opening)
        return FlushResult(books.delivered, dict(books.dropped), pending + unread, min(spooled, pending) + unread)

    def _finish(self) -> FlushResult:
        if self._result is None:
            self._buffer.drop_all("shutdown")
            self._result = self._told(self.position)
            self._worker.leave()
            self._worker.watches.tell()
            self._closed.set()
        return self._result


def _since(timeout: float | None) -> float | None:
    """From when on disk is good enough: whoever names no end is content with it once the collector takes nothing."""
    return time.monotonic() if timeout is None else None


_exporters: weakref.WeakSet[Exporter] = weakref.WeakSet()


def _after_fork() -> None:
    for exporter in list(_exporters):
        exporter._forked()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
