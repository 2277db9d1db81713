"""The one place that joins the rooms: a provider of spans, an exporter, and what conversations need of both."""

from __future__ import annotations

import atexit
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, Unpack, cast
from weakref import WeakKeyDictionary

import anyio
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource, ServiceInstanceIdResourceDetector
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.version import __version__ as SDK_VERSION  # noqa: N812

from . import _env
from ._conversation._content import Gate, Redact, checked_redactor
from ._conversation._copying import MAX_CONTENT_BYTES
from ._conversation._faults import Faults
from ._conversation._processor import ConversationProcessor, RedactingProcessor
from ._conversation._runtime import Delivery, Runtime, make_current
from ._conversation._semconv import SCHEMA_URL
from ._errors import ClosedError, ConfigurationError
from ._loop import is_cancellation, load_backend
from ._tracer import Delegate, Provider
from ._version import VERSION
from .export import ExportConfig, ExportOptions, ExportStats, FlushResult
from .export._config import DeliveryOptions

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus
    from opentelemetry.sdk.trace.export import SpanExporter

    from .export import Exporter, ThreadHost

__all__ = ["Tracing", "TracingOptions", "capturing", "configure", "tracing"]

_logger = logging.getLogger("genai_async")

_SCOPE: Final = "genai_async"
_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ON_SPANS: Final = frozenset({"SPAN_ONLY", "SPAN_AND_EVENT"})
_NOT_ON_SPANS: Final = frozenset({"NO_CONTENT", "EVENT_ONLY"})
_KNOWN_EXPORTERS: Final = frozenset({"otlp", "otlp/stdout", "console", "none"})
# Seconds past a deadline for a thread that has been told to end, which takes it milliseconds unless it is stuck.
_FAREWELL: Final = 0.05
# Rounds of the loop, in which a cancelled task comes out of as many blocks that await something.
_LAST_STEPS: Final = 50
# What a provider that is there already decides by itself.
_PROVIDERS_OWN: Final = frozenset({"service_name", "resource", "sampler", "id_generator"})
# Any of these says that our own exporter is wanted, also beside a provider that has exporters of its own.
_EXPORT_WISHES: Final = ("endpoint", "transport", "spool")


class TracingOptions(DeliveryOptions, total=False):
    """The options of `tracing()` and `configure()`; None, like absence, is the `OTEL_*` variable or the default."""

    service_name: str | None
    resource: Resource | Mapping[str, Any] | None
    sampler: Sampler | None
    id_generator: IdGenerator | None
    capture_content: bool | None
    redact: Redact | None
    redact_others: bool | None
    tracer_provider: trace.TracerProvider | None
    record_cancellation_as_error: bool | None


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
        _check(given)
        self._faults = Faults()
        self._cancellation_is_error = cast(bool, given.get("record_cancellation_as_error", True))
        foreign = _globals.meant_by(given.get("tracer_provider")) or _existing_provider()
        if foreign is not None:
            _warn_of_unused(given)
        self._gate = _gate(given, self._faults, foreign)
        self._exporter = _exporter(given, is_joining=foreign is not None)
        self._owns_provider = foreign is None
        self._provider: trace.TracerProvider = foreign or _own_provider(given)
        self._export_processor = None if self._exporter is None else self._to_exporter(given, self._exporter)
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
            a provider of yours does the export, it tells no numbers: `pending` is 1 if its flush failed, else 0.

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
            if self._owns_provider:
                await _bounded(self._shutdown_provider, max(deadline - time.monotonic(), _FAREWELL))
            if self._host is not None:
                left = max(deadline - time.monotonic(), _FAREWELL)
                await _bounded(partial(self._host.join, left), left)
            self._result = result
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
        if result.complete or (self._exporter is not None and self._exporter.is_closed):
            self._result = result
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
            from .export import ThreadHost

            self._host = ThreadHost()
            self._host.start(self._exporter)
        return self

    async def __aenter__(self) -> Self:
        if self._host is not None:
            raise RuntimeError("configure() has begun this Tracing; `async with` takes one of tracing()")
        if self._has_begun or self._result is not None:
            raise RuntimeError("a Tracing can be entered once")
        await load_backend()
        self._install()
        # For a block that the interpreter's exit finds open: its loop has stopped, or runs in a daemon thread.
        atexit.register(self.shutdown)
        self._group = await anyio.create_task_group().__aenter__()
        if self._exporter is not None:
            try:
                with anyio.CancelScope(shield=True):
                    await self._group.start(self._export, name="genai_async export")
            except BaseException:
                await self.__aexit__(None, None, None)
                raise
        return self

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
        if _env.flag("OTEL_SDK_DISABLED"):
            return
        capture = None if self._is_capture else _globals.capture()
        if capture is not None:
            self._provider, self._owns_provider = capture.provider, False
            return
        if self._runtime is None:
            tracer = _tracer(self._provider)
            self._join_provider()
            delivery: Delivery = _ProviderDelivery(self) if self._exporter is None else self._exporter
            self._runtime = Runtime(
                tracer,
                self._gate,
                self._faults,
                delivery=delivery,
                cancellation_is_error=self._cancellation_is_error,
            )
            _globals.enter(self)

    def _uninstall(self) -> None:
        atexit.unregister(self.shutdown)
        if self._runtime is not None:
            _globals.leave(self)
            if not self._owns_provider:
                _seat_in(self._provider).remove(self._export_processor)

    def _to_exporter(self, given: Mapping[str, Any], exporter: Exporter) -> SpanProcessor:
        from .export import ExportProcessor

        processor = ExportProcessor(exporter)
        if not given.get("redact_others"):
            return processor
        if self._gate.redact is None:
            raise ConfigurationError("redact_others: there is no redact")
        return RedactingProcessor(processor, _SCOPE, self._gate, self._faults)

    def _join_provider(self) -> None:
        if not self._owns_provider:
            try:
                _seat_in(self._provider).add(self._export_processor)
            except Exception as exc:
                raise ConfigurationError(f"tracer_provider: cannot be joined: {exc}") from exc
            return
        provider = cast(Provider, self._provider)
        provider.add_span_processor(ConversationProcessor(_SCOPE))
        if self._export_processor is not None:
            provider.add_span_processor(self._export_processor)
        for exporter in _exporters_to_stdout():
            from opentelemetry.sdk.trace.export import SimpleSpanProcessor

            provider.add_span_processor(SimpleSpanProcessor(exporter))

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


