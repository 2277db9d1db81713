from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
import pytest
from websockets.asyncio.client import connect

from genai_async.testing import SpanRecord, assert_isolated

from .apps import FRAMEWORKS
from .conftest import Spans
from .servers import SERVERS, serve

pytestmark = pytest.mark.anyio

TURN = "invoke_agent bot"


@pytest.fixture(params=[f"{framework}-{server}" for framework in FRAMEWORKS for server in SERVERS])
def address(request: pytest.FixtureRequest, spans: Spans) -> Iterator[str]:
    """Where an application of a framework is served by a server."""
    framework, server = request.param.split("-")
    app = FRAMEWORKS[framework](turn=("request", "message"), agent_name="bot")
    with serve(app, server) as address:
        yield address


async def get(client: httpx.AsyncClient, address: str, path: str, conversation: str) -> httpx.Response:
    """Ask as a conversation, with the conversation's id as the number."""
    url = f"http://{address}/{path}?n={conversation}"
    return await client.get(url, headers={"x-session-id": conversation})


def turn_of(spans: Spans, conversation: str) -> SpanRecord:
    """The only turn of a conversation."""
    (turn,) = spans.named(TURN, conversation)
    return turn


async def test_hundreds_of_requests_at_once(address: str, spans: Spans, client: httpx.AsyncClient) -> None:
    """Each of many mixed requests is a conversation of its own: its spans under its turn, its id in the response."""
    paths = ["answer", "sync", "stream"]
    asked = [(paths[index % 3], f"c-{index}") for index in range(240)]
    responses = await asyncio.gather(*[get(client, address, path, conversation) for path, conversation in asked])
    await spans.until(240, TURN)
    assert_isolated(spans.capture, conversations=240)
    for (path, conversation), response in zip(asked, responses, strict=True):
        assert response.headers.get_list("x-session-id") == [conversation]
        turn = turn_of(spans, conversation)
        under = [span for span in spans.all if span.trace_id == turn.trace_id and span is not turn]
        names = {span.name: span for span in under}
        if path == "stream":
            assert response.text == "".join([f"data: {conversation} {index}\n\n" for index in range(5)])
            assert [span.name for span in under] == ["chat m"]
        else:
            assert response.text == conversation
            assert (
                names["execute_tool look"].attributes["gen_ai.tool.call.arguments"] == f'{{"number":"{conversation}"}}'
            )
        top = names["execute_tool look" if path == "sync" else "chat m"]
        assert top.parent_span_id == turn.span_id
        assert turn.start_ns <= top.start_ns <= top.end_ns <= turn.end_ns
        assert (turn.status, turn.parent_span_id, turn.links) == ("UNSET", None, ())
    assert spans.faults == {}


async def test_sockets(address: str, spans: Spans) -> None:
    """Each message of each of many connections is a turn of its own, all of a connection in one conversation."""

    async def talk(conversation: str) -> None:
        headers = {"x-session-id": conversation}
        async with connect(f"ws://{address}/socket", additional_headers=headers, proxy=None) as socket:
            assert socket.response is not None
            assert socket.response.headers.get_all("x-session-id") == [conversation]
            for index in range(4):
                await socket.send(f"{conversation} {index}")
                assert await socket.recv() == conversation

    await asyncio.gather(*[talk(f"c-{index}") for index in range(25)])
    await spans.until(100, TURN)
    assert_isolated(spans.capture, conversations=25)
    for index in range(25):
        turns = spans.named(TURN, f"c-{index}")
        assert [turn.status for turn in turns] == ["UNSET"] * 4
        for number, turn in enumerate(turns):
            chat, tool = [span for span in spans.all if span.trace_id == turn.trace_id and span is not turn]
            assert (chat.name, chat.parent_span_id, tool.parent_span_id) == ("chat m", turn.span_id, chat.span_id)
            assert tool.attributes["gen_ai.tool.call.arguments"] == f'{{"number":"c-{index} {number}"}}'
        ends = [turn.end_ns for turn in turns[:-1]]
        assert all(ended <= turn.start_ns for ended, turn in zip(ends, turns[1:], strict=True))


async def test_errors(address: str, spans: Spans, client: httpx.AsyncClient) -> None:
    """A handler's error fails the turn; a framework that answers for it without a word leaves the status."""
    response = await get(client, address, "fail", "c")
    assert response.status_code == 500
    (turn,) = await spans.until(1, TURN)
    assert turn.status == "ERROR"
    assert turn.attributes["error.type"] in {"LookupError", "500"}


async def test_error_in_a_stream(address: str, spans: Spans, client: httpx.AsyncClient) -> None:
    """An error after the first piece fails the turn, although the status was a good one."""
    with pytest.raises(httpx.RemoteProtocolError):
        await get(client, address, "broken", "c")
    (turn,) = await spans.until(1, TURN)
    assert turn.status == "ERROR"
    # Litestar raises an error of its own, caused by the handler's.
    assert turn.attributes["error.type"].rpartition(".")[2] in {"LookupError", "LitestarException"}


async def test_client_gone(address: str, spans: Spans, client: httpx.AsyncClient) -> None:
    """A client that leaves in mid-stream leaves the turn abandoned."""
    url = f"http://{address}/endless?n=c"
    async with client.stream("GET", url, headers={"x-session-id": "c"}) as response:
        await anext(response.aiter_text())
    (turn,) = await spans.until(1, TURN)
    assert (turn.status, turn.attributes["error.type"]) == ("ERROR", "abandoned")


async def test_background(address: str, spans: Spans, client: httpx.AsyncClient) -> None:
    """A background task belongs to the conversation and is linked to the turn, which has ended before."""
    await get(client, address, "background", "c")
    await spans.until(2)
    turn, later = turn_of(spans, "c"), spans.named("execute_tool later", "c")[0]
    assert turn.status == later.status == "UNSET"
    assert turn.end_ns <= later.start_ns
    assert (later.parent_span_id, [link.span_id for link in later.links]) == (None, [turn.span_id])
    assert spans.faults == {}


async def test_background_error(address: str, spans: Spans, client: httpx.AsyncClient) -> None:
    """A background task that fails leaves the turn as it ended."""
    await get(client, address, "late_failure", "c")
    await spans.until(2)
    assert turn_of(spans, "c").status == "UNSET"
    assert spans.named("execute_tool later", "c")[0].attributes["error.type"] == "LookupError"
