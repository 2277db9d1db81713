"""An HTTP request: its turn ends with the response's body, whatever the application goes on to do."""

from __future__ import annotations

import time
from typing import Final

from .._conversation._session import Session
from ._connection import Connection
from ._types import Message, Receive, Scope, Send

_INCOMPLETE: Final = "incomplete_response"


class Request(Connection):
    """One HTTP request, with a turn or without."""

    __slots__ = ("_ended_ns", "_has_turn", "_is_complete", "_status")

    def __init__(
        self, session: Session, scope: Scope, receive: Receive, send: Send, header: bytes | None, *, has_turn: bool
    ) -> None:
        super().__init__(session, scope, receive, send, header)
        self._has_turn = has_turn
        self._is_complete = False
        self._ended_ns: int | None = None
        self._status = 0

    def begin(self) -> None:
        """Start the request's turn."""
        if self._has_turn:
            self.begin_turn(owns_tasks=True)

    async def receive(self) -> Message:
        """Pass a part of the request on."""
        message = await (self._receive() if self._outer is None else self.pull())
        if message["type"] == "http.disconnect" and not self._is_complete:
            self._is_disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the response on, and end the turn after the last one."""
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            message = self.with_header(message)
        try:
            await (self._send(message) if self._outer is None else self.push(message))
        except OSError:
            # ASGI 2.4: what `send` raises when the client has gone.
            self._is_disconnected = True
            raise
        if (kind == "http.response.body" and not message.get("more_body")) or kind == "http.response.pathsend":
            self._complete()

    def finish(self, error: BaseException | None) -> None:
        """End a turn that its response has not ended."""
        if self._is_complete:
            self.end_turn(error if error is not None else self._failure(), self._ended_ns)
        elif error is None and not self._is_disconnected:
            self.end_turn(self._failure() or _INCOMPLETE)
        else:
            self.end_turn(self.outcome(error))

    def _complete(self) -> None:
        self._is_complete = True
        if self.exchange.turn_has_tasks:
            return
        if self._failure() is None:
            self.end_turn(None)
        else:
            # The error itself is still on its way, through the middleware that answered for it.
            self._ended_ns = time.time_ns()

    def _failure(self) -> str | None:
        return str(self._status) if self._status >= 500 else None
