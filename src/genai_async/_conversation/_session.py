"""A session: one conversation, and everything that happens in it."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self
from uuid import UUID

from opentelemetry.context import Context
from opentelemetry.trace import Span

from ._carrier import Origin, read_carrier, write_carrier
from ._chat import InstructionsLike, MessagesLike
from ._children import TaskOwner
from ._clock import Time
from ._content import CLOSED, Gate
from ._faults import FieldError
from ._fields import text
from ._handle import SpanHandle
from ._ids import new_conversation_id
from ._runtime import Runtime, current_runtime, drop
from ._scope import (
    NOWHERE,
    Scope,
    bare,
    context_with,
    current_context,
    enter,
    has_ended,
    leave_one,
    linked_from,
    scope_of,
    span_of,
)
from ._spans import Turn


class Session(TaskOwner):
    """A conversation: the turns, and all that they do, carry its id. It is no span itself.

    Many turns of a session may run at once, in any tasks and threads, and many sessions beside and inside each other.

        async with Session(agent_name="support-bot", model="gpt-4o") as session:
            async with session.start_turn("Where is my parcel?") as turn: ...

        session = Session(session_id=request.headers["x-session-id"])   # by hand: end it by hand
        turn = session.start_turn("And now?")
        session.end()

    Args:
        session_id: The conversation's id: text, a number or a UUID; a fresh UUIDv7, if None.
        agent_name: The agent that answers, unless a turn names another.
        model: The model that it uses, unless a turn or call names another.
        agent_id: The id of a hosted agent.
        agent_description: What the agent is there for.
        agent_version: The agent's version.
        attributes: Attributes of your own for every span of the conversation.
        capture_content: Whether what is said is recorded; as set up, if None.
        continue_trace: Whether turns, and calls outside of any turn, are nested in the span that is current when they
            start, instead of being the root of a trace of their own that is linked to it.
    """

    __slots__ = (
        "__weakref__",
        "_agent_name",
        "_gate",
        "_gate_runtime",
        "_let_go",
        "_model",
        "_origin",
        "_scopes",
        "_session_id",
        "agent_description",
        "agent_id",
        "agent_version",
        "attributes",
        "capture_content",
        "continue_trace",
        "is_ended",
        "kept_attributes",
        "roots",
    )

    def __init__(
        self,
        *,
        session_id: str | int | UUID | None = None,
        agent_name: str = "",
        model: str = "",
        agent_id: str = "",
        agent_description: str = "",
        agent_version: str = "",
        attributes: Mapping[str, Any] | None = None,
        capture_content: bool | None = None,
        continue_trace: bool = False,
    ) -> None:
        self._session_id = _id_or_new(session_id)
        self._agent_name = agent_name
        self._model = model
        self.agent_id: str = agent_id
        self.agent_description: str = agent_description
        self.agent_version: str = agent_version
        self.attributes: Mapping[str, Any] | None = attributes
        self.capture_content: bool | None = capture_content
        self.continue_trace: bool = continue_trace
        self._gate: Gate | None = None
        self._gate_runtime: Runtime | None = None
        self.kept_attributes: tuple[Gate, dict[str, Any], dict[str, Any]] | None = None
        """What a gate has made of the attributes: the gate, what they were, and what of them may be recorded."""
        self.roots: dict[SpanHandle, None] = {}
        """The open handles that stand under none of this session that is open: the session keeps those."""
        self._let_go: dict[weakref.ref[SpanHandle], None] = {}
        self._scopes: list[Scope] = []
        self._origin: Span | None = None
        self.is_ended: bool = False
        """Whether the session was left or `end` was called."""

    @classmethod
    def create(cls, **options: Any) -> Self:
        """The same as calling the class."""
        return cls(**options)

    @classmethod
    def from_carrier(cls, carrier: Mapping[str, str], **options: Any) -> Self:
        """Go on with a conversation that came from another process.

        Its turns, and calls outside of any turn, are linked to the span that the carrier names, or continue its trace
        under `continue_trace=True`. What the carrier does not tell, or cannot, is ignored and counted: the session then
        is a fresh one.

        Args:
            carrier: What `carrier(baggage=True)` gave there, or the headers of a request.
            options: As for `Session`; a `session_id` here wins.
        """
        origin = origin_of(carrier)
        if options.get("session_id") in {None, ""}:
            options["session_id"] = origin.conversation_id
        session = cls(**options)
        session._origin = origin.span
        return session

    def carrier(self, *, baggage: bool = False) -> dict[str, str]:
        """The session as W3C headers: the span of it that is current, and the conversation's id if asked for.

        Args:
            baggage: Whether the conversation's id goes along, for every host on the way to see.
        """
        around = current_context()
        scope = scope_of(around)
        is_ours = scope is None or scope.session is self
        return write_carrier(around if is_ours else bare(around), self._session_id if baggage else None)

    @property
    def session_id(self) -> str:
        """The conversation's id, on every span as `gen_ai.conversation.id`."""
        return self._session_id

    @property
    def agent_name(self) -> str:
        """The agent that answers, unless a turn names another."""
        return self._agent_name

    @property
    def model(self) -> str:
        """The model that the agent uses, unless a turn or call names another."""
        return self._model

    @property
    def context(self) -> Context:
        """An OTel Context in which this session is current, for code that takes a `context=`; another one each time.

        The span that is current stays so, unless it has ended.
        """
        base = current_context()
        span = span_of(base)
        return context_with(base, Scope(self, None, NOWHERE), None if span is None or has_ended(span) else span)

    def start_turn(
        self,
        user_message: str | None = None,
        *,
        input_messages: MessagesLike | None = None,
        system_instructions: InstructionsLike | None = None,
        agent_name: str | None = None,
        model: str | None = None,
        agent_id: str | None = None,
        agent_description: str | None = None,
        agent_version: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        start_time: Time | None = None,
        parent: Mapping[str, str] | None = None,
    ) -> Turn:
        """Start a turn: the root span of a trace of its own, linked to the span that is current.

        Args:
            user_message: What the user says.
            input_messages: What the agent is given, instead of or before the user's message.
            system_instructions: What the agent is told apart from the messages.
            agent_name: The agent that answers; the session's, if None.
            model: The one model that it uses; the session's, if None.
            agent_id: Kept for agents that a service hosts; the conventions want no id on an in-process agent.
            agent_description: What the agent is there for; the session's, if None.
            agent_version: As `agent_id`.
            attributes: Attributes of your own.
            start_time: When it started; now, if None.
            parent: A carrier from another process, whose span stands for the one that is current.
        """
        runtime = current_runtime()
        if runtime is None:
            return Turn(None, self, None, None, CLOSED)
        context = current_context()
        standing = span_of(context)
        current = (None if parent is None else origin_of(parent).span) or self._origin or standing
        base = self._root_base(context, standing, current)
        turn = Turn(runtime, self, None, base, self.gate_for(runtime))
        agent = (
            self._agent_name if agent_name is None else agent_name,
            self._model if model is None else model,
            self.agent_description if agent_description is None else agent_description,
        )
        given = {"input_messages": input_messages, "system_instructions": system_instructions}
        link = (current or linked_from(context)) if span_of(base) is None else None
        turn._begin_turn(agent, user_message, given, attributes, start_time, link)
        return turn

    def end(self) -> None:
        """End the session and what is still open under it, innermost first; a second call does nothing."""
        self.is_ended = True
        _end_all(self.open_spans, spare_held=False)

    def __enter__(self) -> Self:
        self._scopes.append(enter(self, None, span_of(current_context()))[0])
        if self.is_ended:
            # One that is kept between requests is entered for each of them.
            self.is_ended = False
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._scopes:
            leave_one(self._scopes)
        if not self._scopes:
            left = self.open_spans
            self.is_ended = True
            if self._scopes:
                self.is_ended = False  # another thread has entered in this very moment
            else:
                # What a background task stands in goes on and ends with its own block.
                _end_all(left, spare_held=True)

    async def __aenter__(self) -> Self:
        self.__enter__()
        self._note_host(sys._getframe(1))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._join(exc)
        finally:
            self.__exit__(None, None, None)

    def __getstate__(self) -> dict[str, Any]:
        """What it was made with: programs keep their state, and a session in it, in files and copies."""
        options = {
            "session_id": self._session_id,
            "agent_name": self._agent_name,
            "model": self._model,
            "agent_id": self.agent_id,
            "agent_description": self.agent_description,
            "agent_version": self.agent_version,
            "attributes": self.attributes,
            "capture_content": self.capture_content,
            "continue_trace": self.continue_trace,
        }
        # What a subclass has put there.
        own: dict[str, Any] = getattr(self, "__dict__", {})
        return {"options": options, "origin": self._origin, "own": own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Session.__init__(self, **state["options"])
        self._origin = state["origin"]
        for name, value in state["own"].items():
            setattr(self, name, value)

    def __repr__(self) -> str:
        return f"<Session {self._session_id} {'ended' if self.is_ended else 'open'}>"

    def _ambient_parts(self) -> tuple[Session, None, Span | None]:
        return self, None, span_of(current_context())

    @property
    def open_spans(self) -> list[SpanHandle]:
        """The handles that have not ended: what was started under one comes after it."""
        known = [known() for known in list(self._let_go)]
        found = [handle for handle in known if handle is not None and not handle.is_ended]
        for root in list(self.roots):
            found.append(root)
            if root._below is not self.roots:
                found += list(root._below or ())
        return found

    def let_go(self, below: dict[SpanHandle, None]) -> None:
        """Keep no longer what is still open below a handle that ends, and know it for as long as somebody holds it.

        What nobody holds has nobody who could end it: it ends here, as abandoned.
        """
        handles: list[SpanHandle] = []
        while below:
            handles.append(below.popitem()[0])
        handles.reverse()
        for handle in handles:
            handle._kept_in = handle._below = None
            if not handle.is_entered:
                handle._context = None  # which holds the handle, and is made again when it is asked for
            self._let_go[weakref.ref(handle, self._let_go.pop)] = None

    def gate_for(self, runtime: Runtime) -> Gate:
        """The content gate of this session under a set-up."""
        if self._gate is None or self._gate_runtime is not runtime:
            self._gate = runtime.gate.overridden(self.capture_content)
            self._gate_runtime = runtime
        return self._gate

    def _root_base(self, context: Context, standing: Span | None, current: Span | None) -> Context:
        """The context that a span under none of ours starts in: with one in it only where that trace is continued."""
        if self.continue_trace is True and current is not None and not has_ended(current):
            return context_with(context, Scope(self, None, NOWHERE), current)
        scope = scope_of(context)
        is_such = standing is None and scope is not None and scope.session is self and scope.is_outermost
        return context if is_such else context_with(context, Scope(self, None, NOWHERE), None)


def _end_all(handles: list[SpanHandle], *, spare_held: bool) -> None:
    for handle in reversed(handles):
        if not (spare_held and handle.is_held):
            handle.end()


# It stands on every span of the conversation; backends cut or drop ids that are much shorter than this.
_LONGEST_ID: Final = 16 * 1024


def _id_or_new(given: object) -> str:
    """The id that was given; a fresh one for None, "" and what cannot name a conversation."""
    if given is None:
        return new_conversation_id()
    try:
        return _own_id(given) or new_conversation_id()
    except Exception as exc:
        drop("a session id", exc)
        return new_conversation_id()


def _own_id(given: object) -> str:
    """The program's own id as text: of any characters, unlike one from outside."""
    if isinstance(given, str):
        found = text(given)
    elif isinstance(given, int | UUID) and not isinstance(given, bool):
        found = str(given)  # a database's key is an id as good as any
    else:
        raise FieldError(f"expected a string, not {type(given).__name__}")
    if len(found) > _LONGEST_ID:
        raise FieldError(f"it has more than {_LONGEST_ID} characters")
    return found


def origin_of(carrier: object) -> Origin:
    """What a carrier tells; nothing, where it cannot be read, and that is counted."""
    try:
        return read_carrier(carrier)
    except Exception as exc:  # a carrier may be any object
        drop("a carrier", exc)
        return Origin(None, None)
