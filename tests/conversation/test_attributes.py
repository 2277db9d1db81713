"""Whole spans against plain values: names, kinds, attributes, status, as the conventions have them."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes
from tests.pace import paces

import genai_async as ga

from .support import Traced, attributes_of, traced

OPTIONS: dict[str, Any] = {
    "max_tokens": 100,
    "temperature": 0,
    "top_p": 0.5,
    "stop_sequences": ["a", "b"],
    "frequency_penalty": 0.0,
    "presence_penalty": -1,
    "choice_count": 2,
    "seed": -7,
    "output_type": "json",
}
RECORDED_OPTIONS = {
    "gen_ai.request.max_tokens": 100,
    "gen_ai.request.temperature": 0.0,
    "gen_ai.request.top_p": 0.5,
    "gen_ai.request.stop_sequences": ["a", "b"],
    "gen_ai.request.frequency_penalty": 0.0,
    "gen_ai.request.presence_penalty": -1.0,
    "gen_ai.request.choice.count": 2,
    "gen_ai.request.seed": -7,
    "gen_ai.output.type": "json",
}
FORBIDDEN = (
    "gen_ai.system",
    "gen_ai.prompt",
    "gen_ai.completion",
    "gen_ai.usage.prompt_tokens",
    "gen_ai.usage.completion_tokens",
    "gen_ai.usage.cache_creation.input_tokens",
    "gen_ai.usage.total_tokens",
    "gen_ai.token.type",
    "session.id",
    "user.id",
)


def shape(span: Any) -> tuple[str, str, str, str]:
    return span.name, span.kind, span.status, span.status_message


def test_a_turn(spans: Traced) -> None:
    """A turn is an INTERNAL `invoke_agent` span, the root of its trace, with the agent's attributes and no more."""
    session = ga.Session(
        session_id="c-1",
        agent_name="bot",
        model="gpt-4o",
        agent_id="a-1",
        agent_description="helps",
        agent_version="1",
        attributes={"tenant": "t"},
    )
    with session, session.start_turn("hi", system_instructions="be kind", agent_id="a-2", attributes={"n": 0}) as turn:
        turn.record(output_messages="so", usage=ga.Usage(0, 5, 1, 1, 1), finish_reasons=["stop"], **OPTIONS)
    span = spans.last()
    assert shape(span) == ("invoke_agent bot", "INTERNAL", "UNSET", "")
    assert (span.parent_span_id, span.links, span.events, span.scope) == (None, (), (), "genai_async")
    assert span.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": "c-1",
        "gen_ai.agent.name": "bot",
        "gen_ai.agent.description": "helps",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
        "gen_ai.output.messages": '[{"role":"assistant","parts":[{"type":"text","content":"so"}]}]',
        "gen_ai.system_instructions": '[{"type":"text","content":"be kind"}]',
        "gen_ai.usage.input_tokens": 0,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ["stop"],
        "tenant": "t",
        "n": 0,
        **RECORDED_OPTIONS,
    }


@pytest.mark.parametrize("wrong", ["443", "", -1, True, 443.0])
def test_a_port_is_a_number(spans: Traced, turn: ga.Turn, wrong: Any) -> None:
    """What is no port is dropped and counted, at the start as later."""
    turn.start_llm("m", provider_name="p", server_address="h", server_port=wrong).record(server_port=wrong).end()
    assert "server.port" not in spans.last().attributes
    assert spans.faults == {"server.port": 1, "LLM.server_port": 1}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (date(2026, 1, 2), "2026-01-02"),
        (Path("/a"), "/a"),
        ({"when": [date(2026, 1, 2)], 3: {4}}, {"when": ["2026-01-02"], "3": [4]}),
        ({(1, 2): Path("/a")}, {"(1, 2)": "/a"}),
        (deque([1, "x"]), [1, "x"]),
        (b"ab", b"ab"),
        ([b"ab", None, 1.5], [b"ab", None, 1.5]),
        (range(3), [0, 1, 2]),
        ({"a": (1, 2)}, {"a": [1, 2]}),
    ],
)
def test_own_attributes_of_other_types(
    spans: Traced, turn: ga.Turn, caplog: pytest.LogCaptureFixture, given: Any, expected: Any
) -> None:
    """What an attribute cannot hold becomes what a tool's arguments would, without a word from the provider."""
    turn.start_tool("t", attributes={"a": given}).set_attributes({"b": given}).end()
    found = spans.last().attributes
    assert (found["a"], found["b"]) == (expected, expected)
    assert (caplog.records, spans.faults) == ([], {})


