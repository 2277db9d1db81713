"""An HTTP request: its turn ends with the response's body, whatever the application goes on to do."""

from __future__ import annotations

import sys
from typing import Final

from .._conversation._session import Session
from ._connection import Connection
from ._types import Message, Receive, Scope, Send

_INCOMPLETE: Final = "incomplete_response"
_BODIES: Final = frozenset({"http.response.body", "http.response.zerocopysend"})


class Request(Connection):
    """One HTTP request, with a turn or without."""

    __slots__ = ("_has_trailers", "_has_turn", "_is_complete", "_status")

    def __init__(
        self, session: Session, scope: Scope, receive: Receive, send: Send, header: bytes | None, *, has_turn: bool
    ) -> None:
        super().__init__(session, scope, receive, send, header)
        self._has_turn = has_turn
        self._has_trailers = False
        self._is_complete = False
        self._status = 0

    def begin(self) -> None:
        """Start the request's turn."""
        if self._has_turn:
            self.begin_turn(owns_tasks=True)

    async def receive(self) -> Message:
        """Pass a part of the request on."""
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._is_complete:
            self._is_disconnected = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a part of the response on, and end the turn after the last one."""
        kind = message["type"]
        if kind == "http.response.start":
            self._status = message["status"]
            message = self.with_header(message)
            self._has_trailers = bool(message.get("trailers"))
        is_last = self._is_last(kind, message)
        # From here on the client may go. Some servers tell of it while they still send.
        self._is_complete = self._is_complete or is_last
        try:
            await self._send(message)
        except OSError:
            # ASGI 2.4: what `send` raises when the client has gone.
            self._is_disconnected = True
            raise
        if is_last and not self.exchange.turn_has_tasks:
            # Whoever answers for an error does it while handling that.
            error = sys.exception() if self._status >= 500 else None
            self.finish(None if _is_status(error, self._status) else error)

    def _is_last(self, kind: str, message: Message) -> bool:
        if kind == "http.response.trailers":
            return not message.get("more_trailers")
        has_body_ended = kind == "http.response.pathsend" or (kind in _BODIES and not message.get("more_body"))
        return has_body_ended and not self._has_trailers

    def finish(self, error: BaseException | None) -> None:
        """End the turn with its response, or as what came of it."""
        if error is not None or self._is_disconnected:
            self.end_turn(self.outcome(error))
        elif self._status >= 500:
            self.end_turn(str(self._status))
        else:
            self.end_turn(None if self._is_complete else _INCOMPLETE)


def _is_status(error: BaseException | None, status: int) -> bool:
    """Whether an exception does no more than carry the status, as frameworks' own do: that says more than its type."""
    try:
        return getattr(error, "status_code", None) == status
    except Exception:
        return False
