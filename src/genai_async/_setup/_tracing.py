"""`tracing()` and `configure()`: a provider of spans, an exporter, and what conversations need of both."""

from __future__ import annotations

import atexit
import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, cast

import anyio
from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor

from .._conversation._faults import Faults
from .._conversation._processor import ConversationProcessor, RedactingProcessor
from .._conversation._runtime import Delivery, Runtime
from .._errors import ClosedError, ConfigurationError
from .._loop import is_cancellation, load
from .._tracer import Provider
from ..export import ExportStats, FlushResult
from ._options import TracingOptions, check, export_config_of, gate_of, is_disabled, stdout_configs_of, warn_of_unused
from ._providers import SCOPE, existing_provider, own_provider, seat_in, set_ups, tracer_of

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

    from ..export import Exporter, ThreadHost

_logger = logging.getLogger("genai_async")

# Seconds past a deadline for a thread that has been told to end, which takes it milliseconds unless it is stuck.
_FAREWELL: Final = 0.05
# Rounds of the loop, in which a cancelled task comes out of as many blocks that await something.
_LAST_STEPS: Final = 50
# What is loaded once there is a set-up: for replies that are recorded whole, to send, and to keep on disk.
_RECORDING: Final = ("genai_async._conversation._chunks",)
_SENDING: Final = (
    *_RECORDING,
    "genai_async.export._exporter",
    "genai_async.export._host",
    "genai_async.export._processor",
)
_PRINTING: Final = (*_SENDING, "genai_async.export._stdout")
_SPOOLING: Final = (*_SENDING, "genai_async.export._spool", "genai_async.export._store")


def tracing(**options: Unpack[TracingOptions]) -> Tracing:
    """Set tracing up for the time of an `async with` block, with the exporter in the caller's event loop.

        async with ga.tracing(service_name="support", endpoint="http://localhost:4318") as tracing:
            ...

    Leaving the block sends what waits, within `shutdown_timeout`, also when the block was cancelled.

    Args:
        options: `endpoint` is the collector's base URL, `/v1/traces` is appended unless its path ends in it; `headers`
            go with each request; `timeout` (seconds) bounds each; `compression` is "gzip" or "none". `service_name`
            and `resource` say who sends; `sampler` and `id_generator` are OpenTelemetry's. `capture_content` says
            whether messages, arguments and results are recorded, `redact` is given each such text first (and the name
            that it stands under, if it has a method `named`); with `redact_others` it also reads the spans of other
            instrumentations before our exporter gets them.
            `max_queue_bytes`, `max_batch_bytes`, `max_batch_spans`, `schedule_delay` and `shutdown_timeout` (seconds)
            bound the export, `spool` is a directory that keeps spans until they are delivered, `on_drop` is told of
            each loss. `tracer_provider` is a provider of your own to join; `transport` replaces the network in tests.
            `record_cancellation_as_error` (true unless said otherwise) says whether cancelled and abandoned work
            counts as failed.

    Raises:
        ConfigurationError: An option cannot work.
    """
    return Tracing(options)


def capturing(**options: Unpack[TracingOptions]) -> Tracing:
    """Set tracing up like `configure`, and have set-ups that begin later trace to this one, for tests of programs."""
    tracing = Tracing(options)
    tracing._is_capture = True
    return tracing.start()


def configure(**options: Unpack[TracingOptions]) -> Tracing:
    """Set tracing up for the rest of the process, with the exporter on a thread of its own.

    For scripts and programs without a place for `async with tracing()`. At interpreter exit what waits is sent, within
    `shutdown_timeout`. The options are those of `tracing`.

    Raises:
        ConfigurationError: An option cannot work.
    """
    return Tracing(options).start()


