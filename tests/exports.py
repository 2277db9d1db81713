"""Spans to export, exporters at work, and what must hold of their books."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from genai_async.export import ExportConfig, Exporter, ExportStats, RetryPolicy

FAST = RetryPolicy(initial=0.01, maximum=0.05)
_RESOURCE = Resource({"service.name": "tests"})


def span(number: int = 1, attributes: Mapping[str, Any] | None = None) -> ReadableSpan:
    """An ended, sampled span whose id is `number`."""
    context = SpanContext(1, number, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan("s", context=context, resource=_RESOURCE, attributes=attributes, start_time=1, end_time=2)


def feed(exporter: Exporter, count: int, first: int = 1, attributes: Mapping[str, Any] | None = None) -> set[str]:
    """Let so many spans end; their ids."""
    numbers = range(first, first + count)
    for number in numbers:
        exporter.accept(span(number, attributes))
    return {f"{number:016x}" for number in numbers}


def made(**options: Any) -> Exporter:
    """An exporter that is quick about everything unless told otherwise, and that nobody runs yet."""
    return Exporter(ExportConfig.resolve(**{"retry": FAST, "schedule_delay": 0.01, "shutdown_timeout": 1.0, **options}))


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Exporter]:
    """An exporter at work in this loop; closed at the end of the block."""
    exporter = made(**options)
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        try:
            yield exporter
        finally:
            await exporter.aclose()


def imbalance(stats: ExportStats) -> int:
    """How far the books are off."""
    return stats.ended - (stats.delivered + stats.dropped_total + stats.spooled + stats.queued + stats.in_flight)


def balanced(exporter: Exporter) -> bool:
    """Whether every ended span is accounted for."""
    return imbalance(exporter.stats()) == 0


async def until(condition: Callable[[], object], timeout: float = 5.0) -> bool:
    """Whether it came true in time."""
    with anyio.move_on_after(timeout):
        while not condition():
            await anyio.sleep(0.005)
        return True
    return False
