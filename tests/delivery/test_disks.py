"""Disks that stop answering, as a mount does whose server has gone, on each host: nothing waits for them for long."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.exports import balanced, feed, until

from genai_async.export import Exporter, FlushResult, _store
from genai_async.export._spool import Spool
from genai_async.testing import Collector

from .hosts import Host

pytestmark = pytest.mark.anyio


class Disk:
    """Has calls of a spool hang from when it is told so until it answers again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self.answers = threading.Event()

    def hang(self, name: str) -> None:
        """Every call of this method of a spool."""
        original = getattr(Spool, name)

        def call(spool: Spool, *args: Any) -> Any:
            assert self.answers.wait(20)
            return original(spool, *args)

        self._monkeypatch.setattr(Spool, name, call)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    monkeypatch.setattr(_store, "_LONG_PATIENCE", 0.5)
    found = Disk(monkeypatch)
    yield found
    found.answers.set()


@asynccontextmanager
async def _collected(host: Host, directory: Path, **options: Any) -> AsyncIterator[tuple[Collector, Exporter]]:
    async with (
        Collector() as collector,
        host.running(endpoint=collector.endpoint, spool=directory, **options) as exporter,
    ):
        yield collector, exporter


@pytest.mark.parametrize("call", ["open", "write"])
async def test_spans_go_from_memory(call: str, host: Host, disk: Disk, tmp_path: Path) -> None:
    """Where nothing can be written any more, spans are sent from memory, once, and no file of them stays."""
    disk.hang(call)
    async with _collected(host, tmp_path) as (collector, exporter):
        feed(exporter, 3)
        assert (await exporter.flush(10)).delivered == 3
        feed(exporter, 3, 4)
        assert (await exporter.flush(10)).delivered == 6
        assert balanced(exporter)
        assert sorted(collector.accepted.values()) == [1] * 6
        disk.answers.set()
    assert await until(lambda: not list(tmp_path.iterdir()))


async def test_what_cannot_be_taken_over(host: Host, disk: Disk, tmp_path: Path) -> None:
    """Where what dead processes left cannot be looked at, spans are on disk already, or go from memory."""
    disk.hang("take_over")
    async with _collected(host, tmp_path) as (_, exporter):
        feed(exporter, 3)
        assert (await exporter.flush()).pending in (1, 4)
        outcome = await exporter.aclose(1)
        assert outcome.delivered + outcome.spooled == 4
        assert not outcome.dropped
        assert balanced(exporter)


async def test_what_cannot_be_read_again(host: Host, disk: Disk, tmp_path: Path) -> None:
    """Where nothing can be read, what is on disk waits there, and what ends later is sent from memory."""
    disk.hang("read")
    async with _collected(host, tmp_path) as (collector, exporter):
        feed(exporter, 3)
        assert await exporter.flush() == FlushResult(delivered=0, dropped={}, pending=3, spooled=3)
        feed(exporter, 3, 4)
        assert await exporter.settled(3, 6, 10)
        assert balanced(exporter)
        outcome = await exporter.aclose(0.5)
        assert outcome == FlushResult(delivered=3, dropped={}, pending=3, spooled=3)
    disk.answers.set()
    assert await until(lambda: "genai_async-disk" not in {thread.name for thread in threading.enumerate()})
    async with _collected(host, tmp_path) as (collector, exporter):
        assert (await exporter.flush(10)).delivered == 3
        assert sorted(collector.accepted.values()) == [1] * 3


async def test_what_cannot_be_deleted(host: Host, disk: Disk, tmp_path: Path) -> None:
    """Spans that have arrived are not waited for any more because of their files, which go when they can."""
    disk.hang("unlink")
    async with _collected(host, tmp_path) as (_, exporter):
        feed(exporter, 3)
        begun = time.monotonic()
        assert await exporter.flush() == FlushResult(delivered=3, dropped={}, pending=0)
        assert time.monotonic() - begun < 5
        assert balanced(exporter)
        assert list(tmp_path.glob("*.jsonl"))
    disk.answers.set()
    assert await until(lambda: not list(tmp_path.iterdir()))


async def test_the_end_while_something_is_written(host: Host, disk: Disk, tmp_path: Path) -> None:
    """What could not be written by the end is dropped, and is not on disk when it could be afterwards."""
    disk.hang("write")
    async with _collected(host, tmp_path) as (_, exporter):
        feed(exporter, 3)
        assert await until(lambda: exporter.stats().in_flight == 3)
        outcome = await exporter.aclose(0.1)
        assert outcome == FlushResult(delivered=0, dropped={"shutdown": 3}, pending=0)
        assert balanced(exporter)
        disk.answers.set()
        assert await until(lambda: not list(tmp_path.iterdir()))


async def test_a_name_server_that_does_not_answer(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans go to disk while the collector's host is looked up, and no deadline waits for that."""
    answered = threading.Event()
    look_up = socket.getaddrinfo

    def slowly(name: str | bytes | None, *args: Any, **options: Any) -> Any:
        is_address = bool([*args, 0, 0, 0, 0, 0][4] & socket.AI_NUMERICHOST)  # trio asks for that first, in its loop
        if name in ("collector.example", b"collector.example") and not is_address:
            answered.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return look_up(name, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", slowly)
    try:
        async with host.running(endpoint="http://collector.example", spool=tmp_path) as exporter:
            for number in range(1, 4):
                feed(exporter, 1, number)
                assert await until(lambda: len(list(tmp_path.glob("*.jsonl"))) == number)  # noqa: B023
            begun = time.monotonic()
            assert (await exporter.aclose(0.5)).spooled == 3
            assert time.monotonic() - begun < 1
    finally:
        answered.set()
