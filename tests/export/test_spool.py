from __future__ import annotations

import asyncio
import errno
import gc
import logging
import math
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import msgspec
import pytest
from google.protobuf import json_format
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from tests.exports import FAST, balanced, feed, made, running, span, until

from genai_async.export import ExportConfig, Exporter, FlushResult, RetryPolicy, _store
from genai_async.export._body import body
from genai_async.export._encode import Encoder
from genai_async.export._line import look, parse
from genai_async.export._spool import Spool

from .support import Answer, Seen, always, collector, ok

pytestmark = pytest.mark.anyio

_NOWHERE = "http://127.0.0.1:1"


def _segments(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.jsonl"))


async def test_delivered_spans_leave_no_file(tmp_path: Path) -> None:
    """Spans go to disk, to the collector, and off the disk; the books balance all along."""
    spool = tmp_path / "a" / "b"
    async with collector() as server, running(endpoint=server.url, spool=spool) as exporter:
        feed(exporter, 20)
        assert await exporter.flush(5) == FlushResult(delivered=20, dropped={}, pending=0)
        assert balanced(exporter)
        assert sorted(server.accepted) == list(range(1, 21))
        assert stat.S_IMODE(spool.stat().st_mode) == 0o700
    assert list(spool.iterdir()) == []


def test_a_loop_that_is_gone_with_spans_from_disk_under_way(tmp_path: Path) -> None:
    """Who flushes after a loop was thrown away sends what that had read from disk."""
    asked = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked == 1:
            await anyio.sleep_forever()
        return httpx.Response(200)

    transport = httpx.MockTransport(answer)
    exporter = made(transport=transport, spool=tmp_path, schedule_delay=0.0)

    async def send() -> asyncio.Task[None]:
        task = asyncio.ensure_future(exporter.run())
        feed(exporter, 5)
        while not asked:
            await asyncio.sleep(0.001)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(send())
    loop.close()
    assert exporter.flush_blocking(10) == FlushResult(delivered=5, dropped={}, pending=0)
    feed(exporter, 5)
    assert exporter.shutdown(5).delivered == 10
    assert balanced(exporter)
    assert not _segments(tmp_path)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # the loop's own complaint about its pending task
    del task
    gc.collect()
    logging.getLogger("asyncio").setLevel(logging.NOTSET)


async def test_spans_outlive_a_dead_collector(tmp_path: Path) -> None:
    """With nobody listening flush ends when all is on disk, and says so; the next exporter delivers it."""
    async with running(endpoint=_NOWHERE, spool=tmp_path) as exporter:
        feed(exporter, 20)
        assert await exporter.flush() == FlushResult(delivered=0, dropped={}, pending=20, spooled=20)
        assert balanced(exporter)
        assert exporter.stats().spooled + exporter.stats().in_flight == 20
        assert await exporter.aclose(5) == FlushResult(delivered=0, dropped={}, pending=20, spooled=20)
        assert (exporter.stats().spooled, exporter.stats().queue_bytes) == (20, 0)
    for path in _segments(tmp_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for line in path.read_bytes().splitlines():
            assert json_format.Parse(line, TracesData()).resource_spans
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        assert await exporter.flush(5) == FlushResult(delivered=20, dropped={}, pending=0)
        assert exporter.stats().ended == 20
        assert sorted(server.accepted) == list(range(1, 21))
    assert list(tmp_path.iterdir()) == []


async def test_living_neighbours_are_left_alone(tmp_path: Path) -> None:
    """Several exporters share a directory, and each delivers its own spans once."""
    async with (
        collector() as server,
        running(endpoint=_NOWHERE, spool=tmp_path) as first,
        running(endpoint=server.url, spool=tmp_path) as second,
    ):
        feed(first, 5)
        feed(second, 5, 6)
        await first.flush()
        assert await until(lambda: second.stats().delivered == 5)
        assert sorted(server.accepted) == [6, 7, 8, 9, 10]
        assert first.stats().spooled + first.stats().in_flight == 5


async def test_refused_spans_leave_the_disk(tmp_path: Path) -> None:
    """Spans that the collector refuses for good are dropped from disk, too; the rest of a split batch is delivered."""

    async def script(seen: Seen) -> Answer:
        return Answer(413 if len(seen.ids) > 2 else 400 if 3 in seen.ids else 200)

    async with collector(script) as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 8)
        await exporter.flush(5)
        assert await until(lambda: not exporter.stats().spooled + exporter.stats().in_flight + exporter.stats().queued)
        assert exporter.stats().dropped == {"rejected_400": 2}
        assert exporter.stats().delivered == 6
    assert list(tmp_path.iterdir()) == []


async def test_a_collector_that_comes_back(tmp_path: Path) -> None:
    """Spans on disk are tried again until they pass."""
    state = {"down": 3}

    async def script(seen: Seen) -> Answer | None:
        state["down"] -= 1
        return await ok(seen) if state["down"] < 0 else None

    async with collector(script) as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 8)
        assert await until(lambda: exporter.stats().delivered == 8)
        assert exporter.stats().retried == 3
        assert sorted(server.accepted) == list(range(1, 9))


