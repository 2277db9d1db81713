"""JSON text cut to a size: the longest strings first, then the structure, always valid and always in bounded time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, cast

from ._copying import Copier, CutList, note_like
from ._encoding import MAX_VALUES, Reader, encoded_within, encoder
from ._texts import TEXT_BYTES, Head, shorten

_SMALLEST_STRUCTURE: Final = 32
_TRIES: Final = 4
# Of control characters JSON has six bytes each; more than this many times the limit is not written to be thrown away.
_LONGEST_ESCAPE: Final = 6
_MOST_ESCAPES: Final = 3
_GUESS_BYTES: Final = 4096


def shrink(
    value: object, limit_bytes: int, *, is_message: bool = True, reader: Reader | None = None
) -> bytes | bytearray | None:
    """JSON text of a value within `limit_bytes`: the longest strings are cut first, the structure stays.

    If the structure alone is too large, what stands first in the outermost list goes, and of anything else what stands
    last. None where not even the smallest value of this kind has room.
    """
    room, values, given = limit_bytes, MAX_VALUES, value
    while True:
        copier = Copier(values, room, limit_bytes, reader=reader)
        value = copier.copy(value, is_message, is_outermost=True)
        if is_message and values == MAX_VALUES and type(value) is CutList and not copier.has_cut:
            newest = _newest(cast("Sequence[Any]", given), limit_bytes, more_than=len(value))
            if newest is not None:
                return newest
        found = _with_shorter_texts(value, limit_bytes, limit_bytes - copier.used_bytes)
        if found is not None:
            return found
        if room <= _SMALLEST_STRUCTURE:
            break
        room, values = room // 2, values // 2
    return next((rest for rest in map(encoder.encode, _rests(value)) if len(rest) <= limit_bytes), None)


def _newest(items: Sequence[Any], limit_bytes: int, more_than: int) -> bytes | None:
    """As many of the last messages as have room, each whole; None where they are not more than so many.

    Written in one go, a message costs little: of those with large structures many more have room than can be walked.
    """
    total = items.total if isinstance(items, CutList) else len(items)
    note = encoder.encode(note_like(items[-1], f"[{total} items, truncated]"))
    room = limit_bytes - len(note) - len("[,]")
    found: list[bytes | bytearray] = []
    for item in reversed(items[1:] if isinstance(items, CutList) else items):
        try:
            encoded = encoded_within(item, room)
        except (TypeError, ValueError, OverflowError):
            break  # what is not quite JSON
        if encoded is None:
            break
        room -= len(encoded) + 1
        found.append(encoded)
    found.append(note)
    return b"[" + b",".join(reversed(found)) + b"]" if len(found) > more_than else None


def _with_shorter_texts(value: Any, limit_bytes: int, room: int) -> bytes | bytearray | None:
    sizes = sorted(_text_sizes(value))
    for _ in range(_TRIES):
        # A marker would be as long as what stands there.
        most = max(_longest(sizes, room), TEXT_BYTES)
        encoded = encoded_within(shortened(value, most), _MOST_ESCAPES * limit_bytes, limit_bytes + _GUESS_BYTES)
        if encoded is None:
            room //= _LONGEST_ESCAPE
            continue
        excess = len(encoded) - limit_bytes
        if excess <= 0:
            return encoded
        if most == TEXT_BYTES:
            break
        # The copier's estimate was short, or what is in the texts has to be escaped.
        room = room - excess if excess < room // 2 else room * limit_bytes // len(encoded)
    return None


def shortened(value: Any, most: int) -> Any:
    """A copy of built-in values whose strings have at most this many bytes each."""
    if isinstance(value, str):
        return shorten(value, most) if len(value) * 4 > most or type(value) is Head else value
    if isinstance(value, dict):
        return {key: shortened(item, most) for key, item in cast("dict[str, Any]", value).items()}
    if isinstance(value, list):
        return [shortened(item, most) for item in cast("list[Any]", value)]
    return value


def _longest(sizes: list[int], room: int) -> int:
    """The length that strings may have so that together they fit in `room` bytes beside what each takes at least."""
    room += sum([min(size, TEXT_BYTES) for size in sizes])
    for index, size in enumerate(sizes):
        share = room // (len(sizes) - index)
        if size > share:
            return share
        room -= size
    return room


def _text_sizes(value: Any) -> Iterator[int]:
    if isinstance(value, str):
        yield len(value) if value.isascii() else len(value.encode())
    elif isinstance(value, dict):
        for item in cast("dict[str, Any]", value).values():
            yield from _text_sizes(item)
    elif isinstance(value, list):
        for item in cast("list[Any]", value):
            yield from _text_sizes(item)


def _rests(value: Any) -> Iterator[object]:
    """What may stand for a value that has no room."""
    if isinstance(value, list):
        items = cast("list[Any]", value)
        yield from ([note_like(items[-1] if items else None, "[truncated]")], [])
    elif isinstance(value, dict):
        yield from ({"truncated": "[truncated]"}, {})
    else:
        yield from ("[truncated]", "")
