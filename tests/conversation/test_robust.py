"""Wrong values: dropped, counted and logged once, never raised."""

from __future__ import annotations

import copy
import pickle
from collections import UserDict
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from enum import Enum
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, Tracer, TracerProvider

import genai_async as ga

from .support import Traced, traced


class Hostile:
    """Raises whatever is asked of it."""

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        raise RuntimeError("no truth")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("no equal")

    def __iter__(self) -> Any:
        raise RuntimeError("no items")

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Unbound:
    """A proxy, as of a web framework's request, outside of any request: to be asked for its class raises, too."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("outside of a request")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("outside of a request")

    def __bool__(self) -> bool:
        raise RuntimeError("outside of a request")


WRONG = [
    10**5000,
    5,
    -1,
    1.5,
    float("nan"),
    object(),
    Hostile(),
    b"bytes",
    [],
    ["x", 3],
    {"a": 1},
    {3: 4},
    lambda: None,
    True,
    "",
    "\ud800",
    Hostile,
    1 << 80,
]


def turns(wrong: Any, session: ga.Session) -> None:
    session.start_turn(
        wrong,
        input_messages=wrong,
        system_instructions=wrong,
        agent_name=wrong,
        model=wrong,
        agent_id=wrong,
        agent_description=wrong,
        agent_version=wrong,
        attributes=wrong,
        start_time=wrong,
    ).user(wrong).end(end_time=wrong)


def records(wrong: Any, session: ga.Session) -> None:
    turn = session.start_turn()
    fields = [*ga.LLM._fields, "usage", "no_such_field"]
    turn.record(**dict.fromkeys(fields, wrong))
    turn.start_subagent("a", remote=True).record(**dict.fromkeys(fields, wrong)).end()
    turn.start_llm("m", provider_name="p").record(**dict.fromkeys(fields, wrong)).end()
    turn.start_tool("t").record(arguments=wrong, result=wrong, call_id=wrong, tool_type=wrong, description=wrong).end()
    turn.end()


def llms(wrong: Any, session: ga.Session) -> None:
    llm = session.start_turn().start_llm(
        wrong,
        provider_name=wrong,
        operation=wrong,
        input_messages=wrong,
        system_instructions=wrong,
        tool_definitions=wrong,
        server_address=wrong,
        server_port=wrong,
        attributes=wrong,
        start_time=wrong,
        temperature=wrong,
        stop_sequences=wrong,
    )
    llm.output(wrong).think(wrong)
    llm.usage = wrong
    llm.attach_media(wrong)
    llm.attach_media(uri=wrong)
    llm.attach_media(file_id=wrong, mime_type=wrong, modality=wrong)
    llm.stream(wrong)
    llm.end(error=wrong, end_time=wrong)


def tools(wrong: Any, session: ga.Session) -> None:
    tool = session.start_turn().start_tool(
        wrong, arguments=wrong, call_id=wrong, tool_type=wrong, description=wrong, attributes=wrong, start_time=wrong
    )
    tool.result = wrong
    tool.set_attributes(wrong).set_attributes({"x": wrong}).record_error(wrong).end()


def subagents(wrong: Any, session: ga.Session) -> None:
    for remote in (None, True, wrong):
        session.start_turn().start_subagent(
            wrong,
            model=wrong,
            agent_id=wrong,
            agent_description=wrong,
            agent_version=wrong,
            system_instructions=wrong,
            input_messages=wrong,
            remote=remote,
            attributes=wrong,
            start_time=wrong,
        ).end()


def sessions(wrong: Any, session: ga.Session) -> None:
    other = ga.Session(
        session_id=wrong,
        agent_name=wrong,
        model=wrong,
        agent_id=wrong,
        agent_description=wrong,
        agent_version=wrong,
        attributes=wrong,
        capture_content=wrong,
        continue_trace=wrong,
    )
    with other, other.start_turn("x") as turn, turn.start_llm(provider_name="p"):
        pass


def ambient(wrong: Any, session: ga.Session) -> None:
    ga.start_llm(wrong, provider_name=wrong).end()
    ga.start_tool(wrong).end()
    ga.start_subagent(wrong).end()
    ga.start_turn(wrong).end()


def logged(wrong: Any, session: ga.Session) -> None:
    ga.log_session(wrong)
    ga.log_session([wrong])
    ga.log_turn(
        wrong,
        session_id=wrong,
        input_messages=wrong,
        output_messages=wrong,
        system_instructions=wrong,
        spans=wrong,
        agent_name=wrong,
        model=wrong,
        agent_description=wrong,
        usage=wrong,
        finish_reasons=wrong,
        start_time=wrong,
        end_time=wrong,
        error=wrong,
        attributes=wrong,
        capture_content=wrong,
        continue_trace=wrong,
    )
    common = {"spans": wrong, "start_time": wrong, "end_time": wrong, "error": wrong, "attributes": wrong}
    inside = [
        ga.LoggedLLM(provider_name=wrong, model=wrong, operation=wrong, fields=wrong, **common),
        ga.LoggedTool(name=wrong, arguments=wrong, result=wrong, call_id=wrong, tool_type=wrong, **common),
        ga.LoggedSubAgent(name=wrong, model=wrong, agent_id=wrong, remote=wrong, fields=wrong, **common),
        wrong,
    ]
    ga.log_turn("x", spans=inside)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("use", [turns, records, llms, tools, subagents, sessions, ambient, logged])
def test_wrong_values_never_raise(
    spans: Traced, session: ga.Session, use: Callable[[Any, ga.Session], None], wrong: Any
) -> None:
    """Whatever value stands in whatever place, the caller's work goes on and the span that was meant still ends."""
    use(wrong, session)
    session.end()
    assert spans.spans
    assert not spans.open


