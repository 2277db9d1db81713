"""What HTTP requests and WebSocket connections share: a session around the application, and messages passed on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from functools import partial
from typing import Any, Final, TypeVar, cast

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import Span

from .._conversation._exchange import ABANDONED, Exchange
from .._conversation._outcome import leaves
from .._conversation._scope import restore
from .._conversation._session import Session
from .._conversation._spans import Turn
from .._conversation._traceparent import remote_span
from .._loop import is_cancellation, whoever_runs
from ._types import App, Message, Receive, Scope, Send

_T = TypeVar("_T")

# Beside the application's own state, which may use the plain names for something else.
STATE_KEY: Final = "genai_async"


class Connection(ABC):
    """One request or WebSocket connection: runs the application in its session and sees every message."""

    __slots__ = ("_header", "_is_disconnected", "_receive", "_send", "_state", "exchange")

    def __init__(self, session: Session, scope: Scope, receive: Receive, send: Send, header: bytes | None) -> None:
        self.exchange = Exchange(session)
        if self.exchange.is_traced:
            # An outer instrumentation has a span: those of its messages must stay under that.
            outer = self.exchange.outer
            receive, send = partial(_within, outer, receive), partial(_within, outer, send)
        remote = _caller(scope["headers"])
        if remote is not None and exchange_of(scope) is None:
            self.exchange.come_from(remote)
        self._receive = receive
        self._send = send
        self._header = header
        self._is_disconnected = False
        self._state = _state_of(scope)
        # Servers keep the scope: it must not lead back here, so that all of this is freed without the collector.
        self._state[STATE_KEY] = self.exchange
        self._offer("session", session)

    @property
    def session(self) -> Session:
        """The session of this request or connection."""
        return self.exchange.session

    async def run(self, app: App, scope: Scope) -> None:
        """Run the application, and end what is left when it has returned or failed."""
        exchange = self.exchange
        error: BaseException | None = None
        exchange.enter()
        try:
            self.begin()
            try:
                await app(scope, self.receive, self.send)
            except BaseException as exc:
                error = exc
                raise
            finally:
                if exchange.has_tasks:
                    await exchange.join(error)
        except BaseException as exc:
            error = exc
            raise
        finally:
            self.finish(error)
            exchange.leave()
            del error

    def begin(self) -> None:  # noqa: B027  # on a WebSocket nothing does before the first message
        """Start what starts with the application."""

    def finish(self, error: BaseException | None) -> None:
        """End the turn that is left when the application has ended."""
        self.end_turn(self.outcome(error))

    def outcome(self, error: BaseException | None) -> BaseException | str | None:
        """What a turn ends with that is open when this happens: abandoned, if the client has gone."""
        if self._is_disconnected and (error is None or all(map(_is_departure, leaves(error)))):
            return ABANDONED
        return error

    def begin_turn(self, *, owns_tasks: bool) -> None:
        """Start a turn and show it in the state."""
        self._offer("turn", self.exchange.begin_turn(owns_tasks=owns_tasks))

    def end_turn(self, error: BaseException | str | None) -> None:
        """End the turn that is going on; the state keeps it until the next one."""
        self.exchange.end_turn(error)

    @abstractmethod
    async def receive(self) -> Message:
        """Pass a message from the client on."""

    @abstractmethod
    async def send(self, message: Message) -> None:
        """Pass a message to the client on."""

    def with_header(self, message: Message) -> Message:
        """The message that begins a response, with the conversation's id in it."""
        name = self._header
        if name is None:
            return message
        headers: list[tuple[bytes, bytes]] = list(message.get("headers") or [])
        for key, _ in headers:
            if key == name or key.lower() == name:
                return message
        headers.append((name, self.session.session_id.encode("latin-1")))
        return {**message, "headers": headers}

    def _offer(self, name: str, value: Session | Turn | None) -> None:
        held = self._state.get(name)
        if held is None or isinstance(held, Session | Turn):
            self._state[name] = value


def exchange_of(scope: Scope) -> Exchange | None:
    """What the middleware around this has put into the scope, if there is one."""
    found = _state_of(scope).get(STATE_KEY)
    return found if isinstance(found, Exchange) else None


async def _within(outer: Context, call: Callable[..., Awaitable[_T]], *message: Message) -> _T:
    """Receive from the server or send to it, in the context that it runs in."""
    inner, who = get_current(), whoever_runs()
    attach(outer)
    try:
        return await call(*message)
    finally:
        restore(inner, who)


def _caller(headers: Iterable[tuple[bytes, bytes]]) -> Span | None:
    """The span that a request was sent from; None without a `traceparent`, or with one that is broken or ambiguous."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1:
        return None
    states = [value.decode("latin-1") for name, value in headers if name == b"tracestate"]
    return remote_span(parents[0].decode("latin-1"), states)


def _state_of(scope: Scope) -> MutableMapping[str, Any]:
    # In place: outer middleware may hold the same dict and expect to find there what the application puts in.
    state: Any = scope.get("state")
    if type(state) is dict:
        return cast("dict[str, Any]", state)
    if state is None:
        state = scope["state"] = {}
    return cast("MutableMapping[str, Any]", state) if isinstance(state, MutableMapping) else {}


def _is_departure(error: BaseException) -> bool:
    # Frameworks raise errors of their own for a client that has gone; none is imported here.
    return is_cancellation(error) or isinstance(error, OSError) or "Disconnect" in type(error).__name__
