"""Turns and sessions that are over: recorded with given times, through the same spans as live ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias, TypeVar, cast
from uuid import UUID

import msgspec

from ._chat import InstructionsLike, MessagesLike
from ._clock import Time, to_ns
from ._faults import FieldError
from ._handle import SpanHandle
from ._messages import Dumps, Usage
from ._runtime import current_runtime, drop
from ._session import Session
from ._spans import LLM, SubAgent, Tool, Turn


class _Logged(msgspec.Struct, frozen=True, kw_only=True):
    start_time: Time | None = None
    end_time: Time | None = None
    error: BaseException | str | None = None
    attributes: Mapping[str, Any] | None = None
    spans: Iterable[LoggedSpan] = ()


class LoggedLLM(_Logged, frozen=True, kw_only=True):
    """A model call that is over; `fields` takes what `LLM.record` takes."""

    provider_name: str
    model: str | None = None
    operation: str = "chat"
    server_address: str | None = None
    server_port: int | None = None
    fields: Mapping[str, Any] = {}


class LoggedTool(_Logged, frozen=True, kw_only=True):
    """A tool run that is over."""

    name: str
    arguments: Any = None
    result: Any = None
    call_id: str | None = None
    tool_type: str | None = None
    description: str | None = None


class LoggedSubAgent(_Logged, frozen=True, kw_only=True):
    """Another agent's run that is over; `fields` takes what `SubAgent.record` takes."""

    name: str
    model: str | None = None
    agent_id: str | None = None
    agent_description: str | None = None
    agent_version: str | None = None
    remote: bool | str | Mapping[str, Any] | None = None
    fields: Mapping[str, Any] = {}


class LoggedTurn(_Logged, frozen=True, kw_only=True):
    """A turn that is over, for `log_session`."""

    user_message: str | None = None
    input_messages: MessagesLike | None = None
    output_messages: MessagesLike | None = None
    system_instructions: InstructionsLike | None = None
    agent_name: str | None = None
    model: str | None = None
    agent_description: str | None = None
    usage: Usage | Mapping[str, Any] | Dumps | None = None
    finish_reasons: Iterable[str] | None = None


LoggedSpan: TypeAlias = LoggedLLM | LoggedTool | LoggedSubAgent


class LogResult(msgspec.Struct, frozen=True):
    """What was recorded: ids in hex, one trace and root span for each turn; none of them without a set-up."""

    session_id: str
    trace_ids: tuple[str, ...] = ()
    root_span_ids: tuple[str, ...] = ()
    span_count: int = 0


def log_turn(
    user_message: str | None = None,
    *,
    session_id: str | int | UUID | None = None,
    input_messages: MessagesLike | None = None,
    output_messages: MessagesLike | None = None,
    system_instructions: InstructionsLike | None = None,
    spans: Iterable[LoggedSpan] = (),
    agent_name: str | None = None,
    model: str | None = None,
    agent_description: str | None = None,
    usage: Usage | Mapping[str, Any] | Dumps | None = None,
    finish_reasons: Iterable[str] | None = None,
    start_time: Time | None = None,
    end_time: Time | None = None,
    error: BaseException | str | None = None,
    attributes: Mapping[str, Any] | None = None,
    capture_content: bool | None = None,
    continue_trace: bool = False,
) -> LogResult:
    """Record one turn that is over, with the calls, tool runs and agents under it.

        log_turn("Where is it?", session_id="c-1", output_messages=["In Osaka."], start_time=t0, end_time=t1,
                 spans=[LoggedTool(name="track", arguments={"id": 7}, start_time=t0, end_time=t1)])

    Args:
        user_message: What the user said.
        session_id: The conversation; a fresh id, if None.
        input_messages: What the agent was given before the user's message.
        output_messages: What it answered.
        system_instructions: What it was told apart from the messages.
        spans: What was done in it, as `LoggedLLM`, `LoggedTool` and `LoggedSubAgent`, which may hold others.
        agent_name: The agent that answered.
        model: The one model that it uses.
        agent_description: What the agent is there for.
        usage: The tokens used; the sum of its own model calls, if None.
        finish_reasons: Why the model stopped; as the last of its model calls says, if None.
        start_time: When it started; with its earliest span, if None. A span without times has those of what is
            under it, else those of what it is in.
        end_time: When it ended; with its latest span, if None.
        error: What it failed with.
        attributes: Attributes of your own.
        capture_content: Whether what was said is recorded; as set up, if None.
        continue_trace: Whether it is nested in the span that is current.
    """
    turn = LoggedTurn(
        user_message=user_message,
        input_messages=input_messages,
        output_messages=output_messages,
        system_instructions=system_instructions,
        spans=spans,
        agent_name=agent_name,
        model=model,
        agent_description=agent_description,
        usage=usage,
        finish_reasons=finish_reasons,
        start_time=start_time,
        end_time=end_time,
        error=error,
        attributes=attributes,
    )
    return log_session([turn], session_id=session_id, capture_content=capture_content, continue_trace=continue_trace)


def log_session(
    turns: Iterable[LoggedTurn],
    *,
    session_id: str | int | UUID | None = None,
    agent_name: str = "",
    model: str = "",
    agent_description: str = "",
    attributes: Mapping[str, Any] | None = None,
    capture_content: bool | None = None,
    continue_trace: bool = False,
) -> LogResult:
    """Record the turns of a conversation that is over; the other arguments are those of `Session`."""
    session = Session(
        session_id=session_id,
        agent_name=agent_name,
        model=model,
        agent_description=agent_description,
        attributes=attributes,
        capture_content=capture_content,
        continue_trace=continue_trace,
    )
    if current_runtime() is None:
        return LogResult(session.session_id)
    roots: list[Turn] = []
    count = 0
    reader = _Reader()
    for turn in reader.only(LoggedTurn, turns):
        tree = reader.tree(turn)
        times = _times(tree, (None, None))
        root = _start_turn(session, turn, times[0])
        count += 1 + sum([_log(root, branch, times) for branch in tree.under])
        root.end(error=turn.error, end_time=times[1])
        roots.append(root)
    session.end()
    trace_ids = tuple([root.trace_id for root in roots])
    return LogResult(session.session_id, trace_ids, tuple([root.span_id for root in roots]), count)


