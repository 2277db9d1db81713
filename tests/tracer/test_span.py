from __future__ import annotations

import copy
import gc
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode, TraceFlags, TraceState
from tests.pace import paces

from genai_async._tracer import Provider

from .conftest import Ended

REMOTE = SpanContext(1, 2, True, TraceFlags(1), TraceState([("vendor", "1")]))


class Unspeakable:
    """A value whose text cannot be had."""

    def __str__(self) -> str:
        raise LookupError("no text")


class SilentError(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")


def tracer(*processors: SpanProcessor, **options: Any) -> trace.Tracer:
    provider = Provider(resource=Resource({"service.name": "test"}), **options)
    for processor in processors:
        provider.add_span_processor(processor)
    return provider.get_tracer("scope")


def start(*, start_time: int | None = None, **options: Any) -> Any:
    return tracer(**options).start_span("span", start_time=start_time)


def test_no_span_ends_before_it_began(caplog: pytest.LogCaptureFixture) -> None:
    """Where the clock has been set back meanwhile, a span has no duration rather than a negative one, and that is told.

    Times that were given stay as they are.
    """
    ahead = time.time_ns() + 10**12
    for _ in range(2):
        span = start(start_time=ahead)
        span.end()
        assert (span.start_time, span.end_time) == (ahead, ahead)
    assert caplog.text.count("before it began") == 1
    span = start(start_time=7)
    span.end(5)
    assert (span.start_time, span.end_time) == (7, 5)


def test_a_span_is_of_the_kinds_that_other_libraries_ask_for() -> None:
    """It is an API span, an SDK span and a readable span, from a tracer and provider of the SDK's kind."""
    provider = Provider()
    made = provider.get_tracer("scope")
    span = made.start_span("span")
    assert isinstance(span, trace.Span)
    assert isinstance(span, sdk.Span)
    assert isinstance(span, ReadableSpan)
    assert isinstance(made, sdk.Tracer)
    assert isinstance(provider, sdk.TracerProvider)


def test_an_ended_span_takes_no_change_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    """Each writing call on an ended span leaves it as it was and warns."""
    span = start()
    span.end(7)
    before = span.to_json(), span.attributes
    calls = [
        lambda: span.set_attribute("a", 1),
        lambda: span.set_attributes({"a": 1}),
        lambda: span.add_event("late"),
        lambda: span.add_link(REMOTE),
        lambda: span.update_name("late"),
        lambda: span.set_status(StatusCode.ERROR),
        lambda: span.record_exception(ValueError()),
        lambda: span.end(8),
    ]
    for number, call in enumerate(calls, 1):
        call()
        assert len(caplog.records) == number
        assert caplog.records[-1].name == "genai_async"
        assert "ended span" in caplog.records[-1].message
    assert (span.to_json(), span.attributes) == before
    assert span.end_time == 7
    assert not span.is_recording()


def test_starting_again_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """`start` on a span, which has always been started, only warns."""
    span = start()
    began = span.start_time
    span.start(1)
    assert span.start_time == began
    assert "started span" in caplog.text


def test_ok_is_final_and_unset_is_ignored() -> None:
    """A status goes from unset to error to OK and never back."""
    span = start()
    span.set_status(StatusCode.ERROR, "first")
    span.set_status(StatusCode.UNSET)
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "first")
    span.set_status(StatusCode.OK)
    span.set_status(Status(StatusCode.ERROR, "late"))
    assert span.status.status_code is StatusCode.OK


def test_a_description_belongs_to_an_error_only(caplog: pytest.LogCaptureFixture) -> None:
    """A description with OK, or beside a whole Status, is dropped with a warning."""
    span = start()
    span.set_status(Status(StatusCode.ERROR, "own"), "beside")
    assert span.status.description == "own"
    assert "beside" in caplog.text
    span.set_status(StatusCode.OK, "dropped")
    assert span.status.description is None


def test_attributes_are_copied_when_they_are_set() -> None:
    """What a caller does to a list or mapping later does not reach the span."""
    items, nested, given = ["a"], {"b": [1]}, {"c": "d"}
    span = tracer().start_span("span", attributes=given)
    span.set_attribute("items", items)
    span.set_attributes({"nested": nested})
    items.append("x")
    nested["b"].append(2)
    given["c"] = "x"
    assert dict(span.attributes) == {"c": "d", "items": ("a",), "nested": {"b": (1,)}}