@pytest.mark.parametrize("use", [turns, records, llms, tools, subagents, sessions, ambient, logged])
def test_what_cannot_be_asked_for_its_class_never_raises(
    spans: Traced, session: ga.Session, use: Callable[[Any, ga.Session], None]
) -> None:
    """Not even the check of a value's type comes out where the value answers it with an error."""
    use(Unbound(), session)
    session.end()
    assert spans.spans
    assert not spans.open


@pytest.mark.parametrize("use", [turns, records, llms, tools, subagents, sessions, logged])
def test_wrong_values_are_counted_and_logged_once(
    spans: Traced, session: ga.Session, log: pytest.LogCaptureFixture, use: Callable[[Any, ga.Session], None]
) -> None:
    """What is dropped is counted by kind each time, and logged the first time without showing the value."""
    use(4711.5, session)
    first = spans.faults
    use(4711.5, session)
    assert first
    assert {kind: 2 * count for kind, count in first.items()} == spans.faults
    lines = [record.getMessage() for record in log.records]
    assert len(lines) == len(set(lines)) == len(first)
    assert not any("4711" in line for line in lines)


def test_a_set_up_counts_for_itself(spans: Traced, turn: ga.Turn) -> None:
    """One value that is dropped is one count of its kind, and nothing else is dropped with it."""
    turn.start_llm("m", provider_name="p", temperature="hot", top_p=0.5).end()  # type: ignore[arg-type]
    assert spans.faults == {"LLM.temperature": 1}
    assert spans.last().attributes["gen_ai.request.top_p"] == 0.5


def test_words_of_an_enumeration_are_text(spans: Traced, turn: ga.Turn) -> None:
    """A member of a string enumeration is recorded as its value, wherever a word is expected."""

    class Word(str, Enum):  # noqa: UP042 - the kind that people have
        OPENAI = "openai"
        SMALL = "gpt-4o-mini"

    turn.start_llm(Word.SMALL, provider_name=Word.OPENAI).record(response_model=Word.SMALL).end()
    span = spans.last()
    assert span.name == "chat gpt-4o-mini"
    assert span.attributes["gen_ai.provider.name"] == "openai"
    assert span.attributes["gen_ai.response.model"] == "gpt-4o-mini"
    assert spans.faults == {}


def test_an_operation_that_is_no_word_is_chat(spans: Traced, turn: ga.Turn) -> None:
    """A model call whose operation cannot be one is recorded as the usual one."""
    turn.start_llm("m", provider_name="p", operation=7).end()  # type: ignore[arg-type]
    assert spans.last().name == "chat m"
    assert spans.faults == {"operation": 1}


def test_an_error_of_no_known_kind_is_still_an_error(spans: Traced, turn: ga.Turn) -> None:
    """Something that is neither exception nor word fails the span with the conventions' word for it."""
    turn.end(error=5)  # type: ignore[arg-type]
    span = spans.last()
    assert (span.status, span.attributes["error.type"]) == ("ERROR", "_OTHER")
    assert spans.faults == {"an error": 1}


