"""The connections of one run of the worker, and the choice of the thread for what takes long."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ._body import body, gzipped
from ._buffer import Batch
from ._config import ExportConfig
from ._fork import importing
from ._reply import MAX_REQUEST_BYTES, SendError
from ._trouble import cause

if TYPE_CHECKING:
    from ._transport import Transport

__all__ = ["Sender"]

_T = TypeVar("_T")

# About what takes a millisecond here: joining runs at some GB/s, compressing at some 50 MB/s.
_INLINE_JOIN_BYTES = 2 * 2**20
_INLINE_GZIP_BYTES = 32 * 2**10
_CLOSE_TIMEOUT = 0.1


class Sender:
    """The connections of one run of the worker, and the choice of where to work."""

    def __init__(self, config: ExportConfig, *, is_alone: bool) -> None:
        self._config = config
        self._is_alone = is_alone
        self._is_gzip = config.compression == "gzip"
        self._lock = anyio.Lock()
        # Not the default limiter: the program's own work in threads must not hold up delivery, nor the reverse.
        self._threads = anyio.CapacityLimiter(config.max_requests)
        self._transport: Transport | None = None
        self.headers = {"Content-Encoding": "gzip"} if self._is_gzip else {}

    async def warm(self) -> None:
        """Make the connections' set-up ready before the first batch; what fails here fails again there, and counts."""
        with suppress(Exception):
            await self.transport()

    async def transport(self) -> Transport:
        """The connections, made when first asked for.

        Raises:
            SendError: They cannot be made now.
        """
        async with self._lock:
            if self._transport is None:
                self._transport = await self.off_loop(_connect, self._config)
            return self._transport

    async def content(self, batch: Batch) -> bytes | None:
        """The bytes to send, or None if they are more than may be sent."""
        size = batch.size_bytes
        if size > MAX_REQUEST_BYTES:
            return None
        if size > (_INLINE_GZIP_BYTES if self._is_gzip else _INLINE_JOIN_BYTES):
            return await self.off_loop(self._content, batch)
        return self._content(batch)

    def _content(self, batch: Batch) -> bytes | None:
        content = body(batch.spans)
        if len(content) > MAX_REQUEST_BYTES:
            return None
        return gzipped(content) if self._is_gzip else content

    async def off_loop(self, func: Callable[..., _T], *args: Any) -> _T:
        """Call `func`, which blocks, where it holds nobody up."""
        if self._is_alone:
            return func(*args)
        return await anyio.to_thread.run_sync(func, *args, abandon_on_cancel=True, limiter=self._threads)

    async def aclose(self) -> None:
        """Close the connections, if there are any."""
        if self._transport is not None:
            with anyio.move_on_after(_CLOSE_TIMEOUT):
                await self._transport.aclose()


def _connect(config: ExportConfig) -> Transport:
    # httpx takes 0.1 s and more to import, TLS as long to set up: here it happens in a thread. OpenSSL has locks of its
    # own, which stay locked in a child that is forked meanwhile, so forks wait for both.
    try:
        with importing:
            from ._transport import Transport

            return Transport(config.with_credentials())
    except Exception as exc:  # a proxy that cannot be used, a store that cannot be read: it may be mended while we wait
        raise SendError(f"cannot set up the connection: {cause(exc)}", is_retryable=True) from exc