def test_attributes_cannot_be_changed_through_the_property() -> None:
    """`attributes` is a read-only view of what is set so far."""
    span = start()
    span.set_attribute("a", 1)
    seen = span.attributes
    span.set_attribute("b", 2)
    assert dict(seen) == {"a": 1, "b": 2}
    with pytest.raises(TypeError):
        seen["c"] = 3


def test_a_key_that_is_set_again_moves_to_the_end() -> None:
    """The order of attributes is that of their last setting, which decides what a limit drops."""
    span = start(span_limits=SpanLimits(max_span_attributes=2))
    span.set_attribute("a", 1)
    span.set_attribute("b", 2)
    span.set_attribute("a", 3)
    span.set_attribute("c", 4)
    assert list(span.attributes.items()) == [("a", 3), ("c", 4)]
    assert span.dropped_attributes == 1


def test_text_is_cut_to_the_length_limit() -> None:
    """Long texts are cut, in lists too; other values are not."""
    span = start(span_limits=SpanLimits(max_attribute_length=2))
    span.set_attribute("a", "12345")
    span.set_attributes({"b": ["123", "1"], "c": 12345, "d": "12", "e": b"12345"})
    assert dict(span.attributes) == {"a": "12", "b": ("12", "1"), "c": 12345, "d": "12", "e": b"12345"}


def test_limits_of_events_and_links() -> None:
    """The newest events and links are kept, their own attributes are limited, and the rest is counted."""
    limits = SpanLimits(max_events=1, max_links=1, max_event_attributes=1, max_link_attributes=1)
    many = {"a": 1, "b": 2}
    span: Any = tracer(span_limits=limits).start_span("span", links=[Link(REMOTE, many), Link(REMOTE)])
    span.add_link(REMOTE, many)
    span.add_event("first")
    span.add_event("second", many)
    assert [event.name for event in span.events] == ["second"]
    assert [dict(link.attributes) for link in span.links] == [{"b": 2}]
    assert (span.dropped_events, span.dropped_links) == (1, 2)
    assert (span.events[0].dropped_attributes, span.links[0].dropped_attributes) == (1, 1)


def test_a_link_object_may_be_used_for_several_spans() -> None:
    """The caller's link is left as it is, so each span counts what it dropped itself."""
    link = Link(REMOTE, {"a": 1, "b": 2})
    made = tracer(span_limits=SpanLimits(max_link_attributes=1))
    first: Any = made.start_span("first", links=[link])
    second: Any = made.start_span("second", links=[link])
    assert link.attributes == {"a": 1, "b": 2}
    assert first.links[0].dropped_attributes == second.links[0].dropped_attributes == 1


def test_a_link_that_says_nothing_is_left_out() -> None:
    """A link to no valid span stays only for its attributes or trace state."""
    span = start()
    span.add_link(trace.INVALID_SPAN_CONTEXT)
    span.add_link(trace.INVALID_SPAN_CONTEXT, {"a": 1})
    span.add_link(SpanContext(0, 0, False, None, TraceState([("a", "b")])))
    assert len(span.links) == 2


def test_an_exception_is_an_event() -> None:
    """`record_exception` adds type, message, stack trace and whether it escaped; the caller's attributes win."""
    span = start()
    try:
        raise LookupError("gone")
    except LookupError as exc:
        span.record_exception(exc, {"exception.message": "mine"}, timestamp=5)
    (event,) = span.events
    assert (event.name, event.timestamp) == ("exception", 5)
    assert event.attributes["exception.type"] == "LookupError"
    assert event.attributes["exception.message"] == "mine"
    assert event.attributes["exception.escaped"] == "False"
    assert 'raise LookupError("gone")' in event.attributes["exception.stacktrace"]


def test_an_exception_that_leaves_the_block_is_recorded_and_makes_an_error() -> None:
    """`with span` ends the span with the exception as escaped event and as status, and lets it through."""
    span = start()
    with pytest.raises(ValueError, match="boom"), span:
        raise ValueError("boom")
    assert span.events[0].attributes["exception.escaped"] == "True"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "ValueError: boom")
    assert not span.is_recording()