class Tracing:
    """A set-up: where spans go, and what became of them. Made by `tracing()` and `configure()`."""

    def __init__(self, options: TracingOptions) -> None:
        given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
        check(given)
        self._faults = Faults()
        self._cancellation_is_error = cast(bool, given.get("record_cancellation_as_error", True))
        foreign = set_ups.meant_by(given.get("tracer_provider")) or existing_provider()
        if foreign is not None:
            warn_of_unused(given)
        self._gate = gate_of(given, self._faults, foreign)
        self._config = export_config_of(given, is_joining=foreign is not None)
        # Where a provider is joined, its owner decides what else there is.
        self._to_stdout = [] if foreign is not None else stdout_configs_of(given)
        self._owns_provider = foreign is None
        self._provider: trace.TracerProvider = foreign or own_provider(given)
        self._redacts_others = bool(given.get("redact_others"))
        if self._redacts_others and self._gate.redact is None:
            raise ConfigurationError("redact_others: there is no redact")
        # Both are made where the set-up begins, as what sends takes a few milliseconds to load.
        self._exporter: Exporter | None = None
        self._export_processor: SpanProcessor | None = None
        # Those beside the one that keeps the books.
        self._others: list[tuple[Exporter, ThreadHost]] = []
        self._result: FlushResult | None = None
        self._has_begun = False
        # A capture takes the spans of all the set-ups that begin inside of it.
        self._is_capture = False
        self._group: TaskGroup | None = None
        self._runtime: Runtime | None = None
        self._host: ThreadHost | None = None

    @property
    def provider(self) -> trace.TracerProvider:
        """The provider that spans are made with, for instrumentations that take one."""
        return self._provider

    @property
    def faults(self) -> Mapping[str, int]:
        """Values and spans that could not be recorded, and other oddities, counted by kind."""
        return MappingProxyType(dict(self._faults.counts()))

    def stats(self) -> ExportStats:
        """The exporter's books at this instant; all zero where a provider of yours does the export."""
        return _NOTHING_EXPORTED if self._exporter is None else self._exporter.stats()

    async def flush(self, timeout: float | None = None) -> FlushResult:
        """Send what waits now and say what became of it.

        Args:
            timeout: Seconds to wait at most; None waits as long as it takes.

        Returns:
            What was delivered and dropped since the set-up, and how many of the spans that had ended still wait. Where
            a provider of yours does the export, it tells no numbers: `pending` is 0 if its flush succeeded in time,
            else 1; a timeout of 0 leaves no time to ask.

        Raises:
            ClosedError: The set-up was closed.
            RuntimeError: It was never begun.
        """
        if self._result is not None:
            raise ClosedError("this Tracing is closed")
        if not self._has_begun:
            raise RuntimeError("this Tracing has not begun: enter it with `async with`, or use configure()")
        if self._exporter is not None:
            return await self._exporter.flush(timeout)
        with anyio.move_on_after(timeout):
            if await _in_thread(self._flush_provider):
                return _NOTHING_TOLD
        return FlushResult(0, {}, 1)

    async def aclose(self, timeout: float | None = None) -> FlushResult:
        """Send what waits, within the deadline, and end the set-up; called again it returns the same result.

        Args:
            timeout: Seconds to take at most; None takes `shutdown_timeout`.
        """
        if self._result is None:
            deadline = self._deadline(timeout)
            self._uninstall()
            # The exporter gives everybody who closes it the same result, also those who come while it is closing.
            result = _NOTHING_TOLD if self._exporter is None else await self._exporter.aclose(timeout)
            for other, host in self._others:
                await other.aclose(max(deadline - time.monotonic(), 0))
                await _joined(host, deadline)
            if self._owns_provider:
                await _bounded(self._shutdown_provider, max(deadline - time.monotonic(), _FAREWELL))
            if self._host is not None:
                await _joined(self._host, deadline)
            self._result = result
            # Not before: a second Ctrl-C may break off the closing, and then the interpreter's exit is what ends it.
            atexit.unregister(self.shutdown)
        return self._result

    def shutdown(self, timeout: float | None = None) -> FlushResult:
        """`aclose` for code that cannot await.

        On the thread of the event loop that sends, waiting would stop the sending: there it only begins, and the
        result says how much is pending.

        Args:
            timeout: Seconds to take at most; None takes `shutdown_timeout`.
        """
        if self._result is not None:
            return self._result
        deadline = self._deadline(timeout)
        self._uninstall()
        result = _NOTHING_TOLD if self._exporter is None else self._exporter.shutdown(timeout)
        for other, host in self._others:
            other.shutdown(max(deadline - time.monotonic(), 0))
            host.join(max(deadline - time.monotonic(), _FAREWELL))
        if result.complete or (self._exporter is not None and self._exporter.is_closed):
            self._result = result
            atexit.unregister(self.shutdown)
            if self._owns_provider:
                self._shutdown_provider()
        if self._host is not None:
            self._host.join(max(deadline - time.monotonic(), _FAREWELL))
        return result

    def start(self) -> Self:
        """Run on a thread of its own from now on; `configure()` has done this.

        Raises:
            ClosedError: The set-up was closed.
        """
        if self._result is not None:
            raise ClosedError("this Tracing is closed")
        self._install()
        if self._exporter is not None and self._host is None and self._runtime is not None:
            from ..export import ThreadHost

            self._host = ThreadHost()
            self._host.start(self._exporter)
        return self

    async def __aenter__(self) -> Self:
        if self._host is not None:
            raise RuntimeError("configure() has begun this Tracing; `async with` takes one of tracing()")
        if self._has_begun or self._result is not None:
            raise RuntimeError("a Tracing can be entered once")
        await load(*self._needed())
        self._install()
        # For a block that the interpreter's exit finds open: its loop has stopped, or runs in a daemon thread.
        atexit.register(self.shutdown)
        self._group = await anyio.create_task_group().__aenter__()
        if self._exporter is not None and self._host is None:
            from ..export import ThreadHost

            ThreadHost().stand_by(self._exporter)
            try:
                with anyio.CancelScope(shield=True):
                    await self._group.start(self._export, name="genai_async export")
            except BaseException:
                await self.__aexit__(None, None, None)
                raise
        return self

    def _needed(self) -> Iterable[str]:
        """The modules that a set-up like this one loads."""
        if self._config is None:
            return _PRINTING if self._to_stdout else _RECORDING
        spooling = _SPOOLING if self._config.spool is not None else _SENDING
        return {*spooling, *_PRINTING} if self._to_stdout else spooling

    async def _export(self, *, task_status: TaskStatus[None]) -> None:
        # Nothing comes between the two: once the block begins, the exporter knows which loop it sends from.
        task_status.started()
        try:
            await cast("Exporter", self._exporter).run()
        except BaseException as exc:
            if not is_cancellation(exc):
                raise
            # Somebody cancels all the tasks that there are. The block must not be cancelled by that; whoever flushes or
            # closes next sends what waits.
            await anyio.lowlevel.checkpoint_if_cancelled()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            # Servers cancel their requests and end the lifespan in the same moment: those end their spans first.
            for _ in range(_LAST_STEPS):
                await anyio.lowlevel.cancel_shielded_checkpoint()
            await self.aclose()
        finally:
            # The group is told of no error: nothing in it has failed, and it would wrap the caller's in a group.
            await cast("TaskGroup", self._group).__aexit__(None, None, None)

    def __del__(self) -> None:
        # Also where an option was refused, and nothing of this is there.
        if not getattr(self, "_has_begun", True) and self._result is None:
            _logger.warning("tracing() was never entered, and nothing was traced: use `async with`, or configure()")

    def _install(self) -> None:
        self._has_begun = True
        if is_disabled():
            return
        capture = None if self._is_capture else set_ups.capture()
        if capture is not None:
            self._provider, self._owns_provider = capture.provider, False
            return
        if self._runtime is None:
            self._make_exporters()
            tracer = tracer_of(self._provider)
            self._join_provider()
            delivery: Delivery = _ProviderDelivery(self) if self._exporter is None else self._exporter
            self._runtime = Runtime(
                tracer,
                self._gate,
                self._faults,
                delivery=delivery,
                cancellation_is_error=self._cancellation_is_error,
            )
            set_ups.enter(self)

    def _uninstall(self) -> None:
        if self._runtime is not None:
            set_ups.leave(self)
            if not self._owns_provider:
                seat_in(self._provider).remove(self._export_processor)

    def _make_exporters(self) -> None:
        if self._config is not None:
            from ..export import Exporter

            self._exporter = Exporter(self._config)
        for config_of in self._to_stdout:
            from ..export import Exporter, ThreadHost

            # In any case on a thread of its own, as writing waits for whoever reads.
            exporter, host = Exporter(config_of()), ThreadHost()
            host.start(exporter)
            if self._exporter is None:
                self._exporter, self._host = exporter, host
            else:
                self._others.append((exporter, host))
        if self._exporter is not None:
            self._export_processor = self._processor_of(self._exporter)

    def _processor_of(self, exporter: Exporter) -> SpanProcessor:
        from ..export import ExportProcessor

        processor = ExportProcessor(exporter)
        return RedactingProcessor(processor, SCOPE, self._gate, self._faults) if self._redacts_others else processor

    def _join_provider(self) -> None:
        if not self._owns_provider:
            try:
                seat_in(self._provider).add(self._export_processor)
            except Exception as exc:
                raise ConfigurationError(f"tracer_provider: cannot be joined: {exc}") from exc
            return
        provider = cast(Provider, self._provider)
        provider.add_span_processor(ConversationProcessor(SCOPE))
        if self._export_processor is not None:
            provider.add_span_processor(self._export_processor)
        for exporter, _ in self._others:
            provider.add_span_processor(self._processor_of(exporter))

    def _deadline(self, timeout: float | None) -> float:
        """Until when all of a closing may take, on the monotonic clock."""
        if timeout is None and self._exporter is not None:
            timeout = self._exporter.config.shutdown_timeout
        return math.inf if timeout is None else time.monotonic() + timeout

    def _flush_provider(self) -> bool:
        flush = getattr(self._provider, "force_flush", None)
        try:
            return bool(flush is None or flush())
        except Exception as exc:  # the provider's own affair, but not delivered
            self._faults.note("a flush that failed", f"the provider cannot flush: {type(exc).__name__}")
            return False

    def _shutdown_provider(self) -> None:
        try:
            cast(Provider, self._provider).shutdown()
        except Exception as exc:  # processors that other people added
            self._faults.note("a processor that failed to shut down", f"a processor cannot shut down: {exc!r}")


