"""One ended span to its OTLP/JSON bytes, once, so that nothing walks its objects again.

The proto3 JSON mapping with OTLP's deviations (opentelemetry-proto, docs/specification.md): ids are
hex, 64-bit integers are strings, enums are numbers, other bytes are base64. What JSON or protobuf
cannot hold is turned into the nearest thing that it can, so that one value never costs a batch:

| value | becomes |
|---|---|
| an int outside 64 bits | `stringValue` of its digits |
| a lone surrogate in a text | U+FFFD |
| NaN, Infinity | the strings that proto3 JSON names for them |
| None | an empty value |
| a time outside 64 bits | 0, or the last that there is |
| another type, or nested over `MAX_DEPTH` deep | left out, counted in `droppedAttributesCount` |
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, isnan
from types import MappingProxyType
from typing import Any, TypeAlias

import msgspec
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

__all__ = ["MAX_DEPTH", "Encoder", "Group"]

Group: TypeAlias = tuple[bytes, bytes]
"""The encoded resource and the encoded scope of a span: spans with equal groups share an envelope."""

MAX_DEPTH = 32
"""Deeper values are left out: protobuf parsers stop at 100 nested messages, and a level takes two or three."""

_SHORT = 64
_MAX_KEYS = 256
_LONGEST_KEY = 256  # that is kept: others are not of the program's making
_MAX_VALUES = 32
_MAX_GROUPS = 64  # of resources and scopes: these can be large, and no queue counts what is kept of them

_INTERNAL, _CLIENT, _UNSET = SpanKind.INTERNAL, SpanKind.CLIENT, StatusCode.UNSET
_KINDS = {
    SpanKind.INTERNAL: b"1",
    SpanKind.SERVER: b"2",
    SpanKind.CLIENT: b"3",
    SpanKind.PRODUCER: b"4",
    SpanKind.CONSUMER: b"5",
}

_HEAD = (
    b'{"traceId":"%032x","spanId":"%016x","name":%b,"kind":%b,'
    b'"startTimeUnixNano":"%d","endTimeUnixNano":"%d","flags":%d'
)
_MAX_TIME, _MAX_TRACE_ID, _MAX_SPAN_ID = 2**64 - 1, 2**128 - 1, 2**64 - 1

# The state of nearly every span; asking one for its length is a Python call.
_NO_STATE = SpanContext(1, 1, is_remote=False).trace_state

_to_json: Callable[[object], bytes] = msgspec.json.Encoder().encode


class _Prefixes(dict[str, bytes]):
    """`,{"key":K,"value":{` by K: attribute keys are few, and escaping one costs as much as a lookup.

    `after` is what comes next, before the value.
    """

    def __init__(self, after: bytes = b"") -> None:
        self._after = after

    def __missing__(self, key: str) -> bytes:
        if type(key) is not str:
            raise TypeError
        prefix = b',{"key":%b,"value":{%b' % (_to_json(key), self._after)
        if len(key) <= _LONGEST_KEY:
            if len(self) >= _MAX_KEYS:
                self.clear()
            self[key] = prefix
        return prefix


class _Values(dict[str, bytes]):
    """Whole encoded attributes of one key, by value: model names, operations and ids come again and again."""

    def __init__(self, prefix: bytes, suffix: bytes) -> None:
        self._prefix = prefix
        self._suffix = suffix

    def __missing__(self, value: str) -> bytes:
        if len(self) >= _MAX_VALUES:
            self.clear()
        encoded = self[value] = self._prefix + _to_json(value) + self._suffix
        return encoded


class _Shorts(dict[str, _Values]):
    """The same by key; `before` and `after` are what stands around the text in a value."""

    def __init__(self, prefixes: _Prefixes, before: bytes, after: bytes) -> None:
        self._prefixes = prefixes
        self._before = before
        self._after = after

    def __missing__(self, key: str) -> _Values:
        values = _Values(self._prefixes[key] + self._before, self._after + b"}}")
        if len(key) <= _LONGEST_KEY:
            if len(self) >= _MAX_KEYS:
                self.clear()
            self[key] = values
        return values


class _Names(dict[str, bytes]):
    """Encoded span names: an operation and its subject, of which a program has few."""

    def __missing__(self, name: str) -> bytes:
        encoded = _text(name)
        if len(name) <= _SHORT:
            if len(self) >= _MAX_KEYS:
                self.clear()
            self[name] = encoded
        return encoded


class Encoder:
    """Encodes spans; safe from any thread, because all it shares are caches that may be lost at any time."""

    def __init__(self) -> None:
        self._names = _Names()
        self._prefixes = _Prefixes()
        self._strings = _Prefixes(b'"stringValue":')
        self._integers = _Prefixes(b'"intValue":"')
        self._doubles = _Prefixes(b'"doubleValue":')
        self._shorts = _Shorts(self._prefixes, b'"stringValue":', b"")
        self._singles = _Shorts(self._prefixes, b'"arrayValue":{"values":[{"stringValue":', b"}]}")
        # One tuple, so that another thread never sees the resource of one span with the group of another.
        self._latest: tuple[object, object, Group] = (None, None, (b"", b""))
        self._no_status: Status | None = None
        self._groups: dict[tuple[int, int], tuple[object, object, Group]] = {}

    def group(self, span: ReadableSpan) -> Group:
        """The encoded resource and scope of a span, encoded once for as long as the same objects come."""
        resource, scope = span.resource, span.instrumentation_scope
        latest = self._latest
        if latest[0] is resource and latest[1] is scope:
            return latest[2]
        # Found by identity, as hashing a resource costs more than encoding a span. The entry holds both
        # objects, so their ids are not given to others.
        entry = self._groups.get((id(resource), id(scope)))
        if entry is None:
            if len(self._groups) >= _MAX_GROUPS:
                self._groups.clear()
            entry = resource, scope, (self._resource(resource), self._scope(scope))
            self._groups[id(resource), id(scope)] = entry
        self._latest = entry
        return entry[2]

    def span(self, span: ReadableSpan) -> bytes:
        """The JSON object of one span.

        Raises:
            Exception: The span itself cannot be read; single values never raise.
        """
        context = span.get_span_context()
        if context is None:
            raise ValueError("a span without ids")
        # A SpanContext is a tuple by its public base; its properties are Python calls, six of them a span.
        trace_id, span_id, _, flags, state, is_valid = context
        if not is_valid:
            raise ValueError("a span without ids")
        name, parent, kind = span.name, span.parent, span.kind
        start, end = span.start_time or 0, span.end_time or 0
        if not (0 <= start <= _MAX_TIME and 0 <= end <= _MAX_TIME):
            start, end = _time(start), _time(end)
        parts = [
            _HEAD
            % (
                trace_id,
                span_id,
                self._names[name] if type(name) is str else _text(name),
                b"1" if kind is _INTERNAL else b"3" if kind is _CLIENT else _KINDS[kind],
                start,
                end,
                (flags & 0xFF) | (0x300 if parent is not None and parent.is_remote else 0x100),
            )
        ]
        if parent is not None and (parent_id := parent.span_id):
            parts.append(b',"parentSpanId":"%016x"' % parent_id)
        if state is not _NO_STATE and state:
            parts.append(b',"traceState":%b' % _text(state.to_header()))
        pieces, omitted = self._attributes(span.attributes)
        if pieces:
            # Piece by piece into the one join: messages are long, and each step on the way would copy them once more.
            parts.append(b',"attributes":[')
            parts += pieces
            parts.append(b"]")
        if left_out := omitted + span.dropped_attributes:
            parts.append(b',"droppedAttributesCount":%d' % left_out)
        self._add_extras(span, parts)
        parts.append(b"}")
        return b"".join(parts)

    def _add_extras(self, span: ReadableSpan, parts: list[bytes]) -> None:
        if events := span.events:
            parts.append(b',"events":[%b]' % b",".join(map(self._event, events)))
        if links := span.links:
            parts.append(b',"links":[%b]' % b",".join(map(self._link, links)))
        if dropped := span.dropped_events:
            parts.append(b',"droppedEventsCount":%d' % dropped)
        if dropped := span.dropped_links:
            parts.append(b',"droppedLinksCount":%d' % dropped)
        status = span.status
        if status is not self._no_status:  # which mostly is one and the same object
            if status.status_code is not _UNSET or status.description:
                parts.append(self._status(status))
            else:
                self._no_status = status

    def _status(self, status: Status) -> bytes:
        message = b',"message":%b' % _text(status.description) if status.description else b""
        return b',"status":{"code":%d%b}' % (status.status_code.value, message)

    def _event(self, event: Event) -> bytes:
        return b'{"timeUnixNano":"%d","name":%b%b}' % (
            _time(event.timestamp),
            _text(event.name),
            self._attribute_fields(event.attributes, event.dropped_attributes),
        )

    def _link(self, link: Link) -> bytes:
        context = link.context
        state = context.trace_state
        return b'{"traceId":"%032x","spanId":"%016x","flags":%d%b%b}' % (
            context.trace_id & _MAX_TRACE_ID,
            context.span_id & _MAX_SPAN_ID,
            _flags(context),
            b',"traceState":%b' % _text(state.to_header()) if state else b"",
            self._attribute_fields(link.attributes, link.dropped_attributes),
        )

    def _resource(self, resource: Any) -> bytes:
        fields = self._attribute_fields(resource.attributes, 0)[1:]
        return b'"resource":{%b}%b' % (fields, self._schema(resource.schema_url))

    def _scope(self, scope: Any) -> bytes:
        if scope is None:
            return b'"scope":{}'
        version = b',"version":%b' % _text(scope.version) if scope.version else b""
        fields = self._attribute_fields(scope.attributes, 0)
        return b'"scope":{"name":%b%b%b}%b' % (_text(scope.name), version, fields, self._schema(scope.schema_url))

    def _schema(self, url: str | None) -> bytes:
        return b',"schemaUrl":%b' % _text(url) if url else b""

    def _attribute_fields(self, attributes: Mapping[str, Any] | None, dropped: int) -> bytes:
        pieces, omitted = self._attributes(attributes)
        fields = b',"attributes":[%b]' % b"".join(pieces) if pieces else b""
        if dropped + omitted:
            fields += b',"droppedAttributesCount":%d' % (dropped + omitted)
        return fields

    def _attributes(self, attributes: Mapping[str, Any] | None) -> tuple[list[bytes], int]:
        """What stands in the list of attributes, in pieces, and how many had to be left out."""
        if attributes is None:
            return [], 0
        # A copy of the mapping is one C call; iterating the SDK's own calls back into Python for each key.
        items: Mapping[str, Any] = attributes
        if type(attributes) is not MappingProxyType:
            items = _copy_of(attributes)
        try:
            return self._plain(items), 0
        except Exception:  # some value is not plain: find out which, one at a time
            return self._careful(items)

    def _plain(self, attributes: Mapping[str, Any]) -> list[bytes]:
        strings, integers, shorts = self._strings, self._integers, self._shorts
        pieces: list[bytes] = []
        add = pieces.append
        for key, value in attributes.items():
            kind = type(value)  # pyright: ignore[reportUnknownVariableType]
            if kind is str:
                if len(value) <= _SHORT:
                    add(shorts[key][value])
                else:
                    # Piece by piece, as one join is cheaper than a formatting for each.
                    add(strings[key])
                    add(_to_json(value))
                    add(b"}}")
            elif kind is int and -0x8000000000000000 <= value < 0x8000000000000000:
                add(integers[key])
                add(_to_json(value))
                add(b'"}}')
            elif kind is float and isfinite(value):
                add(self._doubles[key])
                add(_to_json(value))
                add(b"}}")
            elif kind is tuple and len(value) == 1 and type(value[0]) is str and len(value[0]) <= _SHORT:
                add(self._singles[key][value[0]])
            else:
                add(b"%b%b}" % (self._prefixes[key], _to_json(_any(value, 0))[1:]))
        if pieces:
            pieces[0] = pieces[0][1:]  # each begins with a comma
        return pieces

    def _careful(self, attributes: Mapping[Any, Any]) -> tuple[list[bytes], int]:
        parts: list[bytes] = []
        omitted = 0
        for key, value in attributes.items():
            try:
                parts.append(_to_json({"key": _clean(key), "value": _any(value, 0)}))
            except Exception:
                omitted += 1
        return [b",".join(parts)] if parts else [], omitted


def _time(ns: float) -> int:
    """A time as the wire can hold it: one number out of range and a collector refuses the whole batch."""
    return min(max(int(ns), 0), _MAX_TIME)


def _text(text: Any) -> bytes:
    try:
        return _to_json(text if type(text) is str else _plain_text(text))
    except UnicodeEncodeError:
        return _to_json(_clean(text))


def _copy_of(attributes: Mapping[str, Any]) -> Mapping[str, Any]:
    copy: Callable[[], Mapping[str, Any]] | None = getattr(attributes, "copy", None)
    return dict(attributes) if copy is None else copy()


def _flags(context: SpanContext) -> int:
    """W3C flags in bits 0-7, 0x100 for "it is known whether the span is remote", 0x200 for "it is"."""
    return (int(context.trace_flags) & 0xFF) | (0x300 if context.is_remote else 0x100)


def _clean(text: Any) -> str:
    """`text` as a string that UTF-8 can hold; surrogate pairs become the character that they stand for."""
    plain = _plain_text(text)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return plain


def _plain_text(text: Any) -> str:
    # The text itself: what a member of an enumeration shows is its own name.
    return str.__str__(text) if issubclass(type(text), str) else str(text)


def _any(value: Any, depth: int) -> dict[str, Any]:  # noqa: PLR0911 (one return per kind of value)
    """OTLP's AnyValue for one Python value.

    Raises:
        TypeError: No such value, or one that is nested too deep.
    """
    item: Any = value  # without what the checks below make of its type: the members are of any
    if isinstance(value, (tuple, list)):  # first, because the check for any sequence below costs as much as all others
        return _array(item, depth)
    if value is None:
        return {}
    if isinstance(value, str):
        return {"stringValue": _clean(value)}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return _integer(int(value))
    if isinstance(value, float):
        return {"doubleValue": _double(float(value))}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"bytesValue": b64encode(bytes(item)).decode()}
    if isinstance(value, Mapping):
        _check(depth)
        return {"kvlistValue": {"values": [_pair(key, inner, depth) for key, inner in item.items()]}}
    if isinstance(value, Sequence):
        return _array(item, depth)
    raise TypeError("no such value in OTLP")


def _array(value: Sequence[Any], depth: int) -> dict[str, Any]:
    _check(depth)
    return {"arrayValue": {"values": [_any(item, depth + 1) for item in value]}}


def _check(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise TypeError("nested too deep")


def _pair(key: object, value: object, depth: int) -> dict[str, Any]:
    # Here the official encoder takes what a key shows, whatever it is.
    return {"key": _clean(str(key)), "value": _any(value, depth + 1)}


def _integer(value: int) -> dict[str, Any]:
    if -0x8000000000000000 <= value < 0x8000000000000000:
        return {"intValue": f"{value:d}"}
    try:
        return {"stringValue": f"{value:d}"}
    except ValueError:  # more digits than Python writes (sys.set_int_max_str_digits)
        return {"stringValue": hex(value)}


def _double(value: float) -> float | str:
    if isfinite(value):
        return value
    return "NaN" if isnan(value) else "Infinity" if value > 0 else "-Infinity"
