"""What a collector can do to a request: small frozen values, played one for each request.

A fault of your own is any object with `async def play(self, exchange)`.
"""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Literal, Protocol

import anyio
import msgspec

from ._exchange import Exchange

__all__ = [
    "Accept",
    "BrokenGzip",
    "Fault",
    "Garbage",
    "HalfResponse",
    "Hold",
    "HugeBody",
    "PartialSuccess",
    "Refuse",
    "Reset",
    "Slow",
    "Status",
    "TooLarge",
    "WrongType",
]


class Fault(Protocol):
    """How one request is treated."""

    async def play(self, exchange: Exchange) -> None:
        """Answer the request of this exchange, or fail to."""
        ...


@dataclass(frozen=True, slots=True)
class Accept:
    """Take the spans and answer 200, as a collector in good health."""

    async def play(self, exchange: Exchange) -> None:
        await exchange.answer()


@dataclass(frozen=True, slots=True)
class Status:
    """Answer with this status and take nothing.

    Args:
        code: the HTTP status, 200 or more.
        retry_after: seconds, a `datetime` (sent as an HTTP date), or the header's text as it is.
        message: the text of the `google.rpc.Status` in the body.
        location: where a 3xx points to.
    """

    code: int
    retry_after: float | datetime | str | None = None
    message: str = "scripted fault"
    location: str | None = None

    async def play(self, exchange: Exchange) -> None:
        headers: list[tuple[str, str]] = []
        if self.retry_after is not None:
            headers.append(("retry-after", _retry_after(self.retry_after)))
        if self.location is not None:
            headers.append(("location", self.location))
        await exchange.respond(self.code, headers=headers, body=msgspec.json.encode({"message": self.message}))


@dataclass(frozen=True, slots=True)
class PartialSuccess:
    """Answer 200 with a `partialSuccess` that rejects the last `rejected` spans of the request."""

    rejected: int = 0
    message: str = ""

    async def play(self, exchange: Exchange) -> None:
        partial: dict[str, str] = {}
        if self.rejected:
            partial["rejectedSpans"] = str(self.rejected)
        if self.message:
            partial["errorMessage"] = self.message
        await exchange.answer(rejected=self.rejected, body=msgspec.json.encode({"partialSuccess": partial}))


@dataclass(frozen=True, slots=True)
class TooLarge:
    """Answer 413 when the body, as it comes over the wire, is larger than `max_bytes`; else accept."""

    max_bytes: int

    async def play(self, exchange: Exchange) -> None:
        request = await exchange.read()
        if request.wire_bytes > self.max_bytes:
            await Status(413, message=f"over {self.max_bytes} bytes").play(exchange)
        else:
            await exchange.answer()


@dataclass(frozen=True, slots=True)
class Slow:
    """Treat the request as `then` says, but slowly.

    Args:
        accept: seconds before the first byte of the request is looked at.
        headers: seconds that the response's head takes, in two pieces.
        body: seconds that the response's body takes, in `steps` pieces; many steps defeat a read timeout that
            starts anew with each piece.
    """

    accept: float = 0.0
    headers: float = 0.0
    body: float = 0.0
    steps: int = 2
    then: Fault = Accept()

    async def play(self, exchange: Exchange) -> None:
        await anyio.sleep(self.accept)
        exchange.head_delay, exchange.body_delay, exchange.body_steps = self.headers, self.body, self.steps
        await self.then.play(exchange)


@dataclass(frozen=True, slots=True)
class Hold:
    """Read the request and answer only after `until` was set; a slow collector without a clock."""

    until: anyio.Event
    then: Fault = Accept()

    async def play(self, exchange: Exchange) -> None:
        await exchange.read()
        await self.until.wait()
        await self.then.play(exchange)


@dataclass(frozen=True, slots=True)
class Reset:
    """End the connection with a TCP reset.

    Args:
        when: `"before"` the request is read; `"after"` it was read, taking nothing; `"accepted"`, after its spans were
            taken, so that only the answer is lost and a correct sender delivers them twice.
    """

    when: Literal["before", "after", "accepted"] = "before"

    async def play(self, exchange: Exchange) -> None:
        if self.when != "before":
            await exchange.read()
        if self.when == "accepted":
            await exchange.accept()
        exchange.reset()


@dataclass(frozen=True, slots=True)
class HalfResponse:
    """Announce a body, send half of it and hang up; `accepts` says whether the spans were taken."""

    status: int = 200
    accepts: bool = True

    async def play(self, exchange: Exchange) -> None:
        if self.accepts:
            await exchange.accept()
        body = b'{"partialSuccess": {}}'
        await exchange.respond(self.status, body=body, sent_bytes=len(body) // 2)


@dataclass(frozen=True, slots=True)
class WrongType:
    """Answer with a page instead of OTLP, as a captive portal or a wrong port does."""

    status: int = 200
    content_type: str = "text/html"
    body: bytes = b"<html>Sign in to use this network</html>"
    accepts: bool = False

    async def play(self, exchange: Exchange) -> None:
        if self.accepts:
            await exchange.accept()
        await exchange.respond(self.status, body=self.body, content_type=self.content_type)


@dataclass(frozen=True, slots=True)
class BrokenGzip:
    """Answer with a body that calls itself gzip and is not."""

    status: int = 200
    accepts: bool = True

    async def play(self, exchange: Exchange) -> None:
        if self.accepts:
            await exchange.accept()
        body = b"\x1f\x8b\x08\x00" + b"not gzip at all"
        await exchange.respond(self.status, headers=[("content-encoding", "gzip")], body=body)


@dataclass(frozen=True, slots=True)
class HugeBody:
    """Answer with a valid body of `size_bytes`; with `compressed`, as a gzip bomb of that unpacked size."""

    size_bytes: int = 5 << 20
    status: int = 200
    compressed: bool = False
    accepts: bool = True

    async def play(self, exchange: Exchange) -> None:
        if self.accepts:
            await exchange.accept()
        body = msgspec.json.encode({"partialSuccess": {"errorMessage": "x" * self.size_bytes}})
        headers = [("content-encoding", "gzip")] if self.compressed else []
        await exchange.respond(self.status, headers=headers, body=gzip.compress(body) if self.compressed else body)


@dataclass(frozen=True, slots=True)
class Garbage:
    """Answer with bytes that are not HTTP, the same ones for the same seed, and hang up."""

    size_bytes: int = 64
    seed: int = 0

    async def play(self, exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send_raw(random.Random(self.seed).randbytes(self.size_bytes))  # noqa: S311 not a secret


@dataclass(frozen=True, slots=True)
class Refuse:
    """Cut every connection and refuse new ones for so many seconds, then come back on the same port."""

    seconds: float

    async def play(self, exchange: Exchange) -> None:
        exchange.go_down(self.seconds)


def _retry_after(value: float | datetime | str) -> str:
    if isinstance(value, datetime):
        return format_datetime(value.astimezone(UTC), usegmt=True)
    return value if isinstance(value, str) else f"{value:g}"