def _start_turn(session: Session, turn: LoggedTurn, start_time: Time | None) -> Turn:
    root = session.start_turn(
        turn.user_message,
        input_messages=turn.input_messages,
        system_instructions=turn.system_instructions,
        agent_name=turn.agent_name,
        model=turn.model,
        agent_description=turn.agent_description,
        attributes=turn.attributes,
        start_time=start_time,
    )
    return root.record(output_messages=turn.output_messages, usage=turn.usage, finish_reasons=turn.finish_reasons)


def _log(above: Any, tree: _Tree, within: _Times) -> int:
    span, times = cast("LoggedSpan", tree.record), _times(tree, within)
    if isinstance(above, LLM) and isinstance(span, LoggedLLM):
        # A model call runs tools and agents; another model call beside it is its agent's.
        above = above._parent
    handle = _start(above, span, times)
    count = 1 + sum([_log(handle, branch, times) for branch in tree.under])
    handle.end(error=span.error, end_time=times[1])
    return count


def _start(above: Any, span: LoggedSpan, times: _Times) -> SpanHandle:
    common: dict[str, Any] = {"attributes": span.attributes, "start_time": times[0]}
    if isinstance(span, LoggedTool):
        named = {"call_id": span.call_id, "tool_type": span.tool_type, "description": span.description}
        tool: Tool = above.start_tool(span.name, arguments=span.arguments, **named, **common)
        if span.result is not None:
            tool.result = span.result
        return tool
    if isinstance(span, LoggedSubAgent):
        agent: SubAgent = above.start_subagent(
            span.name,
            model=span.model,
            agent_id=span.agent_id,
            agent_description=span.agent_description,
            agent_version=span.agent_version,
            remote=span.remote,
            **common,
        )
        return _recorded(agent, span.fields)
    llm: LLM = above.start_llm(
        span.model,
        provider_name=span.provider_name,
        operation=span.operation,
        server_address=span.server_address,
        server_port=span.server_port,
        **common,
    )
    return _recorded(llm, span.fields)


def _recorded(handle: SubAgent | LLM, fields: object) -> SpanHandle:
    try:
        named = {str(name): value for name, value in dict(cast("Mapping[object, Any]", fields)).items()}
    except Exception as exc:
        drop("the fields of a logged span", exc)
    else:
        handle._record(handle.read_reply(named) if isinstance(handle, LLM) else named)
    return handle


_MAX_DEPTH: Final = 128
_MAX_SPANS: Final = 100_000
_SPANS: Final = (LoggedLLM, LoggedTool, LoggedSubAgent)
_Times: TypeAlias = tuple[Time | None, Time | None]
_Record = TypeVar("_Record", bound=_Logged)


class _Tree(msgspec.Struct, frozen=True):
    """A record with those under it, read once: what holds them may be a generator."""

    record: _Logged
    under: list[_Tree]
    known: _Times
    """When it was, as far as the record says or those under it do."""


class _Reader:
    """Reads records once, no deeper and no more of them than a program can mean: a record may hold itself."""

    def __init__(self) -> None:
        self._left = _MAX_SPANS

    def tree(self, record: _Logged, depth: int = 1) -> _Tree:
        """A record with those under it."""
        under = self.only(_SPANS, record.spans)
        if depth >= _MAX_DEPTH and under:
            drop("logged spans", FieldError(f"they are more than {_MAX_DEPTH} in each other"))
            under = []
        branches = [self.tree(span, depth + 1) for span in under]
        return _Tree(record, branches, _known_times(record, branches))

    def only(self, kind: type[_Record] | tuple[type[_Record], ...], given: Iterable[_Record]) -> list[_Record]:
        """The records among what was given; whatever else is there is dropped and counted."""
        try:
            items = [given] if isinstance(given, kind) else list(islice(given, self._left + 1))
        except Exception as exc:
            drop("logged spans", exc)
            return []
        if len(items) > self._left:
            drop("logged spans", FieldError(f"there are more than {_MAX_SPANS}"))
        found = [item for item in items[: self._left] if _is_record(item, kind)]
        self._left -= len(found)
        return found


def _is_record(item: object, kind: type[_Logged] | tuple[type[_Logged], ...]) -> bool:
    if issubclass(type(item), kind):
        return True
    drop("logged spans", FieldError(f"a {type(item).__name__} is no record of a span"))
    return False


def _known_times(record: _Logged, under: list[_Tree]) -> _Times:
    start, end = record.start_time, record.end_time
    if start is None:
        start = min([tree.known[0] for tree in under if tree.known[0] is not None], default=None, key=_ns)
    if end is None:
        end = max([tree.known[1] for tree in under if tree.known[1] is not None], default=None, key=_ns)
    return start, end


def _times(tree: _Tree, within: _Times) -> _Times:
    """When this was: as it says itself, else as the records under it say, else as long as what it is in."""
    start, end = tree.known
    return within[0] if start is None else start, within[1] if end is None else end


def _ns(time: Time) -> int:
    try:
        return to_ns(time)
    except FieldError:
        return 0  # dropped and counted where it is used
