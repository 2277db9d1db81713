from __future__ import annotations

from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import NonRecordingSpan, NoOpTracerProvider, SpanContext

from genai_async._tracer import Delegate, Provider

from .conftest import Ended


def test_without_a_target_spans_do_nothing_and_keep_the_parent() -> None:
    """Nothing is recorded, but the trace of a caller far away goes on."""
    made = Delegate().get_tracer("scope")
    assert made.start_span("span") is trace.INVALID_SPAN
    remote = SpanContext(1, 2, True)
    parent = trace.set_span_in_context(NonRecordingSpan(remote), Context())
    span = made.start_span("span", parent)
    assert span.get_span_context() == remote
    assert not span.is_recording()


def test_a_tracer_follows_the_target() -> None:
    """One tracer serves one set-up after another, and none in between."""
    delegate = Delegate()
    made = delegate.get_tracer("scope", "1", "https://example.org", {"a": "b"})
    kept: list[Ended] = []
    for provider in (Provider(), TracerProvider(shutdown_on_exit=False)):
        kept.append(Ended())
        provider.add_span_processor(kept[-1])
        delegate.target = provider
        made.start_span("first", attributes={"a": 1}, start_time=5).end()
        made.start_span("second").end()
        delegate.target = None
        made.start_span("nobody").end()
    for ended in kept:
        assert [span.name for span in ended.spans] == ["first", "second"]
        assert (dict(ended.spans[0].attributes or {}), ended.spans[0].start_time) == ({"a": 1}, 5)
        scope: Any = ended.spans[0].instrumentation_scope
        assert (scope.name, scope.version, scope.schema_url, dict(scope.attributes)) == (
            "scope",
            "1",
            "https://example.org",
            {"a": "b"},
        )


def test_a_decorator_made_before_the_target_follows_it(ended: Ended) -> None:
    """A function decorated at import is traced once something is set up."""
    delegate = Delegate()

    @delegate.get_tracer("scope").start_as_current_span("work")
    def work() -> bool:
        return trace.get_current_span().is_recording()

    assert work() is False
    provider = Provider()
    provider.add_span_processor(ended)
    delegate.target = provider
    assert work() is True
    assert [span.name for span in ended.spans] == ["work"]


def test_the_rest_goes_to_the_target(ended: Ended) -> None:
    """Processors, flush, shutdown and resource are the target's."""
    delegate = Delegate()
    resource = Resource({"service.name": "mine"})
    delegate.target = Provider(resource=resource)
    delegate.add_span_processor(ended)
    delegate.get_tracer("scope").start_span("span").end()
    assert len(ended.spans) == 1
    assert delegate.resource is resource
    assert delegate.force_flush(100) is True
    delegate.shutdown()


@pytest.mark.parametrize("target", [None, NoOpTracerProvider()])
def test_without_anybody_to_ask_it_answers_itself(
    target: trace.TracerProvider | None, ended: Ended, caplog: pytest.LogCaptureFixture
) -> None:
    """With no target, or one that is the API's only, a processor is logged and ignored and the rest is empty."""
    delegate = Delegate()
    delegate.target = target
    delegate.add_span_processor(ended)
    assert "is ignored" in caplog.text
    assert delegate.force_flush()
    assert dict(delegate.resource.attributes) == {}
    delegate.shutdown()
