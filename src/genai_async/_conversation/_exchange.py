"""A session as a server sees it: one request or connection, in which turns begin and end when the server says so."""

from __future__ import annotations

from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import Span

from .._loop import block_of, whoever_runs
from ._handle import SpanHandle
from ._outcome import ABANDONED
from ._scope import (
    NOWHERE,
    Scope,
    context_with,
    current_context,
    has_ended,
    hold,
    ids_of,
    leave,
    reference_to,
    release,
    scope_of,
    span_of,
)
from ._session import Session
from ._spans import Turn

__all__ = ["ABANDONED", "Exchange"]


class Exchange:
    """Makes a session and its turns current for an application and all the tasks it starts.

    A server's messages are sent and received in tasks of the framework's choice, and what one task makes current is
    not seen by its siblings. So they all share one scope, made before the application runs, and it is the scope that
    says which turn is going on. The task that a turn begins in, and those it starts, have a scope of the turn's own:
    what they do stays with it when the next one has begun. When a turn has ended, what still runs is linked to it: a
    background task belongs to the conversation, but no longer to the turn.
    """

    __slots__ = ("_held", "_inside", "_scope", "_span", "_turn_context", "_turn_scope", "latest", "session", "turn")

    def __init__(self, session: Session) -> None:
        outer = current_context()
        self._scope = Scope(session, None, outer)
        span = span_of(outer)
        # A server that was started inside a span keeps that as the current one for ever.
        self._span = None if span is None or has_ended(span) else span
        self._held: Scope | None = None
        # What is current in the application, and in a turn that began right there.
        self._inside = outer
        self._turn_context: Context | None = None
        self._turn_scope: Scope | None = None
        self.session = session
        self.turn: Turn | None = None
        self.latest: Turn | None = None

    @property
    def outer(self) -> Context:
        """The OTel Context that the server or an outer middleware runs in."""
        return self._scope.outer

    @property
    def is_traced(self) -> bool:
        """Whether somebody outside has a span here already."""
        return self._span is not None and ids_of(self._span).is_valid

    def come_from(self, remote: Span) -> None:
        """Take the caller's span as what turns are linked to, unless somebody outside has a span in its trace.

        It is not made current: an instrumentation inside does that, or nobody.
        """
        if self._span is None or ids_of(self._span).trace_id != ids_of(remote).trace_id:
            self.session._origin = self._scope.link = remote

    def enter(self) -> None:
        """Hold the session for the running task and those it starts from now on."""
        self._scope.entered_by = whoever_runs()
        self._held = hold(self._scope)
        self._inside = context_with(self._scope.outer, self._scope, self._span)
        attach(self._inside)
        self._scope.host = block_of()
        self.session._scopes.append(self._scope)

    def begin_turn(self, *, owns_tasks: bool) -> Turn:
        """Start a turn and make it current: in the running task, and for our own spans in those that are in no turn.

        Args:
            owns_tasks: Whether `Turn.start_soon` may be used, in the task that entered: `join` waits for such tasks.
        """
        turn = self.turn = self.latest = self.session.start_turn()
        scope = self._turn_scope = Scope(self.session, turn, NOWHERE)
        scope.host = self._scope.host if owns_tasks else None
        turn._scopes = [scope]
        self._scope.handle = turn
        self._scope.link = None
        here = get_current()
        context = context_with(here, scope, turn.span)
        # What is started under the turn from elsewhere goes where the turn began.
        turn._context = context
        self._turn_context = context if here is self._inside else None
        attach(context)
        return turn

    @property
    def has_tasks(self) -> bool:
        """Whether there are tasks of the session or the turn that have to be waited for."""
        return self._scope.children is not None or self.turn_has_tasks

    @property
    def turn_has_tasks(self) -> bool:
        """Whether the turn has started tasks, which end before it does."""
        return self._turn_scope is not None and self._turn_scope.children is not None

    @property
    def is_working(self) -> bool:
        """Whether other spans than the turn's are open in the session."""
        return any(handle is not self.turn for handle in self.session.open_spans)

    def end_turn(self, error: BaseException | str | None = None) -> None:
        """End the turn that is going on, if there is one."""
        turn, self.turn = self.turn, None
        if turn is None:
            return
        scope, self._turn_scope = self._turn_scope, None
        if scope is not None:
            scope.host = None
        self._scope.link = reference_to(turn.span)
        self._scope.handle = None
        here = get_current()
        if here is self._turn_context:
            attach(self._inside)
        elif span_of(here) is turn.span:
            # Only in the running task; elsewhere other people's spans go on under a turn that has ended.
            attach(context_with(here, self._scope, self._span))
        # The application's own blocks on the turn are theirs to leave, and until then they take and await tasks.
        SpanHandle.end(turn, error=error)
        if scope is not None and scope.children is not None:
            scope.children.close()
        # The scope leads to the turn: without it, what has ended is freed without the garbage collector.
        if scope is not None and turn._scopes is not None and scope in turn._scopes:
            turn._scopes.remove(scope)

    async def join(self, error: BaseException | None) -> None:
        """Wait for the tasks of the turn and of the session.

        Raises:
            BaseExceptionGroup: One of them failed.
        """
        try:
            if self.turn is not None:
                await self.turn._join(error)
        finally:
            await self.session._join(error)

    def leave(self) -> None:
        """Restore what was current before, and end what nobody else will end."""
        release(self._scope, self._held)
        leave(self._scope)
        standing = scope_of(get_current())
        if standing is not None and standing.session is self.session and not standing.is_open:
            # The scope of a turn that was ended by another task: nothing leads from there to what was before.
            attach(self._scope.outer)
        if self._scope in self.session._scopes:
            self.session._scopes.remove(self._scope)
        # Servers keep a request's scope, and by that this, until the next one comes: not its task and contexts, too.
        self._scope.host = self._turn_context = None
        self._inside = self._scope.outer
        # What stands in somebody's `with` block, in a task that outlives the request, is ended by that block.
        for handle in reversed(self.session.open_spans):
            if not handle.is_held:
                handle.end()
