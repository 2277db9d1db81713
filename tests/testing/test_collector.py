from __future__ import annotations

import json
import ssl
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import anyio
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from genai_async.testing import (
    Accept,
    BrokenGzip,
    Collector,
    EventRecord,
    Garbage,
    HalfResponse,
    Hold,
    HugeBody,
    LinkRecord,
    PartialSuccess,
    Refuse,
    Reset,
    Slow,
    SpanRecord,
    Status,
    TooLarge,
    WrongType,
)

from .otlp import JSON, body, client, span_ids

pytestmark = [
    pytest.mark.anyio,
    # httpx leaves its generators to the garbage collector when a response breaks off; trio says so.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <async_generator:pytest.PytestUnraisableExceptionWarning"),
]

CERTIFICATE = Path(__file__).with_name("localhost.pem")


async def test_accepts_and_counts_each_span() -> None:
    """Without a script every request is accepted, and each span counted as often as it came."""
    async with Collector() as collector, client(collector) as http:
        assert (await http.send(1, 2)).json() == {}
        assert (await http.send(2, 3, packed=True)).status_code == 200
    assert collector.accepted == Counter(dict(zip(span_ids(1, 2, 3), (1, 2, 1), strict=True)))
    assert [span.span_id for span in collector.spans] == span_ids(1, 2, 3)
    assert [request.span_ids for request in collector.requests] == [tuple(span_ids(1, 2)), tuple(span_ids(2, 3))]
    assert collector.requests[1].body == body(2, 3)
    assert collector.requests[1].wire_bytes < len(body(2, 3))
    assert collector.connections == 1


async def test_keeps_nothing_but_counts_when_told() -> None:
    """A collector that keeps nothing still counts."""
    async with Collector(keep=False) as collector, client(collector) as http:
        await http.send(1)
    assert (collector.requests, collector.spans, sum(collector.accepted.values())) == ([], [], 1)


@pytest.mark.parametrize("code", [200, 204, 302, 400, 401, 404, 408, 429, 500, 502, 503, 504])
async def test_answers_each_status(code: int) -> None:
    """A scripted status is what the client reads, and none of its spans are taken."""
    async with Collector([Status(code, location="/elsewhere")]) as collector, client(collector) as http:
        response = await http.send(1)
    assert response.status_code == code
    assert response.headers["location"] == "/elsewhere"
    assert not collector.accepted
    assert collector.statuses == {code: 1}
    assert collector.requests[0].fault.startswith(f"Status(code={code}")


@pytest.mark.parametrize(
    ("given", "header"),
    [
        (2, "2"),
        (0.5, "0.5"),
        ("soon", "soon"),
        (datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "Wed, 02 Jan 2030 03:04:05 GMT"),
    ],
)
async def test_says_when_to_come_back(given: float | str | datetime, header: str) -> None:
    """`Retry-After` goes out as seconds, as an HTTP date, or as the text that was given."""
    async with Collector([Status(503, retry_after=given)]) as collector, client(collector) as http:
        assert (await http.send(1)).headers["retry-after"] == header


async def test_rejects_the_last_spans_in_a_partial_success() -> None:
    """A partial success names how many it rejects, and counts these apart."""
    async with Collector([PartialSuccess(2, "too old"), PartialSuccess()]) as collector, client(collector) as http:
        told = (await http.send(1, 2, 3)).json()
        assert (await http.send(4)).json() == {"partialSuccess": {}}
    assert told == {"partialSuccess": {"rejectedSpans": "2", "errorMessage": "too old"}}
    assert list(collector.accepted) == span_ids(1, 4)
    assert list(collector.rejected) == span_ids(2, 3)


async def test_refuses_bodies_over_a_size() -> None:
    """413 is for bodies over the limit only."""
    limit = len(body(1))
    async with Collector([TooLarge(limit), TooLarge(limit)]) as collector, client(collector) as http:
        assert (await http.send(1, 2)).status_code == 413
        assert (await http.send(1)).status_code == 200
    assert list(collector.accepted) == span_ids(1)


