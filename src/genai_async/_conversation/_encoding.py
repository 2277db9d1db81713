"""JSON text and built-in values of whatever callers hand over, models of the providers' SDKs among them."""

from __future__ import annotations

from collections import ChainMap, UserDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from types import MappingProxyType
from typing import Any, Final, cast

import msgspec

# A walk takes about a microsecond for each value.
MAX_VALUES: Final = 4_000
# Any other mapping may be anything: a web framework's request is one, with all its headers.
MAPPINGS: Final = (MappingProxyType, UserDict, ChainMap)
_BUILT_IN: Final = frozenset({dict, list, tuple, str, int, float, bool, type(None)})
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
    if issubclass(kind, str):
        return str.__str__(value)  # it would be a sequence of characters
    if issubclass(kind, MAPPINGS):
        return dict(value)
    if issubclass(kind, Sequence) and not issubclass(kind, list | tuple):  # which come here as keys
        # A range can be longer than all memory.
        total, items = len(value), list(islice(cast("Sequence[Any]", value), MAX_VALUES))
        return items if total <= MAX_VALUES else [*items, f"[{total} items, truncated]"]
    return str(value)


encoder: Final = msgspec.json.Encoder(enc_hook=readable)


class Reader:
    """Reads each object once, however often what it stands in is encoded: its code may take long, or do anything."""

    __slots__ = ("_known", "encoder", "read")

    def __init__(self) -> None:
        self._known: dict[int, tuple[object, object]] = {}
        # Neither holds this object, or only the garbage collector would free it.
        self.read: Callable[[object], object] = partial(_read_once, self._known)
        self.encoder: msgspec.json.Encoder = msgspec.json.Encoder(enc_hook=self.read)

    def said(self, value: object) -> object:
        """What an object has said of itself; None if it was not asked."""
        return self._known.get(id(value), (value, None))[1]


def _read_once(known: dict[int, tuple[object, object]], value: object) -> object:
    found = known.get(id(value))
    if found is None:
        found = known[id(value)] = value, readable(value)  # as long as the value is held, nothing else has its id
    return found[1]


_encode_into: Final = encoder.encode_into


def encoded_small(value: object, limit_bytes: int) -> bytearray | None:
    """The JSON text of a value of a built-in kind that is short, as most are; None for any other."""
    if type(value) not in _BUILT_IN or limit_bytes < _SMALLEST_BUFFER:
        return None
    return _encoded(value, _SMALLEST_BUFFER, _encode_into)


def encoded_within(
    value: object, limit_bytes: int, guess_bytes: int = _SMALLEST_BUFFER, reader: Reader | None = None
) -> bytearray | None:
    """The JSON text of a value; None as soon as it gets longer than `limit_bytes`, however much of it is left.

    It is tried with larger and larger buffers, the first of `guess_bytes`. What stands in the value is read for each of
    them, if there is no reader.
    """
    encode_into = _encode_into if reader is None else reader.encoder.encode_into
    size = guess_bytes
    while True:
        size = min(size, limit_bytes)
        encoded = _encoded(value, size, encode_into)
        if encoded is not None or size >= limit_bytes:
            return encoded
        size *= _BUFFER_GROWTH


def _encoded(value: object, size: int, encode_into: Callable[[object, bytearray], None]) -> bytearray | None:
    buffer = bytearray(size + _SLACK)
    # A buffer with a view on it cannot grow, and that stops the encoder.
    with memoryview(buffer):
        try:
            encode_into(value, buffer)
        except BufferError:
            return None
    return buffer if len(buffer) <= size else None
