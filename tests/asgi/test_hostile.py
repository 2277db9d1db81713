from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from genai_async.asgi import Baggage, Cookie, Header, Query

from .apps import FRAMEWORKS
from .conftest import Spans
from .servers import SERVERS, serve

pytestmark = pytest.mark.anyio

HOSTILE = {
    "a long id": b"x-session-id: " + b"x" * 30_000,
    "control characters": b"x-session-id: a\x01\x02b",
    "invalid UTF-8": b"x-session-id: \xff\xfe\xc3",
    "many ids": b"\r\n".join([b"x-session-id: %d" % number for number in range(50)]),
    "thousands of baggage entries": b"baggage: " + b",".join([b"k%d=v" % number for number in range(4000)]),
    "broken baggage": b"baggage: ,,;;==%%%,gen_ai.conversation.id=%ff%00",
    "a broken cookie": b'cookie: =;;x-session-id;x-session-id="\x01',
    "a broken traceparent": b"traceparent: 00-zz-zz-zz\r\ntracestate: =,=,\xff",
}
SOURCES: dict[str, Any] = {
    "header": Header("x-session-id"),
    "cookie": Cookie("x-session-id"),
    "query": Query("x-session-id"),
    "baggage": Baggage(),
}


@pytest.fixture(params=[f"{source}-{server}" for source in SOURCES for server in SERVERS])
def address(request: pytest.FixtureRequest, spans: Spans) -> Iterator[tuple[str, int]]:
    """Where an application is served that takes its ids from a source."""
    source, server = request.param.split("-")
    app = FRAMEWORKS["starlette"](session_id=SOURCES[source], turn="request", agent_name="bot", continue_trace=True)
    with serve(app, server) as address:
        host, port = address.split(":")
        yield host, int(port)


async def ask(address: tuple[str, int], headers: bytes, query: bytes) -> bytes:
    """The status line that a request gets which no client would send."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /sync?n=1%s HTTP/1.1\r\nhost: a\r\nconnection: close\r\n%s\r\n\r\n" % (query, headers))
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\r\n")[0]


async def test_hostile_requests(address: tuple[str, int], spans: Spans, quiet: Any) -> None:
    """Whatever reaches the application is answered as without the middleware, and has a turn."""
    statuses = [await ask(address, headers, b"&x-session-id=%ff%00%0d%0a") for headers in HOSTILE.values()]
    # What a server refuses by itself never gets here.
    reached = sum(b" 200 " in status for status in statuses)
    assert reached >= len(HOSTILE) - 2
    assert {status.split(b" ")[1] for status in statuses} <= {b"200", b"400", b"431"}
    turns = await spans.until(reached, "invoke_agent bot")
    assert all(turn.status == "UNSET" for turn in turns)
    assert set(spans.faults) <= {"an unusable session id"}
    if spans.faults:
        quiet()