async def test_a_split_batch_that_stays(tmp_path: Path) -> None:
    """Parts of a split batch that cannot be delivered any more stay on disk for the next process."""

    async def script(seen: Seen) -> Answer:
        return Answer(413 if len(seen.ids) > 2 else 503)

    async with collector(script) as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 4)
        await exporter.flush()
        assert await until(lambda: exporter.stats().retried > 2)
        await exporter.aclose(0.1)
        assert (exporter.stats().spooled, exporter.stats().dropped) == (4, {})
        assert balanced(exporter)
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        assert await until(lambda: sorted(server.accepted) == [1, 2, 3, 4])


async def test_caps(tmp_path: Path) -> None:
    """What does not fit on disk, or stays there for too long, is dropped and counted."""
    options: dict[str, Any] = {"endpoint": _NOWHERE, "spool": tmp_path, "max_batch_spans": 5}
    async with running(**options, max_spool_bytes=10_000) as exporter:
        feed(exporter, 100)
        await exporter.flush()
        stats = exporter.stats()
        assert stats.dropped["spool_full"] + stats.spooled + stats.in_flight == 100
        assert stats.spooled + stats.in_flight == 10  # of files as small as these each takes a block
        assert balanced(exporter)
    for path in _segments(tmp_path):
        os.utime(path, (1, 1))
    old = len(_segments(tmp_path))
    async with running(**options, max_spool_age=60) as exporter:
        feed(exporter, 5)
        await exporter.flush()
        assert await until(lambda: exporter.stats().dropped == {"spool_expired": old * 5})
        assert await until(lambda: len(_segments(tmp_path)) == 1)  # files go a moment after the books say so


