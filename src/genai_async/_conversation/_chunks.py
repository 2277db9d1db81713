"""The chunks of a streamed reply, put together to the whole reply that they stand for.

Known are the chunks of OpenAI's chat completions, the events of its Responses API and of Anthropic's messages, as
objects or dicts, and plain texts. What the services tell of a reply (ids, model, usage, why it ended) is always kept;
what the model said only where content is recorded, and as much of it as there is room for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeVar, cast

from ._blocks import decoded
from ._encoding import as_dict, encoder
from ._faults import FieldError
from ._pieces import Room, Text
from ._reply import look, reply_fields

_Name = TypeVar("_Name")

_MAX_CHOICES: Final = 128

# Where a delta of chat completions has what it adds to texts.
_SAID: Final = ("content", "reasoning_content", "reasoning", "refusal")

# Where a delta of Anthropic's has what it adds, and to what of its block.
_ADDED: Final = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("partial_json", "input"),
    "compaction_delta": ("content", "content"),
}
_UNRECORDED: Final = frozenset({"citations_delta", "signature_delta"})
_MESSAGE_EVENTS: Final = frozenset({"message_start", "content_block_start", "content_block_delta", "message_delta"})

# What a delta of the Responses API adds to: a part or an item of a type, which has the text under a name.
_PARTS: Final = {
    "output_text": ("output_text", "text"),
    "refusal": ("refusal", "refusal"),
    "reasoning_text": ("reasoning", "content"),
    "reasoning_summary_text": ("reasoning", "content"),
    "function_call_arguments": ("function_call", "arguments"),
    "custom_tool_call_input": ("custom_tool_call", "input"),
    "mcp_call_arguments": ("mcp_call", "arguments"),
    "code_interpreter_call_code": ("code_interpreter_call", "code"),
}


class Assembly:
    """Reads chunks one by one, and keeps of what they say what an attribute can hold.

    Args:
        room: How many characters that is; 0 keeps no content.
    """

    __slots__ = ("_is_told", "_reader", "_room", "is_empty")

    def __init__(self, room: int) -> None:
        self._room = Room(room)
        self._reader: _Reader | None = None
        self._is_told = False
        self.is_empty: bool = True
        """Whether no chunk has come."""

    @property
    def missed(self) -> str | None:
        """What the chunks told and `fields` does not have, if there was anything."""
        return self._room.missed

    def add(self, chunk: object) -> None:
        """Read one chunk; one of another shape says nothing."""
        if self._is_told:
            return
        self.is_empty = False
        kind = None if isinstance(chunk, str) else look(chunk, "type")
        if kind == "chunk":  # as the OpenAI client's own helper passes them on
            chunk, kind = look(chunk, "chunk"), None
        reader, wanted = self._reader, _reader_of(kind) if isinstance(kind, str) else _Completion
        if type(reader) is not wanted:
            if wanted is None or (reader is not None and reader.known):
                return  # a stream is of one kind
            reader = self._reader = wanted(self._room)
        cast(_Reader, reader).add(kind or "", chunk)

    def fields(self) -> dict[str, Any]:
        """The fields of the call that the chunks told so far; the assembly lets go of them.

        Raises:
            FieldError: They told none.
        """
        reader, self._reader = self._reader, None
        self._is_told = True
        if reader is None:
            raise FieldError("its chunks are of no known shape")
        return reader.fields()


class _Reader(ABC):
    __slots__ = ("_room", "known")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.known: dict[str, Any] = {}

    @abstractmethod
    def add(self, kind: str, chunk: object) -> None:
        """Read one chunk, of this kind where chunks name theirs."""

    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The fields of the call that the chunks told."""

    def _note(self, source: object, *names: str) -> None:
        for name in names:
            value = look(source, name)
            if value is not None:
                self.known[name] = value


class _Completion(_Reader):
    """Chat completions, the older ones of plain text, and texts by themselves."""

    __slots__ = ("_choices",)

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self._choices: dict[int, _Choice] = {}

    def add(self, kind: str, chunk: object) -> None:
        if isinstance(chunk, str):
            self._choice(0).say("content", chunk)
            return
        self._note(chunk, "usage")
        if not self.known.get("model"):
            self._note(chunk, "id", "model")  # each chunk repeats them
        for choice in _items_of(look(chunk, "choices")):
            place = _place(look(choice, "index"), 0)
            if not 0 <= place < _MAX_CHOICES:
                self._room.missed = "there are more choices than a reply has"
                continue
            whole = self._choice(place)
            reason = look(choice, "finish_reason")
            if reason:
                whole.finish_reason = reason
                self._note(look(chunk, "x_groq"), "usage")
            if self._room.each:
                whole.add(choice)

    def fields(self) -> dict[str, Any]:
        if not self._choices and not self.known:
            raise FieldError("its chunks are of no known shape")
        last = max(self._choices, default=-1)
        choices = [self._choices[place].whole() if place in self._choices else {} for place in range(last + 1)]
        return reply_fields({**self.known, "choices": choices})

    def _choice(self, place: int) -> _Choice:
        if place not in self._choices:
            self._choices[place] = _Choice(self._room)
        return self._choices[place]