def test_an_object_as_an_attribute_becomes_text(spans: Traced, turn: ga.Turn) -> None:
    """An object that says nothing of itself is still seen to have been there."""
    turn.start_tool("t", attributes={"a": object(), "b": {"c": object()}}).end()
    found = spans.last().attributes
    assert found["a"].startswith("<object object at")
    assert found["b"]["c"].startswith("<object object at")


def test_a_range_is_not_written_out(spans: Traced, turn: ga.Turn) -> None:
    """Of what is a sequence only by counting the beginning is kept, as of a list, wherever it stands."""
    long = range(10**12)
    tool = turn.start_tool("t", arguments={"n": long})
    took = paces(lambda: tool.set_attributes({"a": long, "b": {"c": long}}))
    tool.end()
    found = spans.last().attributes
    assert found["a"] == found["b"]["c"] == [*range(4000), "[1000000000000 items, truncated]"]
    assert json.loads(found["gen_ai.tool.call.arguments"])["n"][3999:] == [3999, "[1000000000000 items, truncated]"]
    assert took < 20


def test_a_turn_that_knows_nothing(spans: Traced) -> None:
    """What was not given is absent, and a span without an agent's name has the operation's alone."""
    ga.Session(session_id="c-1").start_turn().end()
    span = spans.last()
    assert shape(span) == ("invoke_agent", "INTERNAL", "UNSET", "")
    assert span.attributes == {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "c-1"}


def test_a_model_call(spans: Traced, turn: ga.Turn) -> None:
    """A model call is a CLIENT `chat` span with all of the request's and the response's attributes."""
    llm = turn.start_llm(
        "gpt-4o-mini",
        provider_name="openai",
        input_messages="hi",
        server_address="api.openai.com",
        server_port=443,
        top_k=0,
        stream=True,
        reasoning_level="low",
        previous_response_id="r-0",
        prompt_name="greeting",
        prompt_version="3",
        compacted=True,
        attributes={"own": [1, 2]},
        **OPTIONS,
    )
    llm.record(
        usage=ga.Usage(input_tokens=12, output_tokens=0, cache_read_tokens=0),
        response_id="r-1",
        response_model="gpt-4o-mini-2024",
        finish_reasons=("stop",),
        time_to_first_chunk=0.25,
    ).end()
    span = spans.last()
    assert shape(span) == ("chat gpt-4o-mini", "CLIENT", "UNSET", "")
    assert span.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.conversation.id": "c-1",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.input.messages": '[{"role":"user","parts":[{"type":"text","content":"hi"}]}]',
        "gen_ai.request.top_k": 0,
        "gen_ai.request.stream": True,
        "gen_ai.request.reasoning.level": "low",
        "gen_ai.request.previous_response.id": "r-0",
        "gen_ai.prompt.name": "greeting",
        "gen_ai.prompt.version": "3",
        "gen_ai.conversation.compacted": True,
        "gen_ai.response.id": "r-1",
        "gen_ai.response.model": "gpt-4o-mini-2024",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 0,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "server.address": "api.openai.com",
        "server.port": 443,
        "own": [1, 2],
        **RECORDED_OPTIONS,
    }


