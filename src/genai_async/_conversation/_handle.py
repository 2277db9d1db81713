"""The life of a span, owned in one place: started, entered, left, ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, format_span_id, format_trace_id

from .._loop import still_runs
from ._carrier import write_carrier
from ._clock import Time, to_ns
from ._content import Gate
from ._faults import FieldError, is_omitted
from ._recording import Recording
from ._runtime import Runtime
from ._scope import NOWHERE, Scope, context_with, current_context, enter, ids_of, leave_one, span_of

if TYPE_CHECKING:
    from ._session import Session

_LONGEST_SPAN_NAME: Final = 300


class SpanHandle(Recording):
    """A started span. `with` or `async with` makes it current and ends it; `end()` ends it by hand.

    A handle works from any task, thread or callback: what it needs was taken when its span started. Without a set-up
    it does nothing, at next to no cost.
    """

    __slots__ = (
        "__weakref__",
        "_base",
        "_below",
        "_context",
        "_first",
        "_kept_in",
        "_last",
        "_once",
        "_scopes",
        "_starts_ns",
    )

    _below: dict[SpanHandle, None] | None
    """Where those are kept that are open below: by what stands right under the session. None once this has ended."""
    _kept_in: dict[SpanHandle, None] | None
    """Where this is kept as long as it is open; by nobody, where what kept it has ended first."""

    # What owns tasks has to be found without a set-up, too: the tasks are the program's, not the tracing's.
    _owns_tasks: ClassVar[bool] = False
    # What spans started here are linked to; nothing, where they are children.
    _link: Span | None = None

    def __init__(
        self,
        runtime: Runtime | None,
        session: Session | None,
        parent: SpanHandle | None,
        base: Context | None,
        gate: Gate,
    ) -> None:
        self._runtime = runtime
        self._session = session
        self._parent = parent
        self._base = base
        self._gate = gate
        self._span = INVALID_SPAN
        self._context: Context | None = None
        self._attributes = None
        self._scopes: list[Scope] | None = None
        self._kept_in = self._below = None
        self._once = True
        self.is_ended: bool = False
        if runtime is None:
            if self._owns_tasks and session is not None:
                self._kept_in = self._below = session.roots
                session.roots[self] = None
            return  # what follows is only ever looked at for a span that exists
        self._waiting = {}
        self._outcome = None
        self._starts_ns: int | None = None
        """When it starts, where that lies ahead."""
        self._first = self._last = runtime.delivery.position
        if session is not None:
            kept_in = below = None if parent is None else parent._below
            if kept_in is None:
                kept_in, below = session.roots, {}
            self._kept_in, self._below = kept_in, below
            kept_in[self] = None
            if below is kept_in and parent is not None and parent._below is not kept_in:
                # That has ended in this very moment, in another thread.
                kept_in.pop(self, None)
                self._kept_in, self._below = session.roots, {}
                session.roots[self] = None

    def _start(
        self,
        operation: str,
        subject_key: str,
        known: Iterable[tuple[str, Any]],
        *,
        own: Mapping[str, Any] | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        start_time: Time | None = None,
        link: Span | None = None,
    ) -> None:
        """Start the span, if there is a set-up, with the attributes that samplers look at.

        Args:
            operation: The operation's name, the first word of the span's.
            subject_key: The attribute whose value is the second word, where it is given (conventions, span names).
            known: The attributes whose values are known now; wrong ones are dropped.
            own: The caller's own attributes.
            kind: The span's kind.
            start_time: When it started.
            link: The span to link to.
        """
        runtime = self._runtime
        if runtime is None:
            return
        if self._parent is not None and self._parent._attributes is None and self._is_unsampled(runtime):
            return
        attributes = self._checked_start(operation, known, own)
        name = span_name(operation, attributes.get(subject_key))
        if link is None and self._parent is not None:
            link = self._parent._link
        linked = None if link is None else ids_of(link)
        links = [Link(linked)] if linked is not None and linked.is_valid else None
        start_ns = None if start_time is None else self._time(start_time)
        if start_ns is not None and start_ns > time_ns():
            self._starts_ns = start_ns
        try:
            span = runtime.tracer.start_span(name, self._base, kind, attributes, links, start_ns)
            if span.is_recording():
                self._attributes = {}
            self._span = span
        except Exception as exc:  # the provider, its samplers and processors are other people's
            self._drop("a span that its provider could not start", exc)

    def _is_unsampled(self, runtime: Runtime) -> bool:
        """Whether nothing will be kept of this span, like of the one above; then it has started."""
        try:
            span = None if runtime.unsampled is None else runtime.unsampled(self._base)
        except Exception:
            return False
        if span is not None:
            self._span = span
        return span is not None

    @property
    def span(self) -> Span:
        """The OTel span; a non-recording one if nothing is set up."""
        return self._span

    @property
    def context(self) -> Context:
        """An OTel Context with this span current, for code that takes a `context=`."""
        context = self._context
        if context is None:
            base = current_context() if self._base is None else self._base
            # Whoever finds this ended goes on with what it was under; a root was under nothing.
            outer = NOWHERE if self._parent is None else base
            context = context_with(base, Scope(self._session, self, outer), self._standing_span())
            if not self.is_ended:
                self._context = context
        return context

    def _standing_span(self) -> Span | None:
        """The span that is current inside: without a set-up, whatever is."""
        return span_of(current_context()) if self._runtime is None else self._span

    def carrier(self, *, baggage: bool = False) -> dict[str, str]:
        """This span as W3C headers, for work that goes on in another process (`Session.from_carrier`).

        Args:
            baggage: Whether the conversation's id goes along, for every host on the way to see.
        """
        return write_carrier(self.context, self.conversation_id if baggage else None)

    @property
    def conversation_id(self) -> str | None:
        """The id of the conversation that this belongs to; None without a session."""
        return None if self._session is None else self._session.session_id

    @property
    def trace_id(self) -> str:
        """The trace's id as 32 hex digits; zeros if nothing is set up."""
        return format_trace_id(ids_of(self._span).trace_id)

    @property
    def span_id(self) -> str:
        """The span's id as 16 hex digits; zeros if nothing is set up."""
        return format_span_id(ids_of(self._span).span_id)

    @property
    def is_entered(self) -> bool:
        """Whether a `with` block of this span is open."""
        return bool(self._scopes)

    @property
    def is_held(self) -> bool:
        """Whether somebody who still runs is inside a `with` block of this span."""
        return any(still_runs(scope.entered_by) for scope in self._scopes or ())

    def end(self, *, error: BaseException | str | None = None, end_time: Time | None = None) -> None:
        """End the span; a second call does nothing.

        Args:
            error: What the work failed with, as for `record_error`.
            end_time: When it ended; now, if None.
        """
        try:
            # A slot can be deleted once, whoever else is ending this span in another thread or a finalizer.
            del self._once
        except AttributeError:
            return
        kept_in, below = self._kept_in, self._below
        try:
            if below is not None and below is not kept_in:
                self._below = None  # first: whoever starts something below from now on keeps it elsewhere
                cast("Session", self._session).let_go(below)
            if self._attributes is not None:
                self._finish(self._attributes, error, end_time)
        finally:
            self.is_ended = True
            if kept_in is not None:
                kept_in.pop(self, None)
            # The context holds this handle and the outcome a traceback that may: without them, what has ended is freed
            # at once instead of waiting for the garbage collector. A context that is asked for later is made again.
            self._context = self._outcome = self._below = None

    async def delivered(self, timeout: float | None = None) -> bool:
        """Wait until this span and those under it that have ended were delivered, or dropped and counted.

        Args:
            timeout: The most seconds to wait; None waits as long as it takes, but not for a collector that does not
                take spans which are safe in the spool.

        Returns:
            False if the wait ended first, and at once while the span is still open: it cannot have arrived. Where a
            provider of yours does the export, its flush is asked, for which a timeout of 0 leaves no time.
        """
        if self.is_recording:
            return False
        if self._runtime is None or self._last == self._first:
            return True
        return await self._runtime.delivery.settled(self._first, self._last, timeout)

    def __enter__(self) -> Self:
        if self._runtime is not None or self._owns_tasks:
            if self.is_ended and self._runtime is not None:
                self._runtime.faults.note(
                    "a block of a span that has ended", f"a {type(self).__name__} is entered again"
                )
            scope, context = enter(self._session, self, self._standing_span())
            if self._scopes is None:
                self._scopes = [scope]
                # What is started under this handle from elsewhere goes where it was entered first.
                self._context = self._context or context
            else:
                self._scopes.append(scope)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()
        self.end(error=exc)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)

    def __repr__(self) -> str:
        state = "ended" if self.is_ended else "open"
        return f"<{type(self).__name__} {self.span_id} of conversation {self.conversation_id} {state}>"

    def __copy__(self) -> Self:
        """Itself: there is one span, and one end of it."""
        return self

    def __deepcopy__(self, _memo: object) -> Self:
        return self

    def __del__(self) -> None:
        # Nobody holds it, so nobody can end it any more.
        if not getattr(self, "is_ended", True):
            self.end(error=GeneratorExit())

    def _leave(self) -> None:
        if self._scopes:
            leave_one(self._scopes)

    def _finish(self, attributes: dict[str, Any], error: BaseException | str | None, end_time: Time | None) -> None:
        end_ns: int | None = None
        try:
            try:
                if error is not None and self._is_error(error):
                    self._note(error)
                if end_time is not None or self._starts_ns is not None:
                    end_ns = self._end_ns(end_time)
                # A guard each: what one of them stumbles over takes nothing else with it.
                try:
                    self._complete(attributes)
                except Exception as exc:
                    self._drop("what a span knows at its end", exc)
                try:
                    self._write(attributes)
                except Exception as exc:
                    self._drop("what was recorded on a span", exc)
            finally:
                # Whatever interrupts the writing, Ctrl-C in a redactor too, the span ends and is counted.
                self._span.end(end_ns)
        except Exception as exc:  # the provider's own and its processors' faults stay theirs
            self._drop("a span that its provider could not end", exc)
        # Both are the span's from now on; that there are any says that it was recorded.
        self._waiting = self._attributes = {}
        position = cast(Runtime, self._runtime).delivery.position
        handle: SpanHandle | None = self
        while handle is not None:
            handle._last = position
            handle = handle._parent

    def _time(self, value: Time) -> int | None:
        try:
            return to_ns(value)
        except FieldError as exc:
            if not is_omitted(value):
                self._drop("a time", exc)
            return None

    def _end_ns(self, value: Time | None) -> int | None:
        end_ns = time_ns() if value is None else self._time(value)
        try:
            started_ns = getattr(self._span, "start_time", None)
        except Exception:  # the provider's own
            return end_ns
        if end_ns is not None and isinstance(started_ns, int) and end_ns < started_ns:
            self._drop("a time", FieldError("the end lies before the start"))
            return started_ns
        return end_ns


def span_name(operation: str, subject: object) -> str:
    """The operation and what it is about, within what backends group by."""
    name = f"{operation} {subject}" if isinstance(subject, str) else operation
    return name if len(name) <= _LONGEST_SPAN_NAME else f"{name[: _LONGEST_SPAN_NAME - 1]}…"
