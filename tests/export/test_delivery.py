from __future__ import annotations

import gc
import gzip
import logging
import time
import zlib
from collections import Counter
from collections.abc import Awaitable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
import msgspec
import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.version import __version__ as SDK_VERSION
from tests.exports import balanced, feed, running, span, until
from tests.pace import Lateness, cpu_time

from genai_async._errors import ClosedError
from genai_async._version import VERSION
from genai_async.export import Drop, ExportConfig, Exporter, FlushResult
from genai_async.export._reply import Reply, verdict
from genai_async.export._transport import limits, proxy_to

from .support import Answer, Seen, always, collector, ok

pytestmark = pytest.mark.anyio


async def test_spans_arrive() -> None:
    """Spans that ended are posted as OTLP/JSON and flush says so."""
    async with collector() as server, running(endpoint=server.url, headers={"x-key": "k\xe9y"}) as exporter:
        feed(exporter, 3)
        outcome = await exporter.flush(5)
        assert (outcome.delivered, outcome.pending, outcome.complete) == (3, 0, True)
        assert server.accepted == [1, 2, 3]
        assert server.seen[0].path == "/v1/traces"
        headers = server.seen[0].headers
        assert headers["content-type"] == "application/json"
        assert headers["x-key"] == "k\xe9y"
        assert headers["user-agent"] == f"genai-async/{VERSION} OTel-OTLP-Exporter-Python/{SDK_VERSION}"


async def test_gzip() -> None:
    """Bodies are compressed when asked for, small and large ones, the latter in another thread."""
    async with collector() as server, running(endpoint=server.url, compression="gzip") as exporter:
        feed(exporter, 1)
        await exporter.flush(5)
        feed(exporter, 100, 2, {"text": "x" * 1000})
        await exporter.flush(5)
        assert sorted(server.accepted) == list(range(1, 102))
        assert {seen.headers["content-encoding"] for seen in server.seen} == {"gzip"}
        assert len(server.seen[-1].raw) < 10_000


@pytest.mark.parametrize("delay", [0.0, 5.0, 600.0])
def test_connections_outlive_the_delay(delay: float) -> None:
    """A program that ends few spans uses one connection again and again."""
    expiry = limits(ExportConfig(schedule_delay=delay)).keepalive_expiry
    assert expiry is not None
    assert expiry > delay + 30


async def test_headers_replace_ours_in_any_case() -> None:
    """A header is sent once, as it was given, however its name is written."""
    headers = {"USER-AGENT": "mine", "authorization": "Bearer x"}
    async with collector() as server:
        async with running(endpoint=server.url.replace("//", "//user:pw@"), headers=headers) as exporter:
            feed(exporter, 1)
            assert (await exporter.flush(5)).complete
        assert server.seen[0].headers["user-agent"] == "mine"
        assert server.seen[0].headers["authorization"] == "Bearer x"


async def test_waiting_leaves_nothing_for_the_collector() -> None:
    """Who waits for its spans, as each request of a service may, leaves no cycles behind."""
    transport = httpx.MockTransport(lambda _: httpx.Response(200))
    async with running(endpoint="http://x", transport=transport) as exporter:

        async def wait() -> None:
            feed(exporter, 1)
            assert await exporter.settled(0, exporter.position, 5)

        await wait()
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                await wait()
            assert gc.collect() < 20
        finally:
            gc.enable()


async def test_a_batch_is_sent_after_the_delay() -> None:
    """Nobody has to flush: spans leave once the oldest has waited for the delay."""
    async with collector() as server, running(endpoint=server.url, schedule_delay=0.05) as exporter:
        feed(exporter, 2)
        assert await until(lambda: exporter.stats().delivered == 2)
        assert len(server.seen) == 1


async def test_a_full_batch_is_sent_at_once() -> None:
    """A batch that is full by count or by bytes does not wait for the delay, what is over does."""
    for options in ({"max_batch_spans": 4}, {"max_batch_bytes": 4 * 300}):
        async with collector() as server, running(endpoint=server.url, schedule_delay=60, **options) as exporter:
            feed(exporter, 5, attributes={"x": "y" * 60})
            assert await until(lambda: exporter.stats().delivered >= 3)
            assert exporter.stats().queued >= 1
            assert balanced(exporter)


