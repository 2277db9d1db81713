from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from typing import Any

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanProcessor,
    _default_tracer_configurator,
    _disable_tracer_configurator,
    sampling,
)
from opentelemetry.sdk.trace import Tracer as SDKTracer
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NoOpTracer, use_span

from genai_async._tracer import Provider

from .conftest import Ended
from .programs import SequentialIds


class Closing(SpanProcessor):
    """Counts how often it was closed and gives this answer to a flush."""

    def __init__(self, *, flushes: bool = True) -> None:
        self.closed = 0
        self.flushes = flushes

    def shutdown(self) -> None:
        self.closed += 1

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self.flushes


def test_what_is_given_is_what_is_used() -> None:
    """Resource, sampler and id generator can be read back, and spans carry them."""
    resource, ids = Resource({"service.name": "mine"}), SequentialIds(5, is_random=True)
    provider = Provider(resource=resource, sampler=sampling.ALWAYS_ON, id_generator=ids)
    assert (provider.resource, provider.sampler, provider.id_generator) == (resource, sampling.ALWAYS_ON, ids)
    made: Any = provider.get_tracer("scope")
    span = made.start_span("span")
    assert span.resource is resource
    assert (made.resource, made.sampler, made.id_generator) == (resource, sampling.ALWAYS_ON, ids)
    assert span.context.trace_id == 5


def test_the_scope_is_on_the_span() -> None:
    """Name, version, schema and attributes of a scope come with each of its spans; missing ones are empty."""
    provider = Provider()
    span: Any = provider.get_tracer("name", "1", "https://example.org", {"a": "b"}).start_span("span")
    assert span.instrumentation_scope == InstrumentationScope("name", "1", "https://example.org", {"a": "b"})
    bare: Any = provider.get_tracer("").start_span("span")
    assert bare.instrumentation_scope == InstrumentationScope("", "", None, None)


def test_the_same_scope_has_the_same_tracer() -> None:
    """Asking twice makes one tracer; another version makes another."""
    provider = Provider()
    assert provider.get_tracer("name", "1") is provider.get_tracer("name", "1")
    assert provider.get_tracer("name", "1") is not provider.get_tracer("name", "2")


def test_a_processor_that_comes_late_sees_the_rest(ended: Ended) -> None:
    """A processor added while a span is open gets its end."""
    provider = Provider()
    span = provider.get_tracer("scope").start_span("span")
    provider.add_span_processor(ended)
    span.end()
    assert ended.spans == [span]


def test_shutdown_and_flush_reach_every_processor() -> None:
    """Both go to all processors; one flush that fails is the answer."""
    provider = Provider()
    first, second = Closing(), Closing(flushes=False)
    provider.add_span_processor(first)
    assert provider.force_flush(1000)
    provider.add_span_processor(second)
    assert not provider.force_flush(1000)
    provider.shutdown()
    assert (first.closed, second.closed) == (1, 1)


