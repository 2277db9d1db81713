"""OTLP trace requests from the wire into plain values.

The JSON mapping is that of the OTLP specification: hex ids, integer enums, 64-bit integers as strings
or numbers, unknown fields ignored.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from ._record import EventRecord, LinkRecord, SpanRecord

__all__ = ["BadRequestError", "UnsupportedMediaError", "decode_request", "decompress", "records_of", "to_json"]

JSON_TYPE = "application/json"
PROTOBUF_TYPE = "application/x-protobuf"

_KINDS = ("UNSPECIFIED", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER")
_STATUSES = ("UNSET", "OK", "ERROR")
_PARENT_IS_REMOTE = 0x200
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})


class BadRequestError(ValueError):
    """The body is not an OTLP trace request."""


class UnsupportedMediaError(ValueError):
    """The body's type or encoding is not one that this receiver reads."""


class _AnyValue(Struct, rename="camel"):
    string_value: str | None = None
    bool_value: bool | None = None
    int_value: int | str | None = None
    double_value: float | str | None = None
    bytes_value: str | None = None
    array_value: _ArrayValue | None = None
    kvlist_value: _KeyValueList | None = None


class _ArrayValue(Struct):
    values: list[_AnyValue] = []


class _KeyValue(Struct):
    key: str = ""
    value: _AnyValue | None = None


class _KeyValueList(Struct):
    values: list[_KeyValue] = []


class _Attributed(Struct):
    attributes: list[_KeyValue] = []


class _Event(_Attributed, rename="camel"):
    name: str = ""
    time_unix_nano: int | str = 0


class _Link(_Attributed, rename="camel"):
    trace_id: str = ""
    span_id: str = ""


class _Status(Struct):
    code: int = 0
    message: str = ""


class _Span(_Attributed, rename="camel"):
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    flags: int = 0
    name: str = ""
    kind: int = 0
    start_time_unix_nano: int | str = 0
    end_time_unix_nano: int | str = 0
    events: list[_Event] = []
    links: list[_Link] = []
    status: _Status | None = None


class _Scope(Struct):
    name: str = ""


class _ScopeSpans(Struct):
    scope: _Scope | None = None
    spans: list[_Span] = []


class _Resource(_Attributed): ...


class _ResourceSpans(Struct, rename="camel"):
    resource: _Resource | None = None
    scope_spans: list[_ScopeSpans] = []


class TraceRequest(Struct, rename="camel"):
    """An `ExportTraceServiceRequest`, which is also a line of the OTLP file format."""

    resource_spans: list[_ResourceSpans] = []


_decoder = msgspec.json.Decoder(TraceRequest)


def decompress(body: bytes, encoding: str) -> bytes:
    """The body as it was before its content encoding."""
    if encoding in {"", "identity"}:
        return body
    if encoding != "gzip":
        raise UnsupportedMediaError(f"content encoding {encoding!r} is not gzip")
    try:
        return zlib.decompress(body, wbits=31)
    except zlib.error as exc:
        raise BadRequestError(f"the body is not gzip: {exc}") from None


def to_json(body: bytes, content_type: str) -> bytes:
    """The body as OTLP/JSON on one line; protobuf is read when `opentelemetry-proto` is installed."""
    media_type = content_type.partition(";")[0].strip().lower()
    try:
        if media_type == JSON_TYPE:
            return msgspec.json.format(body, indent=-1)
        if media_type == PROTOBUF_TYPE:
            return _protobuf_to_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequestError(f"the body is not JSON: {exc}") from None
    raise UnsupportedMediaError(f"content type {content_type!r} is not {JSON_TYPE}")


def decode_request(body: bytes) -> list[SpanRecord]:
    """The spans of one OTLP/JSON request."""
    try:
        request = _decoder.decode(body)
        return list(records_of(request))
    except (msgspec.DecodeError, ValueError, IndexError, RecursionError) as exc:
        raise BadRequestError(f"the body is not an OTLP trace request: {exc}") from None


def records_of(request: TraceRequest) -> Iterator[SpanRecord]:
    """Each span of the request with its resource and scope."""
    for group in request.resource_spans:
        resource = _attributes(group.resource.attributes) if group.resource else {}
        for scope_spans in group.scope_spans:
            scope = scope_spans.scope.name if scope_spans.scope else ""
            for span in scope_spans.spans:
                yield _record(span, scope, resource)


def _record(span: _Span, scope: str, resource: dict[str, Any]) -> SpanRecord:
    status = span.status or _Status()
    return SpanRecord(
        name=span.name,
        trace_id=_identifier(span.trace_id, 16),
        span_id=_identifier(span.span_id, 8),
        parent_span_id=_identifier(span.parent_span_id, 8) if span.parent_span_id else None,
        is_parent_remote=bool(span.flags & _PARENT_IS_REMOTE),
        kind=_KINDS[span.kind],
        start_ns=int(span.start_time_unix_nano),
        end_ns=int(span.end_time_unix_nano),
        attributes=_attributes(span.attributes),
        events=tuple(_event(event) for event in span.events),
        links=tuple(_link(link) for link in span.links),
        status=_STATUSES[status.code],
        status_message=status.message,
        scope=scope,
        resource=resource,
    )


def _event(event: _Event) -> EventRecord:
    return EventRecord(name=event.name, time_ns=int(event.time_unix_nano), attributes=_attributes(event.attributes))


def _link(link: _Link) -> LinkRecord:
    return LinkRecord(
        trace_id=_identifier(link.trace_id, 16),
        span_id=_identifier(link.span_id, 8),
        attributes=_attributes(link.attributes),
    )


def _identifier(text: str, size_bytes: int) -> str:
    raw = bytes.fromhex(text)
    if len(raw) != size_bytes or not any(raw):
        raise ValueError(f"{text!r} is not an id of {size_bytes} bytes")
    return raw.hex()


def _attributes(pairs: Iterable[_KeyValue]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: _AnyValue | None) -> Any:
    match value:
        case _AnyValue(int_value=int() | str() as number):
            plain: Any = int(number)
        case _AnyValue(double_value=float() | str() as number):
            plain = float(number)
        case _AnyValue(bytes_value=str() as text):
            plain = base64.b64decode(text, validate=True)
        case _AnyValue(array_value=_ArrayValue(values=items)):
            plain = [_value(item) for item in items]
        case _AnyValue(kvlist_value=_KeyValueList(values=pairs)):
            plain = _attributes(pairs)
        case _AnyValue(string_value=text, bool_value=truth):
            plain = truth if text is None else text
        case None:
            plain = None
    return plain


def _protobuf_to_json(body: bytes) -> bytes:
    try:
        from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped]
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    except ImportError:
        raise UnsupportedMediaError("protobuf bodies need the package opentelemetry-proto") from None
    request = ExportTraceServiceRequest()
    try:
        request.ParseFromString(body)
    except DecodeError as exc:
        raise BadRequestError(f"the body is not protobuf: {exc}") from None
    return msgspec.json.encode(_with_hex_ids(MessageToDict(request, use_integers_for_enums=True)))


def _with_hex_ids(value: Any) -> Any:
    # Protobuf's own JSON mapping writes bytes as base64; OTLP's writes ids as hex.
    if isinstance(value, list):
        return [_with_hex_ids(item) for item in cast(list[object], value)]
    if not isinstance(value, dict):
        return value
    fields = cast(dict[str, object], value)
    return {key: _hex(str(item)) if key in _IDS else _with_hex_ids(item) for key, item in fields.items()}


def _hex(text: str) -> str:
    return base64.b64decode(text).hex()
