from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider, sampling
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState

from genai_async._tracer import Provider

from .conftest import Ended
from .programs import SAMPLERS, SequentialIds

STATE = TraceState([("vendor", "1")])


def within(flags: int, *, is_remote: bool = True) -> Context:
    parent = SpanContext(1, 2, is_remote, TraceFlags(flags), STATE)
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())


def start(name: str = "span", parent: Context | None = None, **options: Any) -> Any:
    return Provider(**options).get_tracer("scope").start_span(name, parent)


@pytest.mark.parametrize("is_remote", [True, False])
@pytest.mark.parametrize("sampler", [None, sampling.DEFAULT_ON, sampling.ParentBased(sampling.ALWAYS_ON)])
def test_by_default_a_child_is_sampled_as_its_parent(sampler: sampling.Sampler | None, is_remote: bool) -> None:
    """With the default sampler, under whatever name, an unsampled parent has unsampled children in its trace."""
    sampled = start(parent=within(1, is_remote=is_remote), sampler=sampler)
    unsampled = start(parent=within(2, is_remote=is_remote), sampler=sampler)
    assert sampled.is_recording()
    assert sampled.parent.span_id == 2
    assert not unsampled.is_recording()
    context = unsampled.get_span_context()
    assert (context.trace_id, context.trace_flags, context.trace_state) == (1, 2, STATE)
    assert context.span_id not in (0, 2)


def test_always_on_samples_under_an_unsampled_parent() -> None:
    """The sampler, not the parent, decides when it does not ask the parent; trace and trace state go on."""
    span = start(parent=within(0), sampler=sampling.ALWAYS_ON)
    assert (span.context.trace_id, span.context.trace_flags, span.context.trace_state) == (1, 1, STATE)


@pytest.mark.parametrize("parent", [Context(), within(0), within(1), within(2, is_remote=False), within(3)])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_unsampled_beyond_doubt_is_what_start_span_says(sampler: sampling.Sampler, parent: Context) -> None:
    """A span is promised to be unsampled only where `start_span` makes such a one, and is that one or what it is in."""
    tracer: Any = Provider(sampler=sampler).get_tracer("scope")
    found, started = tracer.unsampled(parent), tracer.start_span("span", parent, attributes={"a": 1})
    if found is None:
        assert started.is_recording() or tracer._asks_sampler
        return
    assert type(found) is type(started) is NonRecordingSpan
    mine, other = found.get_span_context(), started.get_span_context()
    assert (mine.trace_flags, mine.trace_state, mine.is_remote) == (other.trace_flags, other.trace_state, False)
    assert mine.is_valid
    assert mine.span_id != other.span_id
    around = trace.get_current_span(parent)
    assert (found is around) == (around.get_span_context() == mine)
    assert mine.trace_id == other.trace_id or not trace.get_current_span(parent).get_span_context().is_valid


def test_the_random_flag_tells_whether_the_trace_id_is_random() -> None:
    """A root has it from the generator, a child from its parent."""
    assert start().context.trace_flags == 3
    assert start(id_generator=SequentialIds(1, is_random=False)).context.trace_flags == 1
    assert start(id_generator=SequentialIds(1, is_random=True)).context.trace_flags == 3
    assert start(parent=within(1), id_generator=SequentialIds(1, is_random=True)).context.trace_flags == 1


def test_default_ids_are_those_of_the_sdk() -> None:
    """From the same seed come the same trace and span ids as with the SDK."""
    state = random.getstate()
    try:
        random.seed(1)
        theirs = TracerProvider(shutdown_on_exit=False).get_tracer("scope").start_span("span").get_span_context()
        random.seed(1)
        ours = start().context
    finally:
        random.setstate(state)
    assert ours == theirs


def test_a_sampler_adds_attributes_and_trace_state() -> None:
    """What the sampler answers is what the span starts with, its attributes instead of the caller's."""

    class Adds(sampling.Sampler):
        def should_sample(
            self,
            parent_context: Context | None,
            trace_id: int,
            name: str,
            kind: SpanKind | None = None,
            attributes: Any = None,
            links: Sequence[Link] | None = None,
            trace_state: TraceState | None = None,
        ) -> sampling.SamplingResult:
            asked.append((parent_context, trace_id, name, kind, attributes, links, trace_state))
            return sampling.SamplingResult(sampling.Decision.RECORD_ONLY, {"rule": 7}, STATE)

        def get_description(self) -> str:
            return "Adds"

    asked: list[Any] = []
    span: Any = (
        Provider(sampler=Adds()).get_tracer("scope").start_span("span", attributes={"a": 1}, kind=SpanKind.SERVER)
    )
    assert dict(span.attributes) == {"rule": 7}
    assert span.context.trace_state is STATE
    assert not span.context.trace_flags.sampled
    assert span.is_recording()
    assert asked == [(None, span.context.trace_id, "span", SpanKind.SERVER, {"a": 1}, (), None)]


def test_a_sampler_that_raises_costs_the_span_only(caplog: pytest.LogCaptureFixture) -> None:
    """The caller gets a span that does not record, in its parent's trace, and our log one line."""

    class Broken(sampling.Sampler):
        def should_sample(self, *args: Any, **kwargs: Any) -> sampling.SamplingResult:
            raise RuntimeError

        def get_description(self) -> str:
            return "Broken"

    span = start(parent=within(1), sampler=Broken())
    assert not span.is_recording()
    assert (span.get_span_context().trace_id, span.get_span_context().trace_flags) == (1, 0)
    assert "sampler failed" in caplog.text


def test_a_parent_that_is_no_span_context_is_refused() -> None:
    """A foreign span whose context is none raises TypeError, as with the SDK; one without any starts a root."""
    with pytest.raises(TypeError):
        start(parent=trace.set_span_in_context(NonRecordingSpan("nonsense"), Context()))  # type: ignore[arg-type]
    assert start(parent=trace.set_span_in_context(NonRecordingSpan(None), Context())).parent is None  # type: ignore[arg-type]


def test_start_as_current_span_makes_parents() -> None:
    """Inside the block the span is current; after it the one before is again, and the span has ended."""
    made = Provider().get_tracer("scope")
    with made.start_as_current_span("outer") as outer:
        with made.start_as_current_span("inner") as inner:
            assert trace.get_current_span() is inner
        assert trace.get_current_span() is outer
    assert inner.parent == outer.get_span_context()  # type: ignore[attr-defined]
    assert not outer.is_recording()
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_start_as_current_span_decorates(ended: Ended) -> None:
    """As a decorator it makes one span a call, over the whole run of a coroutine."""
    provider = Provider()
    provider.add_span_processor(ended)

    @provider.get_tracer("scope").start_as_current_span("work")
    async def work() -> bool:
        await asyncio.sleep(0)
        return trace.get_current_span().is_recording()

    assert [asyncio.run(work()), asyncio.run(work())] == [True, True]
    assert [span.name for span in ended.spans] == ["work", "work"]