class _Seat(SpanProcessor):
    """Our place in a provider of the user's, taken once: the SDK's providers have no way to take a processor out."""

    def __init__(self) -> None:
        self._conversation = ConversationProcessor(_SCOPE)
        self._exports: tuple[SpanProcessor, ...] = ()

    def add(self, processor: SpanProcessor | None) -> None:
        """Give ended spans to this processor, too."""
        if processor is not None:
            self._exports = (*self._exports, processor)

    def remove(self, processor: SpanProcessor | None) -> None:
        """Give it no more."""
        self._exports = tuple([other for other in self._exports if other is not processor])

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._conversation.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self._exports:
            processor.on_end(span)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        told = [processor.force_flush(timeout_millis) for processor in self._exports]
        return all(told)

    def shutdown(self) -> None:
        for processor in self._exports:
            processor.shutdown()


_seats: WeakKeyDictionary[trace.TracerProvider, _Seat] = WeakKeyDictionary()


def _seat_in(provider: trace.TracerProvider) -> _Seat:
    seat = _seats.get(provider)
    if seat is None:
        seat = _Seat()
        join = getattr(provider, "add_span_processor", None)
        if join is not None:
            join(seat)
        _seats[provider] = seat
    return seat


class _Globals:
    """Which provider OpenTelemetry's global stands for: that of the newest set-up which is still there."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._delegate = Delegate()
        self._set_ups: list[Tracing] = []

    def meant_by(self, provider: trace.TracerProvider | None) -> trace.TracerProvider | None:
        """The provider that somebody passed, or what it stands for: what stands for us must not point at itself."""
        if isinstance(provider, trace.ProxyTracerProvider):
            provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):
            return None
        return self._delegate.target if provider is self._delegate else provider

    def enter(self, tracing: Tracing) -> None:
        """Put this set-up's provider behind the global, if that is ours to fill."""
        with self._lock:
            if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
                trace.set_tracer_provider(self._delegate)
            self._set_ups.append(tracing)
            self._show_newest()

    def capture(self) -> Tracing | None:
        """The newest set-up that takes what others would, if there is one."""
        return next((set_up for set_up in reversed(self._set_ups) if set_up._is_capture), None)

    def leave(self, tracing: Tracing) -> None:
        """Take it out again; the newest of those left takes its place."""
        with self._lock:
            if tracing in self._set_ups:
                self._set_ups.remove(tracing)
                self._show_newest()

    def _show_newest(self) -> None:
        newest = self._set_ups[-1] if self._set_ups else None
        self._delegate.target = None if newest is None else newest.provider
        make_current(None if newest is None else newest._runtime)


_globals: Final = _Globals()

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


async def _bounded(func: Callable[[], Any], timeout: float) -> None:
    """Call `func` in a thread and wait for so long, also when cancelled."""
    with anyio.CancelScope(shield=True), anyio.move_on_after(timeout):
        await _in_thread(func)


def _check(given: Mapping[str, Any]) -> None:
    kinds: dict[str, type | tuple[type, ...]] = {
        "service_name": str,
        "resource": (Resource, Mapping),
        "sampler": Sampler,
        "id_generator": IdGenerator,
        "capture_content": bool,
        "redact_others": bool,
        "record_cancellation_as_error": bool,
        "tracer_provider": trace.TracerProvider,
    }
    for name, value in given.items():
        if name not in TracingOptions.__annotations__:
            raise ConfigurationError(f"{name}: no such option")
        kind = kinds.get(name)
        if kind is not None and not isinstance(value, kind):
            raise ConfigurationError(f"{name}: cannot be a {type(value).__name__}")