def test_types_of_numbers(spans: Traced, turn: ga.Turn) -> None:
    """Doubles of the conventions are doubles and integers are integers, whatever was given."""
    turn.start_llm("m", provider_name="p", temperature=1, top_p=1, top_k=5, max_tokens=7).end()
    found = spans.last().attributes
    assert type(found["gen_ai.request.temperature"]) is float
    assert type(found["gen_ai.request.top_p"]) is float
    assert type(found["gen_ai.request.top_k"]) is int
    turn.start_llm("m", provider_name="p", top_k=5.0, max_tokens="7").end()  # type: ignore[arg-type]
    assert not {"gen_ai.request.top_k", "gen_ai.request.max_tokens"} & spans.last().attributes.keys()


def test_what_the_conventions_leave_out(spans: Traced, turn: ga.Turn) -> None:
    """Flags that are off and the usual number of choices are not recorded."""
    turn.start_llm("m", provider_name="p", stream=False, compacted=False, choice_count=1).end()
    assert attributes_of(spans.last()) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "p",
        "gen_ai.request.model": "m",
    }


def test_a_port_needs_an_address(spans: Traced, turn: ga.Turn) -> None:
    """A server's port is recorded only along with its address."""
    turn.start_llm("m", provider_name="p", server_port=443).end()
    assert "server.port" not in spans.last().attributes


@pytest.mark.parametrize("operation", ["generate_content", "text_completion"])
def test_other_operations(spans: Traced, turn: ga.Turn, operation: str) -> None:
    """A model call may be of another operation, which is the first word of its name."""
    turn.start_llm("m", provider_name="p", operation=operation).end()
    assert spans.last().name == f"{operation} m"
    assert spans.last().attributes["gen_ai.operation.name"] == operation


def test_a_tool_run(spans: Traced, turn: ga.Turn) -> None:
    """A tool run is an INTERNAL `execute_tool` span that names its agent."""
    with turn.start_tool(
        "track", arguments={"id": 7}, call_id="call_1", tool_type="function", description="finds parcels"
    ) as tool:
        tool.result = {"city": "Osaka"}
        assert tool.result == {"city": "Osaka"}
    span = spans.last()
    assert shape(span) == ("execute_tool track", "INTERNAL", "UNSET", "")
    assert span.attributes == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.conversation.id": "c-1",
        "gen_ai.tool.name": "track",
        "gen_ai.tool.type": "function",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.tool.description": "finds parcels",
        "gen_ai.agent.name": "bot",
        "gen_ai.tool.call.arguments": '{"id":7}',
        "gen_ai.tool.call.result": '{"city":"Osaka"}',
    }


@pytest.mark.parametrize("value", [0, "", False, []])
def test_an_empty_result_is_a_result(spans: Traced, turn: ga.Turn, value: Any) -> None:
    """Nothing, zero and the empty text are results of a tool; without one there is no attribute."""
    with turn.start_tool("t") as tool:
        tool.result = value
    with turn.start_tool("t") as again:
        again.record(result=value)
    with turn.start_tool("t") as none:
        assert none.result is None
    tools = spans.spans
    assert [span.attributes.get("gen_ai.tool.call.result") for span in tools] == [
        tools[0].attributes["gen_ai.tool.call.result"],
        tools[0].attributes["gen_ai.tool.call.result"],
        None,
    ]


def test_none_is_a_result_only_where_it_is_set(spans: Traced, turn: ga.Turn) -> None:
    """`tool.result = None` says that the tool returned None; passed to `record` it says nothing, as in any field."""
    with turn.start_tool("t") as tool:
        tool.result = None
    assert spans.last().attributes["gen_ai.tool.call.result"] == "null"
    with turn.start_tool("t") as tool:
        tool.result = 5
        tool.record(call_id="c", result=None)
    assert spans.last().attributes["gen_ai.tool.call.result"] == "5"