@pytest.mark.parametrize(("when", "taken"), [("before", 0), ("after", 0), ("accepted", 1)])
async def test_resets_connections(when: str, taken: int) -> None:
    """After a reset the client has no answer, whether or not its spans were taken."""
    async with Collector([Reset(when)]) as collector, client(collector) as http:  # type: ignore[arg-type]
        with pytest.raises(httpx.TransportError):
            await http.send(1)
        assert sum(collector.accepted.values()) == taken
        assert (await http.send(1)).status_code == 200
    assert collector.connections == 2
    assert collector.accepted == {span_ids(1)[0]: taken + 1}


@pytest.mark.parametrize("fault", [HalfResponse(), BrokenGzip(), Garbage()])
async def test_breaks_off_and_garbles_answers(fault: HalfResponse | BrokenGzip | Garbage) -> None:
    """A cut, a garbled and a meaningless answer are errors for the client."""
    async with Collector([fault]) as collector, client(collector) as http:
        with pytest.raises((httpx.TransportError, httpx.DecodingError)):
            await http.send(1)
        assert (await http.send(2)).status_code == 200


async def test_leaves_spans_alone_when_told() -> None:
    """Answers that claim success may do so without taking anything."""
    script = [BrokenGzip(accepts=False), HalfResponse(accepts=False), HugeBody(10, accepts=False)]
    async with Collector(script) as collector, client(collector) as http:
        for _ in range(2):
            with pytest.raises((httpx.TransportError, httpx.DecodingError)):
                await http.send(1)
        await http.send(1)
    assert not collector.accepted


async def test_answers_with_a_page() -> None:
    """A captive portal answers 200 with HTML and takes nothing unless told to."""
    async with Collector([WrongType(), WrongType(accepts=True)]) as collector, client(collector) as http:
        response = await http.send(1)
        await http.send(2)
    assert response.headers["content-type"] == "text/html"
    assert list(collector.accepted) == span_ids(2)


@pytest.mark.parametrize("compressed", [False, True])
async def test_answers_with_a_huge_body(compressed: bool) -> None:
    """A response may be over 4 MiB, also when only unpacked."""
    async with Collector([HugeBody(compressed=compressed)]) as collector, client(collector) as http:
        response = await http.send(1)
    assert len(response.content) > 4 << 20
    assert (int(response.headers["content-length"]) < 1 << 20) is compressed


async def test_is_slow_in_each_part() -> None:
    """Slowness before reading, in the head and in the body add up, and the answer is whole."""
    async with Collector([Slow(accept=0.05, headers=0.05, body=0.05, steps=5)]) as collector, client(collector) as http:
        started = anyio.current_time()
        assert (await http.send(1)).json() == {}
        assert anyio.current_time() - started >= 0.14


@pytest.mark.parametrize("fault", [Slow(accept=60), Slow(headers=60), Slow(body=60)])
async def test_slowness_runs_into_the_clients_timeout(fault: Slow) -> None:
    """Each kind of slowness outlasts a client's read timeout, and ends with the collector."""
    async with Collector([fault]) as collector, client(collector, timeout=httpx.Timeout(10, read=0.1)) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.send(1)


async def test_holds_an_answer_until_released() -> None:
    """A held request is read at once and answered when the event is set."""
    release = anyio.Event()
    async with Collector([Hold(release)]) as collector, client(collector) as http, anyio.create_task_group() as group:
        group.start_soon(http.send, 1)
        while not collector.requests:
            await anyio.lowlevel.checkpoint()
        assert not collector.accepted
        release.set()
        await collector.wait_for(1)


