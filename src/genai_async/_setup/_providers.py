"""Whose provider makes the spans: ours or the user's, and which one OpenTelemetry's global stands for."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource, ServiceInstanceIdResourceDetector
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace import TracerProvider as SDKTracerProvider
from opentelemetry.sdk.version import __version__ as SDK_VERSION  # noqa: N812

from .. import _env
from .._conversation._processor import ConversationProcessor
from .._conversation._runtime import make_current
from .._conversation._semconv import CONVERSATION_ID, SCHEMA_URL
from .._errors import ConfigurationError
from .._tracer import Delegate, Provider
from .._version import VERSION

if TYPE_CHECKING:
    from ._tracing import Tracing

SCOPE: Final = "genai_async"
"""The name of our instrumentation scope."""


class _Seat(SpanProcessor):
    """Our place in a provider of the user's, taken once: the SDK's providers have no way to take a processor out."""

    def __init__(self) -> None:
        self._conversation = ConversationProcessor(SCOPE)
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


def seat_in(provider: trace.TracerProvider) -> _Seat:
    """Our place in this provider, taken the first time."""
    seat = _seats.get(provider)
    if seat is None:
        seat = _Seat()
        join = getattr(provider, "add_span_processor", None)
        if join is not None:
            join(seat)
        _seats[provider] = seat
    return seat


class _SetUps:
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


set_ups: Final = _SetUps()


def existing_provider() -> trace.TracerProvider | None:
    """The SDK provider that the program has made global, if it has."""
    provider = trace.get_tracer_provider()
    return provider if isinstance(provider, SDKTracerProvider) else None


def own_provider(given: Mapping[str, Any]) -> Provider:
    """A provider with lean spans, with the options and the environment that are there."""
    try:
        return Provider(
            resource=_resource(given),
            sampler=given.get("sampler"),
            id_generator=given.get("id_generator"),
            # Other instrumentations write hundreds of attributes after it; a span without it is in no conversation.
            kept={CONVERSATION_ID},
        )
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


def limit_of(provider: trace.TracerProvider | None) -> int | None:
    """The longest attribute that a provider's spans keep, where it is one of the SDK's; it has no public name."""
    try:
        limit = cast(Any, provider)._span_limits.max_span_attribute_length
    except Exception:
        return None
    return limit if isinstance(limit, int) else None


def tracer_of(provider: trace.TracerProvider) -> trace.Tracer:
    """Our tracer from this provider."""
    try:
        return provider.get_tracer(SCOPE, VERSION, SCHEMA_URL)
    except Exception as exc:
        raise ConfigurationError(f"tracer_provider: cannot make a tracer: {exc}") from exc