@pytest.mark.parametrize("status", [429, 502, 503, 504])
async def test_retryable_statuses_are_tried_again(status: int) -> None:
    """These four statuses, and only they, make the batch wait and go out once more."""
    answers = [Answer(status), Answer(status), Answer()]

    async def script(seen: Seen) -> Answer:
        return answers.pop(0)

    async with collector(script) as server, running(endpoint=server.url) as exporter:
        feed(exporter, 2)
        assert (await exporter.flush(5)).delivered == 2
        stats = exporter.stats()
        assert (len(server.seen), stats.requests, stats.retried) == (3, 3, 2)
        assert str(status) in (stats.last_error or "")


@pytest.mark.parametrize("status", [301, 302, 400, 401, 404, 408, 500, 501])
async def test_other_statuses_are_final(status: int) -> None:
    """Every other status gives the batch up, counted by its number; a redirect is not followed."""
    refused = always(Answer(status, [("location", "http://127.0.0.1:1/")], b'{"message": "no"}'))
    drops: list[Drop] = []
    async with collector(refused) as server, running(endpoint=server.url, on_drop=drops.append) as exporter:
        feed(exporter, 2)
        outcome = await exporter.flush(5)
        assert dict(outcome.dropped) == {f"rejected_{status}": 2}
        assert outcome.complete
        assert len(server.seen) == 1
    assert [(drop.reason, drop.count) for drop in drops] == [(f"rejected_{status}", 2)]


async def test_connection_trouble_is_tried_again() -> None:
    """A connection that is reset, or cut within the response, counts as retryable."""
    answers = [None, None, Answer()]

    async def script(seen: Seen) -> Answer | None:
        return answers.pop(0)

    async with collector(script) as server, running(endpoint=server.url) as exporter:
        feed(exporter, 1)
        assert (await exporter.flush(5)).delivered == 1
        assert len(server.seen) == 3


async def _timed(call: Awaitable[FlushResult], deadline: float) -> FlushResult:
    """What a call returns that must do so by its deadline."""
    with Lateness() as late:
        begun = time.monotonic()
        found = await call
        took = time.monotonic() - begun
    assert took < deadline * 1.1 + 0.02 + late.seconds
    return found


async def test_nobody_listens() -> None:
    """With no collector at all spans are kept, flush keeps its deadline and says what is pending."""
    async with collector() as server:
        url = server.url
    async with running(endpoint=url, shutdown_timeout=0.2) as exporter:
        feed(exporter, 3)
        outcome = await _timed(exporter.flush(0.3), 0.3)
        assert (outcome.pending, outcome.delivered, dict(outcome.dropped)) == (3, 0, {})
        assert balanced(exporter)
        assert exporter.stats().oldest_age > 0.2
        assert dict((await _timed(exporter.aclose(0.3), 0.3)).dropped) == {"shutdown": 3}


