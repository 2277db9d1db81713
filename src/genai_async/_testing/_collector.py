"""An OTLP/HTTP collector over real sockets that fails as it is told to."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import NamedTuple, TypeAlias

import anyio
import h11
from anyio.abc import TaskGroup, TaskStatus
from anyio.from_thread import start_blocking_portal
from anyio.streams.tls import TLSStream

from ._exchange import Exchange, SocketStream
from ._faults import Accept, Fault
from ._ledger import Ledger
from ._wire import BadRequestError, UnsupportedMediaError

__all__ = ["Collector", "Script"]

Script: TypeAlias = Iterable[Fault] | Callable[[int], Fault | None]

_ACCEPT = Accept()
_BROKEN = (
    OSError,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    h11.ProtocolError,  # ours, too: a request may ask for what a fault's answer cannot be
    BadRequestError,
    UnsupportedMediaError,
)


class Collector(Ledger):
    """An OTLP/HTTP trace receiver on a loopback port that plays a script of faults and counts what it accepted.

    It speaks HTTP/1.1 with keep-alive, reads OTLP/JSON (protobuf too where `opentelemetry-proto` is installed) and
    gzip. `async with` runs it in the caller's event loop, asyncio or trio; `with` runs it in a thread of its own.

    ```python
    async with Collector([Status(503, retry_after=1), Reset()]) as collector:
        async with ga.tracing(endpoint=collector.endpoint):
            ...
        await collector.wait_for(3)
        assert set(collector.accepted.values()) == {1}  # nothing came twice
    ```

    Args:
        script: what happens to the first, second, ... request: faults, or a function of the request's number (from
            0) that may return None for "accept". When it has ended, everything is accepted.
        host: the address it listens at.
        port: 0 chooses a free one.
        ssl_context: serves TLS with it.
        path: where traces are taken; other paths are answered with 404.
        keep: whether requests and spans are kept; without, they are only counted, for long runs.
        on_accept: called with each accepted request as one line of OTLP/JSON, before it is answered.

    Raises:
        OSError: on entering, if it cannot listen there.
    """

    def __init__(
        self,
        script: Script = (),
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        path: str = "/v1/traces",
        keep: bool = True,
        on_accept: Callable[[bytes], object] | None = None,
    ) -> None:
        super().__init__(keep, on_accept)
        self.path = path
        self._address = (host, port)
        self._ssl_context = ssl_context
        self._draw: Callable[[], Fault | None]
        self.play(script)
        self._scope = AsyncExitStack()
        self._thread = ExitStack()
        self._tasks: TaskGroup | None = None
        self._up: _Up | None = None
        self._stall: anyio.Event | None = None

    @property
    def ledger(self) -> Ledger:
        """The books themselves."""
        return self

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._address[1]

    @property
    def endpoint(self) -> str:
        """The base URL to give to an exporter."""
        return f"{'https' if self._ssl_context else 'http'}://{self._address[0]}:{self.port}"

    def play(self, script: Script) -> None:
        """Treat the next requests as this script says; an empty one heals the collector."""
        if callable(script):
            numbers = iter(range(1 << 62))
            self._draw = lambda: script(next(numbers))
        else:
            faults: Iterator[Fault] = iter(script)
            self._draw = lambda: next(faults, None)

    async def start(self) -> None:
        """Listen again, on the same port as before."""
        if self._tasks is None:
            raise RuntimeError("enter the collector first: async with Collector() as collector")
        if self._up is None:
            self._up = await self._tasks.start(self._serve, _listen(self._address))

    async def stop(self) -> None:
        """Cut every connection and refuse new ones until `start`."""
        if self._up is not None:
            up, self._up = self._up, None
            up.connections.cancel_scope.cancel()
            await up.ended.wait()

    @asynccontextmanager
    async def down(self) -> AsyncGenerator[None]:
        """Refuse connections within the block, then come back."""
        await self.stop()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await self.start()

    @asynccontextmanager
    async def stalled(self) -> AsyncGenerator[None]:
        """Leave new connections in the backlog within the block: they open, and nobody speaks."""
        stall = self._stall = anyio.Event()
        try:
            yield
        finally:
            self._stall = None
            stall.set()

    def go_down(self, seconds: float) -> None:
        """Be `down` for so long, without waiting for it."""

        async def leave() -> None:
            async with self.down():
                await anyio.sleep(seconds)

        if self._tasks is not None:
            self._tasks.start_soon(leave)

    async def __aenter__(self) -> Collector:
        # Before the task group, which would wrap an error (a port in use) into an ExceptionGroup.
        listener = _listen(self._address)
        async with AsyncExitStack() as stack:
            stack.callback(listener.close)
            self._tasks = await stack.enter_async_context(anyio.create_task_group())
            stack.callback(self._tasks.cancel_scope.cancel)
            self._up = await self._tasks.start(self._serve, listener)
            self._scope = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self._up = None
        if isinstance(error, anyio.get_cancelled_exc_class()):
            return await self._scope.__aexit__(kind, error, traceback)
        # The task group must not see the block's own error, which it would wrap into an ExceptionGroup.
        await self._scope.__aexit__(None, None, None)
        return None

    def __enter__(self) -> Collector:
        with ExitStack() as stack:
            portal = stack.enter_context(start_blocking_portal())
            stack.enter_context(portal.wrap_async_context_manager(self))
            self._thread = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._thread.__exit__(kind, error, traceback)

    async def _serve(self, listener: socket.socket, *, task_status: TaskStatus[_Up]) -> None:
        ended = anyio.Event()
        try:
            with listener:
                self._address = listener.getsockname()[:2]
                async with anyio.create_task_group() as connections:
                    task_status.started(_Up(connections, ended))
                    await self._accept(listener, connections)
        finally:
            ended.set()

    async def _accept(self, listener: socket.socket, connections: TaskGroup) -> None:
        while True:
            await anyio.wait_readable(listener)
            if self._stall is not None:
                await self._stall.wait()
            # A client that gave up in the meantime leaves nothing to accept.
            with suppress(OSError):
                connected, _ = listener.accept()
                self.connections += 1
                connections.start_soon(self._converse, SocketStream(connected))

    async def _converse(self, raw: SocketStream) -> None:
        try:
            with suppress(*_BROKEN):
                if self._ssl_context is None:
                    await self._exchanges(raw, raw)
                else:
                    tls = await TLSStream.wrap(raw, server_side=True, ssl_context=self._ssl_context)
                    await self._exchanges(tls, raw)
        finally:
            await raw.aclose()

    async def _exchanges(self, stream: SocketStream | TLSStream, raw: SocketStream) -> None:
        is_open = True
        while is_open:
            # The fault is drawn when a request begins, so that an idle connection uses none up.
            head = await stream.receive()
            fault = self._draw() or _ACCEPT
            exchange = Exchange(self, stream, raw.reset, head, repr(fault))
            await fault.play(exchange)
            is_open = exchange.is_complete


class _Up(NamedTuple):
    """One stretch of listening: its connections, and the event that the port is closed."""

    connections: TaskGroup
    ended: anyio.Event


def _listen(address: tuple[str, int]) -> socket.socket:
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
        listener.setblocking(False)
        stack.pop_all()
        return listener
