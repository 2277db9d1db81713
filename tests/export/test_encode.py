from __future__ import annotations

import base64
import math
import tracemalloc
from collections.abc import Mapping
from enum import Enum
from typing import Any

import msgspec
import pytest
from google.protobuf import json_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.json.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from genai_async.export._body import body
from genai_async.export._encode import MAX_DEPTH, Encoder

_CONTEXT = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))


def _span(attributes: Mapping[str, Any] | None = None, **fields: Any) -> ReadableSpan:
    fields = {"context": _CONTEXT, "resource": Resource({}), **fields}
    return ReadableSpan(fields.pop("name", "a"), attributes=attributes, **fields)


def _encoded(span: ReadableSpan) -> dict[str, Any]:
    value = msgspec.json.decode(Encoder().span(span))
    assert isinstance(value, dict)
    return value


def _values(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in _encoded(_span(attributes)).get("attributes", [])}


def _request(*spans: ReadableSpan) -> ExportTraceServiceRequest:
    encoder = Encoder()
    content = body([(encoder.group(span), encoder.span(span)) for span in spans])
    return json_format.Parse(content, ExportTraceServiceRequest())


_texts = st.text(max_size=90)
_ids = st.integers(1, 2**64 - 1)
_trace_ids = st.integers(1, 2**128 - 1)
_states = st.none() | st.just(TraceState([("vendor", "value"), ("other", "1")]))
_contexts = st.builds(
    SpanContext,
    _trace_ids,
    _ids,
    is_remote=st.booleans(),
    trace_flags=st.sampled_from([TraceFlags(0), TraceFlags(1)]),
    trace_state=_states,
)
_int64 = st.integers(-(2**63), 2**63 - 1)
_simple = st.none() | _texts | st.booleans() | _int64 | st.floats() | st.binary(max_size=20)
_nested = st.recursive(
    _simple, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3), max_leaves=8
)
_attributes = st.none() | st.dictionaries(_texts.filter(bool), _nested, max_size=5)
_times = st.integers(0, 2**63)
_events = st.builds(Event, _texts, _attributes, _times)
_links = st.builds(Link, _contexts, _attributes)
_statuses = st.sampled_from(
    [Status(), Status(StatusCode.OK), Status(StatusCode.ERROR, "boom"), Status(StatusCode.ERROR)]
)
_scopes = st.none() | st.builds(InstrumentationScope, _texts, _texts, st.none() | _texts, _attributes)
_resources = st.builds(Resource, st.dictionaries(_texts.filter(bool), _texts | _int64, max_size=3), st.none() | _texts)
_spans = st.builds(
    ReadableSpan,
    _texts,
    context=_contexts,
    parent=st.none() | _contexts,
    resource=_resources,
    attributes=_attributes,
    events=st.lists(_events, max_size=2),
    links=st.lists(_links, max_size=2),
    kind=st.sampled_from(SpanKind),
    status=_statuses,
    start_time=_times,
    end_time=_times,
    instrumentation_scope=_scopes,
)


def _without_our_additions(span: ProtoSpan) -> ProtoSpan:
    """The specification wants W3C flags and the links' trace state; the official encoder leaves them out."""
    span.flags &= ~0xFF
    span.status.SetInParent()
    for link in span.links:
        link.flags &= ~0xFF
        link.trace_state = ""
    return span


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_spans)
def test_the_official_encoder_says_the_same(span: ReadableSpan) -> None:
    """Any span means field by field what the official JSON encoder makes of it, read by protobuf's own parser."""
    official = json_format.Parse(msgspec.json.encode(encode_spans([span]).to_dict()), ExportTraceServiceRequest())
    ours = _request(span)
    theirs = official.resource_spans[0]
    mine = ours.resource_spans[0]
    assert mine.resource == theirs.resource
    assert mine.schema_url == theirs.schema_url
    assert mine.scope_spans[0].scope == theirs.scope_spans[0].scope
    assert mine.scope_spans[0].schema_url == theirs.scope_spans[0].schema_url
    expected = _without_our_additions(theirs.scope_spans[0].spans[0])
    # As text, because NaN differs from itself.
    assert str(_without_our_additions(mine.scope_spans[0].spans[0])) == str(expected)


