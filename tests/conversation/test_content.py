"""The gate: what of a text may be recorded. Off, redacted, size-capped, in that order."""

from __future__ import annotations

import base64
import json
import random
import time
from collections import ChainMap, UserDict
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import anyio.to_thread
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.pace import paces

import genai_async as ga
from genai_async._conversation._content import Gate
from genai_async._conversation._texts import FAILED, MAX_CONTENT_BYTES, shorten

from .support import Traced, traced
from .test_messages import check_schema

SECRET = "s3cret"
_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
CONTENT = {
    "gen_ai.input.messages",
    "gen_ai.output.messages",
    "gen_ai.system_instructions",
    "gen_ai.tool.definitions",
    "gen_ai.tool.call.arguments",
    "gen_ai.tool.call.result",
}


class Odd:
    """An object whose text is what it holds."""

    def __str__(self) -> str:
        return f"odd {SECRET}"


class SecretError(Exception):
    """An error that tells too much."""


def say_it_everywhere(session: ga.Session) -> None:
    """Put the secret wherever content can go."""
    with session.start_turn(SECRET, input_messages=[SECRET], system_instructions=SECRET) as turn:
        turn.user(SECRET).record(output_messages=SECRET, tool_definitions=[ga.ToolDefinition("t", SECRET)])
        tools = [{"name": "t", "description": SECRET, "input_schema": {"type": "object", "properties": {SECRET: {}}}}]
        with turn.start_llm(
            "m", provider_name="p", input_messages=SECRET, system_instructions=[SECRET], tool_definitions=tools
        ) as llm:
            llm.output(SECRET).think(SECRET)
            llm.attach_media(uri=f"https://x/{SECRET}")
            llm.attach_media(SECRET.encode())
            llm.record(output_messages=ga.Message.assistant(tool_calls=[ga.ToolCallPart("t", "1", {SECRET: Odd()})]))
        with turn.start_tool("t", arguments={"a": [SECRET, {SECRET: SECRET}]}) as tool:
            tool.result = Odd()
        with turn.start_tool("t", arguments=f'{{"a": "{SECRET}"}}') as tool:
            tool.record(result=SECRET)
        with turn.start_tool("t") as tool:
            tool.result = [SECRET.encode()]
        with turn.start_subagent("a", input_messages=SECRET, system_instructions=SECRET) as agent:
            agent.record(output_messages={"role": "assistant", "content": [{"type": "odd", SECRET: SECRET}]})
        with pytest.raises(SecretError), turn.start_tool("t"):
            raise SecretError(SECRET)
        turn.start_tool("t").end(error=f"what it said was {SECRET}")
        turn.start_tool("t").record_error(SecretError(SECRET)).end()


def set_it_everywhere(session: ga.Session) -> None:
    """Put the secret into attributes of the caller's own."""
    turn = session.start_turn(attributes={"own": SECRET, "nested": {"a": [SECRET], SECRET: 1}})
    turn.set_attributes({"list": [SECRET], "odd": Odd(), "bytes": SECRET.encode(), "in list": [SECRET.encode(), Odd()]})
    turn.end()


def everything(spans: Traced) -> str:
    """All that came out, as one text."""
    return repr(spans.spans)


def hide(text: str) -> str:
    return text.replace(SECRET, "***")


def test_content_is_recorded_unless_said_otherwise(spans: Traced, session: ga.Session) -> None:
    """What the caller records by hand is kept by default, under every content attribute, along with its errors."""
    say_it_everywhere(session)
    assert {key for span in spans.spans for key in span.attributes} >= CONTENT
    assert everything(spans).count(SECRET) > 15
    error = spans.spans[-1]
    (event,) = error.events
    assert error.status_message == event.attributes["exception.message"] == SECRET
    assert SECRET in event.attributes["exception.stacktrace"]


def no_content(spans: Traced) -> None:
    assert SECRET not in everything(spans)
    assert not CONTENT & {key for span in spans.spans for key in span.attributes}
    failed = spans.spans[-1]
    assert (failed.status, failed.status_message) == ("ERROR", "")
    assert failed.attributes["error.type"].endswith("SecretError")
    (event,) = failed.events
    assert list(event.attributes) == ["exception.type"]


def test_nothing_leaks_when_capture_is_off() -> None:
    """Without capture no text is recorded on any way, errors' messages and stacks included; the rest is."""
    with traced(capture_content=False) as spans:
        say_it_everywhere(ga.Session())
        no_content(spans)


def test_a_session_may_say_otherwise() -> None:
    """A session's own word counts for all that is under it, in both directions, and for nothing else."""
    with traced(capture_content=False) as spans:
        ga.Session(capture_content=True).start_turn("kept").end()
        ga.Session().start_turn("gone").end()
        assert [span.attributes.get("gen_ai.input.messages") is None for span in spans.spans] == [False, True]
    with traced() as spans:
        say_it_everywhere(ga.Session(capture_content=False))
        no_content(spans)


@pytest.mark.parametrize("wrong", ["false", 1, "", object()])
def test_a_session_whose_word_is_none_captures_nothing(spans: Traced, wrong: Any) -> None:
    """Something else than a bool is no yes: it is counted, and no content is recorded."""
    ga.Session(capture_content=wrong).start_turn("gone").end()
    assert spans.json("gen_ai.input.messages") is None
    assert spans.faults == {"capture_content": 1}


@pytest.mark.parametrize(
    ("value", "captures"),
    [
        ("SPAN_ONLY", True),
        ("span_and_event", True),
        ("NO_CONTENT", False),
        ("no_content", False),
        ("EVENT_ONLY", False),
        ("", True),
        ("true", False),
        ("false", False),
        ("1", False),
    ],
)
def test_the_environments_word(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture, value: str, captures: bool
) -> None:
    """The official values decide in any case; any other one captures nothing and says so."""
    monkeypatch.setenv(_VARIABLE, value)
    with traced() as spans:
        ga.Session().start_turn("x").end()
        assert (spans.json("gen_ai.input.messages") is not None) is captures
    assert bool(log.records) is (value in {"true", "false", "1"})


