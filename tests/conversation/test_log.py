"""Turns and sessions that are over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from itertools import repeat
from typing import Any

import pytest

import genai_async as ga
from genai_async._conversation._log import _Reader

from .support import Traced

T = 1_700_000_000_000_000_000
S = 1_000_000_000


def times(spans: Traced) -> dict[str, tuple[float, float]]:
    return {span.name: ((span.start_ns - T) / S, (span.end_ns - T) / S) for span in spans.spans}


def tree(spans: Traced) -> list[tuple[str, str | None]]:
    names = {span.span_id: span.name for span in spans.spans}
    return [(span.name, names.get(span.parent_span_id or "")) for span in spans.spans]


def test_a_turn_that_is_over(spans: Traced) -> None:
    """A turn is recorded with its times, its content and what was done in it."""
    result = ga.log_turn(
        "Where is it?",
        session_id="c-1",
        system_instructions="be kind",
        output_messages=["In Osaka."],
        agent_name="bot",
        model="m",
        agent_description="helps",
        attributes={"own": 1},
        start_time=T,
        end_time=T + 9 * S,
        spans=[
            ga.LoggedLLM(
                provider_name="openai",
                start_time=T + 1 * S,
                end_time=T + 4 * S,
                fields={"usage": ga.Usage(3, 4), "finish_reasons": ["stop"], "temperature": 0},
                spans=[
                    ga.LoggedTool(
                        name="track",
                        arguments={"id": 7},
                        result={"city": "Osaka"},
                        call_id="1",
                        start_time=T + 2 * S,
                        end_time=T + 3 * S,
                    )
                ],
            ),
            ga.LoggedSubAgent(
                name="scout",
                remote="agents.example",
                agent_id="x",
                start_time=T + 5 * S,
                end_time=T + 6 * S,
                fields={"output_messages": "done"},
            ),
        ],
    )
    root, chat, tool, scout = spans.spans
    assert result == ga.LogResult("c-1", (root.trace_id,), (root.span_id,), 4)
    assert tree(spans) == [
        ("invoke_agent bot", None),
        ("chat m", "invoke_agent bot"),
        ("execute_tool track", "chat m"),
        ("invoke_agent scout", "invoke_agent bot"),
    ]
    assert times(spans) == {
        "invoke_agent bot": (0, 9),
        "chat m": (1, 4),
        "execute_tool track": (2, 3),
        "invoke_agent scout": (5, 6),
    }
    assert root.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": "c-1",
        "gen_ai.agent.name": "bot",
        "gen_ai.agent.description": "helps",
        "gen_ai.request.model": "m",
        "gen_ai.system_instructions": '[{"type":"text","content":"be kind"}]',
        "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"Where is it?"}]}]',
        "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"In Osaka."}]}]',
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
        "gen_ai.response.finish_reasons": ["stop"],
        "own": 1,
    }
    assert chat.attributes["gen_ai.request.temperature"] == 0.0
    assert tool.attributes["gen_ai.tool.call.result"] == '{"city":"Osaka"}'
    assert (scout.kind, scout.attributes["gen_ai.agent.id"]) == ("CLIENT", "x")
    assert spans.faults == {}


def test_times_come_from_what_is_known(spans: Traced) -> None:
    """Without times a record has those of what is under it, else those of what it is in; datetimes mix with ints."""
    ga.log_turn(
        agent_name="bot",
        spans=[
            ga.LoggedTool(
                name="outer",
                spans=[
                    ga.LoggedTool(name="first", start_time=T + 2 * S, end_time=T + 3 * S),
                    ga.LoggedTool(name="last", start_time=datetime.fromtimestamp(T // S + 4, UTC), end_time=T + 5 * S),
                    ga.LoggedTool(name="timeless"),
                ],
            ),
            ga.LoggedLLM(provider_name="p", model="m", start_time=T, end_time=T + 1 * S),
        ],
    )
    assert times(spans) == {
        "invoke_agent bot": (0, 5),
        "execute_tool outer": (2, 5),
        "execute_tool first": (2, 3),
        "execute_tool last": (4, 5),
        "execute_tool timeless": (2, 5),
        "chat m": (0, 1),
    }


def test_times_are_looked_at_once(spans: Traced) -> None:
    """However deep they stand in records that have none."""

    class Zone(tzinfo):
        looks = 0

        def utcoffset(self, dt: datetime | None) -> timedelta:
            Zone.looks += 1
            return timedelta(0)

        def dst(self, dt: datetime | None) -> timedelta:
            return timedelta(0)

    when = datetime(2024, 1, 1, tzinfo=Zone())
    inner: list[Any] = [ga.LoggedTool(name="t", start_time=when, end_time=when) for _ in range(100)]
    for _ in range(100):
        inner = [ga.LoggedSubAgent(name="a", spans=inner)]
    assert ga.log_turn("x", spans=inner).span_count == 201
    assert Zone.looks < 2_000
    assert {(span.start_ns, span.end_ns) for span in spans.spans} == {(1_704_067_200 * S, 1_704_067_200 * S)}


def test_errors_of_records(spans: Traced) -> None:
    """What a record failed with is on its span, as an exception or a word."""
    inside = [ga.LoggedTool(name="t", error="lost"), ga.LoggedLLM(provider_name="p", error=ValueError("bad"))]
    ga.log_turn("x", error=TimeoutError(), spans=inside)
    assert [span.attributes["error.type"] for span in spans.spans] == ["timeout", "lost", "ValueError"]
    assert {span.status for span in spans.spans} == {"ERROR"}
    assert spans.spans[2].status_message == "bad"


def test_a_session_that_is_over(spans: Traced) -> None:
    """A session's turns have traces of their own and its id; its agent and attributes count for each."""
    result = ga.log_session(
        [ga.LoggedTurn(user_message="a"), ga.LoggedTurn(user_message="b", agent_name="other", model="m2")],
        session_id="c-1",
        agent_name="bot",
        model="m",
        agent_description="d",
        attributes={"tenant": "t"},
    )
    assert [span.name for span in spans.spans] == ["invoke_agent bot", "invoke_agent other"]
    assert result.trace_ids == tuple(span.trace_id for span in spans.spans)
    assert result.root_span_ids == tuple(span.span_id for span in spans.spans)
    assert (result.session_id, result.span_count, len(set(result.trace_ids))) == ("c-1", 2, 2)
    assert {span.attributes["tenant"] for span in spans.spans} == {"t"}


