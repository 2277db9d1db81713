"""A conversation that goes on in another process: carried as headers, linked or continued, resumed after a pause."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

import genai_async as ga

from .support import Traced


def test_baggage_goes_along_only_when_asked_for(spans: Traced, session: ga.Session) -> None:
    """A carrier names the span; the conversation's id is in it for those who ask."""
    with session, session.start_turn() as turn:
        plain, whole = turn.carrier(), turn.carrier(baggage=True)
        assert session.carrier() == plain
    assert set(plain) == {"traceparent"}
    assert turn.trace_id in plain["traceparent"]
    assert turn.span_id in plain["traceparent"]
    assert set(whole) == {"traceparent", "baggage"}
    assert session.session_id in whole["baggage"]


def test_turns_are_linked_to_where_the_carrier_came_from(spans: Traced, session: ga.Session) -> None:
    """On the other side the conversation is the same, and its turns are roots that are linked back."""
    with session.start_turn(agent_name="a") as turn:
        carrier = turn.carrier(baggage=True)
    there = ga.Session.from_carrier(carrier, agent_name="b")
    assert there.session_id == session.session_id
    there.start_turn().end()
    span = spans.one("invoke_agent b")
    assert span.parent_span_id is None
    assert span.trace_id != turn.trace_id
    assert [(link.trace_id, link.span_id) for link in span.links] == [(turn.trace_id, turn.span_id)]


def test_a_trace_is_continued_when_asked_for(spans: Traced, session: ga.Session) -> None:
    """Under `continue_trace` the turn is a child of the carrier's span."""
    with session.start_turn(agent_name="a") as turn:
        carrier = turn.carrier(baggage=True)
    ga.Session.from_carrier(carrier, agent_name="b", continue_trace=True).start_turn().end()
    span = spans.one("invoke_agent b")
    assert (span.trace_id, span.parent_span_id, span.links) == (turn.trace_id, turn.span_id, ())


def test_a_carrier_for_one_turn(spans: Traced, session: ga.Session) -> None:
    """`parent=` stands for the span that is current, for this turn alone."""
    with session.start_turn(agent_name="a") as turn:
        carrier = turn.carrier()
    session.start_turn(agent_name="b", parent=carrier).end()
    session.start_turn(agent_name="c").end()
    assert [link.span_id for link in spans.one("invoke_agent b").links] == [turn.span_id]
    assert spans.one("invoke_agent c").links == ()


@pytest.mark.parametrize(
    "carrier",
    [
        None,
        3,
        "traceparent",
        {},
        {"traceparent": "nonsense"},
        {"traceparent": 3, "baggage": b"x"},
        {"baggage": "gen_ai.conversation.id=" + "x" * 500},
        {"baggage": "gen_ai.conversation.id=a%0Ab"},
    ],
)
def test_a_bad_carrier_is_ignored_and_counted(spans: Traced, carrier: Any) -> None:
    """What cannot be read makes a fresh session, and nobody is told but the books."""
    session = ga.Session.from_carrier(carrier)
    assert len(session.session_id) == 36
    session.start_turn().end()
    assert spans.last().links == ()
    assert spans.faults == {"a carrier": 1}


def test_headers_in_any_case_and_an_id_of_ones_own(spans: Traced, session: ga.Session) -> None:
    """Header names come in any case, and a session id that is passed wins over the carried one."""
    with session.start_turn() as turn:
        carrier = {name.title(): value for name, value in turn.carrier(baggage=True).items()}
    assert ga.Session.from_carrier(carrier).session_id == session.session_id
    assert ga.Session.from_carrier(carrier, session_id="mine").session_id == "mine"


def test_a_turn_that_waits_for_a_person_is_resumed_in_another_process(spans: Traced, session: ga.Session) -> None:
    """What a process stored when it stopped is enough for another to go on with the conversation."""
    with session.start_turn(agent_name="asks") as turn:
        stored = json.dumps(turn.carrier(baggage=True))
    program = (
        "import json, sys, genai_async as ga; from genai_async.testing import capture\n"
        "with capture() as spans:\n"
        "    session = ga.Session.from_carrier(json.loads(sys.argv[1]), agent_name='goes on')\n"
        "    with session.start_turn('yes'): pass\n"
        "    (span,) = spans.spans\n"
        "    print(json.dumps([span.attributes['gen_ai.conversation.id'], [link.span_id for link in span.links]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, stored], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == [session.session_id, [turn.span_id]]