@pytest.mark.parametrize("capture", [True, False])
def test_an_option_outranks_the_environment(monkeypatch: pytest.MonkeyPatch, capture: bool) -> None:
    """What the program says in code is what counts."""
    monkeypatch.setenv(_VARIABLE, "NO_CONTENT" if capture else "SPAN_ONLY")
    with traced(capture_content=capture) as spans:
        ga.Session().start_turn("x").end()
        assert (spans.json("gen_ai.input.messages") is not None) is capture


def test_every_way_goes_through_the_redactor() -> None:
    """With a redactor no text comes out that it would have changed, and every content attribute is still valid."""
    with traced(redact=hide) as spans:
        session = ga.Session(attributes={"session": SECRET})
        say_it_everywhere(session)
        set_it_everywhere(session)
        assert SECRET not in everything(spans)
        assert everything(spans).count("***") > 20
        for span in spans.spans:
            for key in CONTENT & span.attributes.keys():
                value = json.loads(span.attributes[key])
                if not key.startswith("gen_ai.tool.call"):
                    check_schema(key, value)


def test_own_attributes_are_redacted_without_capture() -> None:
    """Attributes of the caller's own are kept without capture, and redacted all the same."""
    with traced(capture_content=False, redact=hide) as spans:
        set_it_everywhere(ga.Session(attributes={"session": SECRET}))
        assert SECRET not in everything(spans)
        assert spans.last().attributes["own"] == "***"
        assert spans.last().attributes["bytes"] == "***"


def test_a_sessions_attributes_are_redacted_once() -> None:
    """What all spans of a conversation have is read for the first of them, and again when the caller changes it."""
    seen: list[str] = []

    def redact(text: str) -> str:
        seen.append(text)
        return hide(text)

    own: dict[str, Any] = {"a": SECRET, "b": 1, "c": None}
    with traced(redact=redact) as spans, ga.Session(attributes=own) as session:
        for _ in range(3):
            session.start_turn().start_tool("t").end()
        assert seen.count(SECRET) == 1
        for changed in ({"a": f"new {SECRET}"}, {"b": True}, {"d": "new"}):
            own.update(changed)
            session.start_turn().end()
            ((name, value),) = changed.items()
            assert spans.last().attributes[name] == ("new ***" if name == "a" else value)
            assert type(spans.last().attributes[name]) is type(value)
        own["e"] = ["one"]
        session.start_turn().end()
        own["e"].append(SECRET)
        session.start_turn().end()
        assert spans.last().attributes["e"] == ["one", "***"]


def test_attributes_that_a_redactor_failed_on_are_shown_to_it_again() -> None:
    """A redactor that fails once costs the attributes of one span."""
    answers = iter([fails])
    with traced(redact=lambda text: next(answers, hide)(text) if SECRET in text else text) as spans:
        session = ga.Session(attributes={"a": SECRET})
        session.start_turn().end()
        session.start_turn().end()
    assert [span.attributes["a"] for span in spans.spans] == [FAILED, "***"]


def test_keys_and_words_of_the_callers_are_redacted() -> None:
    """Names of own attributes, and what looks like the conventions' words in parts that these do not know."""
    odd = {"type": "odd", "id": SECRET, "role": SECRET, "mime_type": SECRET, "modality": SECRET}
    call = {"type": "tool_call", "name": "t", "id": f"no word {SECRET}", "arguments": {}}
    with traced(redact=hide) as spans:
        session = ga.Session(agent_description=SECRET, attributes={f"session {SECRET}": 1})
        turn = session.start_turn(attributes={f"own {SECRET}": 1}, agent_description=SECRET)
        turn.set_attributes({f"set {SECRET}": 1})
        turn.start_subagent("a", agent_description=SECRET).end()
        turn.record(output_messages=[{"role": f"said by {SECRET}", "parts": [odd, call, {"type": f"odd {SECRET}"}]}])
        turn.end()
        assert SECRET not in everything(spans)
        assert {"session ***", "own ***", "set ***"} <= spans.one("invoke_agent").attributes.keys()
        (said,) = json.loads(spans.one("invoke_agent").attributes["gen_ai.output.messages"])
        check_schema("gen_ai.output.messages", [said])
        assert said["parts"][1]["type"] == "tool_call"


def fails(text: str) -> str:
    raise RuntimeError(text)


@pytest.mark.parametrize(
    ("redact", "kept"),
    [(lambda text: "[name]" if text.isalpha() else text, "[name]"), (fails, FAILED), (lambda _: None, "")],
)
def test_keys_that_become_one_keep_what_stands_under_each(redact: Any, kept: str) -> None:
    """Names that a redactor replaces by the same one, or fails on, lose none of the values."""
    found = json.loads(Gate(True, redact).json({"Kim": 1, "Lee": {"Ann": 2, "Bo": 3}}, is_message=False) or "")
    assert found == {kept: 1, f"{kept} (2)": {kept: 2, f"{kept} (2)": 3}}


async def later(text: str) -> str:
    return text


@pytest.mark.parametrize("redact", [fails, lambda text: 5, lambda text: later(text), lambda text: text.encode()])
def test_a_redactor_that_fails_loses_the_text(redact: Callable[[str], Any], log: pytest.LogCaptureFixture) -> None:
    """A redactor that raises or returns no text costs the text, on every way; that is counted and logged once."""
    with traced(redact=redact) as spans:
        say_it_everywhere(ga.Session())
        set_it_everywhere(ga.Session())
        assert SECRET not in everything(spans)
        assert spans.faults["text that the redactor failed on"] > 10
    assert len([record for record in log.records if "redactor failed" in record.getMessage()]) == 1
    assert SECRET not in log.text


def test_a_redactor_may_drop_a_text() -> None:
    """None from the redactor leaves an empty text, and nothing is counted as a failure."""
    with traced(redact=lambda text: None if SECRET in text else text) as spans:
        session = ga.Session()
        session.start_turn(SECRET, input_messages=["and"]).end()
        found = spans.json("gen_ai.input.messages")
        assert [message["parts"][0]["content"] for message in found] == ["and", ""]
        assert spans.faults == {}


