"""The same work without tracing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks._workload import Exchange, Turn, work


class Peer:
    async def open(self, url: str) -> None: ...

    @contextmanager
    def conversation(self, conversation_id: str) -> Iterator[Turn]:
        yield self._turn

    async def _turn(self, latency: float) -> None:
        Exchange.next()
        await work(latency)
        await work(0)

    async def flush(self) -> None: ...

    async def close(self) -> None: ...
