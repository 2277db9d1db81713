"""A finalizer may run in the middle of our code, so each test comes in at every place there is.

Between any two instructions, which is more than the interpreter does, or at every call and return, where it really
looks for finalizers, signals and other threads.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.trace import SpanContext, StatusCode

from genai_async._tracer import Provider

from .conftest import Ended

OTHER = SpanContext(1, 2, True)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Interruption:
    """Runs `action` once, at place number `at`."""

    def __init__(self, action: Callable[[], object], at: int) -> None:
        self._action = action
        self._left = at

    @property
    def is_over(self) -> bool:
        return self._left < 0

    def at_instruction(self, frame: FrameType, event: str, _arg: object) -> Any:
        """A trace function that counts instructions."""
        if self.is_over or not _is_ours(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self._passed()
        return self.at_instruction

    def at_call(self, _frame: FrameType, _event: str, _arg: object) -> None:
        """A profile function that counts calls and returns, the SDK's included."""
        if not self.is_over:
            self._passed()

    def _passed(self) -> None:
        self._left -= 1
        # Taking the function out from inside of it crashes the interpreter now and then: it just does nothing any more.
        if self.is_over:
            self._action()


def _is_ours(frame: FrameType) -> bool:
    return frame.f_globals["__name__"].startswith("genai_async._tracer")


def _run(call: Callable[[], object], interruption: Interruption, *, calls_only: bool) -> bool:
    def run() -> None:
        if calls_only:
            sys.setprofile(interruption.at_call)
        else:
            sys._getframe().f_trace_opcodes = True  # in Python 3.12 no frame is asked unless one has said so before
            sys.settrace(interruption.at_instruction)
        try:
            call()
        finally:
            sys.settrace(None)
            sys.setprofile(None)

    # In a thread of its own: coverage's trace function does not come back once it was replaced.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(run).result()
    return interruption.is_over


def everywhere(
    call: Callable[[Any], object], action: Callable[[Any], object], *, calls_only: bool = False, **options: Any
) -> Iterator[tuple[Any, Ended]]:
    """For each place in `call` on a span where `action` can come in: that span afterwards, and what has ended."""
    at = 0
    while True:
        ended = Ended()
        provider = Provider(**options)
        provider.add_span_processor(ended)
        span: Any = provider.get_tracer("scope").start_span("span")
        interruption = Interruption(lambda span=span: action(span), at)
        if not _run(lambda span=span: call(span), interruption, calls_only=calls_only):
            assert at > 5
            return
        yield span, ended
        at += 1


def test_an_end_within_an_end_ends_once() -> None:
    """Wherever a second `end` comes in, processors hear of one end, with one end time."""
    for span, ended in everywhere(lambda span: span.end(5), lambda span: span.end(6)):
        assert ended.spans == [span]
        assert span.end_time in (5, 6)
        assert not span.is_recording()


@pytest.mark.parametrize("maximum", [None, 1])
def test_an_event_within_an_event_keeps_both(maximum: int | None) -> None:
    """Wherever a second event or link comes in, both are there, or counted."""

    def write(name: str) -> Callable[[Any], None]:
        def both(span: Any) -> None:
            span.add_event(name, timestamp=1)
            span.add_link(OTHER, {"name": name})

        return both

    limits = SpanLimits(max_events=maximum, max_links=maximum)
    for span, _ in everywhere(write("outer"), write("inner"), calls_only=True, span_limits=limits):
        names = {event.name for event in span.events}, {link.attributes["name"] for link in span.links}
        if maximum is None:
            assert names == ({"inner", "outer"}, {"inner", "outer"})
        assert len(span.events) + span.dropped_events == 2
        assert len(span.links) + span.dropped_links == 2


def test_an_attribute_within_an_attribute_keeps_both() -> None:
    """Wherever another attribute comes in, both are there; of two values for one key, one is."""

    def write(span: Any) -> None:
        span.set_attribute("one", 1)
        span.set_attributes({"two": [2], "both": "outer"})

    def come_in(span: Any) -> None:
        span.set_attribute("three", 3)
        span.set_attribute("both", "inner")

    for span, _ in everywhere(write, come_in):
        assert set(span.attributes) == {"one", "two", "three", "both"}
        assert span.attributes["both"] in ("inner", "outer")
        assert span.dropped_attributes == 0


@pytest.mark.parametrize(
    "write",
    [
        lambda span: span.set_attribute("late", 1),
        lambda span: span.set_attributes({"late": [1]}),
        lambda span: span.set_attribute("late", [object()]),
    ],
)
def test_what_has_ended_keeps_its_attributes(write: Callable[[Any], object]) -> None:
    """Wherever the end comes into a writing call, what processors saw then is what the span holds for ever."""
    looks: list[dict[str, Any]] = []

    def end_and_look(span: Any) -> None:
        span.end()
        looks.append(dict(span.attributes))

    for span, ended in everywhere(write, end_and_look):
        assert ended.spans == [span]
        assert dict(span.attributes) == looks.pop()


def test_ok_within_an_error_stays() -> None:
    """Wherever an OK comes into the setting of an error, OK it is."""
    for span, _ in everywhere(
        lambda span: span.set_status(StatusCode.ERROR, "outer"),
        lambda span: span.set_status(StatusCode.OK),
        calls_only=True,
    ):
        assert span.status.status_code is StatusCode.OK
