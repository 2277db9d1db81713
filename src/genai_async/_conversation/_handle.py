"""The life of a span, owned in one place: started, entered, recorded on, left, ended."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from time import time_ns
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from msgspec.structs import astuple
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanKind,
    Status,
    StatusCode,
    format_span_id,
    format_trace_id,
)

from .._loop import still_runs
from .._plain import Plain
from . import _semconv as sc
from ._carrier import write_carrier
from ._clock import Time, to_ns
from ._content import Gate
from ._copying import holdable
from ._faults import FieldError, PartError, is_omitted, reason_of
from ._fields import USAGE_KEYS, Field, count, text
from ._messages import Usage
from ._outcome import OTHER, Outcome, alone, message_of, outcome_of, raised_at, stack_of, type_name
from ._runtime import Runtime
from ._scope import NOWHERE, Scope, context_with, current_context, enter, ids_of, leave_one, span_of

if TYPE_CHECKING:
    from ._session import Session


# What a span belongs to and is decides how backends group it.
_IDENTITY: Final = frozenset({sc.CONVERSATION_ID, sc.OPERATION})
NOT_ERRORS: Final = "not errors"
"""Under this, a handle waits with the classes of exceptions that end it without an error."""
_MAX_OWN: Final = 1_000  # of one mapping: each is looked at on the caller's thread
_LONGEST_NAME: Final = 64
_MOST_RECORDED: Final = 64
_LONGEST_SPAN_NAME: Final = 300
# No redactor and no limit has anything to say of these.
_FIXED: Final = frozenset({bool, int, float, type(None)})


class SpanHandle:
    """A started span. `with` or `async with` makes it current and ends it; `end()` ends it by hand.

    A handle works from any task, thread or callback: what it needs was taken when its span started. Without a set-up
    it does nothing, at next to no cost.
    """

    __slots__ = (
        "__weakref__",
        "_attributes",
        "_base",
        "_context",
        "_first",
        "_gate",
        "_last",
        "_once",
        "_outcome",
        "_parent",
        "_recorded",
        "_runtime",
        "_scopes",
        "_session",
        "_span",
        "_starts_ns",
        "_waiting",
        "is_ended",
    )

    _fields: ClassVar[Mapping[str, Field]]
    # The attribute that may be added to as long as the span is open.
    _growing: ClassVar[str] = ""
    _recorded: set[tuple[object, ...]]
    """What tells the exceptions recorded here and below; made for the first of them."""
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
        self._span: Span = INVALID_SPAN
        self._context: Context | None = None
        self._attributes: dict[str, Any] | None = None
        self._scopes: list[Scope] | None = None
        self._once = True
        self.is_ended: bool = False
        """Whether the span has ended, by whomever."""
        if runtime is None:
            if self._owns_tasks and session is not None:
                session.open_spans[self] = None
            return  # what follows is only ever looked at for a span that exists
        self._waiting: dict[str, Any] = {}
        """What waits for the end: the content that may be added to, by its attribute, and what a kind keeps besides."""
        self._outcome: Outcome | None = None
        self._starts_ns: int | None = None
        """When it starts, where that lies ahead."""
        self._first = self._last = runtime.delivery.position
        if session is not None:
            session.open_spans[self] = None

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

    def _checked_start(
        self, operation: str, known: Iterable[tuple[str, Any]], own: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        attributes: dict[str, Any] = Plain()
        attributes[sc.OPERATION] = operation
        session = self._session
        if session is not None:
            attributes[sc.CONVERSATION_ID] = session.session_id
            if session.attributes is not None:
                attributes = {**attributes, **self._own(session.attributes)}
        untouched = self._gate.untouched_length
        for key, value in known:
            if value is None:
                continue
            if type(value) is str and (not value or len(value) <= untouched):
                if value:
                    attributes[key] = value
            else:
                self._add_known(key, value, attributes)
        if own is not None:
            attributes = {**attributes, **self._own(own)}
        return attributes

    def _add_known(self, key: str, value: Any, attributes: dict[str, Any]) -> None:
        try:
            checked = count(value) if key == sc.SERVER_PORT else self._word(key, text(value))
        except Exception as exc:
            if not is_omitted(value):
                self._drop(key, exc)
            return
        if checked is not None and checked != "":
            attributes[key] = checked

    def _word(self, key: str, value: Any) -> Any:
        return self._gate.identifier(value) if key in sc.IDENTIFIERS else self._gate.attribute(value)

    def _own(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            pairs = attributes if hasattr(attributes, "items") else dict(attributes)
            given = dict(islice(pairs.items(), _MAX_OWN + 1))
        except Exception as exc:
            self._drop("attributes that cannot be read", exc)
            return found
        if len(given) > _MAX_OWN:
            given.popitem()
            self._drop("an attribute too many", FieldError(f"a mapping has more than {_MAX_OWN}"))
        for key, value in given.items():
            try:
                self._add_own(key, value, found)
            except Exception as exc:
                self._drop("an attribute", exc)
        return found

    def _add_own(self, key: Any, value: Any, found: dict[str, Any]) -> None:
        if key in _IDENTITY:
            self._drop("an attribute of the library's own", FieldError(f"{key} is not the caller's to set"))
        elif not isinstance(key, str):
            raise FieldError(f"its key is a {type(key).__name__}")
        else:
            name, kept = self._gate.pair(key, value)
            if name is not None and (kept is not None or value is None):
                found[name] = kept if type(kept) is str or type(kept) in _FIXED else holdable(kept)

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
    def is_recording(self) -> bool:
        """Whether what is recorded now will be seen: the span is sampled and has not ended."""
        return self._attributes is not None and not self.is_ended

    @property
    def is_entered(self) -> bool:
        """Whether a `with` block of this span is open."""
        return bool(self._scopes)

    @property
    def is_held(self) -> bool:
        """Whether somebody who still runs is inside a `with` block of this span."""
        return any(still_runs(scope.entered_by) for scope in self._scopes or ())

    def set_attributes(self, attributes: Mapping[str, Any]) -> Self:
        """Set attributes of your own on the span; strings go through the redactor."""
        if self._may_record("attributes"):
            try:
                self._span.set_attributes(self._own(attributes))
            except Exception as exc:
                self._drop("attributes that cannot be set", exc)
        return self

    def record_error(self, error: BaseException | str) -> Self:
        """Mark the span as failed and go on; the last error recorded decides its status.

        Args:
            error: The exception, or a word for `error.type` of which there are only a few (64 ASCII letters, digits
                and `_.:-` at most); any other text is a message, and content.
        """
        if self._may_record("an error"):
            self._note(error)
        return self

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
        try:
            if self._attributes is not None:
                self._finish(self._attributes, error, end_time)
        finally:
            self.is_ended = True
            if self._session is not None:
                self._session.open_spans.pop(self, None)
            # The context holds this handle and the outcome a traceback that may: without them, what has ended is freed
            # at once instead of waiting for the garbage collector. A context that is asked for later is made again.
            self._context = self._outcome = None

    async def delivered(self, timeout: float | None = None) -> bool:
        """Wait until this span and those under it that have ended were delivered, or dropped and counted.

        Args:
            timeout: The most seconds to wait; None waits as long as it takes, but not for a collector that does not
                take spans which are safe in the spool.

        Returns:
            False if the wait ended first, and at once while the span is still open: it cannot have arrived.
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

    def _may_record(self, what: str) -> bool:
        if self._attributes is None:
            return False
        if not self.is_ended:
            return True
        cast(Runtime, self._runtime).faults.drop(f"{what} recorded after the span's end", type(self).__name__)
        return False

    def _drop(self, kind: str, exc: Exception) -> None:
        cast(Runtime, self._runtime).faults.drop(kind, reason_of(exc))

    def _record(self, fields: Mapping[str, Any]) -> None:
        attributes = self._attributes
        if attributes is None or (self.is_ended and not self._may_record("fields")):
            return
        known, untouched = self._fields, self._gate.untouched_length
        for name, value in fields.items():
            if value is None:
                continue
            field = known.get(name)
            if field is None:
                self._put_unknown(name, value)
            elif field.is_plain and type(value) is str and len(value) <= untouched:
                attributes[field.key] = value
            else:
                self._put_checked(name, field, value)

    def _put(self, name: str, value: Any) -> None:
        self._put_checked(name, self._fields[name], value)

    def _put_checked(self, name: str, field: Field, value: Any) -> None:
        attributes, gate = self._attributes, self._gate
        if attributes is None or (field.is_content and not gate.capture):
            return
        try:
            try:
                checked = field.check(value)
            except PartError as exc:
                checked = exc.kept
                for reason in exc.reasons:
                    self._drop(f"{type(self).__name__}.{name}", FieldError(reason))
            if field.key == self._growing:
                self._waiting[field.key] = checked
                return
            kept: Any
            if field.is_content:
                kept = gate.json(checked, is_message=field.is_message)
            else:
                kept = checked if type(checked) in _FIXED else self._word(field.key, checked)
                kept = tuple(cast("list[Any]", kept)) if type(kept) is list else kept
        except Exception as exc:
            if not is_omitted(value):
                self._drop(f"{type(self).__name__}.{name}", exc)
            return
        if kept is not None:
            attributes[field.key] = kept
        elif checked is None and not field.is_content:
            attributes.pop(field.key, None)  # the conventions leave this value out: what was there is no longer so

    def _put_unknown(self, name: str, value: Any) -> None:
        # One kind for all names: they are the caller's, and there may be any number of them.
        is_word = isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isidentifier()
        what = f"there is no {name!r}" if is_word else "there is none of its name"
        cast(Runtime, self._runtime).faults.drop(f"{type(self).__name__}: an unknown field", what)

    def _put_usage(self, usage: Usage, *, totals_only: bool) -> None:
        attributes = self._attributes
        if attributes is None:
            return
        for key, value in zip(USAGE_KEYS[:2] if totals_only else USAGE_KEYS, astuple(usage), strict=False):
            if value is None:
                continue
            if type(value) is int and value >= 0:
                attributes[key] = value
                continue
            try:
                attributes[key] = count(value)
            except Exception as exc:
                self._drop(key, exc)

    def _is_error(self, error: BaseException | str) -> bool:
        steering: tuple[type[BaseException], ...] = self._waiting.get(NOT_ERRORS, ())
        if not steering or not isinstance(error, BaseException):
            return True
        try:
            return not isinstance(alone(error), steering)
        except Exception:  # one that cannot be looked at
            return True

    def _note(self, error: BaseException | str) -> None:
        try:
            self._note_outcome(error)
        except Exception as exc:  # an exception can be any object, and say anything of itself
            self._drop("an error", exc)

    def _note_outcome(self, error: BaseException | str) -> None:
        if error is False:  # type: ignore[comparison-overlap]  # whoever says so means that there is none
            raise FieldError("expected an exception or a word, not bool")
        outcome = outcome_of(error)
        word = outcome.error_type
        if isinstance(error, str) and outcome.text is None and self._gate.identifier(word) != word:
            # What a redactor would change in it is content.
            outcome = Outcome(OTHER, None, word)
        if outcome.is_withdrawn and not cast(Runtime, self._runtime).cancellation_is_error:
            self.note_cut()
            return
        self._outcome = outcome
        if not isinstance(error, BaseException | str):
            raise FieldError(f"expected an exception or a word, not {type(error).__name__}")
        if outcome.exception is not None and self._is_new(outcome.exception):
            self._add_exception(outcome.exception)

    def _is_new(self, error: BaseException) -> bool:
        """Whether neither this nor a span below has recorded the exception, which is the innermost's that it came from.

        Neither is a mark put on the exception, which others show and copy, nor is the exception kept, which would hold
        its frames. Its address alone is soon another's.
        """
        trace_id = ids_of(self._span).trace_id
        mark = (trace_id, id(error), *raised_at(error), hash(message_of(error)))
        if mark in getattr(self, "_recorded", ()):
            return False
        handle: SpanHandle | None = self
        while handle is not None:
            if len(getattr(handle, "_recorded", ())) == _MOST_RECORDED or not hasattr(handle, "_recorded"):
                handle._recorded = set()  # an exception is on its way for a moment only
            handle._recorded.add(mark)
            handle = handle._parent
        return True

    def note_cut(self) -> None:
        """Note that what the span stands for was left before its end, and that this alone is no error."""

    def _add_exception(self, error: BaseException) -> None:
        gate = self._gate
        event = {
            "exception.type": type_name(error),
            "exception.message": gate.text(message_of(error)),
            "exception.stacktrace": gate.text(stack_of(error)),
        }
        self._span.add_event("exception", {key: value for key, value in event.items() if value is not None})

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
        self._waiting = {}
        position = cast(Runtime, self._runtime).delivery.position
        handle: SpanHandle | None = self
        while handle is not None:
            handle._last = position
            handle = handle._parent

    def _complete(self, attributes: dict[str, Any]) -> None:
        """Add what a kind of span knows only when it ends."""

    def _write(self, attributes: dict[str, Any]) -> None:
        grown = self._waiting.get(self._growing)
        if grown is not None:
            encoded = self._gate.json(grown)
            if encoded is not None:
                attributes[self._growing] = encoded
        if self._outcome is not None:
            self._write_outcome(self._outcome, attributes)
        if self._session is not None:
            # Once more and last: where a span has too many attributes, the oldest ones go.
            attributes[sc.CONVERSATION_ID] = self._session.session_id
        self._span.set_attributes(Plain(attributes))

    def _write_outcome(self, outcome: Outcome, attributes: dict[str, Any]) -> None:
        attributes[sc.ERROR_TYPE] = outcome.error_type
        message = outcome.text if outcome.exception is None else message_of(outcome.exception)
        if message is not None:
            message = self._gate.text(message)
        self._span.set_status(Status(StatusCode.ERROR, message or None))

    def _time(self, value: Time) -> int | None:
        try:
            return to_ns(value)
        except FieldError as exc:
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
