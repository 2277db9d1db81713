"""What a collector received: requests, spans, and how often each span was accepted."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping

import anyio
from msgspec import Struct

from .._loop import Signal
from ._record import SpanRecord

__all__ = ["Ledger", "ReceivedRequest"]


class ReceivedRequest(Struct, kw_only=True):
    """One request as the collector saw it; header names are in lower case.

    `body` is decompressed once its spans were accepted, `wire_bytes` counts it as it came. `status` is what was
    answered, None without an answer. `span_ids` are the accepted ones.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    fault: str
    body: bytes = b""
    wire_bytes: int = 0
    status: int | None = None
    span_ids: tuple[str, ...] = ()

    @property
    def content_type(self) -> str:
        """The type that the sender declared, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


class Ledger:
    """The books of a collector.

    Attributes:
        requests: every request that was read, in order.
        spans: the accepted spans, each once, in order of arrival.
        accepted: span id to how often it was accepted; above 1 is a duplicate.
        rejected: span id to how often a partial success rejected it.
        statuses: HTTP status to how often it was answered.
        connections: how many connections were made.
    """

    def __init__(self, keep: bool, on_accept: Callable[[bytes], object] | None) -> None:
        self.requests: list[ReceivedRequest] = []
        self.spans: list[SpanRecord] = []
        self.accepted: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.connections = 0
        self._keep = keep
        self._on_accept = on_accept
        self._progress = Signal()

    async def wait_for(self, n_spans: int, timeout: float = 10.0) -> list[SpanRecord]:
        """Wait, in any task of any loop, until so many different spans were accepted; return all of them.

        Raises:
            TimeoutError: they did not come in time; the text says what did.
        """
        with anyio.move_on_after(timeout):
            while self._lacks(n_spans):
                await self._progress.wait()
        return self._delivered(n_spans, timeout)

    def wait_for_blocking(self, n_spans: int, timeout: float = 10.0) -> list[SpanRecord]:
        """`wait_for` for plain threads.

        Raises:
            TimeoutError: they did not come in time; the text says what did.
        """
        deadline = time.monotonic() + timeout
        while self._lacks(n_spans) and self._progress.wait_blocking(max(0.0, deadline - time.monotonic())):
            pass
        return self._delivered(n_spans, timeout)

    def begin(self, request: ReceivedRequest) -> None:
        """Write down a request whose head was read."""
        if self._keep:
            self.requests.append(request)

    def enter(self, request: ReceivedRequest, line: bytes, spans: list[SpanRecord], rejected: int) -> None:
        """Write down the spans of a request, of which the last `rejected` are not taken."""
        taken = spans[: len(spans) - rejected]
        if self._keep:
            self.spans += (span for span in taken if span.span_id not in self.accepted)
        request.span_ids = tuple(span.span_id for span in taken)
        self.accepted.update(request.span_ids)
        self.rejected.update(span.span_id for span in spans[len(taken) :])
        if self._on_accept is not None:
            self._on_accept(line)
        self._progress.set()

    def _lacks(self, n_spans: int) -> bool:
        # Cleared before the look: what arrives after it sets the signal again.
        self._progress.clear()
        return len(self.accepted) < n_spans

    def _delivered(self, n_spans: int, timeout: float) -> list[SpanRecord]:
        if len(self.accepted) >= n_spans:
            return self.spans
        answers = ", ".join(f"{status} x{count}" for status, count in sorted(self.statuses.items())) or "none"
        raise TimeoutError(
            f"{len(self.accepted)} of {n_spans} spans arrived within {timeout:g} s "
            f"over {self.connections} connections; answers: {answers}"
        )