def test_a_whole_span() -> None:
    """A span with everything becomes exactly this JSON."""
    remote = SpanContext(1, 2, is_remote=True, trace_flags=TraceFlags(1), trace_state=TraceState([("k", "v")]))
    span = _span(
        {"s": "x", "i": 1, "f": 1.5, "b": True, "l": ("x", 1), "one": ("x",), "long": "y" * 70},
        parent=remote,
        events=[Event("e", {"k": "v"}, 5)],
        links=[Link(remote, {"k": 1})],
        kind=SpanKind.CLIENT,
        status=Status(StatusCode.ERROR, "boom"),
        start_time=1,
        end_time=2,
    )
    assert _encoded(span) == {
        "traceId": "00000000000000000000000000000abc",
        "spanId": "0000000000000def",
        "parentSpanId": "0000000000000002",
        "flags": 0x301,
        "name": "a",
        "kind": 3,
        "startTimeUnixNano": "1",
        "endTimeUnixNano": "2",
        "attributes": [
            {"key": "s", "value": {"stringValue": "x"}},
            {"key": "i", "value": {"intValue": "1"}},
            {"key": "f", "value": {"doubleValue": 1.5}},
            {"key": "b", "value": {"boolValue": True}},
            {"key": "l", "value": {"arrayValue": {"values": [{"stringValue": "x"}, {"intValue": "1"}]}}},
            {"key": "one", "value": {"arrayValue": {"values": [{"stringValue": "x"}]}}},
            {"key": "long", "value": {"stringValue": "y" * 70}},
        ],
        "events": [{"timeUnixNano": "5", "name": "e", "attributes": [{"key": "k", "value": {"stringValue": "v"}}]}],
        "links": [
            {
                "traceId": "00000000000000000000000000000001",
                "spanId": "0000000000000002",
                "flags": 0x301,
                "traceState": "k=v",
                "attributes": [{"key": "k", "value": {"intValue": "1"}}],
            }
        ],
        "status": {"code": 2, "message": "boom"},
    }


def test_spans_of_one_scope_share_an_envelope() -> None:
    """Resource and scope are written once for all spans that share them."""
    first, second = InstrumentationScope("one"), InstrumentationScope("two", "1", "https://schema")
    resource = Resource({"service.name": "x"})
    spans = [_span(resource=resource, instrumentation_scope=scope) for scope in (first, second, first, None)]
    request = _request(*spans, _span(resource=Resource({"service.name": "y"}), instrumentation_scope=first))
    found = [
        [(scope.scope.name, len(scope.spans)) for scope in resource.scope_spans] for resource in request.resource_spans
    ]
    assert found == [[("one", 2), ("two", 1), ("", 1)], [("one", 1)]]
    assert request.resource_spans[0].scope_spans[1].schema_url == "https://schema"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (2**63, {"stringValue": str(2**63)}),
        (-(2**63), {"intValue": str(-(2**63))}),
        pytest.param(10**5000, {"stringValue": hex(10**5000)}, id="too-long-to-print"),
        (math.nan, {"doubleValue": "NaN"}),
        (-math.inf, {"doubleValue": "-Infinity"}),
        ([math.inf], {"arrayValue": {"values": [{"doubleValue": "Infinity"}]}}),
        ("a\ud800b", {"stringValue": "a\ufffdb"}),
        ("\ud83d\ude00" * 40, {"stringValue": "\U0001f600" * 40}),
        (b"\xff", {"bytesValue": base64.b64encode(b"\xff").decode()}),
        (None, {}),
        ("", {"stringValue": ""}),
        ([], {"arrayValue": {"values": []}}),
        ({}, {"kvlistValue": {"values": []}}),
        ({1: None}, {"kvlistValue": {"values": [{"key": "1", "value": {}}]}}),
        (StatusCode, None),
        (object(), None),
        ([object()], None),
    ],
)
def test_values_that_json_cannot_hold(value: object, expected: object) -> None:
    """Each odd value becomes the nearest thing that OTLP has, or is left out without touching the others."""
    found = _values({"before": 1, "odd": value, "after": "x"})
    assert found.get("odd") == expected
    assert found["before"] == {"intValue": "1"}
    assert found["after"] == {"stringValue": "x"}


def test_numbers_out_of_range() -> None:
    """A time or id that no collector can hold becomes the nearest that it can, and costs the batch nothing."""
    long_id = SpanContext(1 << 130 | 5, 1 << 64 | 6, is_remote=False)
    span = _span({}, events=[Event("e", None, -5)], links=[Link(long_id, {"k": 1})])
    span._start_time, span._end_time = -1, 2**64
    encoded = _encoded(span)
    assert (encoded["startTimeUnixNano"], encoded["endTimeUnixNano"]) == ("0", str(2**64 - 1))
    assert encoded["events"][0]["timeUnixNano"] == "0"
    assert (encoded["links"][0]["traceId"], encoded["links"][0]["spanId"]) == (f"{5:032x}", f"{6:016x}")
    assert _request(span)


