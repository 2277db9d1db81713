from __future__ import annotations

import itertools

import pytest

from genai_async.export import RetryPolicy
from genai_async.export._pause import Pause

_POLICY = RetryPolicy(initial=2, maximum=16, multiplier=2, jitter=0.5)


@pytest.fixture
def pause() -> Pause:
    return Pause(_POLICY)


def test_at_first_nothing_is_waited_for(pause: Pause) -> None:
    """Before the first answer requests may leave at once, also for those who are in a hurry."""
    assert (pause.until, pause.is_failing) == (0, False)
    pause.hurry()
    assert pause.until == 0


def test_pauses_grow_up_to_the_maximum(pause: Pause) -> None:
    """Each failure in a row makes the pause longer; the part that is left to chance makes it shorter."""
    moments = [100.0]
    for _ in range(5):
        pause.fail(moments[-1], 0)
        moments.append(pause.until)
    assert [later - before for before, later in itertools.pairwise(moments)] == [2, 4, 8, 16, 16]
    pause.fail(moments[-1], 1)
    assert pause.until - moments[-1] == 8


def test_failures_within_a_pause_count_once(pause: Pause) -> None:
    """Requests that were under way together fail together: that is one failure of the collector."""
    for now in (100, 100.5, 101):
        pause.fail(now, 0)
    assert pause.until == 103
    pause.fail(103, 0)
    assert pause.until == 107


def test_an_answer_ends_the_pause(pause: Pause) -> None:
    """After an answer requests leave at once, and the next failure is a first one."""
    pause.fail(100, 0)
    pause.fail(102, 0)
    assert pause.is_failing
    pause.succeed()
    assert (pause.until, pause.is_failing) == (0, False)
    pause.fail(200, 0)
    assert pause.until == 202


def test_who_waits_makes_pauses_short(pause: Pause) -> None:
    """For somebody who waits already, or begins to, no pause is longer than the first."""
    for now in (100, 110, 120):
        pause.fail(now, 0)
    assert pause.until == 128
    pause.hurry()
    assert pause.until == 122
    pause.fail(130, 0, is_hurried=True)
    assert pause.until == 132


def test_who_waits_is_asked_for_a_second_at_most() -> None:
    """With a short first pause the later ones grow to a second while somebody waits."""
    pause = Pause(RetryPolicy(initial=0.25, jitter=0))
    moments = [100.0]
    for _ in range(4):
        pause.fail(moments[-1], 0, is_hurried=True)
        moments.append(pause.until)
    assert [later - before for before, later in itertools.pairwise(moments)] == [0.25, 0.5, 1, 1]


def test_whether_the_collector_has_declined(pause: Pause) -> None:
    """It has if the latest request failed, and that after somebody began to wait, or if it asks to be left alone."""
    assert not pause.is_declined(0, 0)
    pause.fail(100, 0)
    assert pause.is_declined(99, 200)
    assert not pause.is_declined(101, 200)
    pause.succeed()
    assert not pause.is_declined(99, 200)
    pause.fail(150, 0, after=100)
    pause.succeed()
    assert pause.is_declined(200, 249)
    assert not pause.is_declined(200, 251)


def test_what_the_collector_asks_for_is_kept(pause: Pause) -> None:
    """Neither those who wait nor the answers to other requests shorten what a collector asked for."""
    pause.fail(100, 0, after=60)
    pause.fail(101, 0, after=5)
    assert pause.until == 160
    pause.hurry()
    pause.succeed()
    assert pause.until == 160
    assert not pause.is_failing
