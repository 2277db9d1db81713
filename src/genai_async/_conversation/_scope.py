"""The ambient scope: one value inside the OTel Context that says whose span is current.

A scope is entered with `with` and left by value: leaving looks at the context that is current then, and changes it
only where this scope is what stands there (or what stands on it has ended). No token is kept, because a token can be
reset only in the very context that made it, and `opentelemetry.context.detach` logs an error everywhere else.

What can go wrong with ambient state is that it stays behind, in two ways that need opposite answers:

* A generator entered a scope in its consumer's task and was closed elsewhere. The consumer still sees the scope,
  although it has ended: it *leaked*, and the consumer belongs to what was there before.
* A background task was started inside a scope and outlives it. The scope has ended too, but the task does belong to
  that conversation: it was *inherited*, and what it does goes on there, only no longer under an ended span.

They are told apart by the task that entered the scope.
"""

from __future__ import annotations

import sys
import weakref
from contextvars import ContextVar
from typing import Any, Final, Protocol

import msgspec
from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    Span,
    SpanContext,
    set_span_in_context,
)

from .._loop import whoever_runs

# The key under which OTel keeps the current span, learnt through its public interface.
(_SPAN,) = set_span_in_context(INVALID_SPAN, Context())
_SCOPE: Final = "genai_async-scope"

_held: Final[ContextVar[Scope | None]] = ContextVar("genai_async-held", default=None)

# Where the official GenAI instrumentations look for the id. Nobody reads it before that module is imported.
_UTIL_GENAI: Final = "opentelemetry.util.genai._conversation_context"


NOWHERE: Final = Context()
"""What is around a scope that nobody enters."""


class Owner(Protocol):
    """What a scope belongs to: a session, or the handle of a span."""

    is_ended: bool
    """Whether it has ended, however."""


class Scope:
    """One entry into a session, a span, or a part of a program that is linked to or detached from them."""

    __slots__ = (
        "__weakref__",
        "block",
        "children",
        "entered_by",
        "handle",
        "host",
        "left",
        "link",
        "outer",
        "owner",
        "session",
    )

    def __init__(self, session: Any, handle: Any, outer: Context, link: Span | None = None) -> None:
        self.session = session
        self.handle = handle
        self.outer = outer
        self.link = link
        # A linked or detached part of a program is bound to nobody's end but its own.
        self.owner: Owner | None = handle if handle is not None else session if link is None else None
        self.entered_by: object = None
        self.left = False
        # An `async with` block may have tasks: who runs it, and those that were started in it.
        self.host: Any = None
        self.children: Any = None
        # In a task that was started in such a block: which one, held weakly, as what it starts may outlive it.
        self.block: weakref.ref[Scope] | None = None

    def enter(self) -> None:
        """Note who enters: whoever finds the scope in its context later can tell whether it leaked or was inherited."""
        self.entered_by = whoever_runs()

    @property
    def is_open(self) -> bool:
        """Whether what was entered here is still going on."""
        return not self.left and (self.owner is None or not self.owner.is_ended)

    @property
    def is_outermost(self) -> bool:
        """Whether this says which session it is and nothing else, and whoever keeps it keeps nothing more."""
        is_alone = self.handle is None and self.link is None and self.children is None
        return is_alone and _SCOPE not in self.outer

    @property
    def has_leaked(self) -> bool:
        """Whether this has ended but stayed current in the task that entered it."""
        return not self.is_open and self.entered_by is not None and self.entered_by == whoever_runs()


def scope_of(context: Context) -> Scope | None:
    """The scope that this context carries."""
    found: Any = context.get(_SCOPE)
    return found  # type: ignore[no-any-return]


def span_of(context: Context) -> Span | None:
    """The span that is current in this context, if there is one."""
    found: Any = context.get(_SPAN)
    return found  # type: ignore[no-any-return]


def linked_from(context: Context) -> Span | None:
    """What a root that starts in this context is linked to: the current span, or what stands for one."""
    span, scope = span_of(context), scope_of(context)
    return scope.link if span is None and scope is not None else span


def has_ended(span: Span) -> bool:
    """Whether a span of the SDK's kind has ended; remote and non-recording spans never say so."""
    return getattr(span, "end_time", None) is not None


def ids_of(span: Span) -> SpanContext:
    """A span's ids; those of no span, where the provider's span cannot tell them."""
    try:
        found: object = span.get_span_context()
    except Exception:
        return INVALID_SPAN_CONTEXT
    return found if isinstance(found, SpanContext) else INVALID_SPAN_CONTEXT


def reference_to(span: Span) -> Span:
    """What stands for a span that is linked to: its ids. The span itself would be held with all its content."""
    return span if isinstance(span, NonRecordingSpan) else NonRecordingSpan(ids_of(span))


def settled(context: Context) -> Context:
    """The context without the scopes that have leaked into the running task."""
    scope = scope_of(context)
    while scope is not None and scope.has_leaked:
        context = scope.outer
        scope = scope_of(context)
    return context


def current_context() -> Context:
    """The current OTel Context, without what has leaked into it.

    What has leaked is put away for good: it stands in the running task's own context, where nobody else can do it, and
    a task that is started there would inherit it.
    """
    context = get_current()
    scope: Any = context.get(_SCOPE)
    if scope is None:
        held = _held.get()
        return context if held is None else context_with(context, held, span_of(context))
    if scope.is_open:
        return context
    clean = settled(context)
    if clean is not context:
        attach(clean)
    return clean


def restore(context: Context, who: object) -> None:
    """Make current again what was before, unless somebody else runs here.

    A coroutine that is dropped while it waits is closed wherever the garbage collector comes by: what is current there
    is nothing of its own.
    """
    if whoever_runs() == who:
        attach(context)


