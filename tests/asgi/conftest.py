from __future__ import annotations

import logging
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio.to_thread
import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from genai_async.testing import Capture, SpanRecord, capture

_OURS = ("asyncio", "genai_async", "opentelemetry")


@pytest.fixture
def anyio_backend() -> str:
    """The clients' event loop; the servers have their own."""
    return "asyncio"


class Spans(SpanProcessor):
    """What servers in other threads have traced; tests wait for it to end."""

    def __init__(self, captured: Capture) -> None:
        self._captured = captured
        self._ended = threading.Condition(threading.RLock())
        captured.provider.add_span_processor(self)  # type: ignore[attr-defined]

    def on_end(self, span: ReadableSpan) -> None:
        with self._ended:
            self._ended.notify_all()

    @property
    def all(self) -> list[SpanRecord]:
        """What has ended."""
        return self._captured.spans

    @property
    def faults(self) -> dict[str, int]:
        """What was odd, by kind."""
        return dict(self._captured.faults)

    @property
    def capture(self) -> Capture:
        """For assertions."""
        return self._captured

    def named(self, name: str, conversation: str | None = None) -> list[SpanRecord]:
        """The ended spans of this name (of one conversation)."""
        return [
            span
            for span in self.all
            if span.name == name and conversation in {None, span.attributes.get("gen_ai.conversation.id")}
        ]

    async def until(self, count: int, name: str | None = None) -> list[SpanRecord]:
        """Wait until this many spans (of this name) have ended and none is open."""

        def has_come() -> bool:
            return len(self.all if name is None else self.named(name)) >= count and not self._captured.open

        def wait() -> None:
            with self._ended:
                self._ended.wait_for(has_come, 10)

        await anyio.to_thread.run_sync(wait)
        found = self.all if name is None else self.named(name)
        assert len(found) == count, f"{len(found)} of {count}, open: {self._captured.open}\n{self._captured}"
        return found


@pytest.fixture
def spans() -> Iterator[Spans]:
    """What is traced in the whole process."""
    with capture(real_time=True) as captured:
        yield Spans(captured)


@pytest.fixture(autouse=True)
def quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], None]]:
    """Fail a test in which anything reaches stderr, or the loggers of asyncio, OpenTelemetry and this library."""
    expected: list[bool] = []
    yield lambda: expected.append(True)
    assert capfd.readouterr().err == ""
    recorded = [*caplog.get_records("setup"), *caplog.get_records("call")]
    ours = [record for record in recorded if record.name.split(".")[0] in _OURS]
    loud = [record.getMessage() for record in ours if record.levelno >= logging.WARNING]
    assert bool(loud) is bool(expected), loud


@pytest.fixture
async def client(anyio_backend: Any) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client for hundreds of requests at once."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(limits=limits, timeout=20, verify=_no_tls(), trust_env=False) as client:
        yield client


def _no_tls() -> ssl.SSLContext:
    # The default context loads the machine's certificates: a third of a second for nothing.
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