async def test_goes_away_and_comes_back() -> None:
    """While it is down connections are refused; afterwards it listens on the same port."""
    async with Collector() as collector, client(collector) as http:
        endpoint = collector.endpoint
        await http.send(1)
        async with collector.down():
            with pytest.raises(httpx.TransportError):
                await http.send(2)
            await collector.stop()
        await collector.start()
        await http.send(3)
        assert collector.endpoint == endpoint
    assert list(collector.accepted) == span_ids(1, 3)


async def test_refuses_for_a_while() -> None:
    """A scripted absence cuts the request and ends by itself."""
    async with Collector([Refuse(0.05)]) as collector, client(collector) as http:
        answers = []
        while not answers:
            try:
                answers.append(await http.send(1))
            except httpx.TransportError:
                await anyio.lowlevel.checkpoint()
    assert collector.accepted == {span_ids(1)[0]: 1}


async def test_stalls_before_accepting() -> None:
    """A stalled collector's connections open and say nothing, and are served once it goes on."""
    async with Collector() as collector, client(collector, timeout=httpx.Timeout(10, read=0.1)) as http:
        async with collector.stalled():
            with pytest.raises(httpx.ReadTimeout):
                await http.send(1)
        http.http.timeout = 10.0
        assert (await http.send(2)).status_code == 200


async def test_serves_tls() -> None:
    """With an SSL context it speaks TLS to those who trust its certificate, and survives those who don't."""
    server, trusting = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    server.load_cert_chain(CERTIFICATE)
    trusting.load_verify_locations(CERTIFICATE)
    async with Collector(ssl_context=server) as collector:
        assert collector.endpoint.startswith("https://")
        async with client(collector) as http:
            with pytest.raises(httpx.ConnectError):
                await http.send(1)
        async with client(collector, verify=trusting) as http:
            await http.send(2)
    assert list(collector.accepted) == span_ids(2)


async def test_a_script_may_be_a_function_of_the_requests_number() -> None:
    """A function may decide by number; None means accept."""
    async with Collector(lambda number: Status(503) if number % 2 else None) as collector, client(collector) as http:
        assert [(await http.send(number)).status_code for number in (1, 2, 3)] == [200, 503, 200]


async def test_a_script_may_be_replaced() -> None:
    """A new script holds from the next request on, an empty one heals the collector."""
    async with Collector([Status(503)] * 9) as collector, client(collector) as http:
        await http.send(1)
        collector.play([Status(429)])
        await http.send(1)
        collector.play(())
        await http.send(1)
    assert collector.statuses == {503: 1, 429: 1, 200: 1}


async def test_a_fault_may_be_ones_own() -> None:
    """Whatever has `play` is a fault."""

    class Teapot:
        async def play(self, exchange: object) -> None:
            await exchange.respond(418, headers=[("x-tea", "green")])  # type: ignore[attr-defined]

    async with Collector([Teapot(), Accept()]) as collector, client(collector) as http:
        assert (await http.send(1)).headers["x-tea"] == "green"
        assert (await http.send(1)).status_code == 200


def _deep_body() -> bytes:
    value = b'{"arrayValue":{"values":[' * 3000 + b"{}" + b"]}}" * 3000
    return body(1).replace(b'"name": "s"', b'"attributes":[{"key":"a","value":%b}]' % value)


