"""A collector in a process of its own that takes what it is sent and counts later, so that it is never the bottleneck.

`python -m benchmarks._sink` prints its port. `POST /NAME/...` is answered 200 at once; `GET /` counts what has come
in since the last time and answers the totals by name.
"""

from __future__ import annotations

import asyncio
import json
import zlib
from collections import defaultdict

_JSON_SPAN = b'"startTimeUnixNano"'
_LENGTH_DELIMITED = 2


class Totals:
    def __init__(self) -> None:
        self._new: dict[str, list[tuple[bytes, bool]]] = defaultdict(list)
        self._spans: dict[str, int] = defaultdict(int)
        self._requests: dict[str, int] = defaultdict(int)
        self._bytes: dict[str, int] = defaultdict(int)

    def take(self, name: str, body: bytes, *, is_gzip: bool) -> None:
        self._new[name].append((body, is_gzip))

    def told(self) -> dict[str, dict[str, int]]:
        for name, bodies in self._new.items():
            self._requests[name] += len(bodies)
            for body, is_gzip in bodies:
                self._bytes[name] += len(body)
                self._spans[name] += count_spans(zlib.decompress(body, 31) if is_gzip else body)
        self._new.clear()
        return {
            name: {"requests": self._requests[name], "spans": self._spans[name], "bytes": self._bytes[name]}
            for name in self._requests
        }


def count_spans(body: bytes) -> int:
    """The spans in an ExportTraceServiceRequest, in either encoding."""
    if body[:1] == b"{":
        return body.count(_JSON_SPAN)
    # resource_spans = 1, in it scope_spans = 2, in it spans = 2
    return sum(
        1
        for resource in _fields(body, 0, len(body), 1)
        for scope in _fields(body, *resource, 2)
        for _ in _fields(body, *scope, 2)
    )


def _fields(data: bytes, position: int, end: int, wanted: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while position < end:
        tag, position = _varint(data, position)
        assert tag & 7 == _LENGTH_DELIMITED, "no message of OTLP has other fields at this level"
        size, position = _varint(data, position)
        if tag >> 3 == wanted:
            found.append((position, position + size))
        position += size
    return found


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


class Connection(asyncio.Protocol):
    def __init__(self, totals: Totals) -> None:
        self._totals = totals
        self._pieces: list[bytes] = []
        self._missing = 0
        self._request: tuple[str, bool, bytes] | None = None
        self._head = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._request is None:
            self._head += data
            head, found, rest = self._head.partition(b"\r\n\r\n")
            if not found:
                return
            self._head = b""
            self._begin(head.decode("latin-1"))
            data = rest
        if data:
            self._pieces.append(data)
            self._missing -= len(data)
        if self._missing <= 0:
            self._finish()

    def _begin(self, head: str) -> None:
        first, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        method, path, _ = first.split(" ", 2)
        name = path.split("/")[1] if method == "POST" else ""
        kind = headers.get("content-type", "application/json").encode()
        self._request = name, headers.get("content-encoding") == "gzip", kind
        self._missing = int(headers.get("content-length", 0))

    def _finish(self) -> None:
        assert self._request is not None
        name, is_gzip, kind = self._request
        if name:
            self._totals.take(name, b"".join(self._pieces), is_gzip=is_gzip)
            answer = b"" if b"protobuf" in kind else b"{}"
        else:
            kind, answer = b"application/json", json.dumps(self._totals.told()).encode()
        self._request = None
        self._pieces = []
        self._missing = 0
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n%b" % (kind, len(answer), answer)
        )


async def serve() -> None:
    totals = Totals()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(totals), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve())