async def test_losses_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of loss is logged."""
    options: dict[str, Any] = {"endpoint": _NOWHERE, "spool": tmp_path, "max_batch_spans": 5}
    async with running(**options, max_spool_bytes=6000) as exporter:
        feed(exporter, 100)
        assert await until(lambda: exporter.stats().dropped.get("spool_full"))
        for path in _segments(tmp_path):
            path.unlink()
        assert await until(lambda: exporter.stats().dropped.get("spool_corrupt"))
    feed(exporter, 1)
    _leave(tmp_path, 5)
    for path in _segments(tmp_path):
        os.utime(path, (1, 1))
    async with running(**options) as exporter:
        assert await until(lambda: exporter.stats().dropped.get("spool_expired"))
    told = {message.split(" (")[0] for message in caplog.messages if "dropped" in message}
    assert told == {f"spans dropped: {reason}" for reason in ("spool_full", "spool_corrupt", "spool_expired", "closed")}


async def test_damaged_and_foreign_files(tmp_path: Path) -> None:
    """Torn lines, corrupted segments and files of others are survived; what can be read is delivered."""
    owner = "0" * 16
    encoder = Encoder()
    line = body([(encoder.group(span(7)), encoder.span(span(7)))])
    (tmp_path / f"{owner}-0000000001.jsonl").write_bytes(line + b"\n" + line[:50])
    (tmp_path / f"{owner}-0000000002.jsonl").write_bytes(b"\xff\x00 no json")
    (tmp_path / f"{owner}-0000000003.part").write_bytes(line[:20])
    (tmp_path / f"{owner}-0000000004.jsonl").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        assert await until(lambda: server.accepted == [7])
        assert await until(lambda: exporter.stats().delivered == 1)
    left = sorted(path.suffix for path in tmp_path.iterdir())
    assert ".txt" in left
    assert ".part" not in left


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
async def test_what_only_looks_like_a_segment(tmp_path: Path) -> None:
    """A FIFO and a link with the name of a segment are left where they are, and hold nobody up."""
    spool, elsewhere = tmp_path / "spool", tmp_path / "elsewhere"
    encoder = Encoder()
    elsewhere.write_bytes(body([(encoder.group(span(7)), encoder.span(span(7)))]))
    spool.mkdir()
    fifo, link = (spool / f"{'0' * 16}-{number:010}.jsonl" for number in (1, 2))
    os.mkfifo(fifo)
    link.symlink_to(elsewhere)
    async with collector() as server, running(endpoint=server.url, spool=spool) as exporter:
        feed(exporter, 1)
        assert await until(lambda: server.accepted == [1])
    assert sorted(spool.iterdir()) == [fifo, link]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
async def test_segments_that_are_replaced(tmp_path: Path) -> None:
    """A link or a FIFO in the place of a segment is not read: its spans are lost, and counted so."""
    async with running(endpoint=_NOWHERE, spool=tmp_path / "s") as exporter:
        feed(exporter, 1)
        await exporter.flush()
        segment = _segments(tmp_path / "s")[0]
        segment.rename(tmp_path / "elsewhere")
        os.mkfifo(segment)
        assert await until(lambda: exporter.stats().dropped == {"spool_corrupt": 1})


async def test_segments_that_vanish(tmp_path: Path) -> None:
    """Spans whose file somebody deleted or damaged are counted as lost, and nothing else suffers."""
    async with running(endpoint=_NOWHERE, spool=tmp_path) as exporter:
        feed(exporter, 3)
        await exporter.flush()
        for path in _segments(tmp_path):
            path.unlink()
        assert await until(lambda: exporter.stats().dropped.get("spool_corrupt") == 3)
        assert await until(lambda: exporter.stats().last_error == "spans dropped: spool_corrupt")
        assert balanced(exporter)


async def test_segments_that_grow(tmp_path: Path) -> None:
    """Spans that somebody wrote into our file are delivered and counted with ours."""
    gate = anyio.Event()

    async def script(seen: Seen) -> Answer | None:
        return await ok(seen) if gate.is_set() else None

    patient = RetryPolicy(initial=1, jitter=0)
    async with collector(script) as server, running(endpoint=server.url, spool=tmp_path, retry=patient) as exporter:
        feed(exporter, 1)
        await exporter.flush()
        # The first request has failed: nobody reads the file before the next one.
        assert await until(lambda: exporter.stats().last_error is not None)
        segment = _segments(tmp_path)[0]
        whole = segment.read_bytes()
        segment.write_bytes(whole + whole.replace(b'"spanId":"%016x"' % 1, b'"spanId":"%016x"' % 2))
        gate.set()
        assert await until(lambda: sorted(server.accepted) == [1, 2])
        assert await until(lambda: exporter.stats().delivered == 2)
        assert balanced(exporter)
        assert not exporter.stats().dropped_total


@pytest.mark.parametrize("is_all", [False, True])
async def test_a_lock_that_is_tidied_away(tmp_path: Path, is_all: bool) -> None:
    """Who removes old files of a living process does not make it pass for dead; nor does it end the spool."""
    async with running(endpoint=_NOWHERE, spool=tmp_path / "s") as exporter:
        feed(exporter, 1)
        await exporter.flush()
        for path in (tmp_path / "s").iterdir():
            if is_all or path.suffix == ".lock":
                path.unlink()
        if is_all:
            (tmp_path / "s").rmdir()
        assert await until(lambda: list(tmp_path.glob("s/*.lock")))
        feed(exporter, 1, 2)
        await exporter.flush()
        async with collector() as server, running(endpoint=server.url, spool=tmp_path / "s") as neighbour:
            feed(neighbour, 1, 9)
            assert await until(lambda: neighbour.stats().delivered == 1)
            assert server.accepted == [9]
        assert exporter.stats().spooled + exporter.stats().in_flight == (1 if is_all else 2)


@pytest.mark.parametrize("kind", ["file", "full"])
async def test_a_disk_that_fails(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a usable directory, or with a full disk, spans are sent from memory as if there were no spool."""
    directory = tmp_path / "spool"
    if kind == "file":
        directory.write_text("in the way")
    else:

        def full(*args: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Spool, "write", full)
    async with collector() as server, running(endpoint=server.url, spool=directory) as exporter:
        feed(exporter, 3)
        assert await until(lambda: exporter.stats().delivered == 3)
        assert "spool" in (exporter.stats().last_error or "")
        assert balanced(exporter)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS])
