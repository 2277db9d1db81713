"""JSON text and built-in values of whatever callers hand over, models of the providers' SDKs among them."""

from __future__ import annotations

from collections import ChainMap, UserDict
from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

# A walk takes about a microsecond for each value.
MAX_VALUES: Final = 4_000
# Any other mapping may be anything: a web framework's request is one, with all its headers.
MAPPINGS: Final = (MappingProxyType, UserDict, ChainMap)
_SMALLEST_BUFFER: Final = 4096  # a usual message fits in: a second try costs as much as all the rest
_BUFFER_GROWTH: Final = 16
# The encoder asks for room before it writes, and for a little more than it needs.
_SLACK: Final = 64


def own_method(value: Any, name: str) -> Any:
    """A method of the value's class, if there is one.

    Looked up as Python does for its own methods: there are objects that answer to every name.
    """
    return getattr(value, name) if callable(getattr(cast("type[object]", type(value)), name, None)) else None


def dumped(value: object, **options: Any) -> object:
    """What a model of a provider's SDK says of itself; None for what is no model."""
    dump = own_method(value, "model_dump")
    if dump is None:
        return None
    try:
        # Pydantic warns of what a client has parsed further than its types say.
        return dump(warnings=False, **options)
    except (TypeError, ValueError):
        return dump()  # one that takes no options, or not these


def as_dict(value: object) -> Mapping[str, Any] | None:
    """A mapping, or what a model of an SDK dumps as one: the dict of its API. None for anything else."""
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    found = dumped(value)
    return cast("Mapping[str, Any]", found) if isinstance(found, Mapping) else None


def readable(value: Any) -> object:
    """What msgspec has no encoding for: the SDKs' models, mappings and sequences of other kinds, at last their text."""
    found = dumped(value, mode="json")
    if found is not None:
        return found
    kind = type(cast(object, value))
    if issubclass(kind, MAPPINGS):
        return dict(value)
    if issubclass(kind, Sequence) and not issubclass(kind, list | tuple):  # which come here as keys
        # A range can be longer than all memory.
        total, items = len(value), list(islice(cast("Sequence[Any]", value), MAX_VALUES))
        return items if total <= MAX_VALUES else [*items, f"[{total} items, truncated]"]
    return str(value)


encoder: Final = msgspec.json.Encoder(enc_hook=readable)


def encoded_within(value: object, limit_bytes: int, guess_bytes: int = _SMALLEST_BUFFER) -> bytearray | None:
    """The JSON text of a value; None as soon as it gets longer than `limit_bytes`, however much of it is left.

    A buffer with a view on it cannot grow, and that stops the encoder. The first one has `guess_bytes`.
    """
    size = guess_bytes
    while True:
        size = min(size, limit_bytes)
        buffer = bytearray(size + _SLACK)
        with memoryview(buffer):
            try:
                encoder.encode_into(value, buffer)
            except BufferError:
                is_whole = False
            else:
                is_whole = len(buffer) <= size
        if is_whole:
            return buffer
        if size >= limit_bytes:
            return None
        size *= _BUFFER_GROWTH
