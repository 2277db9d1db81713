"""What is current, and starting spans under it without holding a handle."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Unpack, cast

from opentelemetry.context import attach
from opentelemetry.trace import INVALID_SPAN, Span

from .._loop import whoever_runs
from . import _semconv as sc
from ._agent import nearest
from ._chat import InstructionsLike, MessagesLike, ToolsLike
from ._children import Propagation, propagated
from ._clock import Time
from ._content import CLOSED
from ._fields import RequestOptions
from ._handle import SpanHandle
from ._runtime import current_runtime
from ._scope import (
    NOWHERE,
    Ambient,
    Scope,
    ambient,
    context_with,
    has_ended,
    ids_of,
    leave,
    linked_from,
    scope_of,
    span_of,
)
from ._session import Session, origin_of
from ._spans import LLM, Place, SubAgent, Tool, Turn


def current_session() -> Session | None:
    """The session that the running code is in."""
    return cast("Session | None", ambient().session)


def current_turn() -> Turn | None:
    """The turn that the running code is in; None if it has ended."""
    turn = nearest(ambient().handle, Turn)
    return None if turn is None or turn.is_ended else turn


def current_llm() -> LLM | None:
    """The model call that the running code is in; None if it has ended.

    Without a set-up it is one that does nothing, wherever a session is current: nobody keeps which calls are open then,
    and code inside of one that records on it must not find None.
    """
    around = ambient()
    if current_runtime() is None and around.session is not None:
        return LLM(None, around.session, around.handle, None, CLOSED)
    llm = nearest(around.handle, LLM)
    return None if llm is None or llm.is_ended else llm


def start_turn(
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
    """Start a turn of the current session; the arguments are those of `Session.start_turn`."""
    around = ambient()
    if around.session is not None:
        return cast(Session, around.session).start_turn(
            user_message,
            input_messages=input_messages,
            system_instructions=system_instructions,
            agent_name=agent_name,
            model=model,
            agent_id=agent_id,
            agent_description=agent_description,
            agent_version=agent_version,
            attributes=attributes,
            start_time=start_time,
            parent=parent,
        )
    runtime = current_runtime()
    if runtime is None:
        return Turn(None, None, None, None, CLOSED)
    runtime.faults.note("a turn outside of any session", "a turn starts outside of any session and has no conversation")
    base = context_with(around.context, Scope(None, None, NOWHERE), None)
    turn = Turn(runtime, None, None, base, runtime.gate)
    given = {"input_messages": input_messages, "system_instructions": system_instructions}
    agent = (agent_name, model, agent_description)
    link = (None if parent is None else origin_of(parent).span) or linked_from(around.context)
    turn._begin_turn(agent, user_message, given, attributes, start_time, link)
    return turn


def start_llm(
    model: str | None = None,
    *,
    provider_name: str,
    operation: str = sc.CHAT,
    input_messages: MessagesLike | None = None,
    system_instructions: InstructionsLike | None = None,
    tool_definitions: ToolsLike | None = None,
    server_address: str | None = None,
    server_port: int | None = None,
    attributes: Mapping[str, Any] | None = None,
    start_time: Time | None = None,
    **options: Unpack[RequestOptions],
) -> LLM:
    """Start a model call under the agent or tool that is current; the arguments are those of `Turn.start_llm`."""
    llm: LLM = _place(beside_llm=True).start_llm(
        model,
        provider_name=provider_name,
        operation=operation,
        input_messages=input_messages,
        system_instructions=system_instructions,
        tool_definitions=tool_definitions,
        server_address=server_address,
        server_port=server_port,
        attributes=attributes,
        start_time=start_time,
        **options,
    )
    return llm


def start_tool(
    name: str,
    *,
    arguments: Any = None,
    call_id: str | None = None,
    tool_type: str | None = None,
    description: str | None = None,
    attributes: Mapping[str, Any] | None = None,
    start_time: Time | None = None,
) -> Tool:
    """Start a tool run under the model call, agent or tool that is current; arguments as for `Turn.start_tool`."""
    tool: Tool = _place().start_tool(
        name,
        arguments=arguments,
        call_id=call_id,
        tool_type=tool_type,
        description=description,
        attributes=attributes,
        start_time=start_time,
    )
    return tool


def start_subagent(
    name: str,
    *,
    model: str | None = None,
    agent_id: str | None = None,
    agent_description: str | None = None,
    agent_version: str | None = None,
    system_instructions: InstructionsLike | None = None,
    input_messages: MessagesLike | None = None,
    remote: bool | str | Mapping[str, Any] | None = None,
    attributes: Mapping[str, Any] | None = None,
    start_time: Time | None = None,
) -> SubAgent:
    """Start another agent's run under what is current; the arguments are those of `Turn.start_subagent`."""
    agent: SubAgent = _place().start_subagent(
        name,
        model=model,
        agent_id=agent_id,
        agent_description=agent_description,
        agent_version=agent_version,
        system_instructions=system_instructions,
        input_messages=input_messages,
        remote=remote,
        attributes=attributes,
        start_time=start_time,
    )
    return agent


