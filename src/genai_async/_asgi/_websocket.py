"""A WebSocket connection: one session, and a turn from each message to the next."""

from __future__ import annotations

from .._conversation._session import Session
from ._connection import Connection
from ._types import Message, Receive, Scope, Send


class Socket(Connection):
    """One WebSocket connection, with turns or without."""

    __slots__ = ("_has_turns",)

    def __init__(
        self, session: Session, scope: Scope, receive: Receive, send: Send, header: bytes | None, *, has_turns: bool
    ) -> None:
        super().__init__(session, scope, receive, send, header)
        self._has_turns = has_turns

    async def receive(self) -> Message:
        """Pass a message on: it ends the turn of the one before, and begins its own."""
        message = await self._receive()
        kind = message["type"]
        if kind == "websocket.receive" and self._has_turns:
            self.end_turn(None)
            self.begin_turn(owns_tasks=False)
        elif kind == "websocket.disconnect":
            self._close()
        return message

    def _close(self) -> None:
        # The code tells nothing: one server says 1006 of every end. What tells is whether the work was done. Whoever
        # asks for the next message has done with the last one; a framework that reads in a task of its own has not.
        if self._is_disconnected or self.exchange.is_working:
            self._is_disconnected = True
        else:
            self.end_turn(None)

    async def send(self, message: Message) -> None:
        """Pass a message on; the one that accepts the connection, or denies it, names the conversation."""
        kind = message["type"]
        if kind in {"websocket.accept", "websocket.http.response.start"}:
            message = self.with_header(message)
        try:
            await self._send(message)
        except OSError:
            # ASGI 2.4: what `send` raises when the client has gone.
            self._is_disconnected = True
            raise
