"""The chunks of a streamed reply, put together to the whole reply that they stand for.

Known are the chunks of OpenAI's chat completions, the events of its Responses API and of Anthropic's messages, as
objects or dicts, and plain texts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

from ._blocks import decoded
from ._encoding import as_dict
from ._faults import FieldError
from ._reply import look, reply_fields

_MAX_PIECES: Final = 1_000  # choices, calls and blocks: there are more only in what is no reply
_WORD_SIZE: Final = 64

# Where a delta of Anthropic's has what it adds, and to what of its block.
_ADDED: Final = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "input_json_delta": ("partial_json", "input"),
}


class _Choice:
    """One choice of a chat completion."""

    __slots__ = ("calls", "finish_reason", "said")

    def __init__(self) -> None:
        self.said: dict[str, list[str]] = {}
        self.calls: dict[int, dict[str, Any]] = {}
        self.finish_reason: object = None

    def whole(self) -> dict[str, Any]:
        if not self.said and not self.calls:
            return {"finish_reason": self.finish_reason}
        message: dict[str, Any] = {"role": "assistant", "content": None}
        message |= {name: "".join(pieces) for name, pieces in self.said.items()}
        if self.calls:
            message["tool_calls"] = [
                {"type": "function", "id": call["id"], "function": {**call, "arguments": "".join(call["arguments"])}}
                for call in self.calls.values()
            ]
        return {"message": message, "finish_reason": self.finish_reason}


class Assembly:
    """Reads chunks one by one, and keeps of their texts what an attribute can hold.

    Args:
        room: How many characters that is.
    """

    __slots__ = ("_added", "_blocks", "_choices", "_items", "_known", "_response", "_room", "_texts", "is_empty")

    def __init__(self, room: int) -> None:
        self._room = room
        self._known: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._blocks: dict[int, dict[str, Any]] = {}
        self._added: dict[int, dict[str, list[str]]] = {}
        self._response: object = None
        self._items: dict[int, object] = {}
        self._texts: dict[int, list[str]] = {}
        self.is_empty: bool = True
        """Whether no chunk has come."""

    def add(self, chunk: object) -> None:
        """Read one chunk; one of another shape says nothing."""
        self.is_empty = False
        if isinstance(chunk, str):
            self._keep(self._choice(0).said.setdefault("content", []), chunk)
            return
        kind = look(chunk, "type")
        if not isinstance(kind, str):
            self._add_completion(chunk)
        elif kind == "chunk":  # as the OpenAI client's own helper passes them on
            self._add_completion(look(chunk, "chunk"))
        elif kind.startswith("response."):
            self._add_response(kind, chunk)
        else:
            self._add_message(kind, chunk)

    def fields(self) -> dict[str, Any]:
        """The fields of the call that the chunks told so far.

        Raises:
            FieldError: They told none.
        """
        if self._response is not None:
            return reply_fields(self._whole_response())
        if self._blocks or "stop_reason" in self._known:
            content = [_whole_block(block, self._added[place]) for place, block in sorted(self._blocks.items())]
            return reply_fields({**self._known, "role": "assistant", "content": content})
        if not self._choices and not self._known:
            raise FieldError("its chunks are of no known shape")
        return reply_fields({**self._known, "choices": [self._choices[at].whole() for at in sorted(self._choices)]})

    def _add_completion(self, chunk: object) -> None:
        self._note(chunk, "usage")
        if not self._known.get("model"):
            self._note(chunk, "id", "model")  # each chunk repeats them
        for choice in _items_of(look(chunk, "choices")):
            whole = self._choice(_place(look(choice, "index"), 0))
            whole.finish_reason = look(choice, "finish_reason") or whole.finish_reason
            delta = look(choice, "delta")
            for name in ("content", "reasoning_content", "reasoning", "refusal"):
                piece = look(delta, name)
                if isinstance(piece, str) and piece:
                    self._keep(whole.said.setdefault(name, []), piece)
            for call in _items_of(look(delta, "tool_calls")):
                self._add_call(whole.calls, call)

    def _add_call(self, calls: dict[int, dict[str, Any]], call: object) -> None:
        # Services that send a call as a whole may leave its place out.
        place = _place(look(call, "index"), len(calls))
        if place not in calls:
            if not self._has_room(len(calls)):
                return
            calls[place] = {"id": None, "name": None, "arguments": []}
        whole, function = calls[place], look(call, "function")
        whole["id"] = whole["id"] or look(call, "id")
        whole["name"] = whole["name"] or look(function, "name")
        self._keep(whole["arguments"], look(function, "arguments"))

    def _add_response(self, kind: str, event: object) -> None:
        response = look(event, "response")
        if response is not None:
            self._response = response
            return
        place = _place(look(event, "output_index"), 0)
        if kind == "response.output_item.done":
            self._texts.pop(place, None)
            if self._has_room(len(self._items)):
                self._items[place] = look(event, "item")
        elif kind == "response.output_text.delta" and len(self._texts) < _MAX_PIECES:
            self._keep(self._texts.setdefault(place, []), look(event, "delta"))

    def _add_message(self, kind: str, event: object) -> None:
        place = _place(look(event, "index"), 0)
        if kind == "message_start":
            self._note(look(event, "message"), "id", "model", "usage")
        elif kind == "content_block_start":
            block = as_dict(look(event, "content_block"))
            if block is not None and self._has_room(len(self._blocks)):
                self._blocks[place], self._added[place] = {**block}, {}
        elif kind == "content_block_delta" and place in self._blocks:
            delta = look(event, "delta")
            source, target = _ADDED.get(str(look(delta, "type")), (None, None))
            if source is not None and target is not None:
                self._keep(self._added[place].setdefault(target, []), look(delta, source))
        elif kind == "message_delta":
            self._note(look(event, "delta"), "stop_reason")
            said = as_dict(look(event, "usage")) or {}
            before = as_dict(self._known.get("usage")) or {}
            self._known["usage"] = {**before, **{name: count for name, count in said.items() if count is not None}}

    def _note(self, source: object, *names: str) -> None:
        for name in names:
            value = look(source, name)
            if value is not None:
                self._known[name] = value

    def _choice(self, place: int) -> _Choice:
        if place not in self._choices and not self._has_room(len(self._choices)):
            return _Choice()
        return self._choices.setdefault(place, _Choice())

    def _has_room(self, count: int) -> bool:
        self._room -= _WORD_SIZE
        return count < _MAX_PIECES and self._room > 0

    def _keep(self, pieces: list[str], piece: object) -> None:
        if isinstance(piece, str) and piece and self._room > 0:
            pieces.append(piece[: self._room])
            self._room -= len(piece)

    def _whole_response(self) -> object:
        """The response as its last event had it; of one that was broken off, with what had come until then."""
        if look(self._response, "output") or not (self._items or self._texts):
            return self._response
        texts = {place: {"type": "output_text", "text": "".join(said)} for place, said in self._texts.items()}
        output: dict[int, object] = {**self._items, **texts}
        told = {name: look(self._response, name) for name in ("id", "model", "usage", "status", "incomplete_details")}
        return {**told, "output": [output[place] for place in sorted(output)]}


def _whole_block(block: dict[str, Any], added: dict[str, list[str]]) -> dict[str, Any]:
    whole = {**block}
    for name, pieces in added.items():
        text = "".join(pieces)
        # What a block begins with is empty, or a part of it.
        whole[name] = decoded(text) if name == "input" else (block.get(name) or "") + text
    return whole


def _items_of(value: object) -> Iterable[object]:
    return cast("list[object]", value) if isinstance(value, list) else ()


def _place(index: object, default: int) -> int:
    return index if isinstance(index, int) else default