@pytest.mark.parametrize(
    ("content", "headers", "status", "word"),
    [
        (b"{", JSON, 400, "JSON"),
        (b"\xff", JSON, 400, "JSON"),
        (b'{"resourceSpans": 1}', JSON, 400, "trace request"),
        (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", JSON, 400, "JSON"),
        (_deep_body(), JSON, 400, "not "),  # JSON, says Python 3.11, and from 3.13 on: a trace request
        (body(1).replace(b'"spanId": "0', b'"spanId": "x'), JSON, 400, "trace request"),
        (body(0), JSON, 400, "not an id"),
        (b"plain", {**JSON, "content-encoding": "gzip"}, 400, "gzip"),
        (b"plain", {**JSON, "content-encoding": "br"}, 415, "br"),
        (b"plain", {"content-type": "text/plain"}, 415, "text/plain"),
        (b"\xff", {"content-type": "application/x-protobuf"}, 400, "protobuf"),
    ],
)
async def test_says_what_is_wrong_with_a_request(
    content: bytes, headers: dict[str, str], status: int, word: str
) -> None:
    """A body that is no trace request is refused with a reason."""
    async with Collector() as collector, client(collector) as http:
        response = await http.http.post("/v1/traces", content=content, headers=headers)
    assert (response.status_code, word in response.json()["message"]) == (status, True)
    assert not collector.accepted


async def test_knows_its_path_and_method() -> None:
    """Only POSTs to its own path are taken."""
    async with Collector(path="/otlp/v1/traces") as collector, client(collector) as http:
        assert (await http.send(1)).status_code == 404
        assert (await http.http.get("/otlp/v1/traces")).status_code == 405
        assert (await http.http.head("/otlp/v1/traces")).status_code == 405
        assert (await http.send(1, path="/otlp/v1/traces")).status_code == 200


async def test_reads_every_kind_of_value() -> None:
    """Attributes, events, links, status, resource and scope arrive as plain values."""
    values = {
        "text": ({"stringValue": ""}, ""),
        "truth": ({"boolValue": False}, False),
        "whole": ({"intValue": "9007199254740993"}, 9007199254740993),
        "number": ({"intValue": 7}, 7),
        "half": ({"doubleValue": 0.5}, 0.5),
        "endless": ({"doubleValue": "-Infinity"}, float("-inf")),
        "bytes": ({"bytesValue": "AAE="}, b"\0\1"),
        "list": ({"arrayValue": {"values": [{"intValue": "1"}, {}]}}, [1, None]),
        "map": ({"kvlistValue": {"values": [{"key": "k"}]}}, {"k": None}),
        "empty": ({"arrayValue": {}}, []),
    }
    attributes = [{"key": key, "value": value} for key, (value, _) in values.items()]
    span = {
        "traceId": "A" * 32,
        "spanId": "b" * 16,
        "name": "s",
        "attributes": attributes,
        "events": [{"name": "e", "timeUnixNano": "5", "attributes": attributes[:1]}],
        "links": [{"traceId": "c" * 32, "spanId": "d" * 16, "attributes": attributes[:1]}],
        "status": {"code": 2, "message": "m"},
        "unknown": {},
    }
    group = {"resource": {"attributes": attributes[:1]}, "scopeSpans": [{"scope": {"name": "x"}, "spans": [span]}]}
    async with Collector() as collector, client(collector) as http:
        response = await http.http.post("/v1/traces", json={"resourceSpans": [group]})
    assert response.status_code == 200
    assert collector.spans == [
        SpanRecord(
            name="s",
            trace_id="a" * 32,
            span_id="b" * 16,
            kind="UNSPECIFIED",
            attributes={key: value for key, (_, value) in values.items()},
            events=(EventRecord(name="e", time_ns=5, attributes={"text": ""}),),
            links=(LinkRecord(trace_id="c" * 32, span_id="d" * 16, attributes={"text": ""}),),
            status="ERROR",
            status_message="m",
            scope="x",
            resource={"text": ""},
        )
    ]


async def test_the_blocks_own_error_comes_out_as_it_is() -> None:
    """What fails inside the block is not wrapped into a group, and a cancelled block ends."""
    with pytest.raises(ZeroDivisionError):
        async with Collector():
            raise ZeroDivisionError
    with anyio.CancelScope() as scope:
        async with Collector() as collector:
            scope.cancel()
            await collector.wait_for(1)
    assert scope.cancelled_caught


async def test_reads_protobuf() -> None:
    """A protobuf body means the same as its JSON."""
    request = ExportTraceServiceRequest()
    span = request.resource_spans.add().scope_spans.add().spans.add(name="s", kind=3)
    span.trace_id, span.span_id, span.parent_span_id = bytes(15) + b"\1", bytes(7) + b"\2", bytes(7) + b"\3"
    lines: list[bytes] = []
    async with Collector(on_accept=lines.append) as collector, client(collector) as http:
        headers = {"content-type": "application/x-protobuf"}
        await http.http.post("/v1/traces", content=request.SerializeToString(), headers=headers)
    (found,) = collector.spans
    assert (found.name, found.kind, found.trace_id) == ("s", "CLIENT", f"{1:032x}")
    assert (found.span_id, found.parent_span_id) == (f"{2:016x}", f"{3:016x}")
    assert json.loads(lines[0])["resourceSpans"][0]["scopeSpans"][0]["spans"][0]["spanId"] == f"{2:016x}"


async def test_waits_for_a_client_that_expects_to_be_asked() -> None:
    """`Expect: 100-continue` is answered before the body is read."""
    async with Collector() as collector, await anyio.connect_tcp("127.0.0.1", collector.port) as stream:
        head = (
            f"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body(1))}"
        )
        await stream.send(f"{head}\r\nexpect: 100-continue\r\n\r\n".encode())
        assert b"100" in await stream.receive()
        await stream.send(body(1))
        assert b"200" in await stream.receive()


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01nonsense\r\n\r\n", b"POST /v1/traces HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n"]
)
async def test_survives_clients_that_make_no_sense(data: bytes) -> None:
    """What is not HTTP, or breaks off, ends its own connection only."""
    async with Collector() as collector, client(collector) as http:
        async with await anyio.connect_tcp("127.0.0.1", collector.port) as stream:
            await stream.send(data)
            await stream.send_eof()
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await stream.receive()
        assert (await http.send(1)).status_code == 200


