"""The two homes of an exporter, behind one face."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

import anyio
import anyio.to_thread
from tests.exports import made, running

from genai_async.export import Exporter, ThreadHost


class Host(Protocol):
    """Where an exporter runs."""

    def running(self, **options: Any) -> AbstractAsyncContextManager[Exporter]:
        """An exporter at work, closed at the end of the block."""
        ...


class LoopHost:
    """The caller's own event loop."""

    def running(self, **options: Any) -> AbstractAsyncContextManager[Exporter]:
        return running(**options)


class ThreadedHost:
    """A thread of its own."""

    @asynccontextmanager
    async def running(self, **options: Any) -> AsyncIterator[Exporter]:
        exporter = made(**options)
        host = ThreadHost()
        host.start(exporter)
        try:
            yield exporter
        finally:
            await exporter.aclose()
            assert await anyio.to_thread.run_sync(host.join, 5.0)
