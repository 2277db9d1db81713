from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

import genai_async as ga
from genai_async.asgi import Baggage, Cookie, Header, Query, SessionMiddleware

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


STATES = [
    "1abc=x",
    "a@b@c=1",
    "a@1=1",
    "a=1,a=2",
    "A=1",
    "a=1=2",
    "=",
    ",".join([f"k{number}=v" for number in range(33)]),
]


@pytest.mark.parametrize("state", [*STATES, "a=" + "x" * 257, "a=1" + " " * 9000 + ",b=2"])
async def test_a_broken_tracestate_is_not_logged(state: str, spans: Spans) -> None:
    """The turn goes on from the caller's span without its state, and no library says a word about it."""
    found: list[ga.Turn] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        found.append(scope["state"]["turn"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    served = SessionMiddleware(app, turn="request", continue_trace=True)
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": state}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://a") as client:
        await client.get("/", headers=headers)
    assert found[0].trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert not found[0].span.get_span_context().trace_state
