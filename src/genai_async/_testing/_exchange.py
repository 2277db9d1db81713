"""One HTTP request on a collector's connection and every way, good or bad, of answering it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Protocol

import anyio
import h11
from anyio.abc import ByteStream
from msgspec import json

from ._ledger import Ledger, ReceivedRequest
from ._wire import BadRequestError, UnsupportedMediaError, decode_request, decompress, to_json

__all__ = ["Exchange", "SocketStream"]

_RECEIVE_BYTES = 1 << 18


class SocketStream(ByteStream):
    """A connected socket; unlike anyio's own stream it can end with a TCP reset instead of an orderly close."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    async def receive(self, max_bytes: int = _RECEIVE_BYTES) -> bytes:
        data: bytes | None = None
        while data is None:
            await anyio.wait_readable(self._socket)
            # A wake-up may be a false alarm.
            with suppress(BlockingIOError), _ours():
                data = self._socket.recv(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        view = memoryview(item)
        while view:
            await anyio.wait_writable(self._socket)
            with suppress(BlockingIOError), _ours():
                view = view[self._socket.send(view) :]

    async def send_eof(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Close with RST: the peer reads "connection reset" and not an end of file."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()


class Server(Protocol):
    """What an exchange needs of the collector it happens in."""

    @property
    def path(self) -> str: ...

    @property
    def ledger(self) -> Ledger: ...

    def go_down(self, seconds: float) -> None: ...


class Exchange:
    """One request and the means to answer it: what a fault plays on.

    Args:
        head: the bytes that announced the request.
        fault: how the fault calls itself, for the records.
    """

    def __init__(self, server: Server, stream: ByteStream, reset: Callable[[], None], head: bytes, fault: str) -> None:
        self.head_delay: float = 0.0
        self.body_delay: float = 0.0
        self.body_steps = 2
        self._server = server
        self._stream = stream
        self._reset = reset
        self._fault = fault
        self._request: ReceivedRequest | None = None
        self._http = h11.Connection(h11.SERVER)
        self._http.receive_data(head)

    @property
    def is_complete(self) -> bool:
        """Whether request and answer went through and the connection may serve another."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    async def read(self) -> ReceivedRequest:
        """The whole request, read from the connection at the first call."""
        if self._request is None:
            head = await self._head()
            self._request = ReceivedRequest(
                method=head.method.decode(),
                path=head.target.decode(),
                headers={name.decode().lower(): value.decode("latin-1") for name, value in head.headers},
                fault=self._fault,
            )
            self._server.ledger.begin(self._request)
            self._request.body = await self._body()
            self._request.wire_bytes = len(self._request.body)
        return self._request

    async def accept(self, *, rejected: int = 0) -> None:
        """Count the request's spans as accepted, except the last `rejected` of them.

        Raises:
            BadRequestError: the body is not an OTLP trace request.
            UnsupportedMediaError: its type or encoding cannot be read.
        """
        request = await self.read()
        request.body = decompress(request.body, request.headers.get("content-encoding", "").lower())
        line = to_json(request.body, request.content_type)
        self._server.ledger.enter(request, line, decode_request(line), rejected)

    async def answer(self, *, rejected: int = 0, body: bytes = b"{}") -> None:
        """Accept as a collector in good health does: 200, or the status that says what is wrong."""
        request = await self.read()
        if request.method != "POST":
            return await self.respond(405, body=_message("send a POST"))
        if request.path.partition("?")[0] != self._server.path:
            return await self.respond(404, body=_message(f"traces go to {self._server.path}"))
        try:
            await self.accept(rejected=rejected)
        except (BadRequestError, UnsupportedMediaError) as exc:
            return await self.respond(400 if isinstance(exc, BadRequestError) else 415, body=_message(str(exc)))
        return await self.respond(200, body=body)

    async def respond(
        self,
        status: int,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
        content_type: str = "application/json",
        sent_bytes: int | None = None,
    ) -> None:
        """Answer the request; with `sent_bytes`, announce the whole body, send so much of it and hang up."""
        request = await self.read()
        request.status = status
        self._server.ledger.statuses[status] += 1
        body = b"" if status in {204, 304} or request.method == "HEAD" else body
        if self.body_delay and sent_bytes is None:
            # There must be something to send in each step; blanks change nothing about JSON.
            body = body.ljust(self.body_steps)
        fixed = [("content-type", content_type), ("content-length", str(len(body)))]
        response = h11.Response(status_code=status, headers=[*fixed, *headers])
        await self._send(self._http.send(response), self.head_delay, 2)
        if body:
            await self._send((self._http.send(h11.Data(body)) or b"")[:sent_bytes], self.body_delay, self.body_steps)
        if sent_bytes is None:
            await self._send(self._http.send(h11.EndOfMessage()))

    async def send_raw(self, data: bytes) -> None:
        """Write these bytes to the connection, HTTP or not."""
        await self._stream.send(data)

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self._reset()

    def go_down(self, seconds: float) -> None:
        """Cut every connection and refuse new ones for so long."""
        self._server.go_down(seconds)

    async def _send(self, data: bytes | None, delay: float = 0.0, steps: int = 1) -> None:
        data = data or b""
        size = -(-len(data) // steps) if delay else len(data)
        for start in range(0, len(data), max(1, size)):
            if delay:
                await anyio.sleep(delay / steps)
            await self._stream.send(data[start : start + size])

    async def _body(self) -> bytes:
        parts: list[bytes] = []
        while isinstance(event := await self._event(), h11.Data):
            parts.append(bytes(event.data))
        return b"".join(parts)

    async def _head(self) -> h11.Request:
        event = await self._event()
        if not isinstance(event, h11.Request):
            raise anyio.BrokenResourceError
        return event

    async def _event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await self._stream.send(self._http.send(go_on) or b"")
            try:
                self._http.receive_data(await self._stream.receive())
            except anyio.EndOfStream:
                self._http.receive_data(b"")
        return event


@contextmanager
def _ours() -> Generator[None]:
    # The operating system's errors as those of anyio, but for the one that says "try again".
    try:
        yield
    except BlockingIOError:
        raise
    except OSError as exc:
        raise anyio.BrokenResourceError from exc


def _message(text: str) -> bytes:
    return json.encode({"message": text})
