"""Conversations that cross processes, and headers that somebody made up."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import copy_context
from threading import Thread
from typing import Any

import pytest

import genai_async as ga
from genai_async._conversation._traceparent import remote_span

from .support import Traced

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize("given", ["c-1", "a b,c;d=e%41+é", "a\ud800", "é" * 20, '"\\'])
def test_any_id_makes_a_header(given: str) -> None:
    """Whatever a conversation is called, its carrier is made of plain headers, and never raises."""
    carrier = ga.Session(session_id=given).carrier(baggage=True)
    assert carrier["baggage"].isascii()
    assert carrier["baggage"].count("=") == 1
    assert not set(carrier["baggage"]) & set(' ,;"\\')


def test_an_id_that_no_header_holds_stays_at_home() -> None:
    """An id that is longer than a baggage header may be is left out of it."""
    assert "baggage" not in ga.Session(session_id="x" * 9000).carrier(baggage=True)


@pytest.mark.parametrize("given", ["c-1", "a,b;c=d%41+e", "19:a@thread.tacv2;messageid=1", "!~"])
def test_an_id_comes_back(given: str) -> None:
    """What one process wrote another reads, also among other members and with properties."""
    carrier = ga.Session(session_id=given).carrier(baggage=True)
    assert ga.Session.from_carrier(carrier).session_id == given
    for header in (f"a=b , {carrier['baggage']};p=1, c=d", f"x,{carrier['baggage'].replace('=', ' = ')}"):
        assert ga.Session.from_carrier({"Baggage": header}).session_id == given


@pytest.mark.parametrize(
    "headers",
    [
        {"baggage": "gen_ai.conversation.id=" + "A" * 9000},
        {"baggage": "gen_ai.conversation.id=" + "A" * 129},
        {"baggage": "gen_ai.conversation.id=c-1," + "x=y," * 4000},
        {"baggage": "evil evil, =, gen_ai.conversation.id"},
        {"baggage": "gen_ai.conversation.id=%E9%00evil"},
        {"baggage": "gen_ai.conversation.id=evil evil"},
        {"tracestate": "evil evil evil"},
        {"traceparent": PARENT, "tracestate": "evil evil evil"},
        {"traceparent": PARENT, "tracestate": "evil=" + "A" * 9000},
        {"traceparent": PARENT, "tracestate": "UPPER=evil"},
        {"traceparent": "evil" * 1000},
    ],
)
def test_made_up_headers_are_not_repeated(
    spans: Traced, caplog: pytest.LogCaptureFixture, headers: dict[str, Any]
) -> None:
    """What a stranger sends neither raises nor gets into a log, and names no conversation."""
    session = ga.Session.from_carrier(headers)
    assert len(session.session_id) == 36
    assert "evil" not in caplog.text
    assert len(caplog.text) < 1000


@pytest.mark.parametrize("given", ["A" * 129, "evil evil", '"', "<script>", "\\", "é"])
def test_an_id_that_is_refused_is_counted(spans: Traced, given: str) -> None:
    """A carrier's id that cannot be taken is counted where it is written and where it is read; its span counts."""
    carrier = ga.Session(session_id=given).carrier(baggage=True)
    assert spans.faults == {"an unusual conversation id in a carrier": 1}
    with ga.Session.from_carrier({**carrier, "traceparent": PARENT}) as session:
        assert len(session.session_id) == 36
        session.start_turn("x").end()
    assert [link.trace_id for link in spans.last().links] == [TRACE]
    assert spans.faults == {"an unusual conversation id in a carrier": 1, "an unusable session id": 1}


def test_the_state_of_the_trace_comes_along(spans: Traced) -> None:
    """A well-formed `tracestate` is taken with the span that it belongs to."""
    headers = {"traceparent": PARENT, "tracestate": "a=1, b@c=2,"}
    turn = ga.Session.from_carrier(headers, continue_trace=True).start_turn("x")
    assert turn.trace_id == TRACE
    carrier = turn.carrier()
    assert carrier == {"traceparent": f"{PARENT[:36]}{turn.span_id}-01", "tracestate": "a=1,b@c=2"}


