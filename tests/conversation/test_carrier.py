"""Conversations that cross processes, and headers that somebody made up."""

from __future__ import annotations

from typing import Any

import pytest

import genai_async as ga

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


@pytest.mark.parametrize("given", ["c-1", "a,b;c=d%41+e", '"\\', "!~"])
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


def test_the_state_of_the_trace_comes_along(spans: Traced) -> None:
    """A well-formed `tracestate` is taken with the span that it belongs to."""
    headers = {"traceparent": PARENT, "tracestate": "a=1, b@c=2,"}
    ga.Session.from_carrier(headers, continue_trace=True).start_turn("x").end()
    assert spans.last().trace_id == "0af7651916cd43dd8448eb211c80319c"
