"""The kinds of span: turn, model call, tool run, sub-agent. Each says its name, its fields and what its end adds."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, Unpack, cast

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind

from . import _fields as f
from . import _semconv as sc
from ._chat import InstructionsLike, MessagesLike, ToolsLike, blob_of, media_from_url
from ._children import TaskOwner
from ._clock import Time
from ._content import Gate
from ._copying import OVERLAP
from ._faults import FieldError
from ._fields import AgentFields, Field, LLMFields, RequestOptions, SubAgentFields, ToolFields, to_usage
from ._handle import SpanHandle, span_name
from ._messages import BlobPart, Dumps, FilePart, Message, Part, ReasoningPart, TextPart, Usage, modality_of
from ._runtime import Runtime, current_runtime
from ._stream import Stream

if TYPE_CHECKING:
    from ._session import Session

_Chunk = TypeVar("_Chunk")
_Kind = TypeVar("_Kind", bound=SpanHandle)


# What is kept for a span's end beside content. Lists that are made when they are needed: most calls have no pieces.
_CALLS: Final = "calls"
_PIECES: Final = "pieces"


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


class _Agent(_StartsLLMs, TaskOwner):
    """What turns and sub-agents share: they call models and run tools, and their usage is the sum of those calls."""

    __slots__ = ("_name", "model")
    _growing: ClassVar[str] = sc.INPUT_MESSAGES
    _owns_tasks: ClassVar[bool] = True

    def __init__(
        self,
        runtime: Runtime | None,
        session: Session | None,
        parent: SpanHandle | None,
        base: Context | None,
        gate: Gate,
    ) -> None:
        self._name: str | None = None
        self.model: str | None = None
        super().__init__(runtime, session, parent, base, gate)

    async def __aenter__(self) -> Self:
        self.__enter__()
        self._note_host(sys._getframe(1))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block = self._block()
        if block is None or block.children is None:
            self.__exit__(exc_type, exc, traceback)
            return
        try:
            await self._join(exc)
        except BaseException as joined:
            exc = joined
            raise
        finally:
            self.__exit__(None, exc, None)
            del exc  # or the exception holds this frame, and this the exception

    def end(self, *, error: BaseException | str | None = None, end_time: Time | None = None) -> None:
        """End the span; a second call does nothing. Tasks that were started here run on to their end.

        Args:
            error: What the work failed with, as for `record_error`.
            end_time: When it ended; now, if None.
        """
        super().end(error=error, end_time=end_time)
        for block in self._scopes or ():
            if block.children is not None:
                block.children.close()

    def user(self, text: str) -> Self:
        """Add a user's message to what the agent was asked."""
        if self._may_record("a message"):
            earlier = self._waiting.get(sc.INPUT_MESSAGES, ())
            self._put("input_messages", [*earlier, Message.user(text)])
        return self

    def _tally(self, usage: Usage | None, finish_reasons: tuple[str, ...] | None) -> None:
        self._waiting.setdefault(_CALLS, []).append((usage, finish_reasons))

    def _ambient_parts(self) -> tuple[Session | None, SpanHandle, Span | None]:
        return self._session, self, self._standing_span()

    def _start_agent(
        self,
        name: str | None,
        model: str | None,
        description: str | None,
        *,
        own: Mapping[str, Any] | None,
        start_time: Time | None,
        kind: SpanKind = SpanKind.INTERNAL,
        service: Iterable[tuple[str, Any]] = (),
        link: Span | None = None,
    ) -> None:
        self._name = _given_text(name)
        self.model = _given_text(model)
        known = ((sc.AGENT_NAME, name), (sc.REQUEST_MODEL, model), (sc.AGENT_DESCRIPTION, description), *service)
        self._start(sc.INVOKE_AGENT, sc.AGENT_NAME, known, own=own, kind=kind, start_time=start_time, link=link)

    def _put_unknown(self, name: str, value: Any) -> None:
        if name == "usage":
            self._put_checked_usage(value)
        else:
            super()._put_unknown(name, value)

    def _put_checked_usage(self, value: Any) -> None:
        try:
            usage = to_usage(value)
        except Exception as exc:
            self._drop(f"{type(self).__name__}.usage", exc)
        else:
            self._put_usage(usage, totals_only=True)

    def _complete(self, attributes: dict[str, Any]) -> None:
        calls: list[tuple[Usage | None, tuple[str, ...] | None]] | None = self._waiting.pop(_CALLS, None)
        if calls is None:
            return
        for key, name in ((sc.USAGE_INPUT_TOKENS, "input_tokens"), (sc.USAGE_OUTPUT_TOKENS, "output_tokens")):
            counts = [getattr(usage, name) for usage, _ in calls if usage is not None]
            known = [value for value in counts if issubclass(type(value), int) and value is not True and value >= 0]
            if known and key not in attributes:
                attributes[key] = sum(known)
        reasons = [given for _, given in calls if given is not None]
        if reasons and sc.RESPONSE_FINISH_REASONS not in attributes:
            attributes[sc.RESPONSE_FINISH_REASONS] = reasons[-1]


class Turn(_Agent):
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