class Clock:
    """The time that redactors take, and the time between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1.0
        self.asked: list[str] = []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def redactor(self, seconds: float) -> Callable[[str], str]:
        """One that takes this long for each text of a user's."""

        def redact(text: str) -> str:
            self.asked.append(text)
            self.now += seconds if text.startswith("text") else 0
            return text

        return redact


@pytest.mark.anyio
async def test_a_redactor_that_blocks_the_loop_is_not_asked_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redactor that holds up the loop pauses; what it should have seen then is dropped, and each text counted."""
    clock = Clock(monkeypatch)
    with traced(redact=clock.redactor(2)) as spans:
        session = ga.Session(agent_name="bot")
        for number in range(5):
            session.start_turn(f"text {number}").end()
        assert [text for text in clock.asked if text != "bot"] == ["text 0", "text 1", "text 2"]
        assert spans.last().name == "invoke_agent bot"
        assert "dropped" in spans.last().attributes["gen_ai.input.messages"]
        assert spans.faults == {"content after a slow redactor": 2}
        await anyio.to_thread.run_sync(lambda: session.start_turn("in a thread").end())
        assert "in a thread" in spans.last().attributes["gen_ai.input.messages"]
        clock.now += 20
        session.start_turn("text 5").end()
        assert "text 5" in spans.last().attributes["gen_ai.input.messages"]
        assert spans.faults == {"content after a slow redactor": 2}


@pytest.mark.anyio
async def test_a_redactor_may_take_time_that_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither long texts nor a stall now and then make a redactor slow, however often they come in a program's life."""
    clock = Clock(monkeypatch)
    long = "text" + " and more" * 50_000
    with traced(redact=clock.redactor(0.9)) as spans:
        for _ in range(20):
            ga.Session().start_turn(long).end()
        for number in range(20):
            clock.now += 60
            ga.Session().start_turn(f"text {number}").end()
    assert spans.faults == {}
    assert "dropped" not in everything(spans)


def test_without_a_loop_a_redactor_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that runs no event loop holds up nobody but itself."""
    clock = Clock(monkeypatch)
    with traced(redact=clock.redactor(5)) as spans:
        for number in range(5):
            ga.Session().start_turn(f"text {number}").end()
    assert len([text for text in clock.asked if text.startswith("text")]) == 5
    assert spans.faults == {}


NOISE = random.Random(1).randbytes(400_000)
PICTURE = base64.b64encode(NOISE).decode()
URL = f"data:image/png;base64,{PICTURE}"


@pytest.mark.parametrize(
    "value",
    [PICTURE, URL, {"image": URL}, [{"type": "image", "data": PICTURE}], [PICTURE.rstrip("=") * 3, "text"]],
    ids=["text", "url", "named", "mcp", "cut"],
)
def test_of_long_base64_a_redactor_sees_the_beginning(value: Any) -> None:
    """Media say nothing to a redactor, which may yet drop them by what it sees; what it objects to, it sees whole."""
    seen: list[int] = []

    def redact(text: str) -> str | None:
        seen.append(len(text))
        return text

    kept = Gate(True, redact).json(value, is_message=False)
    assert max(seen) == 4096
    assert kept == Gate(True).json(value, is_message=False)
    gone = Gate(True, lambda text: None if len(text) > 1000 else text).json(value, is_message=False)
    assert gone is not None
    assert len(gone) < 200
    assert "/" + PICTURE[-40:] not in gone
    failed = Gate(True, fails).json(value, is_message=False)
    assert failed is not None
    assert PICTURE[:40] not in failed


@pytest.mark.parametrize(
    "said", ["sk-ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", "password=hunter2hunter2", "4111-1111-1111-1111"]
)
@pytest.mark.parametrize("before", ["lorem ipsum " * 400, "abc/" * 1250, "a" * 5000 + "-"])
def test_a_secret_at_the_end_of_a_long_text_is_found(before: str, said: str) -> None:
    """What is no run of base64 as a whole is read as a whole, wherever the sample of one would end."""
    for length in (4070, 4090, 4096, 5000):
        text = before[: length - 1] + before[-1] + said
        kept = Gate(True, ga.redact_secrets).json({"text": text}, is_message=False)
        assert kept is not None
        assert said not in kept


def test_media_in_messages_are_not_read_as_text() -> None:
    """Whatever shape a picture has in a message, cut or not, a redactor is not made to read a megabyte of base64."""
    seen: list[int] = []
    large = base64.b64encode(NOISE * 4).decode()
    parts = [image(URL), image(f"data:image/png;base64,{large}"), {"type": "image", "source": {"data": large}}]
    with traced(redact=lambda text: (seen.append(len(text)), text)[1]) as spans:
        ga.start_llm("m", provider_name="p", input_messages=[{"role": "user", "content": [*parts, "What?"]}]).end()
    assert max(seen) == 4096
    assert spans.json("gen_ai.input.messages")[0]["parts"][0]["content"] == PICTURE


def test_words_behind_base64_are_read() -> None:
    """A run of base64 that goes on as a text is a text."""
    for text in (f"{PICTURE} {SECRET}", f"{PICTURE}…[{SECRET}, truncated]", f"{PICTURE[:4100]}…{SECRET}"):
        found = Gate(True, hide).json(text, is_message=False)
        assert found is not None
        assert SECRET not in found


def test_of_many_long_texts_a_redactor_sees_what_may_be_kept() -> None:
    """All that a redactor is shown of one attribute is not much more than the attribute can hold: the newest of it."""
    seen: list[int] = []

    def redact(text: str) -> str:
        seen.append(len(text))
        return text.replace(SECRET, "***")

    messages = [ga.Message.user(f"{number} {SECRET} " * 20_000) for number in range(30)]
    messages += [ga.Message.user("short"), *messages[:2]]
    with traced(redact=redact) as spans:
        ga.start_llm("m", provider_name="p", input_messages=messages).end()
    assert sum(seen) < 1.2 * MAX_CONTENT_BYTES
    found = [message["parts"][0]["content"] for message in spans.json("gen_ai.input.messages")]
    assert len(found) == 33
    assert found[30] == "short"
    assert found[0].startswith("…[")
    assert found[32].startswith("1 *** 1 ***")
    assert not any(piece in "".join(found) for piece in (SECRET[:3], SECRET[:2]))


def test_of_many_short_texts_a_redactor_sees_the_newest() -> None:
    """A long history of usual messages is not read for longer than one long text."""
    seen: list[int] = []

    def redact(text: str) -> str:
        seen.append(len(text))
        return text

    messages = [ga.Message.user(f"{number} {'word ' * 800}") for number in range(1_400)]
    with traced(redact=redact) as spans:
        ga.start_llm("m", provider_name="p", input_messages=messages).end()
    assert sum(seen) < 1.2 * MAX_CONTENT_BYTES
    found = [message["parts"][0]["content"] for message in spans.json("gen_ai.input.messages")]
    assert found[-1].startswith("1399 word")
    assert found[1].startswith("…[")


class AsyncCall:
    async def __call__(self, text: str) -> str:
        return text


@pytest.mark.parametrize("redact", [later, partial(later), AsyncCall(), 5, "text"])
def test_a_redactor_must_be_a_plain_function(redact: Any) -> None:
    """What a span's end could not wait for, or cannot call, is refused at set-up."""
    with pytest.raises(ga.ConfigurationError, match="redact"):
        ga.tracing(redact=redact)