async def test_survives_a_fault_that_http_does_not_allow() -> None:
    """An answer that cannot be sent ends its own connection only."""

    class Impossible:
        async def play(self, exchange: object) -> None:
            await exchange.respond(200, headers=[("no name", "x")])  # type: ignore[attr-defined]

    async with Collector([Impossible()]) as collector, client(collector) as http:
        with pytest.raises(httpx.TransportError):
            await http.send(1)
        assert (await http.send(1)).status_code == 200


async def test_a_port_in_use() -> None:
    """Where nobody can listen, entering says so by a plain error."""
    async with Collector() as collector:
        with pytest.raises(OSError, match="in use"):
            await Collector(port=collector.port).__aenter__()


async def test_says_what_came_when_too_little_did() -> None:
    """Waiting in vain ends in an error that tells how far it got."""
    async with Collector([Status(503)]) as collector, client(collector) as http:
        await http.send(1)
        await http.send(2)
        with pytest.raises(TimeoutError, match=r"1 of 3 spans .* 0\.01 s over 1 connections; answers: 200 x1, 503 x1"):
            await collector.wait_for(3, timeout=0.01)
        with pytest.raises(TimeoutError, match="1 of 3 spans"):
            collector.wait_for_blocking(3, timeout=0.01)


async def test_needs_to_be_entered() -> None:
    """Starting a collector that was not entered is an error; stopping it is not."""
    collector = Collector()
    collector.go_down(1)
    await collector.stop()
    with pytest.raises(RuntimeError, match="enter the collector"):
        await collector.start()


def test_runs_in_a_thread_of_its_own() -> None:
    """With a plain `with` it serves synchronous programs, which may wait for spans too."""
    with Collector([Status(503)]) as collector, ThreadPoolExecutor() as pool:
        waiting = pool.submit(collector.wait_for_blocking, 2)
        codes = [
            httpx.post(f"{collector.endpoint}/v1/traces", content=body(number), headers=JSON).status_code
            for number in (1, 1, 2)
        ]
        assert [span.span_id for span in waiting.result()] == span_ids(1, 2)
    assert codes == [503, 200, 200]
    with pytest.raises(httpx.ConnectError):
        httpx.get(collector.endpoint)