def test_an_agent_in_the_same_process(spans: Traced, turn: ga.Turn) -> None:
    """A sub-agent is a nested INTERNAL span without id, version, provider, server and partial counts."""
    agent = turn.start_subagent("scout", model="m", agent_id="x", agent_version="2", agent_description="looks")
    agent.record(usage=ga.Usage(1, 2, 3, 4, 5), **OPTIONS)
    agent.record(provider_name="p", server_address="h", agent_id="x", previous_response_id="r")
    agent.end()
    span = spans.last()
    assert shape(span) == ("invoke_agent scout", "INTERNAL", "UNSET", "")
    assert (span.parent_span_id, agent.is_remote) == (turn.span_id, False)
    assert attributes_of(span) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "scout",
        "gen_ai.agent.description": "looks",
        "gen_ai.request.model": "m",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 2,
        **RECORDED_OPTIONS,
    }


@pytest.mark.parametrize(
    ("remote", "server"),
    [
        (True, {}),
        ("agents.example", {"server.address": "agents.example"}),
        ("agents.example:8443", {"server.address": "agents.example", "server.port": 8443}),
        ("https://agents.example/a", {"server.address": "agents.example", "server.port": 443}),
        ("http://[::1]:80/a", {"server.address": "::1", "server.port": 80}),
        (
            {"provider_name": "openai", "server_address": "h", "server_port": 1},
            {"gen_ai.provider.name": "openai", "server.address": "h", "server.port": 1},
        ),
    ],
)
def test_an_agent_of_a_service(spans: Traced, turn: ga.Turn, remote: Any, server: dict[str, Any]) -> None:
    """A remote agent is of kind CLIENT and says who it is, where it is and all of its counts."""
    agent = turn.start_subagent("scout", agent_id="x", agent_version="2", remote=remote)
    agent.record(usage=ga.Usage(1, 2, 3, 4, 5), previous_response_id="r")
    agent.end()
    span = spans.last()
    assert shape(span) == ("invoke_agent scout", "CLIENT", "UNSET", "")
    assert agent.is_remote
    assert attributes_of(span) == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "scout",
        "gen_ai.agent.id": "x",
        "gen_ai.agent.version": "2",
        "gen_ai.request.previous_response.id": "r",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 2,
        "gen_ai.usage.reasoning.output_tokens": 3,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_write.input_tokens": 5,
        **server,
    }


def test_a_remote_that_is_none(spans: Traced, turn: ga.Turn) -> None:
    """`remote=False` is an agent in this process, whose own model and port rules hold."""
    agent = turn.start_subagent("scout", remote=False)
    agent.end()
    assert (spans.last().kind, agent.is_remote) == ("INTERNAL", False)


def test_an_agents_counts_are_its_own_calls(spans: Traced, session: ga.Session) -> None:
    """A turn's usage is that of its own model calls, those under its tools too; a sub-agent keeps its own."""
    with session.start_turn() as turn:
        turn.start_llm("m", provider_name="p").record(usage=ga.Usage(1, 0), finish_reasons=["tool_call"]).end()
        with turn.start_tool("t") as tool:
            tool.start_llm("m", provider_name="p").record(usage=ga.Usage(10)).end()
            with tool.start_subagent("in tool") as deep:
                deep.start_llm("m", provider_name="p").record(usage=ga.Usage(1000, 1000)).end()
        with turn.start_subagent("scout") as agent:
            agent.start_llm("m", provider_name="p").record(usage=ga.Usage(100, 7), finish_reasons=["length"]).end()
        turn.start_llm("m", provider_name="p").record(finish_reasons=["stop"]).end()
        turn.start_llm("m", provider_name="p").end()
    root, scout, inside = (spans.one(f"invoke_agent {name}").attributes for name in ("bot", "scout", "in tool"))
    assert (root["gen_ai.usage.input_tokens"], root["gen_ai.usage.output_tokens"]) == (11, 0)
    assert root["gen_ai.response.finish_reasons"] == ["stop"]
    assert (scout["gen_ai.usage.input_tokens"], scout["gen_ai.usage.output_tokens"]) == (100, 7)
    assert scout["gen_ai.response.finish_reasons"] == ["length"]
    assert inside["gen_ai.usage.input_tokens"] == 1000
    assert not any("cache" in key or "reasoning" in key for key in root)