def test_left_out_attributes_are_counted() -> None:
    """An attribute that OTLP cannot hold is counted as dropped, in spans, events and links."""
    bad = {"x": object(), "y": 1}
    encoded = _encoded(_span(bad, events=[Event("e", {"z": 1}, 1)], links=[Link(_CONTEXT, bad)]))
    assert encoded["droppedAttributesCount"] == 1
    assert "droppedAttributesCount" not in encoded["events"][0]
    # OTel's own Link cleans its attributes and counts what it dropped.
    assert encoded["links"][0]["droppedAttributesCount"] == 1


def test_nesting_is_bounded() -> None:
    """A value nested too deep, or holding itself, is left out, and the deepest one that is kept can be parsed."""

    def nest(depth: int) -> list[Any]:
        value: list[Any] = []
        for _ in range(depth):
            value = [value]
        return value

    circle: list[Any] = []
    circle.append(circle)
    found = _values({"deep": nest(MAX_DEPTH - 1), "deeper": nest(MAX_DEPTH + 1), "circle": circle})
    assert list(found) == ["deep"]
    assert _request(_span({"deep": nest(MAX_DEPTH - 1)}))


def test_keys_that_are_no_strings() -> None:
    """A key of another type is written as text, an equal string's encoding notwithstanding."""
    assert list(_values({1: "x", "\ud800": 1})) == ["1", "\ufffd"]


def test_subclasses_are_their_base() -> None:
    """Subclasses of str, int and float are encoded as what they are."""

    class Text(str):
        pass

    class Number(int):
        def __str__(self) -> str:
            return "nonsense"

    assert _values({"t": Text("x"), "n": Number(3)}) == {"t": {"stringValue": "x"}, "n": {"intValue": "3"}}


class Word(str, Enum):  # noqa: UP042 - the kind that people have
    STOP = "stop"


class Loud(str):
    def __str__(self) -> str:
        return "LOUD"


@pytest.mark.parametrize("word", [Word.STOP, Loud("quiet")], ids=["enumeration", "own text"])
def test_a_word_is_the_text_that_it_is(word: str) -> None:
    """Of a string's subclass the text itself counts, not what it shows: for the official encoder, too."""
    attributes = {"one": word, "many": [word, word], "deep": {word: [word]}}
    span = _span(attributes, name=word, resource=Resource({"env": word}), status=Status(StatusCode.ERROR, word))
    official = json_format.ParseDict(encode_spans([span]).to_dict(), ExportTraceServiceRequest())
    mine, theirs = _request(span).resource_spans[0], official.resource_spans[0]
    assert mine.resource == theirs.resource
    expected = _without_our_additions(theirs.scope_spans[0].spans[0])
    assert str(_without_our_additions(mine.scope_spans[0].spans[0])) == str(expected)


def test_a_span_without_ids_is_refused() -> None:
    """A span without a valid context raises, as no collector would take it."""
    with pytest.raises(ValueError, match="without ids"):
        Encoder().span(_span(context=None))
    with pytest.raises(ValueError, match="without ids"):
        Encoder().span(_span(context=SpanContext(0, 0, is_remote=False)))


def test_caches_stay_small() -> None:
    """Ever new keys, values, resources and scopes do not pile up in the encoder."""
    encoder = Encoder()
    for number in range(1000):
        span = _span({f"k{number}": "x", "key": f"v{number}"}, resource=Resource({"n": number}))
        assert f'"v{number}"'.encode() in encoder.span(span)
        assert str(number).encode() in encoder.group(span)[0]
    sizes = [len(cache) for cache in (encoder._prefixes, encoder._shorts, encoder._shorts["key"], encoder._groups)]
    assert max(sizes) <= 256


def test_long_keys_are_not_kept() -> None:
    """Keys can be somebody else's words, of any length: only short ones are kept for the next span."""
    encoder, values = Encoder(), ["short", "long" * 100, 7, 0.5, ("one",), None]
    tracemalloc.start()
    for number in range(100):
        key = f"{number}:".ljust(50_000, "k")
        assert key.encode() in encoder.span(_span({key: values[number % len(values)]}))
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 500_000