class _ProviderDelivery:
    """Delivery as far as it can be told where a provider of the user's sends: its flush is all there is to ask."""

    def __init__(self, tracing: Tracing) -> None:
        self._tracing = tracing
        self._asked = count()

    @property
    def position(self) -> int:
        """Another number each time: what has ended here is never known to be settled."""
        return next(self._asked)

    async def settled(self, first: int, last: int, timeout: float | None) -> bool:
        """Wait for the provider's flush."""
        with anyio.move_on_after(timeout):
            return bool(await _in_thread(self._tracing._flush_provider))
        return False


_NOTHING_TOLD: Final = FlushResult(0, {}, 0)
_NOTHING_EXPORTED: Final = ExportStats(
    ended=0,
    delivered=0,
    dropped={},
    spooled=0,
    queued=0,
    in_flight=0,
    queue_bytes=0,
    requests=0,
    retried=0,
    rejected=0,
    last_error=None,
    oldest_age=0.0,
)


async def _in_thread(func: Callable[[], Any]) -> Any:
    return await anyio.to_thread.run_sync(func, abandon_on_cancel=True)


async def _joined(host: ThreadHost, deadline: float) -> None:
    """Wait for a thread that has been told to end."""
    left = max(deadline - time.monotonic(), _FAREWELL)
    await _bounded(partial(host.join, left), left)


async def _bounded(func: Callable[[], Any], timeout: float) -> None:
    """Call `func` in a thread and wait for so long, also when cancelled."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(timeout):
        await _in_thread(func)