def hold(scope: Scope) -> Scope | None:
    """Keep a scope for the running task and those it starts, also where somebody replaces the whole OTel Context.

    Instrumentations of servers do: they go on from what a request's headers say. Returns what was held before.
    """
    before = _held.get()
    _held.set(scope)
    return before


def release(scope: Scope, before: Scope | None) -> None:
    """Hold again what was held before, where this scope is what is held."""
    if _held.get() is scope:
        _held.set(before)


def scope_around(context: Context) -> Scope | None:
    """The scope that a span which starts in this context belongs to; none that has leaked into the running task."""
    scope = scope_of(context)
    if scope is None:
        scope = _held.get()
    return scope if scope is None or scope.is_open else scope_of(settled(context))


def context_with(base: Context, scope: Scope, span: Span | None) -> Context:
    """`base` with this scope and span in it; without a span where None is given."""
    values: dict[str, object] = {**base, _SCOPE: scope, _SPAN: span}
    if span is None:
        del values[_SPAN]
    key = getattr(sys.modules.get(_UTIL_GENAI), "CONVERSATION_ID_KEY", None)
    if key is not None:
        values.pop(key, None)
        if scope.session is not None:
            values[key] = scope.session.session_id
    return Context(values)


def bare(context: Context) -> Context:
    """The context without anything of ours in it, and without a span."""
    key = getattr(sys.modules.get(_UTIL_GENAI), "CONVERSATION_ID_KEY", None)
    return Context({name: value for name, value in context.items() if name not in {_SCOPE, _SPAN, key}})


def enter(session: Any, handle: Any, span: Span | None) -> tuple[Scope, Context]:
    """Make this handle (or session) current in the running task."""
    outer, who = current_context(), whoever_runs()
    standing: Scope | None = outer.get(_SCOPE)  # type: ignore[assignment]
    if standing is not None:
        outer = _shortened(outer, standing, who)
    scope = Scope(session, handle, outer)
    scope.entered_by = who
    context = context_with(outer, scope, span)
    attach(context)
    return scope, context


def _shortened(context: Context, standing: Scope, who: object) -> Context:
    """The context with no more behind it than can still matter.

    Tasks that start tasks inherit scope after scope. Each would hold all that came before, with its content, for as
    long as one task of the chain lives. So whoever enters the first scope of a task looks all the way down.
    """
    if not standing.is_open:
        return _remainder(context, standing)
    upper = standing
    while (below := scope_of(upper.outer)) is not None:
        if below.is_open:
            if standing.entered_by == who:
                break
            upper = below
        elif below.entered_by is not None and below.entered_by == upper.entered_by:
            upper.outer = below.outer
        else:
            upper.outer = _remainder(upper.outer, below)
            break
    return context


def _remainder(context: Context, ended: Scope) -> Context:
    """What an inherited scope that has ended still says: the conversation, and what is open there or to link to."""
    base = bare(context)
    handle = _open_handle(ended)
    if handle is not None:
        return context_with(base, Scope(ended.session, handle, handle.context), handle.span)
    last = ended.link or (INVALID_SPAN if ended.handle is None else ended.handle.span)
    standing = span_of(context)
    is_over = standing is None or standing is last or has_ended(standing)
    scope = Scope(ended.session, None, NOWHERE, link=reference_to(last))
    return context_with(base, scope, None if is_over else standing)


def _open_handle(scope: Scope) -> Any:
    """The nearest open handle of the scope's own conversation, going outwards."""
    outer: Scope | None = scope
    while outer is not None and outer.session is scope.session:
        if outer.handle is not None and not outer.handle.is_ended:
            return outer.handle
        outer = scope_of(outer.outer)
    return None


def leave(scope: Scope) -> bool:
    """Make what was current before the scope current again, wherever and whenever this is called.

    Nothing happens where the scope isn't what stands in the running context: in another task, or while a scope
    inside it is still open; that one restores past this one when it is left.

    Returns:
        Whether anything was restored.
    """
    scope.left = True
    standing: Scope | None = get_current().get(_SCOPE)  # type: ignore[assignment]
    while standing is not scope:
        if standing is None or standing.is_open:
            return False
        standing = scope_of(standing.outer)
    outer = scope.outer
    below: Scope | None = outer.get(_SCOPE)  # type: ignore[assignment]
    attach(outer if below is None or below.is_open else settled(outer))
    return True


def own_of(scopes: list[Scope]) -> Scope:
    """Of the entries into one session or span the one that the running task is in; the newest, if it is in none."""
    standing = scope_of(get_current()) if len(scopes) > 1 else scopes[0]
    while standing is not None and standing not in scopes:
        block = None if standing.block is None else standing.block()
        standing = block if block in scopes else scope_of(standing.outer)
    return scopes[-1] if standing is None else standing


def leave_one(scopes: list[Scope]) -> None:
    """Leave the running task's own entry into a session or span."""
    scope = own_of(scopes)
    scopes.remove(scope)
    leave(scope)


class Ambient(msgspec.Struct):
    """What is current, made safe to use: nothing in it has ended but `stale`."""

    context: Context
    session: Any
    handle: Any
    stale: Span | None


def ambient() -> Ambient:
    """What new spans in the running task belong to.

    A handle that has ended is never given: the nearest open one of the same conversation is, or none, and then
    `stale` is the span to link to.
    """
    context = current_context()
    scope = scope_of(context)
    if scope is None:
        return Ambient(context, None, None, None)
    if scope.is_open:
        return Ambient(context, scope.session, scope.handle, scope.link)
    handle = _open_handle(scope)
    if handle is not None:
        return Ambient(handle.context, scope.session, handle, None)
    link = scope.link or (None if scope.handle is None else scope.handle.span)
    return Ambient(context, scope.session, None, link)
