"""The kinds of span (turn, sub-agent, model call, tool run) and what may be started under each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from . import _fields as f
from . import _semconv as sc
from ._agent import Agent, agent_of
from ._chat import InstructionsLike, MessagesLike, ToolsLike
from ._clock import Time
from ._content import Gate
from ._faults import FieldError, is_omitted
from ._fields import AgentFields, Field, RequestOptions, SubAgentFields, ToolFields, to_usage
from ._handle import SpanHandle
from ._llm import ModelCall
from ._runtime import current_runtime

if TYPE_CHECKING:
    from ._session import Session


class _StartsTools(SpanHandle):
    """What may run tools and call other agents."""

    __slots__ = ()

    def start_tool(
        self,
        name: str,
        *,
        arguments: Any = None,
        call_id: str | None = None,
        tool_type: str | None = None,
        description: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        start_time: Time | None = None,
    ) -> Tool:
        """Start the span of a tool run under this one.

        Args:
            name: The tool's name.
            arguments: What it is called with: any value that JSON can say, or its JSON text.
            call_id: The id that the model gave to the call.
            tool_type: `function`, `extension`, `datastore` or another word.
            description: What the tool does.
            attributes: Attributes of your own.
            start_time: When it started; now, if None.
        """
        tool = Tool(self._runtime, self._session, self, self._child_base(), self._gate)
        if self._runtime is not None:
            tool._begin_tool(name, tool_type, attributes, start_time)
            if tool._attributes is not None:
                tool._record({"arguments": arguments, "call_id": call_id, "description": description})
        return tool

    def start_subagent(
        self,
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
        """Start the span of another agent's run under this one.

        Args:
            name: The agent's name.
            model: The model it uses, if it is one.
            agent_id: The id of a hosted agent; recorded for remote agents only, as the conventions ask.
            agent_description: What it is there for.
            agent_version: Its version; recorded for remote agents only.
            system_instructions: What it is told before the messages.
            input_messages: What it is asked.
            remote: For an agent in another process: True, its address or URL, or a mapping with `provider_name`,
                `server_address` and `server_port`.
            attributes: Attributes of your own.
            start_time: When it started; now, if None.
        """
        agent = SubAgent(self._runtime, self._session, self, self._child_base(), self._gate)
        agent.is_remote = remote is not None and _is_remote(remote)
        if self._runtime is not None:
            agent._begin_subagent(name, model, agent_description, remote, attributes, start_time)
            if agent.is_remote:
                agent._record({"agent_id": agent_id, "agent_version": agent_version})
            if agent._attributes is not None:
                agent._record({"system_instructions": system_instructions, "input_messages": input_messages})
        return agent

    def _child_base(self) -> Context | None:
        return None if self._runtime is None else self.context


class _StartsLLMs(_StartsTools):
    """What may call models besides."""

    __slots__ = ()

    def start_llm(
        self,
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
        """Start the span of a model call under this one.

        Args:
            model: The model asked for; the agent's or the session's, if None.
            provider_name: Who serves it, in the conventions' words: `openai`, `anthropic`, `aws.bedrock`, ...
            operation: `chat`, `generate_content` or `text_completion`.
            input_messages: What the model is sent: strings, `Message`s or the provider's own message dicts.
            system_instructions: Instructions that are sent apart from the messages.
            tool_definitions: The tools that the model may call.
            server_address: Where the model is served.
            server_port: The port there.
            attributes: Attributes of your own.
            start_time: When it started; now, if None.
            options: The request's options: `temperature`, `max_tokens`, `top_p`, `top_k`, `seed`, `stop_sequences`,
                `stream` and so on.
        """
        llm = LLM(self._runtime, self._session, self, self._child_base(), self._gate)
        if self._runtime is not None:
            server = (server_address, None if server_address is None else server_port)
            llm._begin_llm(model, provider_name, operation, server, attributes, start_time)
            if llm._attributes is not None:
                given = {
                    "input_messages": input_messages,
                    "system_instructions": system_instructions,
                    "tool_definitions": tool_definitions,
                    **options,
                }
                llm._record(given)
        return llm


class Turn(Agent, _StartsLLMs):
    """One exchange between a user and an agent: an `invoke_agent` span, the root of a trace of its own.

    Example:
        async with session.start_turn("Where is my parcel?") as turn:
            async with turn.start_llm("gpt-4o", provider_name="openai") as llm: ...
            async with turn.start_tool("track", arguments={"id": 7}) as tool: ...
            turn.start_soon(update_crm, "7")
            turn.record(output_messages=["It is in Osaka."])
    """

    __slots__ = ()
    _fields: ClassVar[Mapping[str, Field]] = f.AGENT_FIELDS

    def record(self, **fields: Unpack[AgentFields]) -> Self:
        """Record what the turn was asked and answered; only the fields that are passed are replaced.

        `usage` and `finish_reasons` come from the turn's own model calls unless they are recorded here.
        """
        self._record(fields)
        return self

    def _begin_turn(
        self,
        agent: tuple[str | None, str | None, str | None],
        said: str | None,
        given: Mapping[str, Any],
        own: Mapping[str, Any] | None,
        start_time: Time | None,
        link: Span | None,
    ) -> None:
        """Start the turn of an agent (name, model, description), linked to what was current."""
        name, model, description = agent
        self._start_agent(name, model, description, own=own, start_time=start_time, link=link)
        if self._attributes is not None:
            self._record(given)
            if said is not None:
                self.user(said)


class SubAgent(Agent, _StartsLLMs):
    """Another agent's run inside a turn: a nested `invoke_agent` span, of kind CLIENT when the agent is remote."""

    __slots__ = ("is_remote",)
    _fields: ClassVar[Mapping[str, Field]] = f.AGENT_FIELDS

    is_remote: bool
    """Whether it runs in another process."""

    def record(self, **fields: Unpack[SubAgentFields]) -> Self:
        """Record what the agent was asked and answered; only the fields that are passed are replaced."""
        self._record(fields)
        return self

    def _begin_subagent(
        self,
        name: str,
        model: str | None,
        description: str | None,
        remote: bool | str | Mapping[str, Any] | None,
        own: Mapping[str, Any] | None,
        start_time: Time | None,
    ) -> None:
        if not self.is_remote and remote is not None and remote is not False and not is_omitted(remote):
            self._drop("SubAgent.remote", FieldError(f"expected an address or a mapping, not {type(remote).__name__}"))
        service = self._service(remote).items() if self.is_remote else ()
        kind = SpanKind.CLIENT if self.is_remote else SpanKind.INTERNAL
        self._start_agent(name, model, description, own=own, start_time=start_time, kind=kind, service=service)

    def _service(self, remote: Any) -> dict[str, Any]:
        service: dict[str, Any] = {}
        try:
            given = f.remote_fields(remote)
        except Exception as exc:
            self._drop("SubAgent.remote", exc)
            return service
        for name, value in given.items():
            try:
                if value is not None:
                    field = f.REMOTE_AGENT_FIELDS[name]
                    service[field.key] = field.check(value)
            except Exception as exc:
                if not is_omitted(value):
                    self._drop("SubAgent.remote", exc)
        return service

    def _put_unknown(self, name: str, value: Any) -> None:
        field = f.REMOTE_AGENT_FIELDS.get(name) if self.is_remote else None
        if field is None:
            super()._put_unknown(name, value)
        else:
            self._put_checked(name, field, value)

    def _put_checked_usage(self, value: Any) -> None:
        if not self.is_remote:
            super()._put_checked_usage(value)
            return
        try:
            self._put_usage(to_usage(value), totals_only=False)
        except Exception as exc:
            if not is_omitted(value):
                self._drop("SubAgent.usage", exc)