class SubAgent(_Agent):
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
        if remote is not None and remote is not False and not self.is_remote:
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
            self._drop("SubAgent.usage", exc)


class LLM(_StartsTools):
    """A model call: a `chat` span of kind CLIENT, from the request until the response is fully received.

    Example:
        async with turn.start_llm("gpt-4o", provider_name="openai", temperature=0.2) as llm:
            reply = await client.chat.completions.create(...)
            llm.record(output_messages=[reply.choices[0].message], usage=reply.usage, response_id=reply.id)
    """

    __slots__ = ("_is_cut", "_operation", "_rooms", "_usage", "model")
    _fields: ClassVar[Mapping[str, Field]] = f.LLM_FIELDS
    _growing: ClassVar[str] = sc.OUTPUT_MESSAGES

    def __init__(
        self,
        runtime: Runtime | None,
        session: Session | None,
        parent: SpanHandle | None,
        base: Context | None,
        gate: Gate,
    ) -> None:
        self._is_cut = False
        self._rooms: dict[type[Part], int] | None = None
        self._usage: Usage | None = None
        self.model: str | None = None
        super().__init__(runtime, session, parent, base, gate)

    def record(self, **fields: Unpack[LLMFields]) -> Self:
        """Record the request's and the response's fields; only those that are passed are replaced.

        `usage` is one field: what is recorded later replaces all of it.
        """
        self._record(fields)
        return self

    @property
    def usage(self) -> Usage | None:
        """The tokens that the call used, as recorded so far; settable."""
        return self._usage

    @usage.setter
    def usage(self, value: Usage | Mapping[str, Any] | Dumps | None) -> None:
        if value is None:
            self._usage = None
            return
        if self.is_ended and not self._may_record("usage"):
            return
        try:
            self._usage = to_usage(value)
        except Exception as exc:
            if self._runtime is not None:
                self._drop("LLM.usage", exc)

    def output(self, text: str) -> Self:
        """Add to the text that the model answers; pieces of a stream become one text.

        If an assistant's message with text is recorded, too, that is the answer: the pieces are left out, whether they
        came before it or after.
        """
        return self._add(TextPart, text)

    def think(self, text: str) -> Self:
        """Add to what the model reasons before it answers; a recorded message with reasoning stands for all pieces."""
        return self._add(ReasoningPart, text)

    def attach_media(
        self,
        content: bytes | None = None,
        *,
        uri: str | None = None,
        file_id: str | None = None,
        mime_type: str | None = None,
        modality: str | None = None,
    ) -> Self:
        """Add media to what the model answers: exactly one of bytes, an address or a provider's file id.

        Args:
            content: The media itself.
            uri: Where it is; a `data:` URL is taken apart.
            file_id: The id of an uploaded file.
            mime_type: Such as `image/png`.
            modality: `image`, `audio`, `video` or `document`; taken from the MIME type, if None.
        """
        if self._gate.capture and self._may_record("media"):
            try:
                part = _media_part(content, uri, file_id, mime_type, modality)
                self._take_room(type(part), len(part.content) if isinstance(part, BlobPart) else _WORD_SIZE)
                self._add_piece(part)
            except Exception as exc:
                self._drop("LLM.attach_media", exc)
        return self

    def stream(self, chunks: AsyncIterable[_Chunk]) -> Stream[_Chunk]:
        """Pass a streamed response through, timing its chunks; see `Stream`."""
        return Stream(self, chunks)

    def _add(self, kind: type[TextPart | ReasoningPart], text: str) -> Self:
        if self._gate.capture and self._may_record("text"):
            try:
                said = f.text(text)
                room = self._take_room(kind, len(said))
                self._add_piece(kind(said if len(said) <= room else said[:room]))
            except Exception as exc:
                self._drop("LLM.output", exc)
        return self

    def _add_piece(self, piece: Part) -> None:
        # One step, whatever thread comes between.
        self._waiting.setdefault(_PIECES, []).append(piece)

    def _take_room(self, kind: type[Part], size: int) -> int:
        """How much of a piece may be kept: no more of each kind than an attribute holds and a redactor looks at.

        Raises:
            FieldError: Nothing.
        """
        if self._rooms is None:
            self._rooms = {}
        room = self._rooms.get(kind, self._gate.limit_bytes + OVERLAP)
        if room <= 0:
            raise FieldError("there is more than an attribute has room for")
        self._rooms[kind] = room - size
        return room

    def _begin_llm(
        self,
        model: str | None,
        provider: str | None,
        operation: str,
        server: tuple[str | None, object],
        own: Mapping[str, Any] | None,
        start_time: Time | None,
    ) -> None:
        own_model = _given_text(model)
        self.model = own_model or self._agents_model()
        if type(operation) is not str or operation not in sc.INFERENCE_OPERATIONS:
            operation = self._checked_operation(operation)
        self._operation = operation
        address, port = server
        if type(port) is str:
            # Any other attribute known at the start may be one.
            self._drop(sc.SERVER_PORT, FieldError("expected an integer, not str"))
            port = None
        known = (
            (sc.PROVIDER, provider),
            # What is no text goes on, to be dropped and counted as such.
            (sc.REQUEST_MODEL, self.model if own_model or model is None or type(model) is str else model),
            (sc.SERVER_ADDRESS, address),
            (sc.SERVER_PORT, port),
        )
        self._start(operation, sc.REQUEST_MODEL, known, own=own, kind=SpanKind.CLIENT, start_time=start_time)

    def _checked_operation(self, operation: object) -> str:
        word = _given_text(operation)
        if word is None:
            self._drop("operation", FieldError("expected a word"))
            return sc.CHAT
        return word if word in sc.INFERENCE_OPERATIONS else self._gate.identifier(word)

    def _agents_model(self) -> str | None:
        agent = agent_of(self)
        own = None if agent is None else agent.model
        return own or (None if self._session is None else _given_text(self._session.model))

    def _put_unknown(self, name: str, value: Any) -> None:
        if name == "usage":
            self.usage = value
        else:
            super()._put_unknown(name, value)

    def note_cut(self) -> None:
        """Note that the stream of the response was left before its end, while the call's own block went on.

        Whoever records a reason why the model finished had read enough; otherwise the call is abandoned.
        """
        self._is_cut = True

    def _complete(self, attributes: dict[str, Any]) -> None:
        pieces: list[Part] | None = self._waiting.pop(_PIECES, None)
        if self._is_cut and self._outcome is None and sc.RESPONSE_FINISH_REASONS not in attributes:
            self._note(GeneratorExit())
        if self._usage is not None:
            self._put_usage(self._usage, totals_only=False)
        if (self._outcome is not None or self._is_cut) and sc.RESPONSE_FINISH_REASONS not in attributes:
            # A reason was expected for each choice and never came.
            choices = min(attributes.get(sc.REQUEST_CHOICE_COUNT, 1), _MAX_CHOICES)
            attributes[sc.RESPONSE_FINISH_REASONS] = ("error",) * choices
        if sc.REQUEST_MODEL in attributes:
            self._span.update_name(span_name(self._operation, attributes[sc.REQUEST_MODEL]))
        if pieces is not None:
            self._put_pieces(pieces)
        agent = agent_of(self)
        if agent is not None:
            agent._tally(self._usage, attributes.get(sc.RESPONSE_FINISH_REASONS))

    def _put_pieces(self, pieces: list[Part]) -> None:
        messages: list[Message] = list(self._waiting.get(sc.OUTPUT_MESSAGES, ()))
        # A message that was recorded says all of what came in pieces before, or is repeated in pieces later.
        told: set[type[Part]] = set()
        for message in messages:
            if message.role == "assistant":
                told.update(map(type, message.parts))
        said: list[Part] = []
        for kind in (ReasoningPart, TextPart):
            texts = [piece.content for piece in pieces if type(piece) is kind and kind not in told]
            if texts:
                said.append(kind("".join(texts)))
        media = [piece for piece in pieces if type(piece) is not ReasoningPart and type(piece) is not TextPart]
        if not said and not media:
            return
        # One message is one choice: what is said beside a recorded message belongs to it.
        last = next((place for place in reversed(range(len(messages))) if messages[place].role == "assistant"), None)
        if last is None:
            messages.append(Message("assistant", (*said, *media)))
        else:
            messages[last] = msgspec.structs.replace(messages[last], parts=(*said, *messages[last].parts, *media))
        self._put("output_messages", messages)