def _gate(given: Mapping[str, Any], faults: Faults, foreign: trace.TracerProvider | None) -> Gate:
    redact = checked_redactor(given.get("redact"))
    # A longer JSON text would be cut by the span itself, in the middle.
    try:
        own = SpanLimits().max_span_attribute_length
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    limit_bytes = min([limit for limit in (own, _limit_of(foreign)) if limit is not None], default=MAX_CONTENT_BYTES)
    limit_bytes = min(limit_bytes, MAX_CONTENT_BYTES)
    capture = given.get("capture_content")
    return Gate(_capture_from_environment() if capture is None else capture, redact, limit_bytes, faults)


def _warn_of_unused(given: Mapping[str, Any]) -> None:
    """Say which options have no say beside a provider that is there already."""
    if unused := given.keys() & _PROVIDERS_OWN:
        _logger.warning("a TracerProvider is there already and makes the spans: %s not used", ", ".join(sorted(unused)))
    is_exporting = any(name in given for name in _EXPORT_WISHES)
    if not is_exporting and (unused := given.keys() & ExportOptions.__annotations__.keys()):
        names = ", ".join(sorted(unused))
        _logger.warning("a TracerProvider is there already and sends the spans: %s not used without `endpoint`", names)


def _limit_of(provider: trace.TracerProvider | None) -> int | None:
    """The longest attribute that a provider's spans keep, where it is one of the SDK's; it has no public name."""
    try:
        limit = cast(Any, provider)._span_limits.max_span_attribute_length
    except Exception:
        return None
    return limit if isinstance(limit, int) else None


def _capture_from_environment() -> bool:
    value = (_env.text(_CAPTURE) or "SPAN_ONLY").upper()
    if value not in _ON_SPANS | _NOT_ON_SPANS:
        _logger.warning("%s is none of %s: no content is captured", _CAPTURE, sorted(_ON_SPANS | _NOT_ON_SPANS))
    return value in _ON_SPANS


def _existing_provider() -> trace.TracerProvider | None:
    """The SDK provider that the program has made global, if it has."""
    provider = trace.get_tracer_provider()
    return provider if isinstance(provider, SDKTracerProvider) else None


def _exporter(given: Mapping[str, Any], *, is_joining: bool) -> Exporter | None:
    if not is_joining:
        for name in _named_exporters() - _KNOWN_EXPORTERS:
            _logger.warning("OTEL_TRACES_EXPORTER names %r, which is not known here", name)
    options = {name: value for name, value in given.items() if name in ExportConfig.__struct_fields__}
    config = ExportConfig.resolve(**cast(Any, options))
    wished = any(name in given for name in _EXPORT_WISHES)
    if not wished and (is_joining or "otlp" not in _named_exporters()):
        return None
    if _env.text("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc":
        _logger.warning("OTEL_EXPORTER_OTLP_PROTOCOL is grpc, but spans leave as http/json")
    from .export import Exporter

    return Exporter(config)


def _named_exporters() -> set[str]:
    return {name.strip() for name in (_env.text("OTEL_TRACES_EXPORTER") or "otlp").split(",")}


def _exporters_to_stdout() -> Iterator[SpanExporter]:
    # Loaded when they are named only.
    names = _named_exporters()
    if "console" in names:
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        yield ConsoleSpanExporter()
    if "otlp/stdout" in names:
        from .export._stdout import LineExporter

        yield LineExporter()


def _own_provider(given: Mapping[str, Any]) -> Provider:
    try:
        return Provider(resource=_resource(given), sampler=given.get("sampler"), id_generator=given.get("id_generator"))
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc


def _resource(given: Mapping[str, Any]) -> Resource:
    own: Resource | Mapping[str, Any] = given.get("resource") or {}
    if not isinstance(own, Resource):
        own = Resource(dict(own))
    named = Resource({"service.name": given["service_name"]} if "service_name" in given else {})
    return _DISTRO.merge(_detected()).merge(own).merge(named)


def _detected() -> Resource:
    if _env.text("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS") is not None:
        return Resource.create()
    # What that comes to, without the threads that it starts for each detector.
    return _SDK.merge(ServiceInstanceIdResourceDetector().detect()).merge(OTELResourceDetector().detect())


_DISTRO: Final = Resource({"telemetry.distro.name": "genai-async", "telemetry.distro.version": VERSION})
_EXECUTABLE: Final = (sys.executable or "").replace("\\", "/").rpartition("/")[2]
_SDK: Final = Resource(
    {
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": SDK_VERSION,
        "service.name": f"unknown_service:{_EXECUTABLE}" if _EXECUTABLE else "unknown_service",
    }
)


def _tracer(provider: trace.TracerProvider) -> trace.Tracer:
    try:
        return provider.get_tracer(_SCOPE, VERSION, SCHEMA_URL)
    except Exception as exc:
        raise ConfigurationError(f"tracer_provider: cannot make a tracer: {exc}") from exc