def test_recording_of_exceptions_can_be_turned_off() -> None:
    """`record_exception` and `set_status_on_exception` at the start are honoured when a block is left."""
    span: Any = tracer().start_span("span", record_exception=False, set_status_on_exception=False)
    with pytest.raises(ValueError), span:
        raise ValueError("boom")
    assert span.events == ()
    assert span.status.status_code is StatusCode.UNSET


def test_a_bad_value_costs_itself_only(caplog: pytest.LogCaptureFixture) -> None:
    """A value whose text cannot be had is dropped, counted and logged once; its neighbours stay."""
    span: Any = tracer().start_span("span", attributes={"a": Unspeakable(), "b": 1})
    span.set_attribute("c", Unspeakable())
    span.set_attributes({"d": [Unspeakable()], "e": 2})
    assert dict(span.attributes) == {"b": 1, "e": 2}
    assert span.dropped_attributes == 3
    assert len([record for record in caplog.records if record.name == "genai_async"]) == 1


def test_dropping_many_attributes_takes_no_longer_for_each() -> None:
    """The oldest of any number of attributes go in one step."""
    many = {f"key {number}": number for number in range(100_000)}
    assert paces(lambda: tracer().start_span("span", attributes=many)) < 200
    span: Any = tracer().start_span("span", attributes=many)
    assert (list(span.attributes), span.dropped_attributes) == (list(many)[-128:], 100_000 - 128)


def test_attributes_that_are_no_mapping_are_dropped() -> None:
    """Garbage in the place of attributes neither raises nor stops the call."""
    garbage: Any = 5
    span: Any = tracer().start_span("span", attributes=garbage)
    span.set_attributes(garbage)
    span.set_attributes(None)
    span.add_event("event", garbage)
    span.add_event("event", {"a": Unspeakable(), "b": 1})
    assert dict(span.attributes) == {}
    assert span.dropped_attributes == 3
    assert [dict(event.attributes) for event in span.events] == [{}, {"b": 1}]
    assert [event.dropped_attributes for event in span.events] == [1, 1]


def test_an_exception_without_text_is_survived() -> None:
    """An exception whose text cannot be had neither hides itself nor keeps the span open."""
    span = start()
    with pytest.raises(SilentError), span:
        raise SilentError
    assert span.status.description == "SilentError"
    assert not span.is_recording()


def test_a_processor_that_raises_harms_nobody(ended: Ended, caplog: pytest.LogCaptureFixture) -> None:
    """Other processors and the caller never see another processor's error; it is logged once for each hook."""

    class Broken(SpanProcessor):
        def on_start(self, span: sdk.Span, parent_context: context.Context | None = None) -> None:
            raise RuntimeError

        def _on_ending(self, span: sdk.Span) -> None:
            raise RuntimeError

        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError

    made = tracer(Broken(), ended)
    made.start_span("first").end()
    made.start_span("second").end()
    assert [span.name for span in ended.spans] == ["first", "second"]
    assert len(caplog.records) == 3


def test_processors_see_a_span_in_order() -> None:
    """Start, ending and end reach every processor in the order of adding; at the end the span takes no change."""
    seen: list[str] = []

    class Seen(SpanProcessor):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_start(self, span: sdk.Span, parent_context: context.Context | None = None) -> None:
            seen.append(f"{self.name} start {span.is_recording()} {parent_context is given}")

        def _on_ending(self, span: sdk.Span) -> None:
            seen.append(f"{self.name} ending {span.is_recording()} {span.end_time}")

        def on_end(self, span: ReadableSpan) -> None:
            seen.append(f"{self.name} end {span.end_time}")

    given = context.Context()
    tracer(Seen("a"), Seen("b")).start_span("span", given).end(3)
    assert seen == [
        "a start True True",
        "b start True True",
        "a ending False 3",
        "b ending False 3",
        "a end 3",
        "b end 3",
    ]


def test_a_processor_without_the_ending_hook_works() -> None:
    """A processor that only looks like one, without the young `_on_ending`, is fine."""

    class Plain:
        ended = 0

        def on_start(self, span: sdk.Span, parent_context: context.Context | None = None) -> None:
            pass

        def on_end(self, span: ReadableSpan) -> None:
            self.ended += 1

    plain: Any = Plain()
    tracer(plain).start_span("span").end()
    assert plain.ended == 1