def test_what_is_recorded_on_a_turn_wins(spans: Traced, session: ga.Session) -> None:
    """Usage and finish reasons that were recorded, also as zero, stand before those of the model calls."""
    with session.start_turn() as turn:
        turn.start_llm("m", provider_name="p").record(usage=ga.Usage(5, 6), finish_reasons=["length"]).end()
        turn.record(usage=ga.Usage(input_tokens=0), finish_reasons=["stop"])
    found = spans.spans[0].attributes
    assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (0, 6)
    assert found["gen_ai.response.finish_reasons"] == ["stop"]


def test_a_turn_without_counts_has_none(spans: Traced, session: ga.Session) -> None:
    """Nothing is made up where no model call told its usage."""
    with session.start_turn() as turn:
        turn.start_llm("m", provider_name="p").end()
    assert not any("usage" in key or "finish" in key for key in spans.spans[0].attributes)


def test_record_replaces_only_what_is_passed(spans: Traced, turn: ga.Turn) -> None:
    """Each field keeps its last value; None is no value, zero and the empty text are."""
    llm = turn.start_llm("m", provider_name="p", temperature=0.5, seed=3)
    llm.record(response_id="r", usage=ga.Usage(1, 2)).record(response_id=None, temperature=0, usage=None)
    llm.record(response_model="", seed=0).end()
    assert attributes_of(spans.last()) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "p",
        "gen_ai.request.model": "m",
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.seed": 0,
        "gen_ai.response.id": "r",
        "gen_ai.response.model": "",
        "gen_ai.usage.input_tokens": 1,
        "gen_ai.usage.output_tokens": 2,
    }


def test_the_model_comes_from_the_nearest_that_names_one(spans: Traced, session: ga.Session) -> None:
    """A model call without a model has that of its agent, else that of the session."""
    turn = session.start_turn(model="of the turn")
    for parent in (
        turn,
        turn.start_tool("t"),
        turn.start_subagent("a", model="of the agent"),
        turn.start_subagent("b"),
    ):
        parent.start_llm(provider_name="p").end()
    session.start_turn().start_llm(provider_name="p").end()
    models = [span.name for span in spans.spans if span.kind == "CLIENT"]
    assert models == ["chat of the turn", "chat of the turn", "chat of the agent", "chat gpt-4o", "chat gpt-4o"]


def test_a_turn_may_be_another_agents(spans: Traced, session: ga.Session) -> None:
    """A turn's own name, model and description stand before the session's; empty ones take them away."""
    session.start_turn(agent_name="other", model="m2", agent_description="d").end()
    assert spans.last().name == "invoke_agent other"
    session.start_turn(agent_name="", model="").end()
    assert spans.last().attributes == {"gen_ai.operation.name": "invoke_agent", "gen_ai.conversation.id": "c-1"}


class CustomError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "message", "events"),
    [
        (ValueError("bad"), "ValueError", "bad", 1),
        (ValueError(), "ValueError", "", 1),
        (CustomError("x"), f"{__name__}.CustomError", "x", 1),
        (TimeoutError("late"), "timeout", "late", 1),
        (GeneratorExit(), "abandoned", "", 0),
        (KeyboardInterrupt(), "KeyboardInterrupt", "", 1),
        (ExceptionGroup("g", [ValueError("bad")]), "ValueError", "bad", 1),
        (ExceptionGroup("g", [ValueError(), KeyError()]), "ExceptionGroup", "g (2 sub-exceptions)", 1),
        ("rate_limited", "rate_limited", "", 0),
        ("", "_OTHER", "", 0),
        ("the model is overloaded", "_OTHER", "the model is overloaded", 0),
        ("x" * 101, "_OTHER", "x" * 101, 0),
    ],
)
def test_errors(spans: Traced, turn: ga.Turn, error: Any, kind: str, message: str, events: int) -> None:
    """A failed span has status ERROR, `error.type` and the message as description; an exception is one event."""
    turn.end(error=error)
    span = spans.last()
    assert (span.status, span.status_message, span.attributes["error.type"]) == ("ERROR", message, kind)
    assert len(span.events) == events
    for event in span.events:
        assert event.name == "exception"
        assert set(event.attributes) == {"exception.type", "exception.message", "exception.stacktrace"}