@pytest.mark.parametrize(
    ("proxy", "said"),
    [("ftp://127.0.0.1:1", "the proxy that the environment names cannot be used"), ("http://[", "ConnectError")],
)
async def test_a_proxy_that_cannot_be_used(proxy: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What keeps a connection from being set up is told, and the spans wait until somebody mends it."""
    monkeypatch.setenv("HTTP_PROXY", proxy)
    async with running(endpoint="http://collector.example", shutdown_timeout=0.1) as exporter:
        feed(exporter, 3)
        assert (await exporter.flush(0.2)).pending == 3
        assert "they are kept for later" in (exporter.stats().last_error or "")
        assert said in (exporter.stats().last_error or "")
        assert not exporter.stats().dropped


@pytest.mark.parametrize(
    ("url", "names", "is_direct"),
    [
        ("http://collector.example", "", False),
        ("http://collector.example", "other.example, 10.0.0.0/8", False),
        ("http://collector.example", "example", True),
        ("http://Collector.example:4318", "collector.example:4318", True),
        ("http://collector.example:4318", "collector.example:80", False),
        ("https://collector.example", ".example:443", True),
        ("http://10.1.2.3:4318", "192.168.0.0/16, 10.1.0.0/16", True),
        ("http://10.1.2.3:4318", "10.2.0.0/16,fd00::/8,10.1.2.3/x,/", False),
        ("http://[fd00::1]:4318", "10.0.0.0/8,fd00::/8", True),
        ("http://[fd00::1]:4318", "[fd00::1]:4318", True),
        ("http://[fd00::1]", "fd00::1", True),
        ("http://collector.example", "*", True),
        ("http://127.0.0.1", "", True),
    ],
)
def test_who_is_reached_without_the_proxy(
    url: str, names: str, is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hosts and domains that NO_PROXY names, with or without their port, networks, and always this machine."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", names)
    found = proxy_to(url)
    assert (found is None) is is_direct
    if found is not None:
        assert str(found.url) == "http://proxy.example:3128"


async def test_a_silent_collector_keeps_no_deadline_waiting() -> None:
    """A collector that never answers is given up after the timeout, and closing is not held up by it."""

    async def script(seen: Seen) -> Answer:
        await anyio.sleep_forever()
        raise AssertionError

    async with collector(script) as server, running(endpoint=server.url, timeout=0.1) as exporter:
        feed(exporter, 1)
        assert await until(lambda: exporter.stats().retried)
        assert "timeout" in (exporter.stats().last_error or "").lower()
        outcome = await _timed(exporter.aclose(0.2), 0.2)
        assert dict(outcome.dropped) == {"shutdown": 1}


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_kept(form: str) -> None:
    """The collector is left alone for as long as it asks for, flush or not, and nothing is lost meanwhile."""
    far = "3600" if form == "seconds" else formatdate(time.time() + 3600, usegmt=True)
    busy = always(Answer(503, [("retry-after", far)]))
    async with collector(busy) as server, running(endpoint=server.url, shutdown_timeout=0) as exporter:
        feed(exporter, 1)
        assert (await exporter.flush(0.2)).pending == 1
        assert (await exporter.flush(0.2)).pending == 1
        assert len(server.seen) == 1


async def test_retry_after_that_passes() -> None:
    """After a short delay that the collector asked for, the batch goes out again."""
    answers = [Answer(429, [("retry-after", "0")]), Answer()]

    async def script(seen: Seen) -> Answer:
        return answers.pop(0)

    async with collector(script) as server, running(endpoint=server.url) as exporter:
        feed(exporter, 1)
        assert (await exporter.flush(5)).delivered == 1


async def test_413_splits() -> None:
    """A batch that is too large is halved until it passes, and no span is lost."""

    async def script(seen: Seen) -> Answer:
        return Answer(413 if len(seen.ids) > 3 else 200)

    async with collector(script) as server, running(endpoint=server.url) as exporter:
        feed(exporter, 20)
        assert (await exporter.flush(5)).delivered == 20
        assert sorted(server.accepted) == list(range(1, 21))


async def test_a_lone_span_is_trimmed() -> None:
    """A span that is too large alone loses its longest texts; texts that are JSON stay JSON."""
    messages = msgspec.json.encode([{"role": "user", "parts": [{"type": "text", "content": "m" * 50_000}]}]).decode()

    async def script(seen: Seen) -> Answer:
        return Answer(413 if len(seen.raw) > 8000 else 200)

    async with collector(script) as server, running(endpoint=server.url) as exporter:
        exporter.accept(span(1, {"messages": messages, "plain": "p" * 50_000, "short": "kept"}))
        assert (await exporter.flush(5)).delivered == 1
        found = {pair["key"]: pair["value"]["stringValue"] for pair in server.seen[-1].spans[0]["attributes"]}
        assert found["short"] == "kept"
        assert "trimmed, was" in found["plain"]
        assert msgspec.json.decode(found["messages"])[0]["role"] == "user"
        assert "trimmed, was" in msgspec.json.decode(found["messages"])[0]["parts"][0]["content"]


async def test_a_span_that_nothing_makes_small_enough() -> None:
    """A span that is refused for its size whatever is cut is dropped and counted."""
    async with collector(always(Answer(413))) as server, running(endpoint=server.url) as exporter:
        exporter.accept(span(1, {"text": "x" * 5000}))
        assert dict((await exporter.flush(5)).dropped) == {"too_large": 1}
        assert 1 < len(server.seen) < 10


async def test_partial_success(caplog: pytest.LogCaptureFixture) -> None:
    """Spans that the collector rejected are counted as dropped, never sent again, and its message is logged."""
    body = b'{"partialSuccess": {"rejectedSpans": "2", "errorMessage": "no such tenant"}}'
    async with collector(always(Answer(body=body))) as server, running(endpoint=server.url) as exporter:
        feed(exporter, 5)
        outcome = await exporter.flush(5)
        assert (outcome.delivered, dict(outcome.dropped)) == (3, {"partial_success": 2})
        assert (len(server.seen), exporter.stats().rejected) == (1, 2)
    assert "no such tenant" in caplog.text


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"", []),
        (b"no json", [("content-type", "text/html")]),
        (b"[1]", []),
        (b'{"partialSuccess": 5}', []),
        (b'{"partialSuccess": {"rejectedSpans": -5}}', []),
        (b'{"partialSuccess": {"rejectedSpans": "x"}}', []),
        (b'{"partialSuccess": {"errorMessage": "only a warning"}}', []),
        (b"not gzip", [("content-encoding", "gzip")]),
        (b"odd", [("content-encoding", "br")]),
        (gzip.compress(b"{}"), [("content-encoding", "gzip")]),
    ],
)
async def test_odd_answers_of_success(body: bytes, headers: list[tuple[str, str]]) -> None:
    """Status 200 is success, whatever nonsense the body holds."""
    async with collector(always(Answer(200, headers, body))) as server, running(endpoint=server.url) as exporter:
        feed(exporter, 1)
        outcome = await exporter.flush(5)
        assert (outcome.delivered, dict(outcome.dropped)) == (1, {})


@pytest.mark.parametrize("packed", [False, True])
async def test_huge_answers(packed: bool) -> None:
    """An answer of more than 4 MiB, also when only decompressed, is a failure that is not retried."""
    body = b" " * (5 * 2**20)
    answer = Answer(200, [("content-encoding", "gzip")], gzip.compress(body)) if packed else Answer(200, [], body)
    async with collector(always(answer)) as server, running(endpoint=server.url) as exporter:
        feed(exporter, 1)
        assert dict((await exporter.flush(5)).dropped) == {"response_too_large": 1}
        assert len(server.seen) == 1


async def test_large_answers_are_read_elsewhere() -> None:
    """The loop's own thread spends no time on what an answer of few bytes unpacks to."""
    answer = Answer(200, [("content-encoding", "gzip")], gzip.compress(b'{"a":[' + b"{}," * 1_390_000 + b"{}]}"))
    cost = cpu_time(lambda: verdict(Reply(200, None, answer.body, "gzip"), 1, 0))
    async with collector() as server, running(endpoint=server.url) as exporter:
        spent: list[float] = []
        for number in range(1, 9):
            feed(exporter, 1, number)
            begun = time.thread_time()
            assert (await exporter.flush(5)).delivered == number
            spent.append(time.thread_time() - begun)
            if number == 4:
                server.script = always(answer)
        usual, large = min(spent[:4]), min(spent[4:])  # noise only adds
        assert large - usual < cost / 2


async def test_requests_over_the_cap_are_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is over the cap on requests is split without asking the collector."""
    monkeypatch.setattr("genai_async.export._sender.MAX_REQUEST_BYTES", 2000)
    async with collector() as server, running(endpoint=server.url) as exporter:
        feed(exporter, 20)
        assert (await exporter.flush(5)).delivered == 20
        assert max(len(seen.raw) for seen in server.seen) <= 2000


async def test_several_requests_at_once() -> None:
    """Up to `max_requests` requests are under way together, and never more."""
    open_now, most = 0, 0
    gate = anyio.Event()

    async def script(seen: Seen) -> Answer:
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        if open_now == 3:
            gate.set()
        await gate.wait()
        await anyio.sleep(0.01)
        open_now -= 1
        return Answer()

    async with (
        collector(script) as server,
        running(endpoint=server.url, max_requests=3, max_batch_spans=2) as exporter,
    ):
        feed(exporter, 20)
        assert (await exporter.flush(5)).delivered == 20
        assert most == 3


async def test_a_batch_that_always_fails_does_not_stop_the_others() -> None:
    """One batch that the collector never takes lets the others pass."""

    async def script(seen: Seen) -> Answer:
        return Answer(503 if 1 in seen.ids else 200)

    async with (
        collector(script) as server,
        running(endpoint=server.url, max_requests=1, max_batch_spans=1, shutdown_timeout=0) as exporter,
    ):
        feed(exporter, 5)
        assert not (await exporter.flush(2)).complete
        assert sorted(server.accepted) == [2, 3, 4, 5]


async def test_a_full_queue_drops_the_newest() -> None:
    """Without room spans are dropped and counted, and memory stays within its bound."""
    async with collector() as server:
        url = server.url
    drops: list[Drop] = []
    options: dict[str, Any] = {"max_queue_bytes": 10_000, "shutdown_timeout": 0, "on_drop": drops.append}
    async with running(endpoint=url, **options) as exporter:
        feed(exporter, 100)
        stats = exporter.stats()
        assert stats.queue_bytes <= 10_000
        assert stats.dropped["queue_full"] == 100 - stats.queued - stats.in_flight
        assert balanced(exporter)
        assert await until(lambda: drops)
    assert sum(drop.count for drop in drops) == 100


async def test_settled_is_about_given_spans() -> None:
    """`settled` waits for a range of spans only, not for those that ended later."""
    gate = anyio.Event()

    async def script(seen: Seen) -> Answer:
        if 2 in seen.ids:
            await gate.wait()
        return Answer()

    async with collector(script) as server, running(endpoint=server.url, schedule_delay=60) as exporter:
        before = exporter.position
        feed(exporter, 1)
        first = exporter.position
        assert await exporter.settled(before, first, 5)
        feed(exporter, 1, 2)
        assert not await exporter.settled(first, exporter.position, 0.05)
        assert await exporter.settled(before, first, 0)
        assert await exporter.settled(exporter.position, exporter.position, 0)
        gate.set()
        assert await exporter.settled(first, exporter.position, 5)


async def test_closing() -> None:
    """Closing sends what waits; later spans are counted, later flushes refused, later closings say the same."""
    async with collector() as server, running(endpoint=server.url, schedule_delay=60) as exporter:
        feed(exporter, 2)
        outcome = await exporter.aclose()
        assert (outcome.delivered, outcome.pending) == (2, 0)
        feed(exporter, 2, 3)
        with pytest.raises(ClosedError):
            await exporter.flush()
        assert await exporter.aclose() == outcome
        assert exporter.shutdown() == outcome
        assert dict(exporter.stats().dropped) == {"closed": 2}
        assert balanced(exporter)


async def test_shutdown_on_the_loop_that_sends() -> None:
    """There it cannot wait: it says what is pending, the loop sends it, and a later call tells the end."""
    async with collector() as server, running(endpoint=server.url, schedule_delay=60) as exporter:
        await anyio.wait_all_tasks_blocked()
        feed(exporter, 2)
        assert exporter.shutdown(5).pending == 2
        assert await until(lambda: exporter.shutdown(5).delivered == 2)


async def test_shutdown_in_another_thread() -> None:
    """In a thread of its own it waits until the loop has sent everything."""
    async with collector() as server, running(endpoint=server.url, schedule_delay=60) as exporter:
        await anyio.wait_all_tasks_blocked()
        feed(exporter, 2)
        assert (await anyio.to_thread.run_sync(exporter.flush_blocking, 5)).delivered == 2
        feed(exporter, 2)
        assert (await anyio.to_thread.run_sync(exporter.shutdown, 5)).delivered == 4


async def test_a_cancelled_host_still_delivers() -> None:
    """Cancelling the task group around the exporter does not stop it: closing does, after the last span."""
    async with collector() as server:
        exporter = Exporter(ExportConfig.resolve(endpoint=server.url, schedule_delay=60))
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            try:
                feed(exporter, 2)
                group.cancel_scope.cancel()
                await anyio.sleep(1)
            finally:
                assert (await exporter.aclose(5)).delivered == 2


async def test_without_a_host() -> None:
    """When nobody runs it, whoever waits runs it meanwhile; a later host takes over."""
    async with collector() as server:
        exporter = Exporter(ExportConfig.resolve(endpoint=server.url, schedule_delay=60))
        feed(exporter, 2)
        assert (await exporter.flush(5)).delivered == 2
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.run)
            feed(exporter, 2, 3)
            assert (await exporter.flush(5)).delivered == 4
            feed(exporter, 2, 5)
            assert (await exporter.aclose(5)).delivered == 6


async def test_a_waiter_that_is_cancelled() -> None:
    """A cancelled flush is cancelled at once and loses nothing."""
    async with collector() as server:
        url = server.url
    async with running(endpoint=url, shutdown_timeout=0) as exporter:
        feed(exporter, 2)
        with anyio.move_on_after(0.05) as scope:
            await exporter.flush()
        assert scope.cancelled_caught
        assert exporter.stats().ended == 2
        assert balanced(exporter)


async def test_it_does_not_trace_itself() -> None:
    """Requests run with instrumentation switched off and without the span of whoever started the exporter."""
    found: list[tuple[bool, bool]] = []

    def handler(request: httpx.Request) -> httpx.Response:
        found.append((is_instrumentation_enabled(), trace.get_current_span().get_span_context().is_valid))
        return httpx.Response(200)

    parent = trace.NonRecordingSpan(trace.SpanContext(1, 2, is_remote=False))
    with trace.use_span(parent):
        async with running(transport=httpx.MockTransport(handler)) as exporter:
            before = otel_context.get_current()
            feed(exporter, 1)
            await exporter.flush(5)
            assert otel_context.get_current() is before
            assert is_instrumentation_enabled()
    assert found == [(False, False)]


async def test_transports_that_raise(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a transport raises is counted: what cannot be sent is dropped, and the exporter lives on."""
    raised: list[Exception] = [httpx.UnsupportedProtocol("no"), RuntimeError("odd"), httpx.LocalProtocolError("bad")]

    def handler(request: httpx.Request) -> httpx.Response:
        if raised:
            raise raised.pop(0)
        return httpx.Response(200)

    async with running(transport=httpx.MockTransport(handler), max_requests=1, max_batch_spans=1) as exporter:
        feed(exporter, 4)
        outcome = await exporter.flush(5)
        assert (outcome.delivered, dict(outcome.dropped)) == (1, {"unsendable": 3})
        assert "spans cannot be sent (unsendable): UnsupportedProtocol" in caplog.text


@pytest.mark.parametrize("has_spool", [False, True])
@pytest.mark.parametrize("shortage", [MemoryError(), RuntimeError("can't start new thread"), OSError(24, "too many")])
async def test_what_is_short_for_a_while(
    shortage: Exception, has_spool: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Spans that cannot be sent for want of memory, threads or files are sent later, as nothing is wrong with them."""
    raised = [shortage] * 6

    def handler(request: httpx.Request) -> httpx.Response:
        if raised:
            raise raised.pop()
        return httpx.Response(200)

    spool = tmp_path if has_spool else None
    async with running(transport=httpx.MockTransport(handler), spool=spool, max_batch_spans=1) as exporter:
        feed(exporter, 4)
        assert await until(lambda: exporter.stats().delivered == 4)
        assert balanced(exporter)
        assert not exporter.stats().dropped
    assert "refused" not in caplog.text
    assert list(tmp_path.iterdir()) == []


async def test_a_callback_that_fails() -> None:
    """What `on_drop` raises changes nothing."""

    def callback(drop: Drop) -> None:
        raise ValueError

    async with collector(always(Answer(400))) as server, running(endpoint=server.url, on_drop=callback) as exporter:
        feed(exporter, 1)
        assert dict((await exporter.flush(5)).dropped) == {"rejected_400": 1}


async def test_logs_are_few_and_without_secrets(caplog: pytest.LogCaptureFixture) -> None:
    """One line per kind of trouble, with neither keys from the headers nor from the URL."""
    answer = Answer(400, [], b'{"message": "bad key sesame\\n\\u001b[31m and hush and pwd"}')
    async with collector(always(answer)) as server:
        url = server.url.replace("http://", "http://user:pwd@") + "/v1/traces?key=hush"
        with caplog.at_level(logging.DEBUG):
            async with running(endpoint=url, headers={"x-key": "sesame"}, max_batch_spans=1) as exporter:
                feed(exporter, 10)
                await exporter.flush(5)
                assert server.seen[0].headers["authorization"] == "Basic dXNlcjpwd2Q="
                assert server.seen[0].path == "/v1/traces?key=hush"
                text = caplog.text + repr(exporter.config) + str(exporter.stats())
    lines = [record for record in caplog.records if record.name == "genai_async"]
    assert len(lines) == 1
    for secret in ("sesame", "hush", "pwd", "\x1b"):
        assert secret not in text


async def test_a_span_that_cannot_be_encoded() -> None:
    """A span without ids is counted as such and disturbs nothing."""
    async with collector() as server, running(endpoint=server.url) as exporter:
        exporter.accept(span(0))
        exporter.accept(object())  # type: ignore[arg-type]
        feed(exporter, 1)
        outcome = await exporter.flush(5)
        assert (outcome.delivered, dict(outcome.dropped)) == (1, {"encoding": 2})
        assert balanced(exporter)


async def test_the_collector_comes_back() -> None:
    """What ended during an outage arrives after it, all of it."""
    state = {"down": True}

    async def script(seen: Seen) -> Answer | None:
        return None if state["down"] else await ok(seen)

    async with collector(script) as server, running(endpoint=server.url, max_batch_spans=10) as exporter:
        for first in range(1, 200, 10):
            feed(exporter, 10, first)
            await anyio.sleep(0.002)
        assert len(server.seen) < 20
        state["down"] = False
        assert (await exporter.flush(5)).delivered == 200
        assert sorted(server.accepted) == list(range(1, 201))
        assert balanced(exporter)


async def test_zlib_is_what_the_server_reads() -> None:
    """The compressed body is one gzip member and nothing else."""
    async with collector() as server, running(endpoint=server.url, compression="gzip") as exporter:
        feed(exporter, 1)
        await exporter.flush(5)
        reader = zlib.decompressobj(31)
        reader.decompress(server.seen[0].raw)
        assert reader.eof
        assert reader.unused_data == b""


async def test_thousands_who_wait() -> None:
    """Whoever waits for its own spans is looked at when something becomes of those, and not for all others'."""
    release = anyio.Event()

    async def hold(seen: Seen) -> Answer:
        await release.wait()
        return Answer()

    async with collector(hold) as server, running(endpoint=server.url, max_batch_spans=5) as exporter:
        asked = Counter[int]()
        is_over = exporter._worker.watches._is_over

        def counted(first: int, last: int, since: float | None) -> bool:
            asked[first] += 1
            return is_over(first, last, since)

        exporter._worker.watches._is_over = counted
        async with anyio.create_task_group() as group:
            for number in range(500):
                feed(exporter, 1, 1 + number)
                group.start_soon(exporter.settled, number, number + 1)
                await anyio.lowlevel.checkpoint()
            release.set()
    assert len(asked) == 500
    assert max(asked.values()) <= 3


@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 3, 2, 1), (3, 1, 4, 2)])
async def test_who_waits_for_spans_of_several_batches(order: tuple[int, ...]) -> None:
    """Waiting ends with the last of the batches that hold the spans, in whatever order they arrive."""
    gates = {number: anyio.Event() for number in order}
    woken: dict[tuple[int, int], int] = {}

    async def hold(seen: Seen) -> Answer:
        await gates[seen.ids[0]].wait()
        return Answer()

    async with collector(hold) as server, running(endpoint=server.url, max_batch_spans=1) as exporter:

        async def wait(first: int, last: int) -> None:
            assert await exporter.settled(first, last, 5)
            woken[first, last] = exporter.stats().delivered

        async with anyio.create_task_group() as group:
            feed(exporter, 4)
            for first, last in ((0, 4), (1, 3), (2, 3)):
                group.start_soon(wait, first, last)
            for count, number in enumerate(order, 1):
                gates[number].set()
                assert await until(lambda count=count: exporter.stats().delivered == count)  # type: ignore[misc]
                await anyio.wait_all_tasks_blocked()
    place = {number: count for count, number in enumerate(order, 1)}
    assert woken == {(0, 4): 4, (1, 3): max(place[2], place[3]), (2, 3): place[3]}