@contextmanager
def propagate(propagation: Propagation) -> Generator[None]:
    """Choose what code that starts tasks of its own hands on to them, where no `start_soon` of ours is used.

    `link` keeps the conversation, but spans started inside are roots of their own, linked to the span that is current
    here; `detach` frees the code from the conversation: a worker that lives on must not keep its first one for ever.

        with ga.propagate("detach"):
            asyncio.create_task(worker(queue))

    Raises:
        ValueError: It is none of `inherit`, `link` and `detach`.
    """
    around = ambient()
    outer = around.context
    context = propagated(outer, around.session, around.handle, span_of(outer), propagation, around.stale)
    attach(context)
    scope = cast(Scope, scope_of(context))
    scope.enter()
    try:
        yield
    finally:
        # Only this block goes back; tasks started in it hold the scope, and not what is around it. Unless it was left
        # out of order or elsewhere: then whoever finds the scope later goes back by it.
        scope.outer = outer
        if leave(scope) and scope.entered_by == whoever_runs():
            scope.outer = NOWHERE


def _place(*, beside_llm: bool = False) -> Any:
    """What a new span starts under: the handle that is current, wherever that can be said without a doubt."""
    around = ambient()
    above: SpanHandle | None = around.handle
    standing = span_of(around.context)
    if above is not None and standing is not None and standing is not above.span and _is_inside(standing, above):
        # Somebody else's span was started inside ours: it is the nearer parent.
        return Place(around.session, above, around.context, above._gate, None)
    if beside_llm and isinstance(above, LLM):
        above = _open_above(above)
    return above if above is not None else _root(around)


def _open_above(llm: LLM) -> SpanHandle | None:
    """What a model call beside this one starts under: its agent or tool, or what of those above is still open."""
    above = llm._parent
    while isinstance(above, LLM) or (above is not None and above.is_ended and not isinstance(above, Place)):
        above = above._parent
    return above


def _is_inside(span: Span, handle: SpanHandle) -> bool:
    # A server's span may be current here and have a trace of its own: a turn's spans stay in the turn's.
    is_same_trace = ids_of(span).trace_id == ids_of(handle.span).trace_id
    return is_same_trace and span.is_recording() and not has_ended(span)


def _root(around: Ambient) -> Place:
    runtime = current_runtime()
    session = cast("Session | None", around.session)
    context = around.context
    if runtime is None:
        return Place(session, None, context, CLOSED, None)
    standing = span_of(context)
    if session is None:
        runtime.faults.note("a span outside of any session", "a span starts outside of any session and is a root")
        base = context_with(context, Scope(None, None, NOWHERE), None)
        return Place(None, None, base, runtime.gate, around.stale or standing)
    outlived = around.stale
    if outlived is INVALID_SPAN or outlived is session._origin:
        outlived = None
    # What was outlived is linked to and no more; where the session comes from may be gone on with, as by a turn.
    current = None if outlived is not None else session._origin or standing
    base = session._root_base(context, standing, current)
    link = (outlived or current) if span_of(base) is None else None
    return Place(session, None, base, session.gate_for(runtime), link)