def _is_remote(remote: object) -> bool:
    try:
        return remote is True or (isinstance(remote, str | Mapping) and remote != "")
    except Exception:
        return False


def _given_text(value: object) -> str | None:
    """The text that was given; None where it is empty, or no text."""
    if type(value) is str:
        return value or None
    try:
        return f.text(value) or None
    except Exception:
        return None


_MAX_CHOICES: Final = 128
_WORD_SIZE: Final = 64  # about what an address or a file's id takes


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


def nearest(handle: SpanHandle | None, kind: type[_Kind]) -> _Kind | None:
    """The nearest handle of this kind, from this one upwards."""
    while handle is not None and not isinstance(handle, kind):
        handle = handle._parent
    return handle


def agent_of(handle: SpanHandle) -> _Agent | None:
    """The agent that a call is made by: the nearest one above it."""
    parent = handle._parent
    return parent if isinstance(parent, _Agent) else nearest(parent, _Agent)


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
        self._context = context
        self._gate = gate
        self._link = link
        self._span = INVALID_SPAN
        self._first = self._last = 0
        self._attributes = self._outcome = self._scopes = None
        self._waiting = {}
        self.is_ended = True


def _media_part(
    content: bytes | None, uri: str | None, file_id: str | None, mime_type: str | None, modality: str | None
) -> Part:
    if sum(given is not None for given in (content, uri, file_id)) != 1:
        raise FieldError("exactly one of content, uri or file_id is needed")
    for word in (uri, file_id, mime_type, modality):
        if word is not None:
            f.text(word)
    kind = modality or modality_of(mime_type)
    if content is not None:
        return blob_of(content, kind, mime_type)
    if uri is not None:
        return media_from_url(uri, modality or (kind if mime_type else None), mime_type)
    return FilePart(kind, cast(str, file_id), mime_type)