def test_the_sdks_exporters_take_the_span() -> None:
    """A span of ours goes through the SDK's processor and exporter and keeps what it was, copied deeply too."""
    exporter = InMemorySpanExporter()
    made = tracer(SimpleSpanProcessor(exporter), span_limits=SpanLimits(max_span_attributes=1, max_events=1))
    with made.start_as_current_span("span", attributes={"a": 1, "b": 2}) as span:
        span.add_event("one")
        span.add_event("two")
    (seen,) = exporter.get_finished_spans()
    copied = copy.deepcopy(seen)
    assert copied.to_json() == seen.to_json()
    assert (copied.dropped_attributes, copied.dropped_events) == (1, 1)
    assert json.loads(seen.to_json(indent=None))["attributes"] == {"b": 2}
    assert "span" in repr(seen)


def test_the_old_name_of_the_scope_still_answers() -> None:
    """`instrumentation_info` is deprecated and there."""
    span = start()
    with pytest.warns(DeprecationWarning, match="instrumentation_scope"):
        info = span.instrumentation_info
    assert info.name == "scope"


def _no_events(span: Any) -> None:
    span._events = [event for event in span.events if event.name != "secret"]


def _as_tuples(span: Any) -> None:
    span._events, span._links = tuple(span.events)[1:], ()


def _into_the_dict(span: Any) -> None:
    span._attributes._dict["secret"] = "***"


def _past_the_guard(span: Any) -> None:
    span._attributes._immutable = False
    span._attributes["secret"] = "***"
    del span._attributes["more"]


def _more_events(span: Any) -> None:
    span._events.append(sdk.Event("added", {"dropped": span._attributes.dropped}, 5))
    span._links.append(Link(REMOTE))


def _on_an_event(span: Any) -> None:
    span._events[0]._attributes._immutable = False
    span._events[0]._attributes["tenant"] = span.name


def _other_scope(span: Any) -> None:
    span._instrumentation_scope = InstrumentationScope(f"not {span._instrumentation_scope.name}")


_RECIPES: dict[str, Callable[[Any], None]] = {
    "other attributes": lambda span: setattr(span, "_attributes", {"redacted": True}),
    "bounded attributes": lambda span: setattr(span, "_attributes", BoundedAttributes(1, {"a": 1, "redacted": True})),
    "no attributes": lambda span: setattr(span, "_attributes", None),
    "an attribute": lambda span: span._attributes._dict.update(secret=span._attributes["secret"][:1]),
    "the dict": _into_the_dict,
    "the guard": _past_the_guard,
    "other events": _no_events,
    "tuples": _as_tuples,
    "no more events": lambda span: span._events._dq.clear(),
    "more events": _more_events,
    "an event's attributes": _on_an_event,
    "the scope": _other_scope,
    "the name": lambda span: setattr(span, "_name", "masked"),
}