def test_an_exception_is_recorded_once(spans: Traced, session: ga.Session) -> None:
    """An exception that passes through several blocks fails each, and is an event on the innermost only."""
    with pytest.raises(CustomError), session.start_turn() as turn, turn.start_tool("t") as tool:
        with tool.start_llm("m", provider_name="p"):
            raise CustomError("x")
    assert [(span.status, len(span.events)) for span in spans.spans] == [("ERROR", 0), ("ERROR", 0), ("ERROR", 1)]
    assert "test_an_exception_is_recorded_once" in spans.last().events[0].attributes["exception.stacktrace"]


def test_that_an_exception_was_recorded_is_not_told_on_it(spans: Traced, session: ga.Session) -> None:
    """A handler that shows an exception's attributes to a client shows nothing of the tracing."""
    with pytest.raises(CustomError) as raised, session.start_turn() as turn, turn.start_tool("t"):
        raise CustomError("x")
    assert vars(raised.value) == {}


class CountedError(Exception):
    """Counts how often it is asked what it says."""

    asked = 0

    def __str__(self) -> str:
        self.asked += 1
        return "a long message"


def test_an_exceptions_message_is_redacted_once() -> None:
    """However many blocks an exception passes through, its message is read once, and is the status of each."""
    seen: list[str] = []

    def redact(text: str) -> str:
        seen.append(text)
        return text.replace("long", "short")

    error = CountedError()
    with traced(redact=redact) as spans, suppress(CountedError), ga.Session() as session:
        with session.start_turn() as turn, turn.start_subagent("a") as agent, agent.start_tool("t"):
            raise error
    assert [text for text in seen if "long" in text] == ["a long message"]
    assert error.asked == 3
    assert [span.status_message for span in spans.spans] == ["a short message"] * 3
    (event,) = [event for span in spans.spans for event in span.events]
    assert event.attributes["exception.message"] == "a short message"
    assert event.attributes["exception.stacktrace"].endswith("CountedError: a short message")


def test_another_exception_on_its_way_has_its_own_message(spans: Traced, session: ga.Session) -> None:
    """The message that one exception left on its way up is not taken for another's."""
    first, second = CustomError("first"), CustomError("second")
    with suppress(CustomError), session.start_turn() as turn:
        for error in (first, second):
            with suppress(CustomError), turn.start_tool("t"):
                raise error
        raise first
    assert [span.status_message for span in spans.spans] == ["first", "first", "second"]


def test_another_exception_at_the_same_address_is_recorded(spans: Traced, turn: ga.Turn) -> None:
    """An exception that stands where an earlier one stood in memory is told from it."""
    with suppress(CustomError), turn.start_tool("t"):
        raise_one_at(address := [])
    others = [CustomError("other") for _ in range(1000)]
    turn.record_error(next(error for error in others if [id(error)] == address)).end()
    assert [span.events[0].attributes["exception.message"] for span in spans.spans] == ["other", "first"]


def raise_one_at(address: list[int]) -> None:
    error = CustomError("first")
    address.append(id(error))
    try:
        raise error
    finally:
        del error  # or this frame holds it, and it holds this frame


def test_an_error_that_was_handled_is_not_recorded(spans: Traced, turn: ga.Turn) -> None:
    """What was caught inside the block leaves the span as a success, without `error.type`."""
    with turn.start_tool("t"):
        try:
            raise CustomError
        except CustomError:
            pass
    assert (spans.last().status, spans.last().events) == ("UNSET", ())
    assert "error.type" not in spans.last().attributes


