"""The two homes of an exporter, behind one face, and spans to send from them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import anyio
import anyio.to_thread
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from genai_async.export import ExportConfig, Exporter, ExportStats, RetryPolicy, ThreadHost

FAST = RetryPolicy(initial=0.02, maximum=0.1)
_RESOURCE = Resource({"service.name": "tests"})


class Host(Protocol):
    """Where an exporter runs."""

    def running(self, **options: Any) -> AbstractAsyncContextManager[Exporter]:
        """An exporter at work, closed at the end of the block."""
        ...


class LoopHost:
    """The caller's own event loop."""

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Exporter]:
        exporter = _exporter(options)
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            try:
                yield exporter
            finally:
                await exporter.aclose()


class ThreadedHost:
    """A thread of its own."""

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Exporter]:
        exporter = _exporter(options)
        host = ThreadHost()
        host.start(exporter)
        try:
            yield exporter
        finally:
            await exporter.aclose()
            assert await anyio.to_thread.run_sync(host.join, 5.0)


def _exporter(options: dict[str, Any]) -> Exporter:
    given = {"retry": FAST, "schedule_delay": 0.01, "shutdown_timeout": 1.0, **options}
    return Exporter(ExportConfig.resolve(**given))


def span(number: int, attributes: Any = None) -> ReadableSpan:
    """An ended, sampled span whose id is `number`."""
    context = SpanContext(1, number, is_remote=False, trace_flags=TraceFlags(1))
    return ReadableSpan("s", context=context, resource=_RESOURCE, attributes=attributes, start_time=1, end_time=2)


def feed(exporter: Exporter, count: int, first: int = 1, attributes: Any = None) -> set[str]:
    """Let so many spans end; their ids."""
    numbers = range(first, first + count)
    for number in numbers:
        exporter.accept(span(number, attributes))
    return {f"{number:016x}" for number in numbers}


def imbalance(stats: ExportStats) -> int:
    """How far the books are off."""
    return stats.ended - (stats.delivered + stats.dropped_total + stats.spooled + stats.queued + stats.in_flight)


async def until(condition: Any, timeout: float = 5.0) -> bool:
    """Whether it came true in time."""
    with anyio.move_on_after(timeout):
        while not condition():
            await anyio.sleep(0.005)
        return True
    return False