async def test_a_file_system_without_locks(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no lock can be had, as on some file systems of a network, spans are sent from memory, and no file stays."""

    def flock(fd: int, operation: int) -> None:
        raise OSError(number, "none")

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", flock)
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 3)
        assert await exporter.flush(5) == FlushResult(delivered=3, dropped={}, pending=0)
        assert "no locks can be had: none" in (exporter.stats().last_error or "")
    assert await until(lambda: not list(tmp_path.iterdir()))  # at the end it is tried once more


def test_lines_come_apart_as_they_were_put_together() -> None:
    """Parsing a line gives the encoded spans, and joining them gives the line."""
    encoder = Encoder()
    spans = [(encoder.group(item), encoder.span(item)) for item in (span(1), span(2, {"a": "b"}))]
    line = body(spans)
    assert list(parse(line)) == spans
    assert len({id(group) for _ in range(2) for group, _ in parse(line)}) == 1
    assert body(parse(line)) == line
    for bad in (b"", b"[]", b"{}", b'{"resourceSpans": 1}', line[:-1]):
        with pytest.raises(ValueError):
            list(parse(bad))
    assert msgspec.json.decode(line)


_IDS = {"traceId": "A" * 32, "spanId": "0" * 15 + "1"}


@pytest.mark.parametrize(
    "fields",
    [
        {"traceId": "0" * 32},
        {"traceId": "a" * 32 + "\n"},
        {"spanId": "0" * 16},
        {"spanId": "AAAAAAAAAAA="},
        {"parentSpanId": "1"},
        {"kind": "SPAN_KIND_CLIENT"},
        {"startTimeUnixNano": -1},
        {"endTimeUnixNano": "now"},
        {"attributes": {}},
        {"attributes": [{"key": "k", "value": {"intValue": "x"}}]},
        {"attributes": [{"key": "k", "value": {"arrayValue": {"values": [{"stringValue": 1}]}}}]},
        {"events": [{"name": 1}]},
        {"links": [{"traceId": "A" * 32}]},
        {"status": 1},
    ],
)
def test_malformed_spans_are_told_from_whole_ones(fields: dict[str, Any]) -> None:
    """A span with ids and fields of the right types is whole, in either case of hex and with fields yet unknown."""
    whole = {**_IDS, "parentSpanId": "", "kind": 3, "startTimeUnixNano": "1", "endTimeUnixNano": 2, "later": []}
    line = msgspec.json.encode({"resourceSpans": [{"scopeSpans": [{"spans": [whole, {**whole, **fields}, whole]}]}]})
    assert [span is not None for _, span in look(line)] == [True, False, True]
    assert len(list(parse(line))) == 2


async def test_spans_of_others_travel_apart(tmp_path: Path) -> None:
    """What a collector refuses of a dead process's spans costs none of ours."""
    encoder = Encoder()
    line = body([(encoder.group(span(7)), encoder.span(span(7)))])
    (tmp_path / f"{'0' * 16}-0000000001.jsonl").write_bytes(line)

    async def script(seen: Seen) -> Answer:
        return Answer(400 if 7 in seen.ids else 200)

    async with collector(script) as server, running(endpoint=server.url, spool=tmp_path, schedule_delay=5) as exporter:
        assert await until(lambda: exporter.stats().spooled == 1)
        feed(exporter, 2)
        await exporter.flush(5)
        assert await until(lambda: exporter.stats().delivered == 2)
        assert await until(lambda: exporter.stats().dropped == {"rejected_400": 1})


def test_what_was_being_sent_when_its_sender_went_counts_as_tried(tmp_path: Path) -> None:
    """Segments that wait again were in a request that failed, or may have arrived."""
    spool = Spool(tmp_path)
    spool.open()
    encoder = Encoder()
    spool.add(spool.write([(encoder.group(span(1)), encoder.span(span(1)))], 1))
    spool.lift(spool.ours, 10, 10_000)
    spool.give_all_back()
    assert spool.lift(spool.ours, 10, 10_000).attempts == 1
    spool.close()


async def test_a_file_from_the_future(tmp_path: Path) -> None:
    """A file that was written before the clock was set back is sent when it is its turn, not a day later."""
    encoder = Encoder()
    path = tmp_path / f"{'0' * 16}-0000000001.jsonl"
    path.write_bytes(body([(encoder.group(span(7)), encoder.span(span(7)))]))
    os.utime(path, (time.time() + 86400,) * 2)
    async with collector() as server, running(endpoint=server.url, spool=tmp_path, schedule_delay=0.1) as exporter:
        assert await until(lambda: server.accepted == [7])
        assert await until(lambda: exporter.stats().delivered == 1)


_PROGRAM = """
import os, sys
from genai_async.export import *
from opentelemetry.sdk.trace import TracerProvider
exporter = Exporter(ExportConfig.resolve(endpoint="http://127.0.0.1:1", spool=sys.argv[1]))
ThreadHost().start(exporter)
provider = TracerProvider()
provider.add_span_processor(ExportProcessor(exporter))
while True:
    spans = [provider.get_tracer("t").start_span("s") for _ in range(10)]
    for span in spans:
        span.end()
    outcome = exporter.flush_blocking()
    assert outcome.pending == outcome.spooled
    ids = "".join(format(span.get_span_context().span_id, "016x") for span in spans)
    os.write(1, ids.encode())
"""


async def test_kill_9(tmp_path: Path) -> None:
    """Whatever flush said is on disk arrives after the process was killed at a random moment, again and again."""
    accepted: set[int] = set()
    for _ in range(3):
        command = [sys.executable, "-c", _PROGRAM, str(tmp_path)]
        process = await anyio.to_thread.run_sync(lambda: subprocess.Popen(command, stdout=subprocess.PIPE))  # noqa: B023
        assert process.stdout is not None
        ids = await anyio.to_thread.run_sync(process.stdout.read, 160)
        await anyio.sleep(random.random() / 5)
        process.send_signal(signal.SIGKILL)
        ids += await anyio.to_thread.run_sync(process.stdout.read)
        process.stdout.close()
        assert await anyio.to_thread.run_sync(process.wait) == -signal.SIGKILL
        accepted |= {int(ids[at : at + 16], 16) for at in range(0, len(ids) // 16 * 16, 16)}
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        assert await until(lambda: accepted <= set(server.accepted))
        assert await until(lambda: not exporter.stats().spooled)
        assert balanced(exporter)
    assert not _segments(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_leaves_the_parents_spans(tmp_path: Path) -> None:
    """A child neither sends nor deletes what its parent keeps on disk, nor does it free the parent's place."""
    exporter = Exporter(ExportConfig.resolve(endpoint=_NOWHERE, spool=tmp_path, retry=FAST))
    feed(exporter, 3)
    assert exporter.flush_blocking().spooled == 3
    before = sorted(tmp_path.iterdir())
    child = os.fork()
    if not child:
        neighbour = Exporter(ExportConfig.resolve(endpoint=_NOWHERE, spool=tmp_path, retry=FAST))
        neighbour.flush_blocking(0.2)
        exporter.shutdown(0.2)
        os._exit(0 if neighbour.stats().ended == exporter.stats().ended == 0 else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert [path for path in before if path.exists()] == before
    exporter.shutdown(0)


async def test_closing_is_quick_when_all_is_on_disk(tmp_path: Path) -> None:
    """There is no need to use up the deadline for a collector that is down."""
    async with collector(always(Answer(503))) as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 3)
        begun = time.monotonic()
        await exporter.aclose(20)
        assert time.monotonic() - begun < 5
        assert exporter.stats().spooled == 3


async def test_closing_when_the_collector_asks_to_be_left_alone(tmp_path: Path) -> None:
    """Nor is there need to wait for one that has taken a request, and for another named an hour."""

    async def script(seen: Seen) -> Answer:
        is_first = seen is server.seen[0]
        assert await until(lambda: len(server.seen) == 2)
        if is_first:
            return Answer(429, [("retry-after", "3600")])
        assert await until(lambda: exporter.stats().last_error)  # the first one has its answer
        return Answer()

    options: dict[str, Any] = {"spool": tmp_path, "max_batch_spans": 1, "max_requests": 2}
    async with collector(script) as server, running(endpoint=server.url, **options) as exporter:
        feed(exporter, 2)
        assert await until(lambda: exporter.stats().delivered)
        begun = time.monotonic()
        assert (await exporter.aclose(20)).spooled == 1
        assert time.monotonic() - begun < 5


async def test_closing_while_the_directory_opens(tmp_path: Path, opening: threading.Event) -> None:
    """An end that comes before it is known what a dead process left sends that, and does not wait for its turn."""
    _leave(tmp_path, 5)
    async with collector() as server, running(endpoint=server.url, spool=tmp_path, schedule_delay=60) as exporter:
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.aclose, 5)
            await anyio.wait_all_tasks_blocked()
            opening.set()
        assert exporter.stats().delivered == 5
        assert sorted(server.accepted) == [1, 2, 3, 4, 5]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("count", [0, 1])
async def test_flushing_while_the_directory_opens(count: int, tmp_path: Path, opening: threading.Event) -> None:
    """Who flushes before it is known what a dead process left has that sent at once, too."""
    _leave(tmp_path, 5)
    async with collector() as server, running(endpoint=server.url, spool=tmp_path, schedule_delay=60) as exporter:
        async with anyio.create_task_group() as group:
            feed(exporter, count, 6)
            group.start_soon(exporter.flush, 5)
            await anyio.wait_all_tasks_blocked()
            opening.set()
        assert exporter.stats().delivered == 5 + count
        assert sorted(server.accepted) == list(range(1, 6 + count))


async def test_a_flush_that_gives_up_on_the_directory(tmp_path: Path, opening: threading.Event) -> None:
    """What was begun by a flush that ended meanwhile is gone on with by the next one, whoever it comes from."""
    _leave(tmp_path, 5)
    async with collector() as server:
        exporter = made(endpoint=server.url, spool=tmp_path)
        unknown = FlushResult(delivered=0, dropped={}, pending=1, spooled=1)
        assert await exporter.flush(0.1) == unknown
        assert await anyio.to_thread.run_sync(exporter.flush_blocking, 0.1) == unknown
        assert await exporter.flush() == unknown  # it is not waited for any longer than a second
        with anyio.move_on_after(0.1):
            await exporter.settled(-1, 0)
        opening.set()
        with anyio.fail_after(5):  # one that comes before it is open ends at once, as it has taken long
            while (outcome := await anyio.to_thread.run_sync(exporter.flush_blocking, 5)) == unknown:
                pass
        assert outcome == FlushResult(delivered=5, dropped={}, pending=0)
        assert balanced(exporter)
        assert sorted(server.accepted) == [1, 2, 3, 4, 5]
        await exporter.aclose(5)
    assert list(tmp_path.iterdir()) == []


async def test_an_end_that_gives_up_on_the_directory(tmp_path: Path, opening: threading.Event) -> None:
    """A directory that opens after the end is left at once, and what is in it to others."""
    _leave(tmp_path, 5)
    async with collector() as server:
        exporter = made(endpoint=server.url, spool=tmp_path)
        assert not (await exporter.aclose(0.1)).complete
        opening.set()
        assert await until(lambda: "genai_async-disk" not in {thread.name for thread in threading.enumerate()})
        assert [path.suffix for path in tmp_path.iterdir()] == [".jsonl"]
        async with running(endpoint=server.url, spool=tmp_path) as heir:
            assert await heir.flush(5) == FlushResult(5, {}, 0)
    assert list(tmp_path.iterdir()) == []


async def test_an_end_while_requests_hang(tmp_path: Path) -> None:
    """What was being sent from memory when the time is up is written by a disk that works again."""
    directory = tmp_path / "spool"
    directory.write_text("in the way")

    async def script(seen: Seen) -> None:
        await anyio.sleep_forever()

    async with collector(script) as server, running(endpoint=server.url, spool=directory) as exporter:
        feed(exporter, 3)
        assert await until(lambda: server.seen)
        feed(exporter, 3, 4)
        directory.unlink()
        begun = time.monotonic()
        outcome = await exporter.aclose(1)
        assert time.monotonic() - begun < 1.1
        assert (outcome.pending, outcome.spooled, outcome.dropped) == (6, 6, {})
        assert balanced(exporter)
    async with collector() as server, running(endpoint=server.url, spool=directory) as exporter:
        assert (await exporter.flush(5)).delivered == 6
        assert sorted(server.accepted) == [1, 2, 3, 4, 5, 6]


def _leave_many(directory: Path, count: int) -> None:
    """Segments of two dead processes with a span each, the first of which has the number 1."""
    encoder = Encoder()
    for number in range(1, count + 1):
        line = body([(encoder.group(span(number)), encoder.span(span(number)))])
        (directory / f"{number % 2:016x}-{number:010}.jsonl").write_bytes(line + b"\n")
    (directory / f"{0:016x}.lock").touch()


async def test_a_backlog_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that end while a backlog is being taken over go to disk and out meanwhile; then all of it arrives, once."""
    monkeypatch.setattr(_store, "_STEP", 0.0)  # one file at a time
    _leave_many(tmp_path, 200)
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 1, 1000)
        assert await exporter.settled(0, 1, 5)
        assert exporter.stats().ended < 201
        assert (await exporter.flush()).complete
        assert sorted(server.accepted) == [*range(1, 201), 1000]
        assert balanced(exporter)
    assert list(tmp_path.iterdir()) == []


async def test_a_program_shorter_than_the_taking_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends its own spans, or leaves them on disk, and makes the backlog smaller."""
    monkeypatch.setattr(_store, "_STEP", 0.001)
    _leave_many(tmp_path, 1000)
    async with running(endpoint=_NOWHERE, spool=tmp_path) as exporter:
        feed(exporter, 1, 2001)
        outcome = await exporter.aclose(1)
        assert not outcome.dropped
        assert outcome.pending == outcome.spooled > 0
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 1, 2002)
        await exporter.aclose(0.3)
        assert 2002 in server.accepted
        assert not exporter.stats().dropped
    assert exporter.stats().delivered > 1
    # What arrives as the time is up is no longer in the books, and may or may not be deleted yet.
    arrived = len(set(server.accepted))
    assert await until(lambda: 1002 - arrived <= len(_segments(tmp_path)) <= 1002 - exporter.stats().delivered)


async def test_a_crash_while_taking_over(tmp_path: Path) -> None:
    """What a process that dies had made its own is taken over with the rest, and nothing is lost or comes twice."""
    _leave_many(tmp_path, 100)
    first = Spool(tmp_path)
    first.open()
    while first.take_over(0) == ([], False):
        pass
    second = Spool(tmp_path)
    second.open()
    taken, is_all = second.take_over(math.inf)
    assert (len(taken), is_all) == (99, True)
    first.forget()
    second.forget()
    async with collector() as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        assert await exporter.flush(5) == FlushResult(delivered=100, dropped={}, pending=0)
        assert sorted(server.accepted) == list(range(1, 101))
    assert list(tmp_path.iterdir()) == []


async def test_a_full_spool_while_the_collector_is_well(tmp_path: Path) -> None:
    """What does not fit beside a backlog is sent from memory, as long as it is taken."""
    gate = anyio.Event()

    async def script(seen: Seen) -> Answer:
        if 1 in seen.ids:
            await gate.wait()
        return Answer()

    _leave(tmp_path, 5)
    options: dict[str, Any] = {"spool": tmp_path, "max_spool_bytes": 4096}
    async with collector(script) as server, running(endpoint=server.url, **options) as exporter:
        assert await until(lambda: server.seen)
        feed(exporter, 3, 6)
        assert await exporter.settled(0, 3, 5)
        gate.set()
        assert await exporter.flush(5) == FlushResult(delivered=8, dropped={}, pending=0)
        feed(exporter, 1, 9)
        assert await exporter.flush(5) == FlushResult(delivered=9, dropped={}, pending=0)
        assert sorted(server.accepted) == list(range(1, 10))


@pytest.mark.parametrize("delay", [0.1, 60.0])
async def test_a_disk_that_is_mended(delay: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans that had to stay in memory are written once the disk works, at the end of the set-up at the latest."""
    monkeypatch.setattr(_store, "_REPAIR_DELAY", delay)
    directory = tmp_path / "spool"
    directory.write_text("in the way")
    async with running(endpoint=_NOWHERE, spool=directory) as exporter:
        feed(exporter, 3)
        assert await until(lambda: exporter.stats().requests)
        directory.unlink()
        if delay < 1:
            assert await until(lambda: exporter.stats().spooled + exporter.stats().in_flight == 3)
        assert await exporter.aclose(5) == FlushResult(delivered=0, dropped={}, pending=3, spooled=3)
        assert balanced(exporter)
    assert len(_segments(directory)) == 1


async def test_flush_waits_for_the_collector(tmp_path: Path) -> None:
    """What is on disk is not delivered yet: who waits is told so at the deadline, and else when it has arrived."""
    gate = anyio.Event()

    async def script(seen: Seen) -> Answer | None:
        await gate.wait()
        return await ok(seen)

    async with collector(script) as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 3)
        assert await exporter.flush(0.2) == FlushResult(delivered=0, dropped={}, pending=3, spooled=3)
        assert not await exporter.settled(0, 1, 0.1)
        gate.set()
        assert await exporter.settled(0, 1, 5)
        assert await exporter.flush(5) == FlushResult(delivered=3, dropped={}, pending=0)
        assert set(server.accepted) == {1, 2, 3}


async def test_flush_outlasts_failures(tmp_path: Path) -> None:
    """Within its timeout flush goes on when the collector fails; without one the disk is enough then."""
    answers = [Answer(503), Answer(503), None, Answer(503)]

    async def script(seen: Seen) -> Answer | None:
        return answers.pop() if answers else await ok(seen)

    async with collector(script) as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        feed(exporter, 3)
        outcome = await exporter.flush()
        assert (outcome.pending, outcome.spooled) == (3, 3)
        assert await exporter.flush(5) == FlushResult(delivered=3, dropped={}, pending=0)
        assert await exporter.flush() == FlushResult(delivered=3, dropped={}, pending=0)


async def test_flush_does_not_wait_out_what_the_collector_asks_for(tmp_path: Path) -> None:
    """Without a timeout flush ends when the spans are on disk and the collector wants to be left alone for an hour."""
    busy = always(Answer(503, [("retry-after", "3600")]))
    async with collector(busy) as server, running(endpoint=server.url, spool=tmp_path) as exporter:
        for number in (1, 2):
            feed(exporter, 1, number)
            with anyio.fail_after(5):
                assert (await exporter.flush()).spooled == number
                assert not await exporter.settled(0, number)
        assert len(server.seen) == 1


async def test_a_flush_does_not_wait_for_what_ends_later(tmp_path: Path) -> None:
    """Each flush waits for the spans that ended before it, wherever they are."""
    gate = anyio.Event()

    async def script(seen: Seen) -> Answer | None:
        if 2 in seen.ids:
            await gate.wait()
        return await ok(seen)

    async with (
        collector(script) as server,
        running(endpoint=server.url, spool=tmp_path, schedule_delay=60, max_batch_spans=1) as exporter,
        anyio.create_task_group() as group,
    ):
        feed(exporter, 1)
        group.start_soon(exporter.flush, 5)
        feed(exporter, 1, 2)
        assert await exporter.settled(0, 1, 5)
        assert not await exporter.settled(1, 2, 0.1)
        assert (await exporter.flush(0.1)).spooled == 1
        gate.set()
        assert (await exporter.flush(5)).complete


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A disk that is slow with a directory: nothing is known of it before this is set."""
    done = threading.Event()
    look_around = Spool.open

    def slowly(spool: Spool) -> None:
        assert done.wait(5)
        look_around(spool)

    monkeypatch.setattr(Spool, "open", slowly)
    return done


def _leave(directory: Path, count: int) -> None:
    """A segment of a dead process."""
    encoder = Encoder()
    spans = [(encoder.group(item), encoder.span(item)) for item in map(span, range(1, count + 1))]
    (directory / f"{'0' * 16}-0000000001.jsonl").write_bytes(body(spans))


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """What could not become a segment is no longer on disk: its spans go another way."""
    spool = Spool(tmp_path)
    spool.open()
    (lock,) = tmp_path.iterdir()
    in_the_way = tmp_path / f"{lock.stem}-0000000001.jsonl"
    in_the_way.mkdir()
    encoder = Encoder()
    with pytest.raises(OSError):
        spool.write([(encoder.group(span(1)), encoder.span(span(1)))], 1)
    assert sorted(tmp_path.iterdir()) == sorted([lock, in_the_way])
    spool.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_keep_its_parents_place(tmp_path: Path) -> None:
    """When the parent has gone, others take over what it left, though a child of it lives on."""
    parent = Exporter(ExportConfig.resolve(endpoint=_NOWHERE, spool=tmp_path, retry=FAST))
    feed(parent, 3)
    assert parent.flush_blocking().spooled == 3
    (ready, is_ready), (leave, may_leave) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        os.close(may_leave)
        os.write(is_ready, b"x")
        os.read(leave, 1)
        os._exit(0)
    try:
        assert os.read(ready, 1)
        parent.shutdown(0)
        heir = Exporter(ExportConfig.resolve(endpoint=_NOWHERE, spool=tmp_path, retry=FAST))
        assert heir.flush_blocking().spooled == 3
        heir.shutdown(0)
    finally:
        os.close(may_leave)
        assert os.waitpid(child, 0)[1] == 0
        for end in (ready, is_ready, leave):
            os.close(end)


async def test_who_waits_while_it_closes(tmp_path: Path) -> None:
    """Whoever waits for spans that stay on disk is told at the close, and whoever asks later at once."""
    told: list[bool] = []

    async def wait() -> None:
        told.append(await exporter.settled(0, 1))

    async with running(endpoint=_NOWHERE, spool=tmp_path) as exporter, anyio.create_task_group() as group:
        feed(exporter, 1)
        await exporter.flush()
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        await exporter.aclose(0.2)
        with anyio.fail_after(5):
            assert not await exporter.settled(0, 1)
            assert not await exporter.settled(0, 1, 60)
    assert told == [False]
