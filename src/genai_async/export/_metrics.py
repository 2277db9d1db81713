"""The exporters' books as OpenTelemetry metrics, read only when a MeterProvider collects (semantic conventions, "SDK").

The instruments are made once in a process, through the API's own meter: without a MeterProvider nothing ever calls
them back, and one that is set later finds them. What the conventions have no name for is under `genai_async.export.`.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from itertools import count
from typing import Final, Protocol, TypeAlias
from urllib.parse import urlsplit

from opentelemetry.metrics import CallbackOptions, Observation, get_meter

from .._version import VERSION
from ._config import ExportConfig
from ._stats import ExportStats

__all__ = ["watch"]

_Attributes: TypeAlias = dict[str, str | int]

# Drops before a span came to be sent; the others are exports that failed.
_BEFORE: Final = {"queue_full": "queue_full", "closed": "already_shutdown", "encoding": "encoding"}


class Observed(Protocol):
    """What has books to show."""

    @property
    def config(self) -> ExportConfig:
        """Where it sends to."""
        ...

    def stats(self) -> ExportStats:
        """The books."""
        ...


_numbers = count()
_observed: weakref.WeakKeyDictionary[Observed, int] = weakref.WeakKeyDictionary()


def watch(exporter: Observed) -> None:
    """Show the books of this exporter for as long as it exists."""
    _observed[exporter] = next(_numbers)
    _register()


def _exported(stats: ExportStats) -> Iterator[tuple[int, str | None]]:
    yield stats.delivered, None
    for reason, lost in stats.dropped.items():
        if reason not in _BEFORE:
            yield lost, "rejected" if reason == "partial_success" else reason


def _processed(stats: ExportStats) -> Iterator[tuple[int, str | None]]:
    yield stats.delivered + sum(lost for reason, lost in stats.dropped.items() if reason not in _BEFORE), None
    for reason, error in _BEFORE.items():
        if lost := stats.dropped.get(reason):
            yield lost, error


@cache
def _register() -> None:
    meter = get_meter("genai_async", VERSION)
    up, up_down = meter.create_observable_counter, meter.create_observable_up_down_counter
    exporter, processor = _of_exporter, _of_processor
    up("otel.sdk.exporter.span.exported", [_shown(exporter, _exported)], "{span}", "Spans whose export has finished")
    up("otel.sdk.processor.span.processed", [_shown(processor, _processed)], "{span}", "Spans that were processed")
    for make, name, of, unit, member, text in (
        (up_down, "otel.sdk.exporter.span.inflight", exporter, "{span}", "in_flight", "Spans in requests under way"),
        (up_down, "otel.sdk.processor.span.queue.size", processor, "{span}", "queued", "Spans waiting in memory"),
        (up_down, "genai_async.export.queue.usage", processor, "By", "queue_bytes", "Memory of waiting spans"),
        (up_down, "genai_async.export.spool.size", exporter, "{span}", "spooled", "Spans on disk"),
        (up, "genai_async.export.requests", exporter, "{request}", "requests", "Requests made"),
        (up, "genai_async.export.retries", exporter, "{request}", "retried", "Requests that repeated one"),
    ):
        make(name, [_shown(of, _plain(member))], unit, text)
    age = [_shown(processor, _plain("oldest_age"))]
    meter.create_observable_gauge("genai_async.export.oldest_age", age, "s", "Age of the oldest waiting span")


_Reader: TypeAlias = Callable[[ExportStats], Iterable[tuple[float, str | None]]]


def _plain(member: str) -> _Reader:
    return lambda stats: [(getattr(stats, member), None)]


def _shown(
    attributes: Callable[[Observed, int], _Attributes], read: _Reader
) -> Callable[[CallbackOptions], list[Observation]]:
    def callback(_: CallbackOptions) -> list[Observation]:
        return [
            Observation(value, attributes(exporter, number) | ({} if error is None else {"error.type": error}))
            for exporter, number in list(_observed.items())
            for value, error in read(exporter.stats())
        ]

    return callback


def _of_exporter(exporter: Observed, number: int) -> _Attributes:
    parts = urlsplit(exporter.config.endpoint)
    return {
        "otel.component.type": "otlp_http_json_span_exporter",
        "otel.component.name": f"genai_async_exporter/{number}",
        "server.address": parts.hostname or "",
        "server.port": parts.port or (443 if parts.scheme == "https" else 80),
    }


def _of_processor(_: Observed, number: int) -> _Attributes:
    return {
        "otel.component.type": "genai_async.export.ExportProcessor",
        "otel.component.name": f"genai_async_processor/{number}",
    }
