from __future__ import annotations

from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.pace import paces

from genai_async.export import RetryPolicy
from genai_async.export._reply import Reply, verdict
from genai_async.export._retry import MAX_RETRY_AFTER, Action, judge, retry_after


@given(st.integers(100, 599))
def test_every_status_has_its_decision(status: int) -> None:
    """Success, the four that may be retried, the one that is split, and the rest which is final."""
    found = judge(status).action
    if 200 <= status < 300:
        assert found is Action.DELIVERED
    elif status in {429, 502, 503, 504}:
        assert found is Action.RETRY
    elif status == 413:
        assert found is Action.SPLIT
    else:
        assert (found, judge(status).reason) == (Action.DROP, f"rejected_{status}")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("5", 5.0),
        (" 5 ", 5.0),
        ("99999999999999999999", MAX_RETRY_AFTER),
        (formatdate(1030, usegmt=True), 30.0),
        (formatdate(1030), 30.0),
        (formatdate(900, usegmt=True), 0.0),
        (formatdate(10**9, usegmt=True), MAX_RETRY_AFTER),
        ("Thu, 01 Jan 1970 00:17:10", 30.0),
        ("soon", None),
        ("-5", None),
        ("nan", None),
        ("1e5", None),
        ("\u0665", None),
        ("Thu, 99 Jan 99999999999 00:00:00 GMT", None),
    ],
)
def test_retry_after(header: str | None, expected: float | None) -> None:
    """Seconds or a date, never negative, never more than the cap; nonsense is as good as nothing."""
    assert retry_after(header, 1000.0) == expected


@given(st.text() | st.none(), st.floats(0, 1e10))
def test_no_header_hurts(header: str | None, now: float) -> None:
    """Whatever the header holds, the answer is a bounded delay or none."""
    found = retry_after(header, now)
    assert found is None or 0 <= found <= MAX_RETRY_AFTER


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_delays_grow_up_to_a_maximum(failures: int, chance: float) -> None:
    """Delays lie between nothing and the maximum, however many failures there were."""
    policy = RetryPolicy(initial=1, maximum=30, multiplier=2, jitter=0.5)
    assert 0.5 <= policy.delay(failures, chance) <= 30
    assert policy.delay(1, 0) == 1
    assert policy.delay(3, 0) == 4
    assert policy.delay(3, 1) == 2


@given(
    st.integers(100, 599), st.binary() | st.from_regex(rb'\{"partialSuccess":.*\}'), st.sampled_from(["", "gzip", "br"])
)
def test_no_body_hurts(status: int, body: bytes, encoding: str) -> None:
    """Nothing in a response can make more spans rejected than were sent."""
    found = verdict(Reply(status, None, body, encoding), 5, 0)
    assert 0 <= found.rejected <= 5


@pytest.mark.parametrize("key", ["message", "other"])
def test_a_large_body_is_not_made_into_values(key: str) -> None:
    """Nothing is built from what is not of use, however much of it there is."""
    body = b'{"%b":[' % key.encode() + b"{}," * 1_000_000 + b"{}]}"
    assert paces(lambda: verdict(Reply(503, None, body), 5, 0)) < 40


@pytest.mark.parametrize(("said", "count"), [("3", 3), ("'3'", 3), ("99", 5), ("'99999999999999999999'", 5), ("-1", 0)])
def test_rejected_spans(said: str, count: int) -> None:
    """A count may be a number or a string, and is held between none and all."""
    body = f'{{"partialSuccess": {{"rejectedSpans": {said}, "errorMessage": "no"}}}}'.replace("'", '"').encode()
    found = verdict(Reply(200, None, body), 5, 0)
    assert (found.action, found.rejected, found.detail) == (Action.DELIVERED, count, "no")
