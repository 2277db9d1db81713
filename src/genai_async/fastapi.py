"""The session and the turn of a request, typed, for FastAPI's endpoints: sync ones that run in a thread, too.

    @app.post("/chat")
    async def chat(question: str, turn: CurrentTurn): ...

Needs `SessionMiddleware` in the application.
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
    """The turn of a request; of a WebSocket, the turn of the message that was received last.

    Raises:
        ConfigurationError: No `SessionMiddleware` covers this path, or it opens no turn here.
    """
    turn = _exchange(connection).latest
    if turn is None:
        raise ConfigurationError("there is no turn here: give SessionMiddleware turn='request'")
    return turn


def _exchange(connection: HTTPConnection) -> Exchange:
    found = exchange_of(connection.scope)
    if found is None:
        raise ConfigurationError(f"no SessionMiddleware covers {connection.scope['path']}")
    return found


CurrentSession: TypeAlias = Annotated[Session, Depends(session_of)]
CurrentTurn: TypeAlias = Annotated[Turn, Depends(turn_of)]
