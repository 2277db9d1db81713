"""Spans of other instrumentations: their conversation, and what is left of them where they cannot be redacted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import StatusCode

import genai_async as ga
from genai_async._conversation._content import Gate
from genai_async._conversation._faults import Faults
from genai_async._conversation._processor import RedactingProcessor
from genai_async._conversation._texts import FAILED

from .support import Traced

ID = "gen_ai.conversation.id"
OTHER_ID = "genai_async.conversation.other_id"


def _theirs(conversation_id: str, context: Context | None = None) -> None:
    trace.get_tracer("another").start_span("theirs", context, attributes={ID: conversation_id}).end()


def test_inside_a_conversation_its_id_wins(spans: Traced) -> None:
    """An instrumentation with an id of its own for each run does not tear the conversation; its id stays to be seen."""
    with ga.Session(session_id="ours") as session, session.start_turn():
        _theirs("a run of theirs")
        _theirs("ours")
    first, second = [span.attributes for span in spans.spans if span.name == "theirs"]
    assert (first[ID], first[OTHER_ID]) == ("ours", "a run of theirs")
    assert (second[ID], OTHER_ID in second) == ("ours", False)


def test_outside_of_any_conversation_theirs_stays(spans: Traced) -> None:
    """What another instrumentation says of its spans outside of our conversations is its own affair."""
    _theirs("theirs")
    with ga.Session(), ga.propagate("detach"):
        _theirs("theirs")
    with ga.Session(session_id="ours"):
        _theirs("theirs", Context())
    assert [(span.attributes[ID], OTHER_ID in span.attributes) for span in spans.spans] == [("theirs", False)] * 3


def test_a_span_with_too_many_attributes_stays_in_its_conversation(spans: Traced) -> None:
    """Where instrumentations write each message as attributes of its own the oldest go, the conversation's id stays."""
    many = {f"llm.messages.{number}": "x" for number in range(300)}
    tracer = trace.get_tracer("another")
    with ga.Session(session_id="ours") as session, session.start_turn():
        tracer.start_span("at the start", attributes=many).end()
        one_by_one, at_once = tracer.start_span("one by one"), tracer.start_span("at once")
        for key, value in many.items():
            one_by_one.set_attribute(key, value)
        at_once.set_attributes(many)
        one_by_one.end()
        at_once.end()
    for name in ("at the start", "one by one", "at once"):
        span = spans.one(name)
        assert span.attributes[ID] == "ours"
        assert (len(span.attributes), "llm.messages.299" in span.attributes) == (128, True)


class Locked(Mapping[str, Any]):
    """Attributes that cannot be read."""

    def __getitem__(self, key: str) -> Any:
        raise LookupError

    def __iter__(self) -> Any:
        raise LookupError

    def __len__(self) -> int:
        return 1


class Seen(SpanProcessor):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.spans.append(span)


def test_of_a_span_that_cannot_be_redacted_nothing_is_said() -> None:
    """Where reading a span of others fails, ids and times are left, and it is counted."""
    seen, faults = Seen(), Faults()
    processor = RedactingProcessor(seen, "ours", Gate(True, lambda text: text, faults=faults), faults)
    span = TracerProvider().get_tracer("another").start_span("s3cret", attributes={"s3cret": "s3cret"})
    span.add_event("s3cret")
    span.set_status(StatusCode.ERROR, "s3cret")
    span.end()
    assert isinstance(span, ReadableSpan)
    span._attributes = Locked()  # type: ignore[assignment]
    processor.on_end(span)
    (shown,) = seen.spans
    assert (shown.name, dict(shown.attributes or {}), shown.events, shown.links) == (FAILED, {}, (), ())
    assert (shown.status.status_code, shown.status.description) == (StatusCode.ERROR, None)
    assert (shown.get_span_context(), shown.start_time, shown.end_time) == (
        span.get_span_context(),
        span.start_time,
        span.end_time,
    )
    assert faults.counts() == {"what a span of others says": 1}


def test_what_backends_group_spans_of_others_by_stays() -> None:
    """A redactor that leaves nothing takes the texts of others, and not their models and tools."""
    seen, faults = Seen(), Faults()
    processor = RedactingProcessor(seen, "ours", Gate(True, lambda text: None, faults=faults), faults)
    words = {ID: "c", "gen_ai.request.model": "m", "gen_ai.response.finish_reasons": ("stop",)}
    span = TracerProvider().get_tracer("another").start_span("x", attributes={**words, "s3cret": "s3cret"})
    span.end()
    assert isinstance(span, ReadableSpan)
    processor.on_end(span)
    found = dict(seen.spans[0].attributes or {})
    assert {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()} == words
    assert seen.spans[0].name == "[redacted]"