def test_the_redactor_may_use_the_library(spans: Traced) -> None:
    """A redactor that traces itself does no harm."""
    inner = ga.Session()

    def redact(text: str) -> str:
        if text == "outer":
            inner.start_turn("inner").end()
        return text

    with traced(redact=redact) as outer:
        ga.Session().start_turn("outer").end()
        assert len(outer.spans) == 2


def loops() -> Any:
    found: list[Any] = []
    found.append(found)
    return found


class Request(Mapping[str, Any]):
    """A web framework's request: a mapping, whose items are all that came with it."""

    def __getitem__(self, key: str) -> str:
        return SECRET

    def __iter__(self) -> Iterator[str]:
        return iter(["headers"])

    def __len__(self) -> int:
        return 1

    def __str__(self) -> str:
        return "<Request>"


def raises_on_str() -> Any:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    return Mute()


@pytest.mark.parametrize("redact", [None, hide])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), None),
        ([float("inf"), 1.5, -0.0], [None, 1.5, 0]),
        ("\ud800", "\ufffd"),
        ({"\ud800": ["\udfff"]}, {"\ufffd": ["\ufffd"]}),
        ({1: {2.5: None}}, {"1": {"2.5": None}}),
        ((), []),
        ({"s": frozenset({1})}, {"s": [1]}),
        (0, 0),
        ("", ""),
        (False, False),
        ("{not json", "{not json"),
        ('{"is": "json"}', {"is": "json"}),
        ("[1, 2]", [1, 2]),
        ("5", "5"),
        (object, "<class 'object'>"),
        (MappingProxyType({"a": UserDict({"b": ChainMap({"c": 1}, {"d": 2})})}), {"a": {"b": {"d": 2, "c": 1}}}),
        ({"request": Request()}, {"request": "<Request>"}),
        (Request(), "<Request>"),
        ([UserDict(a=Request())], [{"a": "<Request>"}]),
    ],
)
def test_odd_values_become_valid_json(redact: Any, value: Any, expected: Any) -> None:
    """Whatever a tool returns is recorded as JSON that any reader takes, as near to it as JSON can come."""
    with traced(redact=redact) as spans:
        tool = ga.Session().start_turn().start_tool("t")
        tool.result = value
        tool.end()
        assert spans.json("gen_ai.tool.call.result") == expected
        assert spans.faults == {}


def test_a_mapping_of_another_kind_in_a_message_is_its_text(spans: Traced, turn: ga.Turn) -> None:
    """What a tool is called with in a message is opened no further than its own arguments are."""
    call = ga.ToolCallPart("t", "1", {"request": Request()})
    turn.start_llm("m", provider_name="p", input_messages=[ga.Message.assistant(tool_calls=[call])]).end()
    (message,) = spans.json("gen_ai.input.messages")
    assert message["parts"][0]["arguments"] == {"request": "<Request>"}


@pytest.mark.parametrize("make", [loops, raises_on_str, lambda: {(1, 2): {3}, raises_on_str(): 1}])
def test_values_without_a_text_are_dropped(spans: Traced, turn: ga.Turn, make: Callable[[], Any]) -> None:
    """A structure that holds itself, or an object that cannot be shown, costs that attribute and is counted."""
    tool = turn.start_tool("t", arguments={"fine": 1})
    tool.result = make()
    tool.end()
    assert spans.json("gen_ai.tool.call.arguments") == {"fine": 1}
    assert spans.json("gen_ai.tool.call.result") is None
    assert spans.faults == {"content that cannot be written as JSON": 1}


