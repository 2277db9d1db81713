"""The session and the turn of a request, typed, for FastAPI's endpoints: sync ones that run in a thread, too.

    @app.post("/chat")
    async def chat(question: str, turn: CurrentTurn): ...

Needs `SessionMiddleware` in the application. A WebSocket's endpoint takes `CurrentSession` alone: its turns come later.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

from ._asgi._connection import exchange_of
from ._conversation._exchange import Exchange
from ._conversation._session import Session
from ._conversation._spans import Turn
from ._errors import ConfigurationError

try:
    from fastapi import Depends
    from fastapi.requests import HTTPConnection
except ImportError as _exc:
    raise ImportError("genai_async.fastapi needs FastAPI: pip install 'genai-async[fastapi]'") from _exc

__all__ = ["CurrentSession", "CurrentTurn", "session_of", "turn_of"]


def session_of(connection: HTTPConnection) -> Session:
    """The session of a request or WebSocket connection.

    Raises:
        ConfigurationError: No `SessionMiddleware` covers this path.
    """
    return _exchange(connection).session


def turn_of(connection: HTTPConnection) -> Turn:
    """The turn of a request.

    A WebSocket's turns begin with its messages, when its endpoint already runs: there, use `ga.current_turn()`.

    Raises:
        ConfigurationError: No `SessionMiddleware` covers this path, or there is no turn (yet).
    """
    turn = _exchange(connection).latest
    if turn is not None:
        return turn
    if connection.scope["type"] == "websocket":
        raise ConfigurationError(
            "there is no turn yet: a WebSocket's begin with its messages (given SessionMiddleware turn='message'); "
            "use genai_async.current_turn() when one has been received, instead of CurrentTurn"
        )
    raise ConfigurationError("there is no turn here: give SessionMiddleware turn='request'")


def _exchange(connection: HTTPConnection) -> Exchange:
    found = exchange_of(connection.scope)
    if found is None:
        raise ConfigurationError(f"no SessionMiddleware covers {connection.scope['path']}")
    return found


CurrentSession: TypeAlias = Annotated[Session, Depends(session_of)]
CurrentTurn: TypeAlias = Annotated[Turn, Depends(turn_of)]
