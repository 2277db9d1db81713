"""Anything at all as an attribute, message, header, carrier, response or file: no error in the caller, exact accounts.

Some hundred examples in a normal run, many times as many with GENAI_ASYNC_STRESS=1 (`nox -s fuzz`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.exports import FAST, feed, imbalance, span
from tests.pace import paces

import genai_async as ga
from genai_async.asgi import SessionMiddleware
from genai_async.export import ExportConfig, Exporter, ThreadHost
from genai_async.export._encode import Encoder
from genai_async.export._line import parse
from genai_async.export._retry import retry_after
from genai_async.export._spool import Spool
from genai_async.export._trim import trim
from genai_async.export._trouble import printable
from genai_async.testing import Collector, Exchange

_TIMES = 20 if os.environ.get("GENAI_ASYNC_STRESS") else 1
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

pytestmark = pytest.mark.timeout(900)


def _fuzz(examples: int) -> settings:
    return settings(max_examples=examples * _TIMES, deadline=None, suppress_health_check=_SLOW)


class Odd:
    """An object whose every answer is an error."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__
    __len__ = __iter__ = __hash__ = __bool__ = __eq__ = __str__  # type: ignore[assignment]


_TEXTS = st.text(st.characters(), max_size=60)  # lone surrogates, too
_PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.decimals(),
    st.datetimes(),
    st.uuids(),
    st.binary(max_size=30),
    _TEXTS,
    st.builds(Odd),
    st.just(object()),
    st.just(Ellipsis),
    st.just(print),
    st.builds(ValueError, _TEXTS),
    st.just(math),
)
_WORDS = st.sampled_from(
    ["role", "content", "type", "text", "parts", "tool_calls", "function", "arguments", "name", "id", "user", "source"]
)
_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(_WORDS | _TEXTS, inner, max_size=4),
        st.dictionaries(st.integers() | st.none(), inner, max_size=2),
    ),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


@pytest.fixture(scope="module")
def tracing(collector: Collector) -> Iterator[ga.Tracing]:
    found = ga.configure(endpoint=collector.endpoint, schedule_delay=0.01)
    yield found
    found.shutdown()


def _settle(tracing: ga.Tracing, collector: Collector, ids: set[str]) -> None:
    """All of it arrives, in requests that the collector can read."""
    assert tracing.provider.force_flush(10_000)  # type: ignore[attr-defined]
    stats = tracing.stats()
    assert imbalance(stats) == 0
    assert stats.ended == stats.delivered
    assert ids <= collector.accepted.keys()


@_fuzz(150)
@given(value=_VALUES, key=_TEXTS, name=_TEXTS)
def test_values(value: Any, key: str, name: str, tracing: ga.Tracing, collector: Collector) -> None:
    """Whatever is recorded wherever, nothing is raised, every span arrives, and none takes another with it."""
    with ga.Session(session_id=value, agent_name=value, attributes={key: value}) as session:
        with session.start_turn(value, input_messages=value, attributes=value) as turn:
            turn.set_attributes({key: value}).record(output_messages=value, system_instructions=value)
            with turn.start_llm(name, provider_name=value, input_messages=[value], temperature=value) as llm:
                llm.record(output_messages=[{"role": "user", "content": value}], usage=value, response_id=value)
            with turn.start_tool(name, arguments=value, call_id=value) as tool:
                tool.result = value
            with turn.start_subagent(name, input_messages=[{"role": value, "parts": [value]}]) as agent:
                agent.record_error(value)
    _settle(tracing, collector, {handle.span_id for handle in (turn, llm, tool, agent)})


_HEADERS = st.dictionaries(
    st.sampled_from(["traceparent", "tracestate", "baggage", "Baggage", "TRACEPARENT"]) | _TEXTS,
    st.one_of(
        _TEXTS,
        st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
        st.from_regex(r"gen_ai\.conversation\.id=[!-~]{0,200}(,a=b)*", fullmatch=True),
        _PLAIN,
    ),
    max_size=5,
)


@_fuzz(150)
@given(carrier=_HEADERS | _VALUES)
def test_carriers(carrier: Any, tracing: ga.Tracing, collector: Collector) -> None:
    """Whatever another process sends as a carrier, a session comes of it, with an id that can be trusted."""
    with ga.Session.from_carrier(carrier) as session, session.start_turn("Hello") as turn:
        pass
    assert 0 < len(session.session_id) <= 128
    assert session.session_id.isascii()
    assert session.session_id.isprintable()
    _settle(tracing, collector, {turn.span_id})


_BYTES_HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"x-session-id", b"cookie", b"baggage", b"traceparent"]) | st.binary(max_size=9),
        st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")),
    ),
    max_size=6,
)