def test_long_texts_are_cut_with_a_marker(spans: Traced, turn: ga.Turn) -> None:
    """A message over the limit keeps its start and says how long it was; what is short stays whole."""
    turn.start_llm("m", provider_name="p", input_messages=["short", "x" * (MAX_CONTENT_BYTES + 1)]).end()
    text = spans.last().attributes["gen_ai.input.messages"]
    assert len(text.encode()) <= MAX_CONTENT_BYTES
    short, long = (message["parts"][0]["content"] for message in json.loads(text))
    assert short == "short"
    assert long.startswith("x" * (MAX_CONTENT_BYTES // 2))
    assert long.endswith(f"…[{MAX_CONTENT_BYTES + 1} bytes, truncated]")


def test_all_texts_are_capped(spans: Traced, turn: ga.Turn) -> None:
    """Errors' messages and attributes of the caller's own are held to the limit as well."""
    long = "é" * MAX_CONTENT_BYTES
    turn.set_attributes({"own": long}).end(error=ValueError(long))
    span = spans.last()
    (event,) = span.events
    for text in (span.attributes["own"], span.status_message, *event.attributes.values()):
        assert len(text.encode()) <= MAX_CONTENT_BYTES
    assert span.attributes["own"].endswith("truncated]")


@pytest.mark.parametrize("limit", [0, 1, 2, 10, 31, 64, 100, 1000])
def test_the_spans_own_limit_never_cuts_json(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Under OpenTelemetry's limit for attribute lengths content stays valid JSON, or is left out."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", str(limit))
    with traced() as spans:
        say_it_everywhere(ga.Session())
        ga.Session().start_turn("a long text " * 1000).end()
        for span in spans.spans:
            for key in CONTENT & span.attributes.keys():
                assert len(span.attributes[key]) <= limit
                value = json.loads(span.attributes[key])
                if not key.startswith("gen_ai.tool.call"):
                    check_schema(key, value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text(st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(), inner, max_size=8),
    max_leaves=40,
)


@given(JSON, st.integers(2, 400), st.booleans())
@example(["x" * 50] * 50, 70, True)
@example({"id": "x" * 500}, 100, False)
@example(10**300, 5, False)
@example('"' * 300, 200, False)
@example("\ud800" * 3, 2, False)
def test_any_value_within_any_limit_is_valid_json(value: Any, limit: int, redacts: bool) -> None:
    """Of any JSON value, under any limit, what is recorded is valid JSON of the same kind within the limit."""
    gate = Gate(True, (lambda text: text) if redacts else None, limit)
    text = gate.json(value, is_message=False)
    assert text is not None
    assert len(text.encode()) <= limit
    found = json.loads(text)
    if isinstance(value, list | dict):
        assert type(found) is type(value)


PARTS = st.one_of(
    st.builds(ga.TextPart, st.text(max_size=200)),
    st.builds(ga.ReasoningPart, st.text(max_size=50)),
    st.builds(ga.ToolCallPart, st.text(max_size=20), st.none() | st.text(max_size=20), JSON),
    st.builds(ga.ToolCallResponsePart, JSON, st.none() | st.text(max_size=20)),
    st.builds(ga.UriPart, st.sampled_from(["image", "other"]), st.text(max_size=50)),
)
MESSAGES = st.lists(
    st.builds(ga.Message, st.sampled_from(["user", "assistant", "tool"]), st.lists(PARTS, max_size=4)), max_size=6
)


@given(MESSAGES, st.integers(2, 600))
def test_cut_messages_are_messages(messages: list[ga.Message], limit: int) -> None:
    """Messages cut to any limit are still messages of the conventions' shape."""
    from genai_async._conversation._chat import to_input_messages

    text = Gate(True, None, limit).json(to_input_messages(messages))
    assert text is not None
    assert len(text.encode()) <= limit
    check_schema("gen_ai.input.messages", json.loads(text))


@pytest.mark.parametrize("limit", [100, 200, 500])
def test_cut_instructions_and_tools_keep_their_shape(limit: int) -> None:
    """Lists of parts and tools that are too many are cut to lists of parts and tools."""
    parts = [{"type": "text", "content": f"{number}"} for number in range(200)]
    tools = [{"type": "function", "name": f"t{number}", "parameters": {}} for number in range(200)]
    gate = Gate(True, None, limit)
    for key, value in (("gen_ai.system_instructions", parts), ("gen_ai.tool.definitions", tools)):
        text = gate.json(value)
        assert text is not None
        assert len(text) <= limit
        found = json.loads(text)
        assert found[-1] == value[-1] or limit == 100
        assert "truncated" in text
        check_schema(key, found)


def test_the_newest_messages_stay(spans: Traced) -> None:
    """Where messages are too many, the first ones go and a note says so."""
    messages = [ga.Message.user(str(number)) for number in range(1000)]
    text = Gate(True, None, 1000).json(tuple(messages))
    assert text is not None
    note, *rest = json.loads(text)
    assert "truncated" in note["parts"][0]["content"]
    assert [message["parts"][0]["content"] for message in rest] == [str(1000 - len(rest) + n) for n in range(len(rest))]


@pytest.mark.parametrize("as_parts", [False, True])
def test_of_many_structures_as_many_stay_as_have_room(as_parts: bool) -> None:
    """Of a history full of tables the newest are recorded whole, and the others neither copied nor walked."""
    results = [{"type": "tool_result", "tool_use_id": str(n), "content": {"rows": rows(4_000)}} for n in range(300)]
    messages = (
        [{"role": "user", "content": results}] if as_parts else [{"role": "user", "content": [it]} for it in results]
    )
    with traced() as spans:
        took = paces(lambda: ga.start_llm("m", provider_name="p", input_messages=messages).end(), tries=1)
    text = spans.last().attributes["gen_ai.input.messages"]
    found = json.loads(text)
    assert took < 300
    if as_parts:
        assert found[0]["parts"][0]["id"] == "0"
        return
    assert 0.9 * MAX_CONTENT_BYTES < len(text) <= MAX_CONTENT_BYTES
    assert "[300 items" in found[0]["parts"][0]["content"]
    assert [message["parts"][0]["id"] for message in found[1:]] == [str(n) for n in range(301 - len(found), 300)]


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": number, "price": number * 1.5, "name": "a name"} for number in range(count)]


LARGE: dict[str, Any] = {
    "vectors": [[number / 7 for number in range(1536)] for _ in range(100)],
    "rows": rows(60_000),
    "rows in a mapping": {"rows": rows(60_000)},
    "a mapping": {str(number): number for number in range(200_000)},
    "numbers": [1] * 2_000_000,
    "nested": [[[[1]]]] * 300_000,
    "a set": set(range(400_000)),
    "short texts": ["hello"] * 400_000,
    "texts": ["é" * 600] * 3_900,
    "one text": "é" * 30_000_000,
    "control characters": "\x00" * 3_000_000,
    "surrogates": ["\ud800"] * 300_000,
    "bytes": b"\xff" * 20_000_000,
    "keys": {f"{number}" * 1000: None for number in range(3000)},
    "one integer": 1 << 4_000_000,
}


@pytest.mark.parametrize("limit", [4096, MAX_CONTENT_BYTES])
@pytest.mark.parametrize("redact", [None, hide])
@pytest.mark.parametrize("name", LARGE)
def test_no_content_holds_the_loop(name: str, redact: Any, limit: int) -> None:
    """However much there is of a value, whatever it is made of, it is written in milliseconds, with a marker."""
    value, gate = LARGE[name], Gate(True, redact, limit)
    took = paces(lambda: gate.json(value, is_message=False))
    text = gate.json(value, is_message=False)
    assert text is not None
    assert len(text.encode()) <= limit
    assert "truncated" in text
    found = json.loads(text)
    assert type(found) is (type(value) if isinstance(value, list | dict) else str)
    # Thousands were usual before there were budgets.
    assert took < 300


def test_a_cut_structure_says_how_much_there_was() -> None:
    """Of too many items the outermost list keeps the last, a mapping the first, and each tells the number of all."""
    gate = Gate(True, None, 1000)
    text = gate.json(list(range(100_000)), is_message=False)
    assert text is not None
    note, *rest = json.loads(text)
    assert (note, rest[-1]) == ("[100000 items, truncated]", 99_999)
    text = gate.json({"a": {str(number): number for number in range(100_000)}, "b": 1}, is_message=False)
    assert text is not None
    found = json.loads(text)
    assert (found["truncated"], found["a"]["truncated"]) == ("[2 items, truncated]", "[100000 items, truncated]")
    assert found["a"]["0"] == 0


def test_texts_of_a_kind_of_their_own() -> None:
    """What is marked as a text of some kind, as templates do, is the text that it is, and no list of characters."""

    class Markup(str): ...

    assert Gate(True, None, 1000).json({"page": Markup("<p>")}, is_message=False) == '{"page":"<p>"}'


def test_a_redactor_never_sees_half_a_secret() -> None:
    """Of a text far over the limit the redactor gets the beginning, and what stands where that ends is not kept."""
    asked: list[int] = []

    def redact(text: str) -> str:
        asked.append(len(text))
        return text.replace(SECRET, "")

    long = SECRET * 500_000
    gate = Gate(True, redact, 5000)
    for text in (gate.json(long, is_message=False), gate.text(long), gate.attribute([long])[0], gate.json([long])):
        assert text is not None
        assert "truncated" in text
        assert not any(piece in text for piece in (SECRET[:2], SECRET[:3]))
    assert max(asked) < 50_000


@given(st.text(max_size=300), st.integers(0, 300))
def test_shortened_text_is_the_texts_start(text: str, limit: int) -> None:
    """A text that is cut begins as it did and tells its size; one that fits stays as it is."""
    short = shorten(text, limit)
    if len(text.encode()) <= limit:
        assert short == text
    else:
        start, marker = short.rsplit("…", 1)
        assert text.startswith(start)
        assert marker == f"[{len(text.encode())} bytes, truncated]"


KEY = "sk-abcdefghijklmnopqrstuvwx"


@pytest.mark.parametrize("error", [KEY, f"it was {KEY}", "用户的密码", "a b", "x" * 65])
def test_an_error_type_is_an_identifier(error: str) -> None:
    """What is no identifier, or no longer the same after the redactor, is a message and goes through the gate."""
    with traced(redact=ga.redact_secrets) as spans:
        ga.start_tool("t").end(error=error)
        ga.start_tool("t").end(error="rate_limit:429")
    first, second = spans.spans
    assert (first.attributes["error.type"], second.attributes["error.type"]) == ("_OTHER", "rate_limit:429")
    assert first.status_message == error.replace(KEY, "[key]")
    with traced(capture_content=False) as spans:
        ga.start_tool("t").end(error="用户的密码")
    assert spans.last().attributes["error.type"] == "_OTHER"
    assert spans.last().status_message == ""


def test_below_a_part_of_no_known_type_all_is_content() -> None:
    """Ids, roles and the like are words only where the conventions say what they are."""
    odd = {"type": "search_result", "content": {"id": "4111111111111111", "role": KEY, "parts": [{"mime_type": KEY}]}}
    with traced(redact=ga.redact_secrets) as spans:
        ga.start_llm("m", provider_name="p", input_messages=[{"role": "user", "content": [odd]}]).end()
    (message,) = spans.json("gen_ai.input.messages")
    assert message["parts"] == [
        {"type": "search_result", "content": {"id": "[card]", "role": "[key]", "parts": [{"mime_type": "[key]"}]}}
    ]


PASSWORD = "password: hunter2hunter2"
CODED = base64.b64encode(PASSWORD.encode()).decode()


def image(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize(
    "part",
    [
        {"type": "blob", "modality": "document", "content": CODED, "mime_type": "text/plain"},
        {"type": "blob", "modality": "document", "content": CODED},
        {"type": "document", "source": {"type": "base64", "data": CODED, "media_type": "application/json"}},
        image(f"data:text/plain;base64,{CODED}"),
        image("data:,password%3A%20hunter2hunter2"),
        image(f"DATA:text/plain;base64,{CODED}"),
        image(f"data:text/plain;BASE64,{CODED}"),
        {"type": "input_file", "file_data": f"Data:text/plain;base64,{CODED}"},
        ga.BlobPart.of(PASSWORD.encode(), modality="document", mime_type="image/svg+xml"),
    ],
    ids=["declared", "not declared", "json", "data url", "escaped data url", "capitals", "BASE64", "file", "part"],
)
def test_media_that_are_text_are_redacted(part: Any) -> None:
    """A redactor sees what textual media say, not their base64, in which it would find nothing."""
    with traced(redact=ga.redact_secrets) as spans:
        ga.start_llm("m", provider_name="p", input_messages=[ga.Message("user", [part])]).end()
    (found,) = spans.json("gen_ai.input.messages")[0]["parts"]
    assert base64.b64decode(found["content"]) == b"password: [secret]"


@pytest.mark.parametrize(
    "content",
    [
        base64.encodebytes(b"x" * 300 + PASSWORD.encode()).decode(),
        base64.urlsafe_b64encode(b"???>>>" + PASSWORD.encode()).decode(),
        base64.b64encode(PASSWORD.encode() + b"x").decode().rstrip("="),
        CODED.rstrip("=") + "=" * (-len(CODED.rstrip("=")) % 4) + CODED,
        "A" + CODED[1:] + "A",
        "pässword: hunter2hunter2",
    ],
    ids=["lines", "url-safe", "not padded", "one after the other", "one too many", "no base64"],
)
def test_no_spelling_of_base64_gets_past_a_redactor(content: str) -> None:
    """Whatever a reader may decode is decoded for the redactor, and what cannot be is not kept."""
    with traced(redact=lambda text: text.replace("hunter2", "-")) as spans:
        part = ga.BlobPart("document", content, "text/plain")
        ga.start_llm("m", provider_name="p", input_messages=[ga.Message("user", [part])]).end()
    found = spans.json("gen_ai.input.messages")[0]["parts"][0]["content"]
    assert b"hunter2" not in b"".join(base64.b64decode(piece + "==") for piece in found.split("="))
    assert found != content


@pytest.mark.parametrize("content", ["aGVsbG8", "aGVs\nbG8=\n", "Pz8_Pz4-", "aGVsbG8=", ""])
def test_media_in_which_nothing_is_redacted_stay_as_they_are(content: str) -> None:
    """Padding, line ends and the alphabet are the caller's."""
    with traced(redact=lambda text: text) as spans:
        part = ga.BlobPart("document", content, "text/plain")
        ga.start_llm("m", provider_name="p", input_messages=[ga.Message("user", [part])]).end()
    assert spans.json("gen_ai.input.messages")[0]["parts"][0]["content"] == content


def test_of_large_media_only_what_may_be_kept_is_read() -> None:
    """A redactor is shown no more of a document than an attribute can hold, wherever its lines end."""
    seen: list[int] = []

    def redact(text: str) -> str:
        seen.append(len(text))
        return text.replace("hunter2", "-")

    content = base64.encodebytes((PASSWORD + " ").encode() * 400_000).decode()
    part = ga.BlobPart("document", content, "text/plain")
    with traced(redact=redact) as spans:
        ga.start_llm("m", provider_name="p", input_messages=[ga.Message("user", [part])]).end()
    text, _, rest = spans.json("gen_ai.input.messages")[0]["parts"][0]["content"].partition("…")
    assert max(seen) < MAX_CONTENT_BYTES
    assert (len(text) > MAX_CONTENT_BYTES // 3, rest) == (True, f"[{len(content)} bytes, truncated]")
    assert b"hunter2" not in base64.b64decode(text[: len(text) // 4 * 4])


def test_other_media_stay_as_they_are() -> None:
    """What is no text is not made text of, and long text is redacted before it is cut, and marked."""
    picture = b"\x89PNG\xff" * 7
    with traced(redact=ga.redact_secrets) as spans:
        llm = ga.start_llm("m", provider_name="p").attach_media(picture, mime_type="image/png").attach_media(picture)
        llm.attach_media(b"\xff" + PASSWORD.encode(), mime_type="text/plain")
        llm.attach_media((PASSWORD + " ").encode() * 60_000, mime_type="text/plain").end()
    first, second, third, fourth = (part["content"] for part in spans.json("gen_ai.output.messages")[0]["parts"])
    assert [base64.b64decode(content) for content in (first, second)] == [picture, picture]
    assert base64.b64decode(third).endswith(b"password: [secret]")
    text, mark, rest = fourth.partition("…")
    assert b"hunter" not in base64.b64decode(text)
    assert (mark, rest) == ("…", "[1500000 bytes, truncated]")


def test_the_operation_is_redacted() -> None:
    """An operation of the caller's own is a word like others; those of the conventions stay."""
    with traced(redact=lambda text: f"<{len(text)}>") as spans:
        ga.start_llm(provider_name="p", operation=KEY).end()
        ga.start_llm(provider_name="p", operation="generate_content").end()
    assert [span.name for span in spans.spans] == ["<27>", "generate_content"]


@pytest.mark.parametrize("limit", [100, 300])
def test_the_limit_of_a_joined_provider_never_cuts_json(limit: int) -> None:
    """Where the program's own provider keeps less of an attribute, the gate knows."""
    provider = TracerProvider(span_limits=SpanLimits(max_span_attribute_length=limit))
    memory = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    with traced(tracer_provider=provider):
        ga.Session().start_turn("Where is my parcel? " * 50).end()
    (span,) = memory.get_finished_spans()
    text = str((span.attributes or {})["gen_ai.input.messages"])
    assert len(text) <= limit
    assert "truncated" in json.dumps(json.loads(text))


def test_a_value_is_checked_before_it_is_redacted() -> None:
    """A redactor makes no text of what is none, and sees the items of an iterator."""
    for redact in (None, str):
        with traced(redact=redact) as spans:
            llm = ga.start_llm("m", provider_name="p")
            llm.record(finish_reasons=iter(["stop"]), response_model=object(), seed="7").end()
        found = spans.last().attributes
        assert list(found["gen_ai.response.finish_reasons"]) == ["stop"]
        assert not {"gen_ai.response.model", "gen_ai.request.seed"} & found.keys()
        assert {"LLM.response_model", "LLM.seed"} <= spans.faults.keys()


def test_a_text_of_which_nothing_is_left_is_left_out() -> None:
    """A redactor that returns None takes a text away, but no name or id: what a span is stays to be seen."""
    with traced(redact=lambda text: None) as spans:
        llm = ga.start_llm("gpt-4o", provider_name="openai", stop_sequences=["."], attributes={"own": "x", "number": 5})
        llm.set_attributes({"other": ""}).record(response_id="r", finish_reasons=["stop"]).end(error="word")
    assert spans.last().name == "chat gpt-4o"
    assert spans.last().attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stop_sequences": [""],
        "gen_ai.provider.name": "openai",
        "gen_ai.response.id": "r",
        "gen_ai.response.finish_reasons": ["stop"],
        "error.type": "word",
    }


@pytest.mark.parametrize("capture", [True, False])
@pytest.mark.parametrize("redact", [fails, lambda text: None, lambda text: 5, lambda text: ""])
def test_names_and_ids_outlive_a_redactor_that_fails(redact: Callable[[str], Any], capture: bool) -> None:
    """Where a redactor fails or leaves nothing, content is dropped; names of spans and what backends group by stay."""
    found = []
    for options in ({"redact": redact, "capture_content": capture}, {"capture_content": False}):
        with traced(**options) as spans, ga.Session(session_id="c", agent_name="bot", agent_id="a1") as session:
            with session.start_turn(SECRET, agent_version="2", agent_description=None) as turn:
                llm = turn.start_llm(
                    "gpt-4o", provider_name="openai", server_address="api.example.com", output_type="json"
                )
                llm.record(response_id="r", response_model="gpt-4o-1", finish_reasons=["stop", "length"])
                llm.record(reasoning_level="low", prompt_name="p", prompt_version="3", previous_response_id="q").end()
                turn.start_tool("track", call_id="c1", arguments={"id": SECRET}).end(error="not_found")
                turn.start_subagent("scout", attributes={"gen_ai.agent.version": "3"}).end()
        found.append([(s.name, {k: v for k, v in s.attributes.items() if k not in CONTENT}) for s in spans.spans])
        assert SECRET not in everything(spans)
    assert found[0] == found[1]


@pytest.mark.parametrize("redact", [fails, lambda text: None])
def test_an_error_in_words_is_content_for_a_redactor_that_fails(redact: Callable[[str], Any]) -> None:
    """Only what can be nothing but the name of a kind of error is kept without the redactor's word."""
    with traced(redact=redact) as spans:
        for word in (SECRET, "sk-ABCDEFGHIJKLMNOPQRSTUVWXYZ012345", "joe.smith:hunter2", "rate_limited"):
            ga.start_tool("t").end(error=word)
    assert [span.attributes["error.type"] for span in spans.spans] == ["_OTHER", "_OTHER", "_OTHER", "rate_limited"]


def test_attributes_whose_keys_are_dropped_do_not_become_one() -> None:
    """Where the redactor fails on a key, its attribute is left out, and the others stay apart."""
    with traced(redact=fails) as spans:
        ga.start_tool("t", attributes={"a": 1, "b": 2}).end()
    assert not [key for key in spans.last().attributes if "dropped" in key]
    assert sum(spans.faults.values()) >= 2


def test_a_redactor_may_replace_names() -> None:
    """What is in a name is redacted there as elsewhere."""
    with traced(redact=hide) as spans, ga.Session(agent_name=f"bot of {SECRET}"):
        ga.start_turn(agent_version=SECRET).end()
    assert spans.last().name == "invoke_agent bot of ***"
    assert SECRET not in everything(spans)


HUGE = "x" * 3_000_000


def test_no_attribute_is_larger_than_the_limit() -> None:
    """Words, names and lists are capped, too, whether they are redacted or not."""
    for redact in (None, str):
        with traced(redact=redact) as spans:
            llm = ga.start_llm(HUGE, provider_name=HUGE, operation=HUGE, stop_sequences=[HUGE], attributes={"a": HUGE})
            llm.record(response_id=HUGE, model=HUGE).set_attributes(
                {"list": [HUGE, 1], "deep": {"a": [HUGE] * 5}}
            ).end()
            ga.start_tool("t", description=HUGE, call_id=HUGE).end(error=HUGE)
            ga.start_tool("t").end(error=type(HUGE, (Exception,), {})(HUGE))
        for span in spans.spans:
            assert len(span.name) <= 300
            assert len(span.status_message) <= MAX_CONTENT_BYTES
            for key, value in span.attributes.items():
                encoded = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
                assert 0 < len(encoded) <= MAX_CONTENT_BYTES + 2, key
        assert {"list", "deep"} <= spans.spans[0].attributes.keys()


@pytest.mark.parametrize("value", [[1, "a"], (True, None), {"a": [b"x"]}, [1.5, float("inf")], [1 << 70]])
def test_a_small_value_of_the_callers_own_stays_what_it_is(spans: Traced, value: Any) -> None:
    """Capping does not change what is small."""
    assert Gate(True).attribute(value) in (value, [str(1 << 70)])


def test_a_call_that_ends_while_its_turn_is_written() -> None:
    """A redactor, a finalizer or another thread may end a call in the middle of its turn's end: nothing gets lost."""
    with traced(redact=lambda text: (calls and calls.pop().end(), text)[1]) as spans, ga.Session() as session:
        calls: list[ga.LLM] = []
        turn = session.start_turn("What?")
        turn.record(output_messages=["That."])
        calls += [turn.start_llm("m", provider_name="p") for _ in range(3)]
        turn.end()
    found = spans.one("invoke_agent").attributes
    assert {"gen_ai.input.messages", "gen_ai.output.messages"} <= set(found)
    assert not {"calls", "pieces"} & set(found)
    assert spans.faults == {}


class Counted:
    """An object that counts how often it is asked for its text."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked = 0

    def __str__(self) -> str:
        self.asked += 1
        return "x" * self.size


class CountedModel(Counted):
    """A model of an SDK that counts how often it is dumped."""

    def model_dump(self, **_: Any) -> dict[str, Any]:
        self.asked += 1
        return {"text": "x" * self.size, "rows": [1] * 5000}


@pytest.mark.parametrize("redact", [None, hide])
@pytest.mark.parametrize("size", [10, 10_000, 100_000, 1_500_000, 10_000_000])
@pytest.mark.parametrize("kind", [Counted, CountedModel])
def test_a_values_own_code_runs_twice_at_most(kind: type[Counted], size: int, redact: Any) -> None:
    """An object that is recorded is asked what it says once, or twice where it stands in something else."""
    with traced(redact=redact) as spans:
        one, within, said = kind(size), kind(size), kind(size)
        ga.start_tool("t").record(result=one).end()
        assert one.asked == 1
        assert spans.last().attributes["gen_ai.tool.call.result"].count("x") > size // 5
        ga.start_tool("t", arguments={"a": [within]}).end()
        assert within.asked <= 2
        call = ga.ToolCallPart("t", arguments={"a": said})
        ga.start_llm("m", provider_name="p", input_messages=[ga.Message("assistant", [call])]).end()
        assert said.asked <= 2