class _Choice:
    """One choice of a chat completion."""

    __slots__ = ("_calls", "_places", "_room", "_said", "finish_reason")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._said: dict[str, Text] = {}
        self._calls: list[_Call] = []
        self._places: dict[int, _Call] = {}
        self.finish_reason: object = None

    def add(self, choice: object) -> None:
        delta = look(choice, "delta") or look(choice, "message")
        if delta is None:
            self.say("content", look(choice, "text"))
            return
        is_read, said = False, self._said
        for name in _SAID:
            piece = look(delta, name)
            if piece:
                is_read = True
                if name in said and type(piece) is str:
                    said[name].add(piece)
                else:
                    self.say(name, piece)
        for call in _items_of(look(delta, "tool_calls")):
            is_read = True
            self._add_call(call)
        if not is_read:
            self._read_rarer(delta)

    def say(self, name: str, piece: object) -> None:
        """Add a text, or the texts of a list of blocks, as Mistral has it."""
        if isinstance(piece, str):
            if self._room.each:
                _text_of(self._said, name, self._room).add(piece)
            return
        for block in _items_of(piece):
            thought, text = look(block, "thinking"), look(block, "text")
            if thought is None and not isinstance(text, str):
                self._room.missed = "a block of a kind that is not known"
            self.say(name if thought is None else "reasoning", text if thought is None else thought)

    def whole(self) -> dict[str, Any]:
        """The choice as a reply has it."""
        if not self._said and not self._calls:
            return {"finish_reason": self.finish_reason}
        message: dict[str, Any] = {"role": "assistant", "content": None}
        message |= {name: text.whole() for name, text in self._said.items()}
        message |= {"tool_calls": [call.whole() for call in self._calls]} if self._calls else {}
        return {"message": message, "finish_reason": self.finish_reason}

    def _read_rarer(self, delta: object) -> None:
        function, audio = look(delta, "function_call"), look(delta, "audio")
        if function is not None:
            self._add_call({"function": function})  # of the time when a reply had but one
        elif audio is not None:
            self.say("content", look(audio, "transcript"))
            if look(audio, "data"):
                self._room.missed = "sound that comes in pieces"
        elif self._room.missed is None and any(value for name, value in _told(delta) if name != "role"):
            self._room.missed = "a delta of a kind that is not known"

    def _add_call(self, call: object) -> None:
        function, argument = look(call, "function"), "arguments"
        if function is None:
            function, argument = look(call, "custom"), "input"
        whole = self._called(look(call, "index"), look(call, "id"), look(function, "name"))
        if whole is not None:
            whole.kind = "function" if argument == "arguments" else "custom"
            given = look(function, argument)
            whole.argument.add(encoder.encode(given).decode() if isinstance(given, Mapping) else given)

    def _called(self, index: object, call_id: object, name: object) -> _Call | None:
        """The call that a fragment belongs to, a new one where it begins one.

        Not by its place alone: some services give all calls the same one, some give none, and some give each fragment
        an id of its own.
        """
        place = index if isinstance(index, int) else None
        found = self._places.get(place) if place is not None else next(reversed(self._calls), None)
        is_told = name and (place is None or call_id)
        if found is None or (is_told and (not call_id or call_id != found.id) and found.name):
            if not self._room.has_place(len(self._calls)):
                return None
            found = _Call(self._room)
            self._calls.append(found)
        if place is not None:
            self._places[place] = found
        found.id = found.id or call_id
        found.name = found.name or name
        return found


class _Call:
    """One tool call of a choice."""

    __slots__ = ("argument", "id", "kind", "name")

    def __init__(self, room: Room) -> None:
        self.argument = Text(room)
        self.id: object = None
        self.kind = "function"
        self.name: object = None

    def whole(self) -> dict[str, Any]:
        """The call as a reply has it."""
        told = {"name": self.name, "input" if self.kind == "custom" else "arguments": self.argument.whole()}
        return {"type": self.kind, "id": self.id, self.kind: told}


