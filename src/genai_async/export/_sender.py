"""The connections of one run of the worker, and the choice of the thread for what takes long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from ._body import body, gzipped
from ._buffer import Batch
from ._config import ExportConfig
from ._fork import importing
from ._reply import MAX_REQUEST_BYTES, Reply, SendError
from ._trouble import cause

if TYPE_CHECKING:
    from ._transport import Transport

__all__ = ["Sender"]

_T = TypeVar("_T")

# About what takes a millisecond here: joining runs at some GB/s, compressing at some 50 MB/s.
_INLINE_JOIN_BYTES = 2 * 2**20
_INLINE_GZIP_BYTES = 32 * 2**10
_CLOSE_TIMEOUT = 0.1
# Certificates are renewed hours before they expire; and after a failure we look at once.
_LOOK_INTERVAL = 60.0


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
        self._look_at = -math.inf
        # Why what is in the files now cannot be used.
        self._fault: str | None = None
        self._headers = {"Content-Encoding": "gzip"} if self._is_gzip else {}

    async def warm(self) -> None:
        """Make the connections' set-up ready before the first batch; what fails here fails again there, and counts."""
        with suppress(Exception):
            await self._current()

    async def post(self, content: bytes) -> Reply:
        """Send one request and read its response, without a deadline of its own.

        Raises:
            SendError: There is no response, or the connections cannot be made now.
        """
        transport = await self._current()
        try:
            return await transport.post(content, self._headers)
        except SendError as fault:
            self._look_at = -math.inf
            raise SendError(self._fault or fault.kind, is_retryable=fault.is_retryable) from fault

    async def _current(self) -> Transport:
        """The connections, made when first asked for, and anew when files of certificates have changed."""
        async with self._lock:
            now = time.monotonic()
            if self._transport is None:
                self._transport = await self.off_loop(_connect, self._config)
                self._look_at = now + _LOOK_INTERVAL
            elif self._transport.has_files and now >= self._look_at:
                self._look_at = now + _LOOK_INTERVAL
                await self._renew(self._transport)
            return self._transport

    async def _renew(self, old: Transport) -> None:
        """Go by what is in the files now, if that has changed and can be used."""
        try:
            new = await self.off_loop(_reconnect, old, self._config)
        except SendError as fault:
            self._fault = fault.kind
            return
        self._fault = None
        if new is not None:
            self._transport = new
            with anyio.move_on_after(_CLOSE_TIMEOUT):
                await old.retire()

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


def _reconnect(old: Transport, config: ExportConfig) -> Transport | None:
    return _connect(config) if old.is_outdated() else None
