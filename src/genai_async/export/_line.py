"""Lines of OpenTelemetry's file format, a TracesData in JSON each: taken apart, and checked as a collector would."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated, TypeAlias

import msgspec

from ._encode import Group

__all__ = ["look", "parse"]


class _Scope(msgspec.Struct, rename="camel", omit_defaults=True):
    scope: msgspec.Raw = msgspec.Raw(b"{}")
    spans: list[msgspec.Raw] = []
    schema_url: str = ""


class _Resource(msgspec.Struct, rename="camel", omit_defaults=True):
    resource: msgspec.Raw = msgspec.Raw(b"{}")
    scope_spans: list[_Scope] = []
    schema_url: str = ""


class _Traces(msgspec.Struct, rename="camel"):
    resource_spans: list[_Resource]


_TraceId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A(?!0{32})[0-9A-Fa-f]{32}\Z")]
_SpanId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A(?!0{16})[0-9A-Fa-f]{16}\Z")]
_ParentId: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"\A(|(?!0{16})[0-9A-Fa-f]{16})\Z")]
_Integer: TypeAlias = int | Annotated[str, msgspec.Meta(pattern=r"\A-?[0-9]{1,19}\Z")]
_Double: TypeAlias = float | Annotated[str, msgspec.Meta(pattern=r"\A(NaN|-?Infinity|-?[0-9.eE+-]{1,400})\Z")]
_Time: TypeAlias = Annotated[int, msgspec.Meta(ge=0)] | Annotated[str, msgspec.Meta(pattern=r"\A[0-9]{1,19}\Z")]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


class _Value(msgspec.Struct, rename="camel"):
    """An AnyValue; this and the next are the parts of OTLP that a collector refuses a request for, whole."""

    string_value: str = ""
    bool_value: bool = False
    int_value: _Integer = 0
    double_value: _Double = 0.0
    bytes_value: str = ""
    array_value: _Array | None = None
    kvlist_value: _Pairs | None = None


class _Array(msgspec.Struct):
    values: list[_Value] = []


class _Pair(msgspec.Struct):
    key: str = ""
    value: _Value | None = None


class _Pairs(msgspec.Struct):
    values: list[_Pair] = []


class _Described(msgspec.Struct, rename="camel", kw_only=True):
    """What a resource, a scope, an event, a link and a span have in common."""

    attributes: list[_Pair] = []
    dropped_attributes_count: _Count = 0


class _Named(_Described):
    name: str = ""
    version: str = ""


class _Event(_Described):
    name: str = ""
    time_unix_nano: _Time = 0


class _Link(_Described, kw_only=True):
    trace_id: _TraceId
    span_id: _SpanId
    trace_state: str = ""
    flags: _Count = 0


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Span(_Link):
    parent_span_id: _ParentId = ""
    name: str = ""
    kind: int = 0
    start_time_unix_nano: _Time = 0
    end_time_unix_nano: _Time = 0
    events: list[_Event] = []
    links: list[_Link] = []
    status: _Status | None = None


_read_traces = msgspec.json.Decoder(_Traces).decode
_read_resource = msgspec.json.Decoder(_Described).decode
_read_scope = msgspec.json.Decoder(_Named).decode
_read_span = msgspec.json.Decoder(_Span).decode


def parse(line: bytes) -> Iterator[tuple[Group, bytes]]:
    """The spans of one line that can be sent, each with its encoded resource and scope.

    Raises:
        ValueError: The line is not a TracesData.
    """
    return ((group, span) for group, span in look(line) if span is not None)


def look(line: bytes, *, is_ours: bool = False) -> Iterator[tuple[Group, bytes | None]]:
    """Every span of one line; None for one that is malformed, as it would spoil the request that it travels in.

    What this process wrote (`is_ours`) is taken for well formed: looking takes as long as encoding it did.

    Raises:
        ValueError: The line is not a TracesData.
    """
    line.decode()  # texts that are only passed on are not looked at below, and one bad byte would spoil a whole request
    for resource in _read_traces(line).resource_spans:
        _read_resource(resource.resource)
        outer = b'"resource":%b%b' % (resource.resource, _schema(resource.schema_url))
        for scope in resource.scope_spans:
            _read_scope(scope.scope)
            inner = b'"scope":%b%b' % (scope.scope, _schema(scope.schema_url))
            group = _same((outer, inner))
            for span in scope.spans:
                yield group, bytes(span) if is_ours or _is_whole(span) else None


@lru_cache(maxsize=16)
def _same(group: Group) -> Group:
    """One object for equal groups, as the lines of a file mostly have: what waits holds it once."""
    return group


def _is_whole(span: msgspec.Raw) -> bool:
    try:
        _read_span(span)
    except (ValueError, RecursionError):
        return False
    return True


def _schema(url: str) -> bytes:
    return b',"schemaUrl":%b' % msgspec.json.encode(url) if url else b""