def test_nothing_is_left_for_interpreter_exit() -> None:
    """A provider registers no exit hook: it is closed by whoever made it."""
    before = atexit._ncallbacks()
    Provider()
    assert atexit._ncallbacks() == before


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "1", {"b": "12345"}),
        ("OTEL_ATTRIBUTE_COUNT_LIMIT", "0", {}),
        ("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "2", {"a": 1, "b": "12"}),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3", {"a": 1, "b": "123"}),
    ],
)
def test_limits_of_attributes_from_the_environment(
    variable: str, value: str, expected: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Count and length limits of the environment hold for what is set at the start and later."""
    monkeypatch.setenv(variable, value)
    made = Provider().get_tracer("scope")
    given: Any = made.start_span("span", attributes={"a": 1, "b": "12345"})
    later: Any = made.start_span("span")
    later.set_attribute("a", 1)
    later.set_attribute("b", "12345")
    assert dict(given.attributes) == dict(later.attributes) == expected


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("OTEL_SPAN_EVENT_COUNT_LIMIT", (1, 2, {"a": 1, "b": 2}, {"a": 1, "b": 2})),
        ("OTEL_SPAN_LINK_COUNT_LIMIT", (2, 1, {"a": 1, "b": 2}, {"a": 1, "b": 2})),
        ("OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", (2, 2, {"b": 2}, {"a": 1, "b": 2})),
        ("OTEL_LINK_ATTRIBUTE_COUNT_LIMIT", (2, 2, {"a": 1, "b": 2}, {"b": 2})),
    ],
)
def test_limits_of_events_and_links_from_the_environment(
    variable: str, expected: tuple[Any, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events, links and their attributes are limited by the environment."""
    monkeypatch.setenv(variable, "1")
    span: Any = Provider().get_tracer("scope").start_span("span")
    for _ in range(2):
        span.add_event("event", {"a": 1, "b": 2})
        span.add_link(span.context, {"a": 1, "b": 2})
    event, link = dict(span.events[-1].attributes), dict(span.links[-1].attributes)
    assert (len(span.events), len(span.links), event, link) == expected


def test_a_limit_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unusable limit raises where the provider is made."""
    monkeypatch.setenv("OTEL_SPAN_EVENT_COUNT_LIMIT", "many")
    with pytest.raises(ValueError, match="OTEL_SPAN_EVENT_COUNT_LIMIT"):
        Provider()


@pytest.mark.parametrize(("name", "is_recording"), [("always_off", False), ("always_on", True), ("", True)])
def test_the_sampler_comes_from_the_environment(name: str, is_recording: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_TRACES_SAMPLER` decides when no sampler is given."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", name or "parentbased_always_on")
    assert Provider().get_tracer("scope").start_span("span").is_recording() is is_recording


def test_a_disabled_sdk_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `OTEL_SDK_DISABLED=true` tracers are the API's that do nothing."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    made = Provider().get_tracer("scope")
    assert isinstance(made, NoOpTracer)
    assert not made.start_span("span").is_recording()


def test_the_sdks_metrics_about_itself_keep_counting(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who turns on the SDK's internal metrics gets the tracer that feeds them, with our processors."""
    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    provider = Provider()
    provider.add_span_processor(ended)
    made = provider.get_tracer("scope")
    assert type(made) is SDKTracer
    span = made.start_span("span")
    assert isinstance(span, Span)
    span.end()
    assert [span.name for span in ended.spans] == ["span"]


def test_the_sdks_own_spans_are_safe_from_processors_too(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the SDK's metrics on, a processor that raises in a hook, or has not got it, still harms nobody."""

    class Broken(SpanProcessor):
        def _on_ending(self, span: Span) -> None:
            raise RuntimeError

    class Plain:
        def on_start(self, span: Span, parent_context: Context | None = None) -> None: ...

        def on_end(self, span: ReadableSpan) -> None: ...

    monkeypatch.setenv("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true")
    provider = Provider()
    plain: Any = Plain()
    for processor in (Broken(), plain, ended):
        provider.add_span_processor(processor)
    provider.get_tracer("scope").start_span("span").end()
    assert [span.name for span in ended.spans] == ["span"]


def test_a_scope_can_be_switched_off(ended: Ended) -> None:
    """The SDK's configurator of tracers counts for those that are there and those that come."""
    provider = Provider()
    provider.add_span_processor(ended)
    made = provider.get_tracer("noisy")
    parent = made.start_span("parent")
    provider._set_tracer_configurator(tracer_configurator=_disable_tracer_configurator)
    for each in (made, provider.get_tracer("other")):
        with use_span(parent):
            span = each.start_span("span")
        assert not span.is_recording()
        assert span.get_span_context() == parent.get_span_context()
        assert not each.start_span("root").get_span_context().is_valid
    provider._set_tracer_configurator(tracer_configurator=_default_tracer_configurator)
    assert made.start_span("span").is_recording()


def test_another_sampler_may_be_given_to_a_tracer() -> None:
    """A tracer's sampler is asked, also where it was replaced."""
    made: Any = Provider().get_tracer("scope")
    assert made.start_span("span").is_recording()
    made.sampler = ALWAYS_OFF
    assert not made.start_span("span").is_recording()


def _in_child(check: Callable[[], bool]) -> bool:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if check() else 1)
    return os.waitpid(pid, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_resource_of_its_own() -> None:
    """Spans of a child process carry the child's resource, through tracers made before the fork too."""
    provider = Provider()
    made: Any = provider.get_tracer("scope")
    before: Any = provider.resource.attributes["service.instance.id"]

    def check() -> bool:
        span = made.start_span("span")
        span.add_event("event")
        return (
            span.resource is provider.resource is made.resource
            and span.resource.attributes["service.instance.id"] != before
        )

    assert _in_child(check)
