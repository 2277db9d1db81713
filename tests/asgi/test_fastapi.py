from __future__ import annotations

import pytest
from starlette.requests import HTTPConnection

from genai_async import ConfigurationError, Session
from genai_async._asgi._connection import STATE_KEY
from genai_async._conversation._exchange import Exchange
from genai_async.fastapi import session_of, turn_of


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