def _is_remote(remote: object) -> bool:
    try:
        return remote is True or (isinstance(remote, str | Mapping) and remote != "")
    except Exception:
        return False


class LLM(ModelCall, _StartsTools):
    """A model call: a `chat` span of kind CLIENT, from the request until the response is fully received.

    Example:
        async with turn.start_llm("gpt-4o", provider_name="openai", temperature=0.2) as llm:
            reply = await client.chat.completions.create(...)
            llm.record(response=reply)
    """

    __slots__ = ()


class Tool(_StartsLLMs):
    """A tool run: an `execute_tool` span. A tool may call models and agents itself.

    Example:
        async with turn.start_tool("track", arguments={"id": 7}, call_id="call_1") as tool:
            tool.result = await track(7)
    """

    __slots__ = ("_result",)
    _fields: ClassVar[Mapping[str, Field]] = f.TOOL_FIELDS

    def record(self, **fields: Unpack[ToolFields]) -> Self:
        """Record what the tool was called with and returned; only the fields that are passed are replaced.

        As for every field, None is "not passed": a tool that returned None is told by `tool.result = None`.
        """
        result = fields.get("result")
        if result is not None:
            self.result = result
        self._record({name: value for name, value in fields.items() if name != "result"})
        return self

    @property
    def result(self) -> Any:
        """What the tool returned; set it once the tool has run. None is a result, too."""
        return getattr(self, "_result", None)

    @result.setter
    def result(self, value: Any) -> None:
        self._result = value
        if self._may_record("a result"):
            self._put("result", value)

    def _begin_tool(
        self, name: str, tool_type: str | None, own: Mapping[str, Any] | None, start_time: Time | None
    ) -> None:
        agent = agent_of(self)
        agent_name = None if agent is None else agent._name
        known = ((sc.TOOL_NAME, name), (sc.TOOL_TYPE, tool_type), (sc.AGENT_NAME, agent_name))
        self._start(sc.EXECUTE_TOOL, sc.TOOL_NAME, known, own=own, start_time=start_time)


class Place(_StartsLLMs):
    """Where spans start that have no handle right above them: at the root, or under somebody else's span."""

    __slots__ = ("_link",)
    _fields: ClassVar[Mapping[str, Field]] = {}

    def __init__(
        self, session: Session | None, above: SpanHandle | None, context: Context, gate: Gate, link: Span | None
    ) -> None:
        # No span of its own: nothing that could be recorded, and nothing to end.
        self._runtime = current_runtime() if above is None else above._runtime
        self._session = session
        self._parent = above
        self._below = None if above is None else above._below
        self._context = context
        self._gate = gate
        self._link = link
        self._span = INVALID_SPAN
        self._first = self._last = 0
        self._attributes = self._outcome = self._scopes = None
        self._waiting = {}
        self.is_ended = True