def test_an_exceptions_class_says_what_it_was(spans: Traced, turn: ga.Turn) -> None:
    """The class alone, which is no error yet, names the type."""
    turn.end(error=LookupError)  # type: ignore[arg-type]
    assert spans.last().attributes["error.type"] == "LookupError"
    assert spans.faults == {"an error": 1}


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_a_session_in_a_programs_state(spans: Traced, again: Callable[[Any], Any]) -> None:
    """State is copied and kept in files: a session there is one of the same conversation, after turns, too."""
    session = ga.Session(session_id="c", agent_name="bot", model="m", attributes={"a": 1}, continue_trace=True)
    session.start_turn().end()
    other = again({"session": session})["session"]
    other.start_turn().end()
    assert spans.last().attributes["gen_ai.conversation.id"] == "c"
    assert (other.agent_name, other.model, other.attributes) == ("bot", "m", {"a": 1})
    assert not other.open_spans


class Tenant(ga.Session):
    """A session of somebody's own."""

    tenant = ""


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_what_a_session_came_from_goes_along(spans: Traced, again: Callable[[Any], Any]) -> None:
    """The caller's span, and what a subclass has added."""
    session = Tenant.from_carrier({"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}, session_id="c")
    session.tenant = "t-1"
    other = again(session)
    other.start_turn().end()
    assert (type(other), other.tenant) == (Tenant, "t-1")
    assert [link.span_id for link in spans.last().links] == ["2" * 16]


def test_copies_of_a_handle_are_the_handle(spans: Traced, turn: ga.Turn) -> None:
    """A span ends once, by its own handle."""
    assert copy.copy(turn) is copy.deepcopy([turn])[0] is turn
    assert spans.spans == []


def test_a_block_of_what_has_ended(spans: Traced, turn: ga.Turn) -> None:
    """A handle that is entered after its end is counted: what starts inside is no part of it."""
    with turn:
        pass
    with turn:
        ga.start_tool("late").end()
    assert spans.last().parent_span_id is None
    assert spans.faults["a block of a span that has ended"] == 1


def test_wrong_counts_are_no_part_of_a_sum(spans: Traced, session: ga.Session) -> None:
    """Token counts that a model call drops are not added to its turn's either."""
    with session.start_turn() as turn:
        for usage in (ga.Usage(-5, True), ga.Usage(3, "4"), ga.Usage(0, 0)):  # type: ignore[arg-type]
            turn.start_llm(provider_name="p").record(usage=usage).end()
    root = spans.spans[0]
    assert root.attributes["gen_ai.usage.input_tokens"] == 3
    assert root.attributes["gen_ai.usage.output_tokens"] == 0


def test_own_attributes_cannot_break_a_span(spans: Traced, turn: ga.Turn) -> None:
    """Attributes of the caller's own under the conventions' keys don't reach the span's name."""
    turn.start_tool("t", attributes={"gen_ai.tool.name": Hostile(), 5: 6, "": 7, "ok": 1}).end()
    assert spans.last().name.startswith("execute_tool")
    assert spans.last().attributes["ok"] == 1


class Unending(UserDict[str, int]):
    """A mapping whose items never end."""

    def items(self) -> Any:
        return ((f"key {number}", number) for number in count())


def test_of_endless_attributes_the_first_are_taken(spans: Traced, turn: ga.Turn) -> None:
    """A mapping is read only so far, and that there was more is counted."""
    turn.start_tool("t", attributes=Unending()).set_attributes(Unending()).end()
    assert spans.last().attributes["key 999"] == 999
    assert "key 1000" not in spans.last().attributes
    assert spans.faults == {"an attribute too many": 2}


def test_attributes_without_an_end(spans: Traced, turn: ga.Turn) -> None:
    """Pairs are taken from wherever they come, as many as a span may have of them."""
    turn.set_attributes((f"a{number}", number) for number in count())  # type: ignore[arg-type]
    turn.set_attributes([("b", 1)])  # type: ignore[arg-type]
    turn.end()
    assert spans.last().attributes["b"] == 1
    assert spans.faults == {"an attribute too many": 1}


def test_the_callers_lists_may_change_afterwards(spans: Traced, turn: ga.Turn) -> None:
    """What is recorded is what was there then, not what the caller's own objects became."""
    arguments = {"a": [1]}
    result = {"n": [1]}
    messages = [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": result}]}]
    tools = [{"name": "t", "parameters": {"type": "object"}}]
    generic = {"type": "odd", "deep": [1]}
    llm = turn.start_llm("m", provider_name="p", input_messages=messages, tool_definitions=tools)
    llm.record(output_messages=[{"role": "assistant", "content": [generic]}])
    tool = llm.start_tool("t", arguments=arguments)
    arguments["a"].append(2)
    result["n"].append(2)
    tools[0]["parameters"]["type"] = "array"
    generic["deep"].append(2)
    tool.end()
    assert spans.json("gen_ai.tool.call.arguments") == {"a": [1]}
    llm.end()
    span = spans.one("chat m").attributes
    assert '"n":[1]' in span["gen_ai.input.messages"]
    assert '"object"' in span["gen_ai.tool.definitions"]
    assert '"deep":[1]' in span["gen_ai.output.messages"]


def test_own_attributes_do_not_change_what_a_span_is(spans: Traced) -> None:
    """The conversation's id and the operation are the library's: what a caller sets in their place is counted."""
    wrong = {"gen_ai.conversation.id": "evil", "gen_ai.operation.name": "evil", "own": 1}
    turn = ga.Session(session_id="c-1", attributes=wrong).start_turn(attributes=wrong)
    turn.set_attributes(wrong).end()
    found = spans.last().attributes
    assert found["gen_ai.conversation.id"] == "c-1"
    assert (found["gen_ai.operation.name"], found["own"]) == ("invoke_agent", 1)
    assert spans.faults == {"an attribute of the library's own": 6}


def test_unknown_fields_are_one_kind(spans: Traced, turn: ga.Turn, log: pytest.LogCaptureFixture) -> None:
    """However many fields there are that a span does not know, they count as one kind, logged once by a short name."""
    names: list[Any] = [{"tempo": 1}, *({f"field {number}": 1} for number in range(100)), {"a secret" * 100: 1}]
    for fields in names:
        turn.record(**fields)
        turn.start_tool("t").record(**fields).end()
    assert spans.faults == {"Turn: an unknown field": 102, "Tool: an unknown field": 102}
    assert len(log.records) == 2
    assert "tempo" in log.text
    assert "secret" not in log.text


class LostZone(tzinfo):
    """A time zone that knows nothing."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        raise KeyError("zone")


@pytest.mark.parametrize("zone", [LostZone(), tzinfo()], ids=["its own error", "not implemented"])
def test_a_time_zone_that_raises_costs_the_time_only(spans: Traced, session: ga.Session, zone: tzinfo) -> None:
    """A span that is given a time that nobody can read ends all the same, with all that was recorded."""
    lost = datetime(2024, 1, 1, tzinfo=zone)
    session.start_turn("hello", start_time=lost).end(error=ValueError("no"), end_time=lost)
    ga.log_turn("x", start_time=lost, end_time=lost)
    assert not spans.open
    assert [span.status for span in spans.spans] == ["ERROR", "UNSET"]
    assert "hello" in spans.spans[0].attributes["gen_ai.input.messages"]
    assert spans.faults == {"a time": 4}


class OddProvider(TracerProvider):
    """Makes spans of a kind that fails in one way."""

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def get_tracer(self, *_: Any, **__: Any) -> Tracer:
        return OddTracer(self.fault)


class OddTracer(Tracer):
    def __init__(self, fault: str) -> None:
        self.fault = fault

    def start_span(self, *_: Any, **__: Any) -> Any:
        return None if self.fault == "none" else OddSpan(self.fault)

    start_as_current_span = None  # type: ignore[assignment]


class OddSpan(NonRecordingSpan):
    def __init__(self, fault: str) -> None:
        super().__init__(SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(1)))
        self.fault = fault
        self.ended = False

    def _may(self, what: str) -> None:
        if self.fault == what:
            raise RuntimeError("hostile")

    def is_recording(self) -> bool:
        self._may("is_recording")
        return True

    def get_span_context(self) -> SpanContext:
        self._may("get_span_context")
        return super().get_span_context()

    def set_attributes(self, attributes: Any) -> None:
        self._may("set_attributes")

    def add_event(self, *_: Any, **__: Any) -> None:
        self._may("add_event")

    def set_status(self, *_: Any, **__: Any) -> None:
        self._may("set_status")

    def end(self, end_time: int | None = None) -> None:
        self.ended = True
        self._may("end")

    @property
    def start_time(self) -> int:
        self._may("start_time")
        return 5


FAULTS = ["none", "is_recording", "get_span_context", "set_attributes", "add_event", "set_status", "start_time", "end"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_provider_whose_spans_fail_never_raises(fault: str) -> None:
    """Whatever somebody's provider gives for a span, the caller's work goes on, and a span that was started ends."""
    tracing = ga.configure(tracer_provider=OddProvider(fault))
    try:
        with ga.Session(session_id="s") as session, session.start_turn("x") as turn:
            assert turn.trace_id
            assert turn.span_id
            turn.start_llm("m", provider_name="p").record(model="n").end()
            turn.record_error(ValueError("v"))
            turn.end(end_time=9)
        assert getattr(turn.span, "ended", fault in {"none", "is_recording"})
        assert bool(tracing.faults) is (fault not in {"get_span_context", "start_time"})
    finally:
        tracing.shutdown()


def test_own_attributes_that_a_provider_cannot_set_are_counted() -> None:
    """A provider's span that raises when attributes are set costs these, and nobody else."""
    tracing = ga.configure(tracer_provider=OddProvider("set_attributes"))
    try:
        tool = ga.Session().start_turn().start_tool("t")
        assert tool.set_attributes({"own": 1}) is tool
        assert tracing.faults == {"attributes that cannot be set": 1}
    finally:
        tracing.shutdown()


class Shy(Exception):
    """Shows nothing of itself."""

    @property
    def __dict__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no dict")


class Mute(Exception):
    """Has no message."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Closed(ExceptionGroup[Exception]):
    """A group that does not say what it holds."""

    @property
    def exceptions(self) -> Any:
        raise RuntimeError("no members")


class Endless(ExceptionGroup[Exception]):
    """A group that holds itself."""

    @property
    def exceptions(self) -> Any:
        return (self,)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Shy("failed"), "Shy"),
        (Mute("s3cret"), "Mute"),
        (Closed("g", [ValueError()]), "_OTHER"),
        (Endless("g", [ValueError()]), "Endless"),
    ],
)
def test_an_exception_that_cannot_be_looked_at_is_an_error(
    spans: Traced, session: ga.Session, error: Exception, kind: str
) -> None:
    """An exception whose attributes raise fails the span as any other does."""
    with pytest.raises(type(error)), session.start_turn("hello"):
        raise error
    span = spans.last()
    assert (span.status, span.attributes["error.type"].rpartition(".")[2]) == ("ERROR", kind)
    assert len(span.events) == 1
    assert span.status_message == span.events[0].attributes["exception.message"] != "s3cret"
    assert "gen_ai.input.messages" in span.attributes


class Word(str, Enum):  # noqa: UP042 - the kind that people have
    """An enumeration whose members show their names."""

    STOP = "stop"


def test_an_enumeration_names_and_ends_a_conversation(spans: Traced) -> None:
    """The session's id, too, and each of several words, are what a member stands for."""
    session = ga.Session(session_id=Word.STOP)
    session.start_turn().record(finish_reasons=[Word.STOP], stop_sequences=Word.STOP).end()
    found = spans.last().attributes
    assert type(session.session_id) is str
    assert found["gen_ai.conversation.id"] == "stop"
    assert list(map(type, found["gen_ai.response.finish_reasons"])) == [str]
    assert list(map(type, found["gen_ai.request.stop_sequences"])) == [str]


def test_a_session_id_may_be_a_key(spans: Traced) -> None:
    """A number and a UUID name a conversation as their text does."""
    key = UUID(int=7)
    assert ga.Session(session_id=key).session_id == str(key)
    assert ga.Session(session_id=42).session_id == "42"
    assert spans.faults == {}


@pytest.mark.parametrize(
    "wrong", [10**5000, b"x", 1.5, True, "x" * 20_000, Hostile()], ids=lambda value: type(value).__name__
)
def test_a_session_id_that_is_none_is_counted(spans: Traced, wrong: Any) -> None:
    """What cannot name a conversation is counted, and the conversation gets an id of its own."""
    assert len({ga.Session(session_id=wrong).session_id for _ in range(2)}) == 2
    assert spans.faults == {"a session id": 2}


def test_nobody_has_to_be_set_up_for_a_wrong_session_id() -> None:
    """Without a set-up nothing is counted, and nothing is raised either."""
    assert ga.Session(session_id=10**5000).session_id != ga.Session(session_id="").session_id


def test_one_attribute_of_the_callers_own_costs_no_other(spans: Traced) -> None:
    """A key that is no text and a value that cannot be read are counted, and their neighbours stay."""
    with traced(redact=lambda text: text) as redacted:
        for found in (redacted, spans):
            turn = ga.Session().start_turn(attributes={5: "five", "ok": 1, "bad": [Hostile()]})
            turn.set_attributes({6: "six", "fine": 2}).end()
            assert (found.last().attributes["ok"], found.last().attributes["fine"]) == (1, 2)
            assert found.faults["an attribute"] >= 2
            redacted.tracing.shutdown()