def test_a_model_call_that_failed_says_so_among_its_reasons(spans: Traced, turn: ga.Turn) -> None:
    """A reason that was expected and never came is `error`; one that came stays."""
    turn.start_llm("m", provider_name="p").end(error="overloaded")
    assert spans.last().attributes["gen_ai.response.finish_reasons"] == ["error"]
    turn.start_llm("m", provider_name="p").record(finish_reasons=["length"]).end(error="cut")
    assert spans.last().attributes["gen_ai.response.finish_reasons"] == ["length"]
    assert "gen_ai.output.messages" not in spans.last().attributes


def test_every_choice_that_never_came_says_so(spans: Traced, turn: ga.Turn) -> None:
    """A call for several choices that failed has a reason for each of them."""
    turn.start_llm("m", provider_name="p", choice_count=3).end(error=ValueError())
    assert list(spans.last().attributes["gen_ai.response.finish_reasons"]) == ["error"] * 3
    turn.start_llm("m", provider_name="p", choice_count=10**9).end(error=ValueError())
    assert len(spans.last().attributes["gen_ai.response.finish_reasons"]) == 128


@pytest.mark.parametrize("counts", [True, False])
def test_a_call_that_was_given_up_has_no_reason_whether_that_is_an_error(counts: bool) -> None:
    """What never came never came, also where cancelled work counts as no error."""
    with traced(record_cancellation_as_error=counts) as spans:
        ga.start_llm("m", provider_name="p").end(error=GeneratorExit())
        ga.start_llm("m", provider_name="p").record(finish_reasons=["stop"]).end(error=GeneratorExit())
    cut, done = spans.spans
    assert cut.attributes["gen_ai.response.finish_reasons"] == ["error"]
    assert done.attributes["gen_ai.response.finish_reasons"] == ["stop"]
    assert [span.status for span in spans.spans] == ["ERROR" if counts else "UNSET"] * 2


@pytest.mark.parametrize("model", [None, "gpt-4o"])
def test_the_name_follows_the_model(spans: Traced, turn: ga.Turn, model: str | None) -> None:
    """A model that is known only later is in the span's name, too."""
    turn.start_llm(model, provider_name="p").record(model="gpt-5").end()
    assert (spans.last().name, spans.last().attributes["gen_ai.request.model"]) == ("chat gpt-5", "gpt-5")


def test_a_value_that_is_left_out_takes_the_earlier_one_away(spans: Traced, turn: ga.Turn) -> None:
    """One choice and no stream are what the conventions don't say: what was recorded before no longer holds."""
    llm = turn.start_llm("m", provider_name="p", choice_count=3, stream=True)
    llm.record(choice_count=1, stream=False).end()
    assert not {"gen_ai.request.choice.count", "gen_ai.request.stream"} & spans.last().attributes.keys()


def test_no_error_is_no_error(spans: Traced, turn: ga.Turn) -> None:
    """`error=False` is counted as the mistake that it is, and the span did not fail."""
    turn.start_tool("t").end(error=False)  # type: ignore[arg-type]
    assert (spans.last().status, spans.faults) == ("UNSET", {"an error": 1})


