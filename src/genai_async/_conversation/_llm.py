"""A model call: its request and usage, and the answer that comes in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, Unpack, cast, overload

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from . import _fields as f
from . import _semconv as sc
from ._agent import agent_of, given_text
from ._blocks import blob_of, media_from_url
from ._clock import Time
from ._content import Gate
from ._faults import FieldError, is_omitted, is_sentinel
from ._fields import Field, LLMFields, to_usage
from ._handle import SpanHandle, span_name
from ._messages import BlobPart, Dumps, FilePart, Message, Part, ReasoningPart, TextPart, Usage, modality_of
from ._runtime import Runtime
from ._stream import Either, EitherStream, Stream, SyncStream, stream_of
from ._texts import OVERLAP

if TYPE_CHECKING:
    from ._chunks import Assembly
    from ._session import Session

_Chunk = TypeVar("_Chunk")

# What is kept for the end beside content, made when it is needed: most calls have no pieces.
_PIECES: Final = "pieces"
_ASSEMBLY: Final = "what a stream tells"
_FILLED: Final = "what streams told"
_ANSWERING: Final = frozenset({"assistant", "model"})  # as Google's APIs call it
_MAX_CHOICES: Final = 128
_WORD_SIZE: Final = 64  # about what an address or a file's id takes


class ModelCall(SpanHandle):
    """What a model call takes and adds of its own; see `LLM`."""

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

        `usage` is one field: what is recorded later replaces all of it. `response` is a whole reply, which tells the
        output messages, usage, id, model and finish reasons; what is passed beside it goes before.
        """
        self._record(self.read_reply(fields) if "response" in fields else fields)
        return self

    def read_reply(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields with what a reply among them tells in its place."""
        given = {name: value for name, value in fields.items() if name != "response" and not _is_absent(value)}
        reply = fields.get("response")
        if reply is None or not self.is_recording:
            return given
        from ._reply import reply_fields

        try:
            return {**reply_fields(reply), **given}
        except Exception as exc:
            if not is_omitted(reply):
                self._drop("LLM.response", exc)
            return given

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
            if self._runtime is not None and not is_omitted(value):
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

    @overload
    def stream(self, chunks: Either[_Chunk], *, record: bool = False) -> EitherStream[_Chunk]: ...
    @overload
    def stream(self, chunks: AsyncIterable[_Chunk], *, record: bool = False) -> Stream[_Chunk]: ...
    @overload
    def stream(self, chunks: Iterable[_Chunk], *, record: bool = False) -> SyncStream[_Chunk]: ...
    def stream(
        self, chunks: AsyncIterable[_Chunk] | Iterable[_Chunk], *, record: bool = False
    ) -> Stream[_Chunk] | SyncStream[_Chunk]:
        """Pass a streamed response through, timing its chunks; see `Stream`. A plain iterable stays one.

        Args:
            chunks: The response.
            record: Whether to record what its chunks say: text, reasoning, tool calls, usage, id, model and finish
                reasons. Known are strings, and what the OpenAI and Anthropic clients stream, as objects or dicts. What
                is recorded by hand goes before.
        """
        assembly = None
        if record and self.is_recording:
            from ._chunks import Assembly

            room = self._gate.limit_bytes + OVERLAP if self._gate.capture else 0
            # Kept here too: the call may end before its stream does.
            assembly = self._waiting[_ASSEMBLY] = Assembly(room)
        return stream_of(self, chunks, assembly)

    def fill(self, assembly: Assembly) -> None:
        """Record what the chunks of a stream told and nobody has recorded."""
        if assembly.is_empty or not self.is_recording:
            return
        if self._waiting.get(_ASSEMBLY) is assembly:
            del self._waiting[_ASSEMBLY]
        try:
            told = assembly.fields()
        except Exception as exc:
            self.drop_chunk(exc)
            return
        if assembly.missed is not None:
            self.drop_chunk(FieldError(assembly.missed))
        # A further stream of this call, such as a second try, says anew what the one before it said.
        filled: dict[str, Any] = self._waiting.setdefault(_FILLED, {})
        for name, value in told.items():
            standing = self._standing(name)
            if standing is None or standing is filled.get(name):
                self._record({name: value})
                filled[name] = self._standing(name)

    def _standing(self, name: str) -> Any:
        """What is recorded under a field's name; None without it."""
        if name == "usage":
            return self._usage
        key = self._fields[name].key
        return self._waiting.get(key, cast("dict[str, Any]", self._attributes).get(key))

    def drop_chunk(self, exc: Exception) -> None:
        """Count what cannot be read of a stream."""
        self._drop("LLM.stream", exc)

    def _add(self, kind: type[TextPart | ReasoningPart], text: str) -> Self:
        if self._gate.capture and self._may_record("text"):
            try:
                said = f.text(text)
                if not said and self._rooms is not None and kind in self._rooms:
                    return self  # it adds nothing to what was said, and a stream may have any number of such
                room = self._take_room(kind, len(said))
                self._add_piece(kind(said if len(said) <= room else said[:room]))
            except Exception as exc:
                if not is_omitted(text):
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
        own_model = given_text(model)
        self.model = own_model or self._agents_model()
        if type(operation) is not str or operation not in sc.INFERENCE_OPERATIONS:
            operation = self._checked_operation(operation)
        self._operation = operation
        address, port = server
        if type(port) is str:
            # Any other attribute known at the start may be one.
            self._drop(sc.SERVER_PORT, FieldError("expected an integer, not str"))
            port = None
        # What is no text goes on, to be dropped and counted as such.
        is_no_text = own_model is None and model is not None and type(model) is not str and not is_omitted(model)
        known = (
            (sc.PROVIDER, provider),
            (sc.REQUEST_MODEL, model if is_no_text else self.model),
            (sc.SERVER_ADDRESS, address),
            (sc.SERVER_PORT, port),
        )
        self._start(operation, sc.REQUEST_MODEL, known, own=own, kind=SpanKind.CLIENT, start_time=start_time)

    def _checked_operation(self, operation: object) -> str:
        word = given_text(operation)
        if word is None:
            if not is_omitted(operation):
                self._drop("operation", FieldError("expected a word"))
            return sc.CHAT
        return word if word in sc.INFERENCE_OPERATIONS else self._gate.identifier(word)

    def _agents_model(self) -> str | None:
        agent = agent_of(self)
        own = None if agent is None else agent.model
        return own or (None if self._session is None else given_text(self._session.model))

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
        if _ASSEMBLY in self._waiting:
            self.fill(self._waiting[_ASSEMBLY])
        pieces: list[Part] | None = self._waiting.pop(_PIECES, None)
        if self._is_cut or self._outcome is not None:
            self._put_missing_reasons(attributes)
        if self._usage is not None:
            self._put_usage(self._usage, totals_only=False)
        if sc.REQUEST_MODEL in attributes:
            self._span.update_name(span_name(self._operation, attributes[sc.REQUEST_MODEL]))
        if pieces is not None:
            self._put_pieces(pieces)
        agent = agent_of(self)
        if agent is not None:
            agent._tally(self._usage, attributes.get(sc.RESPONSE_FINISH_REASONS))

    def _put_missing_reasons(self, attributes: dict[str, Any]) -> None:
        reasons = attributes.get(sc.RESPONSE_FINISH_REASONS, ())
        missing = min(attributes.get(sc.REQUEST_CHOICE_COUNT, 1), _MAX_CHOICES) - len(reasons)
        if self._outcome is None and (missing > 0 or "error" in reasons):
            self._note(GeneratorExit())
        if missing > 0:
            # A reason was expected for each choice and never came.
            attributes[sc.RESPONSE_FINISH_REASONS] = (*reasons, *("error",) * missing)

    def _put_pieces(self, pieces: list[Part]) -> None:
        messages: list[Message] = list(self._waiting.get(sc.OUTPUT_MESSAGES, ()))
        # A message that was recorded says all of what came in pieces before, or is repeated in pieces later.
        told: set[type[Part]] = set()
        for message in messages:
            if message.role in _ANSWERING:
                told.update(type(part) for part in message.parts if getattr(part, "content", None))
        said: list[Part] = []
        for kind in (ReasoningPart, TextPart):
            texts = [piece.content for piece in pieces if type(piece) is kind and kind not in told]
            if texts:
                said.append(kind("".join(texts)))
        media = [piece for piece in pieces if type(piece) is not ReasoningPart and type(piece) is not TextPart]
        if not said and not media:
            return
        # One message is one choice: what is said beside a recorded message belongs to it.
        last = next((place for place in reversed(range(len(messages))) if messages[place].role in _ANSWERING), None)
        if last is None:
            messages.append(Message("assistant", (*said, *media)))
        else:
            messages[last] = msgspec.structs.replace(messages[last], parts=(*said, *messages[last].parts, *media))
        self._put("output_messages", messages)


def _is_absent(value: object) -> bool:
    return value is None or is_sentinel(value)


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