@pytest.mark.parametrize(
    ("given", "flags"), [("00", 0), ("01", 1), ("03", 3), ("ff", 3), ("fe", 2)]
)  # fmt: skip
def test_only_known_flags_are_taken(given: str, flags: int) -> None:
    """Of the flags those are kept that the specification gives a meaning: sampled, and random trace id."""
    span = remote_span(PARENT[:-2] + given)
    assert span is not None
    assert span.get_span_context().trace_flags == flags


@pytest.mark.parametrize(
    "parent",
    [
        f"ff{PARENT[2:]}",
        f"{PARENT}-more",
        f"{PARENT} -more",
        PARENT.upper(),
        PARENT.replace(TRACE, "0" * 32),
        PARENT.replace(SPAN, "0" * 16),
        f"01{PARENT[2:]}-{'x' * 128}",
        f"{PARENT}\n",
        "",
    ],
)
def test_a_broken_parent_names_no_span(parent: str) -> None:
    """What is no `traceparent` gives no span."""
    assert remote_span(parent) is None


@pytest.mark.parametrize("parent", [PARENT, f" {PARENT}\t", f"01{PARENT[2:]}-more", f"cc{PARENT[2:]}"])
def test_versions_to_come_are_read(parent: str) -> None:
    """A later version may add fields behind those that are known."""
    span = remote_span(parent)
    assert span is not None
    assert span.get_span_context().is_remote


def tool() -> None:
    """A tool run without a turn."""
    ga.start_tool("x").end()


def call() -> None:
    """A model call without a turn."""
    ga.start_llm("x", provider_name="p").end()


def agent() -> None:
    """A sub-agent's run without a turn."""
    ga.start_subagent("x").end()


@pytest.mark.parametrize("start", [tool, call, agent])
def test_what_starts_without_a_turn_comes_from_the_carrier(spans: Traced, start: Callable[[], None]) -> None:
    """Outside of a turn a call is linked to the carrier's span, or its child if the trace is to be continued."""
    headers = {"traceparent": PARENT, "baggage": "gen_ai.conversation.id=c-1"}
    with ga.Session.from_carrier(headers):
        start()
    linked = spans.last()
    with ga.Session.from_carrier(headers, continue_trace=True):
        start()
    nested = spans.last()
    assert linked.parent_span_id is None
    assert [(link.trace_id, link.span_id) for link in linked.links] == [(TRACE, SPAN)]
    assert (nested.trace_id, nested.parent_span_id, nested.links) == (TRACE, SPAN, ())
    assert [span.attributes["gen_ai.conversation.id"] for span in (linked, nested)] == ["c-1", "c-1"]


@pytest.mark.parametrize("start", [tool, call, agent])
def test_what_starts_without_a_turn_continues_a_local_trace(spans: Traced, start: Callable[[], None]) -> None:
    """Under another library's open span, too, a call goes where a turn would go; never under one that has ended."""
    tracer = spans.tracing.provider.get_tracer("other")
    with ga.Session(continue_trace=True), tracer.start_as_current_span("request") as request:
        start()
        request.end()
        start()
    assert [span.parent_span_id for span in spans.spans] == [None, spans.spans[0].span_id, None]
    assert [link.span_id for link in spans.last().links] == [spans.spans[0].span_id]


def test_what_outlives_a_turn_is_linked_to_that(spans: Traced) -> None:
    """A task that outlives its turn is linked to the turn, which is nearer than where the session came from."""
    for options in ({}, {"continue_trace": True}):
        with ga.Session.from_carrier({"traceparent": PARENT}, **options) as session, session.start_turn() as turn:
            inherited = copy_context()
        task = Thread(target=inherited.run, args=(tool,))
        task.start()
        task.join()
        assert spans.last().parent_span_id is None
        assert [link.span_id for link in spans.last().links] == [turn.span_id]


def test_a_linked_part_of_a_resumed_session_is_linked_to_the_carrier(spans: Traced) -> None:
    """Where there is no span to be linked to, the carrier's is what there is."""
    with ga.Session.from_carrier({"traceparent": PARENT}), ga.propagate("link"):
        tool()
    assert [link.span_id for link in spans.last().links] == [SPAN]
