from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from genai_async.export._buffer import ENTRY_BYTES, Batch, Buffer
from genai_async.export._split import smaller
from genai_async.export._spool import Load, Segment
from genai_async.export._trim import trim

_GROUP = (b"r", b"s")
_OTHER = (b"r" * 10, b"s" * 10)


def _buffer(max_bytes: int = 10**6, spans: int = 3, size: int = 1000) -> Buffer:
    return Buffer(max_bytes, spans, size, lambda: 0.0)


def _balanced(buffer: Buffer) -> bool:
    books = buffer.books()
    return books.ended == sum(
        (books.delivered, sum(books.dropped.values()), books.spooled, books.queued, books.in_flight)
    )


_steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "take", "settle", "reject", "return", "split", "drop", "all_back", "drop_all"]),
        st.integers(0, 3),
    ),
    max_size=60,
)


@settings(deadline=None)
@given(_steps)
def test_the_books_always_balance(steps: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order, every span is somewhere, and memory is what waits takes."""
    buffer = _buffer(max_bytes=20 * (10 + ENTRY_BYTES))
    flying: list[Batch] = []
    for step, number in steps:
        batch = flying.pop(number % len(flying)) if flying and step in {"settle", "reject", "return", "split"} else None
        if step == "add":
            for size in range(number):
                buffer.add((_GROUP, _OTHER)[(size + number) // 2 % 2], b"x" * 10)
        elif step == "take" and (taken := buffer.take(fresh=bool(number % 2))) is not None:
            flying.append(taken)
        elif step == "drop":
            buffer.drop("encoding", number)
        elif step == "all_back":
            buffer.put_all_back()
            flying.clear()
        elif step == "drop_all":
            buffer.drop_all("shutdown")
            flying.clear()
        elif batch is not None:
            _finish(buffer, step, batch)
        books = buffer.books()
        assert _balanced(buffer)
        assert buffer.unsettled(0, buffer.position) == books.queued + books.in_flight
        held = books.queued + books.in_flight
        assert held * (10 + ENTRY_BYTES) <= books.memory_bytes <= held * (10 + ENTRY_BYTES + 20)
    buffer.put_all_back()
    while (batch := buffer.take(fresh=True)) is not None:
        buffer.settle(batch)
    assert (buffer.books().queued, buffer.books().memory_bytes, buffer._queue_bytes) == (0, 0, 0)
    assert buffer.add(_GROUP, b"x" * 10)
    assert buffer.books().memory_bytes == 12 + ENTRY_BYTES
    assert buffer.drop_all("end") == buffer.books().dropped["end"]
    assert buffer.books().memory_bytes == 0


def _finish(buffer: Buffer, step: str, batch: Batch) -> None:
    if step == "settle":
        buffer.settle(batch)
    elif step == "reject":
        buffer.settle(batch, {"partial_success": 1})
    elif step == "return" or len(batch.spans) == 1:
        batch.attempts += 1
        buffer.put_back(batch)
    else:
        buffer.put_back(batch, *smaller(batch))


def test_when_to_look() -> None:
    """The worker is woken by the first span and by each that completes a batch, by count or by bytes."""
    buffer = _buffer()
    assert [buffer.add(_GROUP, b"x") for _ in range(5)] == [True, False, True, False, False]
    large = _buffer(spans=100)
    assert [large.add(_GROUP, b"x" * 400) for _ in range(5)] == [True, False, True, False, False]
    assert large.is_full()


def test_a_signal_that_raises_after_a_span_is_queued() -> None:
    """Python looks for signals after each call: whatever is raised there, the span is there and in the books."""

    class Interrupted(deque[Any]):
        def append(self, item: Any) -> None:
            super().append(item)
            raise KeyboardInterrupt

    buffer = _buffer()
    buffer._queue = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        buffer.add(_GROUP, b"span")
    assert _balanced(buffer)
    books = buffer.books()
    assert (books.ended, books.queued, buffer.position) == (1, 1, 1)


def test_drops_wake_once() -> None:
    """Drops are told in one go: only the first since the last telling wakes the worker."""
    buffer = _buffer(max_bytes=1)
    assert [buffer.add(_GROUP, b"x") for _ in range(3)] == [True, False, False]
    assert buffer.untold() == {"queue_full": 3}
    assert buffer.untold() == {}
    assert buffer.add(_GROUP, b"x")


def test_numbers() -> None:
    """A range of numbers is unsettled for as long as one of its spans waits or flies."""
    buffer = _buffer()
    for _ in range(6):
        buffer.add(_GROUP, b"x")
    first = buffer.take(fresh=True)
    assert first is not None
    assert (first.first, first.last, buffer.head, buffer.position) == (1, 3, 4, 6)
    assert [buffer.unsettled(*ends) for ends in ((0, 6), (0, 3), (3, 6), (2, 4), (6, 6), (4, 2))] == [6, 3, 3, 2, 0, 0]
    buffer.settle(first)
    assert [buffer.unsettled(*ends) for ends in ((0, 6), (0, 3), (3, 6))] == [3, 0, 3]


def test_ages() -> None:
    """The age of the oldest span is known about as well as a batch is long."""
    now = [0.0]
    buffer = Buffer(10**6, 2, 10**6, lambda: now[0])
    assert buffer.waiting_since() is None
    for moment in range(6):
        now[0] = float(moment)
        buffer.add(_GROUP, b"x")
    assert buffer.oldest() == 0.0
    first = buffer.take(fresh=True)
    assert first is not None
    assert (first.since, buffer.oldest(), buffer.waiting_since()) == (0.0, 2.0, 0.0)
    buffer.settle(first)
    assert buffer.waiting_since() == 2.0


def test_what_is_given_up_cannot_be_settled() -> None:
    """A batch that was dropped while it flew changes nothing when its answer comes after all."""
    buffer = _buffer()
    buffer.add(_GROUP, b"x")
    batch = buffer.take(fresh=True)
    assert batch is not None
    buffer.drop_all("shutdown")
    buffer.settle(batch)
    buffer.put_back(batch)
    assert not buffer.stow(batch, _segment(1))
    assert not buffer.has_stowed(-1, 1)
    assert (buffer.books().delivered, buffer.books().dropped) == (0, {"shutdown": 1})


def _segment(count: int) -> Segment:
    return Segment(Path(), count, 0, 0.0)


def _inherited(count: int) -> Segment:
    return Segment(Path(), count, 0, 0.0, is_inherited=True)


def test_numbers_on_disk() -> None:
    """A range of numbers is on disk until its segments are released; what was inherited comes before all numbers."""
    buffer = _buffer()
    for _ in range(9):
        buffer.add(_GROUP, b"x")
    inherited, *segments = _inherited(5), _segment(3), _segment(3), _segment(3)
    buffer.adopt(inherited)
    for segment in segments:
        batch = buffer.take_unstowed()
        assert batch is not None
        buffer.stow(batch, segment)
    assert buffer.unsettled(0, 9) == 0
    assert _balanced(buffer)
    assert [buffer.stowed(last) for last in (0, 1, 3, 5, 9, 12)] == [5, 6, 8, 10, 14, 14]
    ranges = ((-1, 0), (0, 0), (0, 1), (2, 3), (3, 4), (9, 9), (8, 12))
    assert [buffer.has_stowed(*ends) for ends in ranges] == [True, False, True, True, True, False, True]
    buffer.release(Load([inherited, segments[1]], 8))
    buffer.release(Load([inherited], 5))
    assert [buffer.stowed(last) for last in (0, 3, 5, 6, 9)] == [0, 3, 3, 3, 6]
    assert [buffer.has_stowed(*ends) for ends in ((-1, 0), (3, 6), (3, 7), (0, 3))] == [False, False, True, True]
    buffer.adopt(_inherited(1))  # late, from a directory that did not answer before
    assert [buffer.has_stowed(*ends) for ends in ((-1, 0), (3, 6), (3, 7), (0, 3))] == [True, False, True, True]


def test_what_flew_when_its_sender_went_counts_as_tried() -> None:
    """The collector may have it, so the next request for it is one that repeats another."""
    buffer = _buffer()
    buffer.add(_GROUP, b"x")
    buffer.take(fresh=True)
    buffer.put_all_back()
    batch = buffer.take(fresh=True)
    assert batch is not None
    assert batch.attempts == 1


def test_large_spans_travel_alone() -> None:
    """A span larger than a batch is taken by itself, and one that would overfill a batch waits for the next."""
    buffer = _buffer(size=100)
    for size in (60, 60, 500, 10):
        buffer.add(_GROUP, b"x" * size)
    sizes = []
    while (batch := buffer.take(fresh=True)) is not None:
        sizes.append(batch.size_bytes)
    assert sizes == [62, 62, 502, 12]


def test_resources_and_scopes_count() -> None:
    """What spans share counts once in the queue, and once in each batch."""
    buffer = _buffer(max_bytes=1000, spans=9, size=100)
    for group in (_GROUP, _GROUP, _OTHER, _OTHER, _OTHER):
        buffer.add(group, b"x" * 20)
    assert buffer.books().memory_bytes == 5 * (20 + ENTRY_BYTES) + 2 + 20
    first, second = buffer.take(fresh=True), buffer.take(fresh=True)
    assert first is not None
    assert second is not None
    assert (len(first.spans), first.size_bytes, second.size_bytes) == (3, 82, 60)
    assert buffer.books().memory_bytes == 5 * (20 + ENTRY_BYTES) + 2 + 20 + 20
    buffer.add((b"r" * 400, b""), b"x" * 20)
    assert buffer.books().dropped == {"queue_full": 1}


def test_scopes_that_take_turns() -> None:
    """Instrumentations whose spans mix, as a client's and ours do, use up the queue and the batches no faster."""
    buffer = _buffer(max_bytes=10_000, spans=9, size=1000)
    groups = [(b"r" * 500, b"ours"), (b"r" * 500, b"theirs")]
    for number in range(20):
        buffer.add(groups[number % 2], b"x" * 20)
    assert buffer.books().memory_bytes == 20 * (20 + ENTRY_BYTES) + 504 + 506
    batch = buffer.take(fresh=True)
    assert batch is not None
    assert (len(batch.spans), batch.size_bytes) == (1, 524)
    buffer.settle(batch)
    while (batch := buffer.take(fresh=True)) is not None:
        buffer.settle(batch)
    assert buffer.books().memory_bytes == 0


@given(st.binary(max_size=200) | st.from_regex(rb'\{"attributes":\[.*\]\}'), st.integers(0, 100))
@example(b'"\x80"', 0)
def test_trimming_survives_anything(data: bytes, limit: int) -> None:
    """Data that is no span, or has nothing to cut, gives nothing."""
    found = trim(data, limit)
    assert found is None or len(found) < len(data)


def test_trimming_text_that_looks_like_json() -> None:
    """Text that only begins like JSON is cut as text."""
    for text in ("[" + "x" * 1000, "{" * 2000):
        data = b'{"value":{"stringValue":"' + text.encode() + b'"}}'
        found = trim(data, 500)
        assert found is not None
        assert b"trimmed, was" in found
    assert trim(b'{"value":{"stringValue":"short"}}', 5) is None


_MESSAGES = [{"role": "user", "parts": [{"type": "text", "content": f"short text {number}"}]} for number in range(300)]


@pytest.mark.parametrize(
    ("value", "was"),
    [
        (_MESSAGES, "300 items"),
        (list(range(3000)), "3000 items"),
        ({f"{number:030}": number for number in range(300)}, "300 items"),
        ({"all": {"of": [[0, 1, 2] * 10] * 100}, "more": 1}, "100 items"),
        (["x", "y" * 10_000], "10000 characters"),
    ],
)
def test_trimmed_json_stays_json(value: object, was: str) -> None:
    """JSON is cut at items where texts are short, again and again, and the first count stays in the marker."""
    data = msgspec.json.encode({"value": {"stringValue": msgspec.json.encode(value).decode()}})
    limit = len(data) // 2
    found = trim(data, limit)
    assert found is not None
    again = trim(found, limit // 2)
    assert again is not None
    for trimmed, most in (found, limit), (again, limit // 2):
        assert len(trimmed) <= most * 1.3 + 100
        text = msgspec.json.decode(trimmed)["value"]["stringValue"]
        assert f"was {was}]" in text
        assert type(msgspec.json.decode(text)) is type(value)


def test_trimmed_texts_say_how_long_they_were_at_first() -> None:
    """A second cut keeps the count of the first."""
    data = b'{"value":{"stringValue":"%b"}}' % (b"x" * 1000)
    for limit in (500, 250):
        data = trim(data, limit) or b""
        assert b"x... [trimmed, was 1000 characters]" in data
