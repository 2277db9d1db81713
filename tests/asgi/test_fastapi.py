from __future__ import annotations

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from genai_async import ConfigurationError, Session, current_turn
from genai_async._asgi._connection import STATE_KEY
from genai_async._conversation._exchange import Exchange
from genai_async.asgi import SessionMiddleware
from genai_async.fastapi import session_of, turn_of

from .conftest import Spans


def test_without_the_middleware() -> None:
    """Where no middleware covers a path the dependency says so."""
    with pytest.raises(ConfigurationError, match="no SessionMiddleware covers /a"):
        session_of(HTTPConnection({"type": "http", "path": "/a", "headers": []}))


def test_without_a_turn() -> None:
    """Where the middleware opens no turn the dependency says how to have one."""
    exchange = Exchange(Session())
    connection = HTTPConnection({"type": "http", "path": "/", "headers": [], "state": {STATE_KEY: exchange}})
    assert session_of(connection) is exchange.session
    with pytest.raises(ConfigurationError, match="turn='request'"):
        turn_of(connection)


@pytest.mark.anyio
async def test_turn_of_a_websocket(spans: Spans) -> None:
    """Before the first message a WebSocket's turn is told where to look for; afterwards it is the last message's."""
    turns: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(ConfigurationError, match=r"begin with its messages .* use genai_async.current_turn"):
            turn_of(HTTPConnection(scope))
        await receive()
        turns.extend([turn_of(HTTPConnection(scope)), current_turn()])

    async def receive() -> Any:
        return {"type": "websocket.receive", "text": "hello"}

    await SessionMiddleware(app, turn="message")({"type": "websocket", "path": "/", "headers": []}, receive, receive)
    assert turns[0] is turns[1]
