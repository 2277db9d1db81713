"""Conversations that cross processes, and headers that somebody made up."""

from __future__ import annotations

from typing import Any

import pytest

import genai_async as ga
from genai_async._conversation._traceparent import remote_span

from .support import Traced

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


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
    assert [link.trace_id for link in spans.last().links] == ["0af7651916cd43dd8448eb211c80319c"]
    assert spans.faults == {"an unusual conversation id in a carrier": 1, "an unusable session id": 1}


def test_the_state_of_the_trace_comes_along(spans: Traced) -> None:
    """A well-formed `tracestate` is taken with the span that it belongs to."""
    headers = {"traceparent": PARENT, "tracestate": "a=1, b@c=2,"}
    turn = ga.Session.from_carrier(headers, continue_trace=True).start_turn("x")
    assert turn.trace_id == "0af7651916cd43dd8448eb211c80319c"
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
        PARENT.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        PARENT.replace("b7ad6b7169203331", "0" * 16),
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
