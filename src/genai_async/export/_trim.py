"""Cut the longest texts of an encoded span until it fits, leaving valid JSON and a marker behind.

Texts that hold JSON themselves (messages, tool arguments) are cut inside, so they can still be read: first their
longest texts, then, if much of them is structure, what stands last in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeAlias, cast

import msgspec

__all__ = ["trim"]

_MARKER = "... [trimmed, was {} {}]"
_MARKED = r"\.\.\. \[trimmed, was ([0-9]{1,19}) (characters|items)\]\Z"
_KEEP = 64
_MAX_DEPTH = 64

# Where a text stands: the container and the key or index in it.
_Place: TypeAlias = tuple[Any, Any]


def trim(data: bytes, limit_bytes: int) -> bytes | None:
    """The span `data` cut to about `limit_bytes`, or None when no text in it is long enough to cut."""
    try:
        span = msgspec.json.decode(data)
        texts = [place for place in _places(span, 0) if len(place[0][place[1]]) > _KEEP and place[1] == "stringValue"]
    except (ValueError, RecursionError):
        return None
    allowed = _allowance([len(box[key]) for box, key in texts], len(data) - limit_bytes)
    if allowed is None:
        return None
    for box, key in texts:
        if len(box[key]) > allowed:
            box[key] = _cut(box[key], allowed)
    shorter = msgspec.json.encode(span)
    return shorter if len(shorter) < len(data) else None


def _allowance(lengths: list[int], excess: int) -> int | None:
    """The length that texts may keep so that about `excess` characters go, from the longest first."""
    if not lengths:
        return None
    longest = sorted(lengths, reverse=True)
    saved = 0
    for count, (length, following) in enumerate(zip(longest, [*longest[1:], _KEEP], strict=True), 1):
        step = (length - following) * count
        if saved + step >= excess:
            return max(_KEEP, length - -(-(excess - saved) // count))
        saved += step
    return _KEEP


def _cut(text: str, allowed: int) -> str:
    return _cut_plain(text, allowed) if text[:1] not in {"[", "{"} else _cut_json(text, allowed)


def _cut_plain(text: str, allowed: int) -> str:
    return text[: max(_KEEP, allowed) // 2] + _marker(len(text), "characters", text)


def _marker(count: int, what: str, end: object) -> str:
    """What says how much there was; if `end`, with which it ended, was cut before, how much there was at first."""
    if isinstance(end, str) and (before := re.search(_MARKED, end)) is not None and before[2] == what:
        return before[0]
    return _MARKER.format(count, what)


def _cut_json(text: str, allowed: int) -> str:
    """The JSON text with its longest texts cut, then with what stands last left out; other text is cut as it is."""
    try:
        value = msgspec.json.decode(text)
        texts = [place for place in _places(value, 0) if len(place[0][place[1]]) > _KEEP]
        if (each := _allowance([len(box[key]) for box, key in texts], len(text) - allowed)) is not None:
            for box, key in texts:
                if len(box[key]) > each:
                    box[key] = _cut_plain(box[key], each)
        shorter = msgspec.json.encode(_fitted(value, allowed, 0)).decode()
    except (ValueError, RecursionError):
        return _cut_plain(text, allowed)
    return shorter if len(shorter) < len(text) else text


def _fitted(value: Any, room: int, depth: int) -> Any:
    """A JSON value of about `room` bytes: its first items, inside of them, too, and a marker where others were."""
    if len(msgspec.json.encode(value)) <= room or not isinstance(value, (dict, list)):
        return value
    is_list = isinstance(value, list)
    items: list[tuple[Any, Any]] = list(
        enumerate(cast("list[Any]", value)) if is_list else cast("dict[str, Any]", value).items()
    )
    marker = _marker(len(items), "items", items[-1][1])
    if depth >= _MAX_DEPTH:
        return marker
    room -= len(marker)
    kept: list[tuple[Any, Any]] = []
    for key, item in items:
        size = len(msgspec.json.encode(item if is_list else {key: item}))
        if size > room:
            if room > _KEEP:
                kept.append((key, _fitted(item, room, depth + 1)))
            break
        kept.append((key, item))
        room -= size + 1
    return [*(item for _, item in kept), marker] if is_list else {**dict(kept), "...": marker}


def _places(value: Any, depth: int) -> list[_Place]:
    """Where the texts in a JSON value are."""
    if depth > _MAX_DEPTH:
        return []
    box: Any = value
    keys: Iterable[Any] = box if isinstance(value, dict) else range(len(box)) if isinstance(value, list) else ()
    found: list[_Place] = []
    for key in keys:
        item = box[key]
        if isinstance(item, str):
            found.append((box, key))
        else:
            found += _places(item, depth + 1)
    return found
