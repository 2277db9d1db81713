"""Cut the longest texts of an encoded span until it fits, leaving valid JSON and a marker behind.

Texts that hold JSON themselves (messages, tool arguments) are cut inside, so they can still be read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import msgspec

__all__ = ["MARKER", "trim"]

MARKER = "... [trimmed, was {} characters]"
_KEEP = 64
_MAX_DEPTH = 64

# Where a text stands: the container and the key or index in it.
_Place: TypeAlias = tuple[Any, Any]


def trim(data: bytes, limit_bytes: int) -> bytes | None:
    """The span `data` cut to about `limit_bytes`, or None when no text in it is long enough to cut."""
    try:
        span = msgspec.json.decode(data)
        texts = [place for place in _places(span, 0) if len(place[0][place[1]]) > _KEEP and place[1] == "stringValue"]
    except (msgspec.DecodeError, RecursionError):
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
    if text[:1] in "[{" and (shorter := _cut_json(text, allowed)) is not None:
        return shorter
    return text[: max(_KEEP, allowed) // 2] + MARKER.format(len(text))


def _cut_json(text: str, allowed: int) -> str | None:
    """The JSON text with its longest texts cut, or None if it is no JSON or is large for another reason."""
    try:
        value = msgspec.json.decode(text)
        texts = [place for place in _places(value, 0) if len(place[0][place[1]]) > _KEEP]
        if (each := _allowance([len(box[key]) for box, key in texts], len(text) - allowed)) is None:
            return None
        for box, key in texts:
            if len(box[key]) > each:
                box[key] = box[key][: each // 2] + MARKER.format(len(box[key]))
        shorter = msgspec.json.encode(value).decode()
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    return shorter if len(shorter) < len(text) else None


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