@_fuzz(100)
@given(headers=_BYTES_HEADERS, path=_TEXTS, query=st.binary(max_size=50))
def test_requests(headers: Any, path: str, query: bytes, tracing: ga.Tracing, collector: Collector) -> None:
    """Whatever a request holds, the application is called, and the span of its turn arrives."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["turn"].span_id)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    async def main() -> None:
        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            pass

        scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers}
        await SessionMiddleware(app, turn="request")(scope, receive, send)

    anyio.run(main)
    _settle(tracing, collector, set(seen))
    assert len(seen) == 1


class _Raw:
    """Bytes instead of an answer."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    async def play(self, exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send_raw(self.raw)


_BODIES = st.one_of(
    st.binary(max_size=300),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(-1e9, 1e9) | st.text(max_size=20),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["partialSuccess", "rejectedSpans", "errorMessage", "message"]), inner)
        ),
        max_leaves=8,
    ).map(lambda value: msgspec.json.encode(_clean(value))),
)


def _clean(value: Any) -> Any:
    return value if not isinstance(value, int) or abs(value) < 2**60 else str(value)


@st.composite
def _responses(draw: st.DrawFn) -> bytes:
    body = draw(_BODIES)
    status = draw(st.integers(100, 599) | st.sampled_from([200, 413, 429, 503]))
    headers = draw(
        st.dictionaries(
            st.sampled_from([b"retry-after", b"content-encoding", b"content-type", b"location", b"connection"]),
            st.sampled_from([b"gzip", b"deflate", b"0", b"close", b"-1", b"9" * 40, b"Thu, 01 Jan 1970 00:00:00 GMT"])
            | st.binary(max_size=20),
            max_size=3,
        )
    )
    length = draw(st.sampled_from([len(body), len(body) + 1, max(len(body) - 1, 0)]))
    head = [b"HTTP/1.1 %d x" % status, b"content-length: %d" % length]
    head += [b"%b: %b" % item for item in headers.items() if item[0] != b"retry-after" or not item[1][:1].isdigit()]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@_fuzz(150)
@given(raw=_responses() | st.binary(min_size=1, max_size=200))
def test_responses(raw: bytes, collector: Collector) -> None:
    """Whatever comes back, every span is delivered, dropped or kept, and the next request is a new chance."""
    collector.play([_Raw(raw)])
    exporter = Exporter(
        ExportConfig.resolve(
            endpoint=collector.endpoint, retry=FAST, schedule_delay=0.01, shutdown_timeout=2, timeout=0.2
        )
    )
    host = ThreadHost()
    host.start(exporter)
    feed(exporter, 4)
    assert exporter.flush_blocking(5).complete
    feed(exporter, 2, 10)
    assert exporter.flush_blocking(5).complete
    outcome = exporter.shutdown()
    stats = exporter.stats()
    assert imbalance(stats) == 0
    assert stats.ended == 6 == outcome.delivered + sum(outcome.dropped.values())
    assert outcome.delivered >= 2
    assert host.join(5)
    collector.play([])


_LINE = b'{"resourceSpans":[{"resource":{},"scopeSpans":[{"scope":{},"spans":[%b]}]}]}'
_SPAN = b'{"traceId":"%032x","spanId":"%016x","name":"s","startTimeUnixNano":"1","endTimeUnixNano":"2"}'


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A file of good lines in which something was cut out, put in or overwritten."""
    lines = [_LINE % (_SPAN % (1, number)) + b"\n" for number in range(1, draw(st.integers(2, 5)))]
    data = bytearray(b"".join(lines))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 40))] = draw(st.binary(max_size=10))
    return bytes(data)


@_fuzz(100)
@given(data=_damaged() | st.binary(max_size=300))
@example(data=_LINE % b'{"spanId":"\xff"}')
@example(data=_LINE % b"1")
@example(data=b'{"resourceSpans":' + b"[" * 50_000)
def test_files(data: bytes, collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Whatever a dead process's file holds, the next one starts, sends what can be read, and its books are right."""
    directory = tmp_path_factory.mktemp("spool")
    (directory / f"{'a' * 16}-0000000001.jsonl").write_bytes(data)
    exporter = Exporter(
        ExportConfig.resolve(endpoint=collector.endpoint, retry=FAST, schedule_delay=0.01, spool=directory)
    )
    host = ThreadHost()
    host.start(exporter)
    ids = feed(exporter, 2, 100)
    assert exporter.flush_blocking(5).complete
    outcome = exporter.shutdown(5)
    stats = exporter.stats()
    assert imbalance(stats) == 0
    assert (outcome.pending, stats.spooled, stats.queued, stats.in_flight) == (0, 0, 0, 0)
    assert ids <= collector.accepted.keys()
    assert stats.dropped.keys() <= {"rejected_400"}
    assert host.join(5)
    for path in directory.iterdir():
        assert path.suffix == ".bad"
        path.unlink()
    directory.rmdir()