@pytest.mark.parametrize("recipe", _RECIPES.values(), ids=_RECIPES)
def test_recipes_for_the_sdks_spans_work(recipe: Callable[[Any], None]) -> None:
    """What processors do behind the public properties, to mask or to add, does the same here and touches no other."""

    class Masking(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            if span.name == "span":
                recipe(span)

    def seen(provider: sdk.TracerProvider) -> list[Any]:
        after = Ended()
        provider.add_span_processor(Masking())
        provider.add_span_processor(after)
        made = provider.get_tracer("scope")
        for name in ("span", "other"):
            span = made.start_span(name, attributes={"first": 0, "secret": "x", "more": 1, "most": 2}, start_time=1)
            span.add_event("secret", timestamp=2)
            span.add_event("event", timestamp=3)
            span.end(4)
        made.start_span("bare", start_time=1).end(4)
        return [
            (
                dict(span.attributes or {}),
                [(event.name, dict(event.attributes or {})) for event in span.events],
                [link.context for link in span.links],
                (span.dropped_attributes, span.dropped_events, span.dropped_links),
                span.instrumentation_scope and span.instrumentation_scope.name,
                {**json.loads(span.to_json()), "context": None, "attributes": None},
            )
            for span in after.spans
        ]

    limits, resource = SpanLimits(max_span_attributes=3, max_events=5), Resource({"service.name": "test"})
    ours = seen(Provider(span_limits=limits, resource=resource))
    assert ours == seen(sdk.TracerProvider(span_limits=limits, resource=resource, shutdown_on_exit=False))
    assert len(ours) == 3


def test_an_events_attributes_are_its_own() -> None:
    """What is done to the attributes of one event or link shows on no other."""
    first, second = start(), start()
    for span in (first, second):
        span.add_event("event")
        span.add_link(REMOTE)
    for kept in (first.events[0].attributes, first.links[0].attributes):
        kept._immutable = False
        kept["tenant"] = "a"
    assert dict(second.events[0].attributes) == dict(second.links[0].attributes) == {}


def test_a_view_that_was_taken_at_the_start_masks_at_the_end() -> None:
    """Who keeps `_attributes` from the start writes into what is exported."""

    class Masking(SpanProcessor):
        def on_start(self, span: sdk.Span, parent_context: context.Context | None = None) -> None:
            self.held: Any = span._attributes

        def on_end(self, span: ReadableSpan) -> None:
            self.held._dict["secret"] = "***"

    after = Ended()
    tracer(Masking(), after).start_span("span", attributes={"secret": "x"}).end()
    assert dict(after.spans[0].attributes or {}) == {"secret": "***"}


def test_a_loop_over_an_open_spans_attributes_goes_on() -> None:
    """Processors that mask set attributes while they look at them."""

    class Masking(SpanProcessor):
        def on_start(self, span: sdk.Span, parent_context: context.Context | None = None) -> None:
            for key, value in (span.attributes or {}).items():
                span.set_attribute(key, str(value)[:0] + "***")
                span.set_attribute(f"{key}.masked", True)

    many = {f"key{number}": "secret" for number in range(20)}
    span: Any = tracer(Masking()).start_span("span", attributes=many)
    attributes = span.attributes
    assert {attributes[key] for key in many} == {"***"}
    assert len(attributes) == 40
    span.set_attribute("late", 1)
    assert attributes["late"] == 1


def test_processors_can_be_taken_out() -> None:
    """As there is no public way, programs replace the SDK's tuple of processors."""
    first, second = Ended(), Ended()
    provider = Provider()
    provider.add_span_processor(first)
    provider.add_span_processor(second)
    provider._active_span_processor._span_processors = (second,)
    provider.get_tracer("scope").start_span("span").end()
    assert (len(first.spans), len(second.spans)) == (0, 1)


def test_suppression_is_left_to_instrumentations(ended: Ended) -> None:
    """Like the SDK's, our tracer starts spans while instrumentation is suppressed, as it is inside an export."""
    made = tracer(ended)

    class Exporter(InMemorySpanExporter):
        def export(self, spans: Any) -> Any:
            made.start_span("inside").end()
            return super().export(spans)

    tracer(SimpleSpanProcessor(Exporter())).start_span("span").end()
    assert [span.name for span in ended.spans] == ["inside"]


def test_a_finalizer_may_write_to_a_span_in_the_middle_of_a_call() -> None:
    """Spans survive the garbage collector running code that writes to the same span and ends others, at any point."""

    class Cycle:
        def __init__(self) -> None:
            self.itself = self

        def __del__(self) -> None:
            span.add_event("finalizer")
            span.set_attribute("finalizer", True)
            span.set_status(StatusCode.ERROR, "finalizer")
            made.start_span("other").end()

    made = tracer(span_limits=SpanLimits(max_events=10**6))
    span: Any = made.start_span("span")
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(300):
            Cycle()
            span.add_event("call", {"number": number})
            span.add_link(REMOTE, {"number": number})
            span.set_attribute("key", [number])
    finally:
        gc.set_threshold(*threshold)
    gc.collect()
    assert len([event for event in span.events if event.name == "call"]) == 300
    assert len([event for event in span.events if event.name == "finalizer"]) == 300
    assert len(span.links) + span.dropped_links == 300


def test_messages_that_repeat_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A limit that bites a thousand times is one line in our log."""
    span = start(span_limits=SpanLimits(max_span_attributes=1))
    for number in range(10):
        span.set_attribute(f"key{number}", 1)
        span.set_attribute("", 1)
    assert len(caplog.records) == 2
    assert span.dropped_attributes == 19