def test_records_from_generators(spans: Traced) -> None:
    """Whatever holds the records is read once."""
    turns = (ga.LoggedTurn(spans=(ga.LoggedTool(name=f"{n}") for n in range(2))) for _ in range(2))
    assert ga.log_session(turns).span_count == 6
    assert len(spans.spans) == 6


def test_a_model_call_in_a_model_call(spans: Traced) -> None:
    """A model call that was put under another one is its agent's."""
    inner = ga.LoggedLLM(provider_name="p", model="inner")
    ga.log_turn(agent_name="bot", spans=[ga.LoggedLLM(provider_name="p", model="outer", spans=[inner])])
    assert ("chat inner", "invoke_agent bot") in tree(spans)


@pytest.mark.parametrize("capture", [True, False, None])
def test_capture_of_records(spans: Traced, capture: bool | None) -> None:
    """Content of records goes through the same gate."""
    ga.log_turn("secret", capture_content=capture, spans=[ga.LoggedTool(name="t", arguments="secret", error="e")])
    assert ("secret" in repr(spans.spans)) is (capture is not False)


def test_nesting_in_what_is_current(spans: Traced) -> None:
    """With `continue_trace` a logged turn is under the span that is current, else linked to it."""
    tracer = spans.tracing.provider.get_tracer("web")
    with tracer.start_as_current_span("import"):
        ga.log_turn("x", agent_name="in", continue_trace=True)
        ga.log_turn("x", agent_name="beside")
    assert tree(spans) == [("import", None), ("invoke_agent in", "import"), ("invoke_agent beside", None)]
    assert len(spans.last().links) == 1


def test_unknown_fields_of_records_are_counted(spans: Traced) -> None:
    """A field that does not exist is dropped and counted; the span is not."""
    result = ga.log_turn("x", spans=[ga.LoggedLLM(provider_name="p", model="m", fields={"tempo": 1, "self": 2, 3: 4})])
    assert result.span_count == len(spans.spans) == 2
    assert spans.faults == {"LLM: an unknown field": 3}


@pytest.mark.parametrize("depth", [100, 5000])
def test_records_in_records(spans: Traced, depth: int) -> None:
    """Records may stand deep in each other, and what is deeper than anybody means is dropped and counted."""
    tool = ga.LoggedTool(name="t")
    for _ in range(depth):
        tool = ga.LoggedTool(name="t", spans=[tool])
    result = ga.log_turn("x", spans=[tool])
    assert result.span_count == len(spans.spans) == min(depth + 2, 128)
    assert spans.faults == ({} if depth == 100 else {"logged spans": 1})
    assert not spans.open


def test_a_record_that_holds_itself(spans: Traced) -> None:
    """A tree without an end has one here, also where it doubles at each step."""
    inside: list[Any] = []
    inside += [ga.LoggedTool(name="t", spans=inside)]
    assert ga.log_turn("x", spans=inside).span_count == 128
    inside += [ga.LoggedTool(name="u", spans=inside)]
    reader = _Reader()
    assert reader.tree(inside[0]).under
    assert reader.only(ga.LoggedTool, repeat(inside[0])) == []
    assert len(_Reader().only(ga.LoggedTool, repeat(inside[0]))) == 100_000


def test_nothing_is_recorded_without_a_set_up() -> None:
    """Without a set-up the result tells the session's id, and of no spans."""
    assert ga.log_turn("x", session_id="s") == ga.LogResult("s", (), (), 0)
