"""Sampling by conversation: all of one or nothing, the same in every process."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, DEFAULT_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext

import genai_async as ga

from .support import traced


def _kept(sampler: Any, ids: list[str]) -> set[str]:
    with traced(sampler=sampler) as spans:
        for conversation_id in ids:
            with ga.Session(session_id=conversation_id) as session:
                for _ in range(3):
                    with session.start_turn() as turn, turn.start_tool("t"):
                        trace.get_tracer("another").start_span("theirs").end()
                        own = {"gen_ai.conversation.id": f"run {len(spans.spans)}"}
                        trace.get_tracer("another").start_span("of a run", attributes=own).end()
        found: dict[str, int] = {}
        for span in spans.spans:
            key = span.attributes["gen_ai.conversation.id"]
            found[key] = found.get(key, 0) + 1
    assert set(found.values()) <= {12}  # whole conversations, other people's spans in them too
    return set(found)


def test_a_conversation_is_kept_as_a_whole_or_not_at_all() -> None:
    """About the ratio of conversations is kept, each with all its spans, and a higher ratio keeps them, too."""
    ids = [f"c-{number}" for number in range(400)]
    few, many = _kept(ga.ConversationSampler(0.2), ids), _kept(ga.ConversationSampler(0.6), ids)
    assert 50 < len(few) < 110
    assert 200 < len(many) < 280
    assert few < many
    assert _kept(ga.ConversationSampler(0.2), ids) == few


@pytest.mark.parametrize(("ratio", "share"), [(0, 0), (1, 20), (0.0, 0), (1.0, 20)])
def test_none_and_all(ratio: float, share: int) -> None:
    """At 0 nothing is kept, at 1 everything."""
    assert len(_kept(ga.ConversationSampler(ratio), [f"c-{number}" for number in range(20)])) == share


def test_every_process_decides_alike() -> None:
    """The decision hangs on the id and the ratio only, not on a process's hash seed."""
    program = (
        "import genai_async as ga; sampler = ga.ConversationSampler(0.5); "
        "key = 'gen_ai.conversation.id'; "
        "print([sampler.should_sample(None, 1, 'x', attributes={key: f'c-{n}'}).decision.name for n in range(50)])"
    )
    told = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    }
    assert len(told) == 1
    assert "DROP" in (decisions := told.pop())
    assert "RECORD_AND_SAMPLE" in decisions


def test_spans_outside_of_any_conversation() -> None:
    """They are decided on by the sampler that is given for them, and by trace id otherwise."""
    with traced(sampler=ga.ConversationSampler(1.0, outside=ALWAYS_OFF)) as spans:
        assert not trace.get_tracer("another").start_span("outside").is_recording()
        assert not spans.spans
    with traced(sampler=ga.ConversationSampler(1.0)):
        assert trace.get_tracer("another").start_span("outside").is_recording()


@pytest.mark.parametrize("ratio", [-0.1, 1.1, "0.5", True, None, float("nan")])
def test_a_ratio_that_is_none(ratio: Any) -> None:
    """What is no share between 0 and 1 is refused at once."""
    with pytest.raises(ga.ConfigurationError, match="ratio"):
        ga.ConversationSampler(ratio)


def test_it_says_what_it_is() -> None:
    """Name and ratio, as samplers do."""
    assert ga.ConversationSampler(0.25).get_description() == "ConversationSampler{0.25}"