class _Response(_Reader):
    """The Responses API: the response as its last event has it, or what came of one that was broken off."""

    __slots__ = ("_begun", "_items", "_output", "_texts")

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self._output: list[object] | None = None
        self._begun: dict[int, dict[str, Any]] = {}
        self._items: dict[int, dict[str, Any]] = {}
        self._texts: dict[tuple[int, str, int], Text] = {}

    def add(self, kind: str, chunk: object) -> None:
        response = look(chunk, "response")
        if response is not None:
            self._note(response, "id", "model", "usage", "status", "incomplete_details")
            output = look(response, "output")
            self._output = output if self._room.each and output and isinstance(output, list) else self._output
        elif self._room.each:
            self._add_said(kind.removeprefix("response."), chunk)

    def fields(self) -> dict[str, Any]:
        return reply_fields({**self.known, "output": self._output or self._broken_off()})

    def _add_said(self, kind: str, event: object) -> None:
        place = _place(look(event, "output_index"), 0)
        if kind == "output_item.done":
            for part in [part for part in self._texts if part[0] == place]:
                self._texts.pop(part).drop()
            self._add_item(self._items, place, event)
        elif kind == "output_item.added":
            self._add_item(self._begun, place, event)
        elif kind.endswith(".delta"):
            said = kind.removesuffix(".delta")
            if said not in _PARTS:
                return  # such as sound; of what is whole the last event tells
            within = look(event, "content_index"), look(event, "summary_index")
            part = place, said, next((index for index in within if isinstance(index, int)), 0)
            if part in self._texts or self._room.has_place(len(self._texts)):
                _text_of(self._texts, part, self._room).add(look(event, "delta"))

    def _add_item(self, items: dict[int, dict[str, Any]], place: int, event: object) -> None:
        held = self._room.hold(look(event, "item")) if self._room.has_place(len(items)) else None
        if held is not None:
            items[place] = held

    def _broken_off(self) -> list[object]:
        said: dict[int, list[object]] = {place: [item] for place, item in self._items.items()}
        for (place, kind, _), text in self._texts.items():
            type_name, name = _PARTS[kind]
            part = {**self._begun.get(place, {}), "type": type_name, name: text.whole()}
            said.setdefault(place, []).append(part)
        for place, item in self._begun.items():
            if place not in said and "name" in item:
                said[place] = [item]
        return [part for place in sorted(said) for part in said[place]]


class _Message(_Reader):
    """Anthropic's messages."""

    __slots__ = ("_blocks",)

    def __init__(self, room: Room) -> None:
        super().__init__(room)
        self._blocks: dict[int, tuple[dict[str, Any], dict[str, Text]]] = {}

    def add(self, kind: str, chunk: object) -> None:
        if kind == "message_start":
            self._note(look(chunk, "message"), "id", "model", "usage")
        elif kind == "message_delta":
            self._note(look(chunk, "delta"), "stop_reason")
            said = as_dict(look(chunk, "usage")) or {}
            before = as_dict(self.known.get("usage")) or {}
            self.known["usage"] = {**before, **{name: count for name, count in said.items() if count is not None}}
        elif kind == "content_block_delta":
            self._add_delta(_place(look(chunk, "index"), 0), look(chunk, "delta"))
        elif self._room.has_place(len(self._blocks)):
            block = self._room.hold(look(chunk, "content_block"))
            if block is not None:
                self._blocks[_place(look(chunk, "index"), 0)] = block, {}

    def fields(self) -> dict[str, Any]:
        content = [_whole_block(*self._blocks[place]) for place in sorted(self._blocks)]
        told = reply_fields({**self.known, "role": "assistant", "content": content})
        if not content:
            del told["output_messages"]
        return told

    def _add_delta(self, place: int, delta: object) -> None:
        if place not in self._blocks:
            return
        kind = str(look(delta, "type"))
        if kind in _ADDED:
            source, target = _ADDED[kind]
            _text_of(self._blocks[place][1], target, self._room).add(look(delta, source))
        elif kind not in _UNRECORDED:
            self._room.missed = "a delta of a kind that is not known"


def _whole_block(block: dict[str, Any], added: dict[str, Text]) -> dict[str, Any]:
    whole = {**block}
    for name, text in added.items():
        said = text.whole()
        # What a block begins with is empty, or a part of it.
        begun = block.get(name)
        if begun and isinstance(begun, str):
            said = begun + said
        whole[name] = decoded(said) if name == "input" else said
    return whole


def _reader_of(kind: str) -> type[_Reader] | None:
    if kind.startswith("response."):
        return _Response
    return _Message if kind in _MESSAGE_EVENTS else None


def _text_of(texts: dict[_Name, Text], name: _Name, room: Room) -> Text:
    if name not in texts:
        texts[name] = Text(room)
    return texts[name]


def _told(delta: object) -> Iterable[tuple[str, Any]]:
    return (as_dict(delta) or {}).items()


def _items_of(value: object) -> Iterable[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()


def _place(index: object, default: int) -> int:
    return index if isinstance(index, int) else default