@_fuzz(300)
@given(data=_damaged() | st.binary(max_size=300))
@example(data=_LINE % b'{"name":"\xff"}')
@example(data=_LINE % b"1")
def test_lines(data: bytes) -> None:
    """A line is taken or refused as a whole, and what is taken is JSON that stays so."""
    for line in data.splitlines(keepends=True):
        try:
            spans = list(parse(line))
        except ValueError:
            continue
        for (resource, scope), found in spans:
            msgspec.json.decode(b'{%b,%b,"span":%b}' % (resource, scope, found))


def _nested(depth: int) -> Any:
    value: Any = "x"
    for _ in range(depth):
        value = [value]
    return value


def _segments(directory: Path, count: int) -> Callable[[], object]:
    """Taking over from so many dead processes."""

    def call() -> None:
        directory.mkdir(exist_ok=True)
        for number in range(count):
            (directory / f"{number:016x}.lock").touch()
            (directory / f"{number:016x}-0000000001.jsonl").write_bytes(_LINE % (_SPAN % (1, 1 + number)) + b"\n")
        spool = Spool(directory)
        spool.open()
        found, _ = spool.take_over(math.inf)
        assert len(found) == count
        for segment in found:
            spool.add(segment)
        while spool.inherited.next is not None:
            load = spool.lift(spool.inherited, 10, 10**6)
            spool.discard(load)
            spool.unlink(load.segments)
        spool.close()

    return call


_HOSTILE: dict[str, Callable[[int], Callable[[], object]]] = {
    "a long text": lambda size: lambda: Encoder().span(span(1, {"x": "\ud800y" * size})),
    "a long list": lambda size: lambda: Encoder().span(span(1, {"x": ["a", 1, None] * size})),
    "many attributes": lambda size: lambda: Encoder().span(span(1, {f"k{number}": object() for number in range(size)})),
    "deep values": lambda size: lambda: Encoder().span(span(1, {"x": [_nested(40)] * (size // 20)})),
    "trimming one text": lambda size: lambda: trim(Encoder().span(span(1, {"x": "[{" * size * 5})), size),
    "trimming many texts": lambda size: lambda: trim(Encoder().span(span(1, {"x": ["y" * 70] * size})), size),
    "trimming JSON": lambda size: (
        lambda: trim(Encoder().span(span(1, {"x": msgspec.json.encode(["y" * 70] * size).decode()})), size)
    ),
    "a torn line": lambda size: lambda: _tries(parse, _LINE[:-6] % b",".join([_SPAN % (1, 1)] * size)),
    "a deep line": lambda size: lambda: _tries(parse, b'{"resourceSpans":' + b"[" * size * 20),
    "a long Retry-After": lambda size: lambda: retry_after("1, " * size * 5, 0.0),
    "a date that is none": lambda size: lambda: retry_after("Thu, " + "0 (" * size * 5, 0.0),
    "a long message": lambda size: lambda: printable("ab" * size * 50, ["b" * number for number in range(1, 20)]),
}


def _tries(read: Callable[[bytes], Any], data: bytes) -> None:
    with suppress(ValueError, RecursionError):
        list(read(data))


@pytest.mark.parametrize("name", _HOSTILE)
def test_no_quadratic_time(name: str) -> None:
    """Eight times the input takes about eight times as long, not sixty-four."""
    small, large = _HOSTILE[name](2_000), _HOSTILE[name](16_000)
    assert paces(large) < 24 * max(paces(small), 1)


def test_many_dead_neighbours(tmp_path: Path) -> None:
    """Taking over from sixteen times as many dead processes takes about sixteen times as long, and not 256 times.

    The bound lies far from both: files take the system from one to four times as long, whoever else writes some.
    """
    small, large = paces(_segments(tmp_path / "small", 200)), paces(_segments(tmp_path / "large", 3200))
    assert large < 80 * small


def test_a_batch_that_is_always_too_large() -> None:
    """Splitting down to single spans takes about two requests a span, however large the batch."""

    async def main() -> None:
        async with Collector(lambda _: _Refusing()) as refusing:
            exporter = Exporter(ExportConfig.resolve(endpoint=refusing.endpoint, retry=FAST, schedule_delay=60))
            async with anyio.create_task_group() as group:
                group.start_soon(exporter.run)
                feed(exporter, 256)
                outcome = await exporter.flush(20)
                await exporter.aclose()
        assert dict(outcome.dropped) == {"too_large": 256}
        assert exporter.stats().requests == 2 * 256 - 1

    anyio.run(main)


class _Refusing:
    async def play(self, exchange: Exchange) -> None:
        await exchange.respond(413)
