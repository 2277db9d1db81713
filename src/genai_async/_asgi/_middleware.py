"""The middleware: one session for each HTTP request and each WebSocket connection."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypedDict, Unpack

from .._conversation._ids import id_from_outside
from .._conversation._runtime import note
from .._conversation._session import Session
from .._errors import ConfigurationError
from ._connection import exchange_of
from ._http import Request
from ._sources import Header, Source, local_path, to_source
from ._types import App, Receive, Scope, Send
from ._websocket import Socket

if TYPE_CHECKING:
    from collections.abc import Mapping


DEFAULT_HEADER: Final = "x-session-id"

Turns: TypeAlias = Literal["request", "message"]
_TURNS: Final = frozenset({"request", "message"})


class SessionOptions(TypedDict, total=False):
    """What every session of a middleware is made with; see `Session`."""

    agent_name: str
    model: str
    agent_id: str
    agent_description: str
    agent_version: str
    attributes: Mapping[str, Any] | None
    capture_content: bool | None
    continue_trace: bool


class SessionMiddleware:
    """Runs each HTTP request and each WebSocket connection of an ASGI application in a session.

        app.add_middleware(SessionMiddleware, turn="request", agent_name="support-bot")    # Starlette, FastAPI
        app = SessionMiddleware(app, session_id=Cookie("chat"), exclude=["/health"])       # any ASGI application

    The session and its turn are current in the application, and stand as `session` and `turn` in `scope["state"]`. A
    request's turn ends when the body of its response has been sent: as failed after a status of 500 and above or an
    error, as abandoned when the client has gone before, as cancelled when the server gave up. Background tasks that
    run on belong to the conversation and are linked to the turn. An incoming `traceparent` is linked to.

    Args:
        app: The application.
        session_id: Where the conversation's id comes from: a header's name, `Header`, `Cookie`, `Query`, `Path`,
            `Baggage`, or a function from the scope to the id or None, which may be a coroutine function. The id is
            anybody's word: one that is longer than 128 characters, or has others than visible ASCII without quotation
            marks, angle brackets and backslashes, is replaced by a fresh one and counted in `Tracing.faults`. Without
            an id a fresh one is made, or taken from such a middleware outside of this one.
        turn: "request" makes each HTTP request a turn, "message" each message of a WebSocket, until the next one; a
            collection of both does both.
        response_header: The header that tells the client the id, in the response or the acceptance of a WebSocket.
            None takes the one that it comes in, or else `x-session-id`; "" sends none.
        exclude: Paths that pass untouched, together with all below them.
        options: What sessions are made with: `agent_name`, `model`, `attributes`, `capture_content` and so on.
            `continue_trace` nests turns in the caller's trace instead of linking them to it.

    Raises:
        ConfigurationError: An option cannot work.
    """

    def __init__(
        self,
        app: App,
        *,
        session_id: str | Source = DEFAULT_HEADER,
        turn: Turns | Collection[Turns] | None = None,
        response_header: str | None = None,
        exclude: Iterable[str] = (),
        **options: Unpack[SessionOptions],
    ) -> None:
        self.app = app
        self._source = to_source(session_id)
        turns = _checked_turns(turn)
        self._has_request_turn = "request" in turns
        self._has_message_turns = "message" in turns
        self._header = _header_for(self._source, response_header)
        if isinstance(exclude, str):
            raise ConfigurationError(f"exclude: takes a collection of paths, such as [{exclude!r}]")
        self._excluded = frozenset(_checked_path(path) for path in exclude)
        self._excluded_roots = tuple([f"{path}/" for path in self._excluded if path != "/"])
        self._options = _checked_options(options)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the application for one connection (ASGI)."""
        if scope["type"] not in {"http", "websocket"} or self._is_excluded(scope):
            await self.app(scope, receive, send)
            return
        found = self._find(scope)
        if found is not None and type(found) is not str:
            found = await self._awaited(found)
        session = Session(session_id=id_from_outside(found) or _outer_id(scope), **self._options)
        await self._connection(session, scope, receive, send).run(self.app, scope)

    def _connection(self, session: Session, scope: Scope, receive: Receive, send: Send) -> Request | Socket:
        if scope["type"] == "http":
            return Request(session, scope, receive, send, self._header, has_turn=self._has_request_turn)
        return Socket(session, scope, receive, send, self._header, has_turns=self._has_message_turns)

    def _is_excluded(self, scope: Scope) -> bool:
        if not self._excluded:
            return False
        path = local_path(scope)
        return path in self._excluded or path.startswith(self._excluded_roots)

    def _find(self, scope: Scope) -> Any:
        try:
            return self._source(scope)
        except Exception as exc:  # the application's own function; the request goes on without it
            _note_failure(exc)
            return None

    async def _awaited(self, found: Any) -> Any:
        try:
            return await found if isawaitable(found) else found
        except Exception as exc:
            _note_failure(exc)
            return None


def _note_failure(exc: Exception) -> None:
    note("a session id that could not be found", f"a session id could not be found: {type(exc).__name__}")


def _outer_id(scope: Scope) -> str | None:
    outer = exchange_of(scope)
    return None if outer is None else outer.session.session_id


def _checked_turns(turn: Turns | Collection[Turns] | None) -> frozenset[str]:
    turns = frozenset[str]([turn] if isinstance(turn, str) else turn or ())
    if not turns <= _TURNS:
        raise ConfigurationError(f"turn: expected 'request', 'message' or both, not {turn!r}")
    return turns


def _header_for(source: Source, given: str | None) -> bytes | None:
    if given is None:
        given = source.name if isinstance(source, Header) else DEFAULT_HEADER
    return Header(given).name.lower().encode() if given else None


def _checked_path(path: object) -> str:
    if not isinstance(path, str) or not path.startswith("/"):
        raise ConfigurationError(f"exclude: {path!r} is no path")
    return path.rstrip("/") or "/"


def _checked_options(options: SessionOptions) -> SessionOptions:
    unknown = options.keys() - SessionOptions.__annotations__.keys()
    if unknown:
        raise ConfigurationError(f"{', '.join(sorted(unknown))}: no such option")
    return options