class DropsTurns(Sampler):
    """Keeps all but turns, whatever is above."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def should_sample(self, *question: Any, **_: Any) -> SamplingResult:
        _, _, name, _, attributes, *_ = question
        self.asked.append(attributes["gen_ai.operation.name"])
        return SamplingResult(Decision.DROP if name.startswith("invoke_agent") else Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        return "DropsTurns"


@pytest.mark.parametrize(("sampler", "count"), [(ALWAYS_OFF, 0), (DEFAULT_ON, 0), (ALWAYS_ON, 3), (DropsTurns(), 2)])
def test_under_a_turn_that_is_not_sampled(sampler: Sampler, count: int) -> None:
    """Each sampler has its way with what is under an unsampled turn: ids go on, and what is kept has its attributes."""
    unsampled = trace.set_span_in_context(NonRecordingSpan(SpanContext(5, 6, False)), Context())
    with traced(sampler=sampler) as spans, ga.Session(session_id="c", continue_trace=True) as session:
        token = trace.context_api.attach(unsampled)
        with session.start_turn() as turn:
            with turn.start_llm("m", provider_name="p") as llm, llm.start_tool("t", arguments={"a": 1}) as tool:
                # Where nobody will see any of them, the turn's stands for those inside.
                assert len({turn.span_id, llm.span_id, tool.span_id}) == (3 if count else 1)
                assert turn.trace_id == llm.trace_id == tool.trace_id == f"{5:032x}"
                assert ga.current_turn() is turn
                tool.result = {"b": 2}
        trace.context_api.detach(token)
    assert len(spans.spans) == count
    assert spans.faults == {}
    if count:
        found = spans.last()
        assert found.name == "execute_tool t"
        assert (found.attributes["gen_ai.conversation.id"], found.parent_span_id) == ("c", llm.span_id)
        assert found.attributes["gen_ai.tool.call.result"] == '{"b":2}'


def _seen_in_a_program() -> list[Any]:
    """What code sees of itself in a program with every kind of block, some of which outlive what they stand in."""
    seen: list[Any] = []

    def look(*more: object) -> None:
        turn, llm, session = ga.current_turn(), ga.current_llm(), ga.current_session()
        span = trace.get_current_span()
        seen.append(
            (
                session and session.session_id,
                turn and turn.conversation_id,
                llm and llm.conversation_id,
                span.get_span_context().is_valid,
                *more,
            )
        )

    with ga.Session(session_id="outer") as outer, outer.start_turn() as around:
        session = ga.Session(session_id="inner")
        with session.start_turn() as turn, turn.start_llm("m", provider_name="p") as llm, llm.start_tool("t") as tool:
            look(llm.is_entered, tool.is_held, ga.current_llm() is llm)
            with ga.start_tool("inside") as inside, around.start_tool("elsewhere") as elsewhere:
                look(inside.conversation_id, elsewhere.conversation_id)
            turn.end()
            with ga.start_llm("m", provider_name="p") as late:
                look(late.conversation_id)
            llm.end()
            with ga.start_turn() as again:
                look(again.conversation_id)
        look(tool.is_ended)
    look()
    return seen


def test_what_is_current_does_not_depend_on_what_is_sampled() -> None:
    """A program sees the same of itself, whether anybody else will or not."""
    with traced(sampler=ALWAYS_ON) as kept:
        sampled = _seen_in_a_program()
    with traced(sampler=ALWAYS_OFF) as spans:
        assert _seen_in_a_program() == sampled
    assert sampled[0] == ("inner", "inner", "inner", True, True, True, True)
    assert (len(kept.spans), len(spans.spans)) == (8, 0)
    assert kept.faults == spans.faults == {}


def test_a_parent_that_cannot_tell_its_ids_harms_nobody() -> None:
    """Somebody else's span of no ids above an unsampled one: no error in the caller."""

    class Odd(trace.NonRecordingSpan):
        def get_span_context(self) -> Any:
            return "none"

    with traced(sampler=ALWAYS_OFF), ga.Session() as session, session.start_turn() as turn:
        with trace.use_span(Odd(trace.INVALID_SPAN_CONTEXT)):
            ga.start_tool("t").end()
        turn.start_tool("t").end()


def test_a_tracer_that_answers_to_every_name() -> None:
    """A proxy around somebody's tracer is asked to start spans, and nothing that it does not know."""
    memory = InMemorySpanExporter()
    own = TracerProvider(shutdown_on_exit=False)
    own.add_span_processor(SimpleSpanProcessor(memory))

    class Anything:
        def __init__(self, tracer: Any) -> None:
            self.start_span = tracer.start_span

        def __getattr__(self, name: str) -> Any:
            return lambda *_: name

    class Proxying(TracerProvider):
        def get_tracer(self, *args: Any, **options: Any) -> Any:
            return Anything(own.get_tracer(*args, **options))

    with traced(tracer_provider=Proxying(shutdown_on_exit=False)), ga.start_tool("t"):
        pass
    assert [span.name for span in memory.get_finished_spans()] == ["execute_tool t"]
