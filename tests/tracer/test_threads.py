from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor
from opentelemetry.trace import StatusCode

from genai_async._tracer import Provider

WORKERS = 4


class Reader(SpanProcessor):
    """Reads each span when it ends, all of it, and keeps how often it ended."""

    def __init__(self) -> None:
        self.ends: list[ReadableSpan] = []
        self.seen: list[Any] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.ends.append(span)
        attributes = dict((span.attributes or {}).items())
        self.seen.append((attributes, span.events, span.links, span.status, span.end_time))


@pytest.fixture(autouse=True)
def _threads_change_places_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def _at_once(*jobs: Callable[[], object]) -> None:
    """Run these at the same time; the first error comes out."""
    barrier = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        barrier.wait()
        job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        for done in [pool.submit(run, job) for job in jobs]:
            done.result()


def test_one_of_many_ends_counts(caplog: pytest.LogCaptureFixture) -> None:
    """However many threads end a span at once, `on_end` is called once and the others are told."""
    reader = Reader()
    provider = Provider()
    provider.add_span_processor(reader)
    made = provider.get_tracer("scope")
    rounds = 200
    for number in range(rounds):
        span = made.start_span(str(number))
        _at_once(*[span.end] * WORKERS)
    assert [span.name for span in reader.ends] == [str(number) for number in range(rounds)]
    assert len(caplog.records) == rounds * (WORKERS - 1)


def test_what_is_read_at_the_end_no_longer_changes() -> None:
    """Threads that write while another ends the span never disturb a reader, nor what it has read."""
    reader = Reader()
    provider = Provider(span_limits=SpanLimits(max_span_attributes=20, max_events=5))
    provider.add_span_processor(reader)
    made = provider.get_tracer("scope")

    def write(span: Any) -> None:
        number = 0
        while span.is_recording():
            number += 1
            span.set_attribute(f"key{number % 40}", number)
            span.set_attributes({f"key{number % 30}": number, "other": [number]})
            if number % 10 == 0:
                span.add_event("event", {"number": number})
                span.set_status(StatusCode.ERROR, "late")
        span.attributes  # noqa: B018

    def end(span: Any) -> None:
        while len(span.attributes) < 10:
            pass
        span.end()

    for _ in range(50):
        span: Any = made.start_span("span")
        _at_once(lambda span=span: write(span), lambda span=span: write(span), lambda span=span: end(span))
    assert len(reader.ends) == 50
    for span, (attributes, _events, _links, _status, end_time) in zip(reader.ends, reader.seen, strict=True):
        assert dict(span.attributes or {}) == attributes
        assert span.end_time == end_time


def test_an_attribute_that_is_set_again_is_never_gone() -> None:
    """Whoever ends or reads a span while another thread renews an attribute finds the old value or the new one."""
    reader = Reader()
    provider = Provider()
    provider.add_span_processor(reader)
    made = provider.get_tracer("scope")

    def write(span: Any) -> None:
        number = 0
        while span.is_recording():
            number += 1
            span.set_attribute("one", number)
            span.set_attributes({"two": number, "three": [number]})

    def read(span: Any) -> None:
        for _ in range(200):
            assert {"one", "two", "three"} == span.attributes.keys()
            assert "two" in span.attributes
        span.end()

    for _ in range(100):
        span: Any = made.start_span("span", attributes={"one": 0, "two": 0, "three": 0})
        _at_once(lambda span=span: write(span), lambda span=span: write(span), lambda span=span: read(span))
    assert [seen[0].keys() for seen in reader.seen] == [{"one", "two", "three"}] * 100


def test_ok_wins_over_every_other_thread() -> None:
    """Once a thread has set OK, an error that another sets at the same time does not replace it."""
    made = Provider().get_tracer("scope")
    for _ in range(200):
        span: Any = made.start_span("span")
        _at_once(
            lambda span=span: span.set_status(StatusCode.OK),
            lambda span=span: span.set_status(StatusCode.ERROR, "late"),
        )
        assert span.status.status_code is StatusCode.OK


def test_events_of_many_threads_are_all_there() -> None:
    """No event is lost or counted twice when threads add them at once."""
    span: Any = Provider(span_limits=SpanLimits(max_events=10)).get_tracer("scope").start_span("span")

    def add() -> None:
        for _ in range(200):
            span.add_event("event")

    _at_once(*[add] * WORKERS)
    assert len(span.events) == 10
    assert span.dropped_events == WORKERS * 200 - 10
