"""A collector on a real socket that answers as told, on the loop of the test."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import anyio
import anyio.abc
import h11
import msgspec


@dataclass
class Seen:
    """One request."""

    headers: dict[str, str]
    raw: bytes
    path: str = ""

    @property
    def body(self) -> dict[str, Any]:
        data = zlib.decompress(self.raw, 47) if self.headers.get("content-encoding") == "gzip" else self.raw
        value = msgspec.json.decode(data)
        assert isinstance(value, dict)
        return value

    @property
    def spans(self) -> list[dict[str, Any]]:
        return [
            span
            for resource in self.body["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    @property
    def ids(self) -> list[int]:
        return [int(span["spanId"], 16) for span in self.spans]


@dataclass
class Answer:
    """What to reply: a status with headers and body, or nothing at all."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b"{}"


Script: TypeAlias = Callable[[Seen], Awaitable[Answer | None]]


async def ok(seen: Seen) -> Answer:
    """Take everything."""
    return Answer()


def always(answer: Answer) -> Script:
    """The same answer each time."""

    async def script(seen: Seen) -> Answer:
        return answer

    return script


@dataclass
class Collector:
    """Requests that arrived, and what to answer; `None` from the script resets the connection."""

    script: Script = ok
    url: str = ""
    seen: list[Seen] = field(default_factory=list)
    accepted: list[int] = field(default_factory=list)

    async def serve(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            connection = h11.Connection(h11.SERVER)
            while await self._answer(connection, stream):
                connection.start_next_cycle()

    async def _answer(self, connection: h11.Connection, stream: anyio.abc.SocketStream) -> bool:
        seen = await _receive(connection, stream)
        if seen is None:
            return False
        self.seen.append(seen)
        answer = await self.script(seen)
        if answer is None:
            return False
        if answer.status == 200:
            self.accepted += seen.ids
        headers = [("content-length", str(len(answer.body))), *answer.headers]
        data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
        data += connection.send(h11.Data(data=answer.body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        try:
            await stream.send(data)
        except anyio.BrokenResourceError:
            return False
        return connection.our_state is h11.DONE and connection.their_state is h11.DONE


async def _receive(connection: h11.Connection, stream: anyio.abc.SocketStream) -> Seen | None:
    seen: Seen | None = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:  # whoever sent has gone in the middle, at a deadline say
            return None
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(await stream.receive())
            except anyio.EndOfStream:
                connection.receive_data(b"")
            except anyio.BrokenResourceError:
                return None
        elif isinstance(event, h11.Request):
            seen = Seen({}, b"", event.target.decode())
            for name, value in event.headers:  # what comes twice reads as one list (RFC 9110, 5.3)
                before = seen.headers.get(name.decode())
                text = value.decode("latin-1")
                seen.headers[name.decode()] = text if before is None else f"{before}, {text}"
        elif isinstance(event, h11.Data) and seen is not None:
            seen.raw += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return seen
        else:
            return None


@asynccontextmanager
async def collector(script: Script = ok) -> AsyncIterator[Collector]:
    """A collector on a free port of this host, for the length of the block."""
    found = Collector(script)
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    found.url = f"http://127.0.0.1:{port}"
    async with listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, found.serve)
        yield found
        group.cancel_scope.cancel()