class Asked(Sampler):
    """Keeps what it is asked, and drops every tool."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, SpanKind | None, dict[str, Any]]] = []

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        self.seen.append((name, kind, dict(attributes or {})))
        decision = Decision.DROP if name.startswith("execute_tool") else Decision.RECORD_AND_SAMPLE
        return SamplingResult(decision, attributes)

    def get_description(self) -> str:
        return "Asked"


def test_samplers_see_what_the_conventions_promise_them() -> None:
    """Operation, provider, model, agent, tool and server are there when the sampler is asked."""
    sampler = Asked()
    with traced(sampler=sampler) as spans:
        session = ga.Session(session_id="c", agent_name="bot", model="m", attributes={"tenant": "t"})
        turn = session.start_turn(attributes={"own": 1})
        turn.start_llm("m2", provider_name="p", server_address="h", server_port=1).end()
        tool = turn.start_tool("t", tool_type="function", arguments={"a": 1})
        tool.result = 5
        assert not tool.is_recording
        tool.start_llm(provider_name="p").end()
        tool.end(error=ValueError())
        turn.start_subagent("a", model="m3", remote="h:2").end()
        turn.end()
        common = {"gen_ai.conversation.id": "c", "tenant": "t"}
        agent = {"gen_ai.operation.name": "invoke_agent"}
        chat = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "p"}
        assert sampler.seen == [
            (
                "invoke_agent bot",
                SpanKind.INTERNAL,
                {**common, **agent, "gen_ai.agent.name": "bot", "gen_ai.request.model": "m", "own": 1},
            ),
            (
                "chat m2",
                SpanKind.CLIENT,
                {**common, **chat, "gen_ai.request.model": "m2", "server.address": "h", "server.port": 1},
            ),
            (
                "execute_tool t",
                SpanKind.INTERNAL,
                {
                    **common,
                    "gen_ai.operation.name": "execute_tool",
                    "gen_ai.tool.name": "t",
                    "gen_ai.tool.type": "function",
                    "gen_ai.agent.name": "bot",
                },
            ),
            ("chat m", SpanKind.CLIENT, {**common, **chat, "gen_ai.request.model": "m"}),
            (
                "invoke_agent a",
                SpanKind.CLIENT,
                {
                    **common,
                    **agent,
                    "gen_ai.agent.name": "a",
                    "gen_ai.request.model": "m3",
                    "server.address": "h",
                    "server.port": 2,
                },
            ),
        ]
        assert [span.name for span in spans.spans] == ["invoke_agent bot", "chat m2", "chat m", "invoke_agent a"]


def test_nothing_on_the_forbidden_list(spans: Traced, session: ga.Session) -> None:
    """No span carries a name that the conventions have given up, nor the status OK."""
    with session, session.start_turn("x") as turn:
        turn.record(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3})
        with turn.start_llm("m", provider_name="p", stream=False) as llm:
            llm.record(usage={"input_tokens": 1, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 4})
        with turn.start_subagent("a", agent_id="x", agent_version="1"):
            pass
    for span in spans.spans:
        assert not set(FORBIDDEN) & span.attributes.keys()
        assert not any(key.startswith("gen_ai.openai.") for key in span.attributes)
        assert span.status == "UNSET"
        if span.kind == "INTERNAL":
            assert not {"gen_ai.agent.id", "gen_ai.agent.version", "gen_ai.provider.name"} & span.attributes.keys()


def test_the_conversation_id_survives_a_limit_of_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a span may have only a few attributes, the conversation's id is among them."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "4")
    with traced() as spans:
        turn = ga.Session(session_id="c-1").start_turn("x")
        turn.set_attributes({str(number): number for number in range(10)}).end()
        assert spans.last().attributes["gen_ai.conversation.id"] == "c-1"
        assert len(spans.last().attributes) == 4


@pytest.mark.parametrize(
    ("remote", "kind", "faults"),
    [(0, "INTERNAL", 1), (None, "INTERNAL", 0), (False, "INTERNAL", 0), ({}, "CLIENT", 0), (5, "INTERNAL", 1)],
)
def test_what_makes_an_agent_a_remote_one(spans: Traced, turn: ga.Turn, remote: Any, kind: str, faults: int) -> None:
    """True, an address or a mapping do; anything else is counted and the agent is one of this process."""
    turn.start_subagent("a", remote=remote).end()
    assert (spans.last().kind, spans.faults.get("SubAgent.remote", 0)) == (kind, faults)


def test_an_unknown_key_of_a_remote_agent_costs_itself(spans: Traced, turn: ga.Turn) -> None:
    """What is known of the service stays."""
    turn.start_subagent("a", remote={"region": "eu", "provider_name": "p", "server_port": -1}).end()
    assert spans.last().attributes["gen_ai.provider.name"] == "p"
    assert spans.faults == {"SubAgent.remote": 2}
