"""What must stay secret does, whoever the collector is and whatever it answers."""

from __future__ import annotations

import gc
import logging
import shutil
import ssl
import subprocess
from pathlib import Path

import anyio
import pytest
from anyio import wait_all_tasks_blocked
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Link, StatusCode
from tests.exports import FAST, feed

import genai_async as ga
from genai_async.export import Drop, ExportConfig
from genai_async.testing import Accept, Collector, Exchange, HugeBody, PartialSuccess, Reset, Status

from .hosts import Host

pytestmark = pytest.mark.anyio

_KEY = "sk-verysecret/with+odd=chars"
_QUOTED = "sk-verysecret%2Fwith%2Bodd%3Dchars"


class _Echo:
    """A collector that answers with everything that it was sent, so that it lands in logs."""

    def __init__(self, status: int) -> None:
        self.status = status

    async def play(self, exchange: Exchange) -> None:
        request = await exchange.read()
        said = f"{request.path} {dict(request.headers)}\r\n\x1b[31m INJECTED".replace('"', "'")
        body = b'{"message": %s, "partialSuccess": {"errorMessage": %s}}' % ((_json(said),) * 2)
        await exchange.respond(self.status, body=body)


def _json(text: str) -> bytes:
    import msgspec

    return msgspec.json.encode(text)


@pytest.mark.parametrize("status", [200, 400, 413, 500, 503])
async def test_a_collector_that_repeats_secrets(status: int, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Keys from headers, the URL and its query reach no log, error, drop or repr, even when the answer holds them."""
    drops: list[Drop] = []
    caplog.set_level(logging.DEBUG)
    async with Collector([_Echo(status)] * 9) as collector:
        address = collector.endpoint.removeprefix("http://")
        endpoint = f"http://user:{_QUOTED}@{address}/?key={_QUOTED}"
        headers = {"authorization": f"Bearer {_KEY}", "x-key": "0" * 40}
        options = {"headers": headers, "on_drop": drops.append, "shutdown_timeout": 0.1}
        async with host.running(endpoint=endpoint, **options) as exporter:
            feed(exporter, 2)
            await exporter.flush(0.3)
            shown = [repr(exporter.config), repr(exporter.stats()), exporter.stats().last_error or ""]
        assert collector.requests[0].headers["authorization"] == f"Bearer {_KEY}"
    shown += [caplog.text, repr(drops), repr(exporter.stats())]
    for text in shown:
        for secret in ("verysecret", "0" * 20, "dXNlcjpz"):  # the last begins "user:s" in base64
            assert secret not in text
        assert "\x1b" not in text
    assert "INJECTED" not in caplog.text or len(caplog.text.splitlines()) < 6


async def test_a_collector_that_repeats_the_password(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """User and password of the URL are masked as they were sent, too: encoded together in a header."""
    async with Collector([_Echo(503)] * 9) as collector:
        endpoint = collector.endpoint.replace("//", f"//user:{_QUOTED}@")
        async with host.running(endpoint=endpoint, shutdown_timeout=0.1) as exporter:
            feed(exporter, 2)
            await exporter.flush(0.3)
            told = f"{caplog.text} {exporter.stats()}"
        encoded = collector.requests[0].headers["authorization"].split()[1]
    assert "does not take spans" in told
    for secret in (encoded, encoded[:20], "verysecret"):
        assert secret not in told


@pytest.mark.parametrize(
    "options",
    [
        {"endpoint": f"ftp://user:{_QUOTED}@host"},
        {"endpoint": f"http://host:{_KEY}/"},
        {"endpoint": f"http://host/?key={_KEY} "},
        {"headers": {"x-key": f"{_KEY}\n"}},
        {"headers": {f"{_KEY} ": "x"}},
        {"headers": {"content-type": _KEY}},
        {"certificate": _KEY},
        {"endpoint": f"http://h/?{_KEY}", "nonsense": _KEY},
    ],
)
@pytest.mark.parametrize("set_up", [ga.tracing, ga.configure])
async def test_errors_of_set_ups(options: dict[str, object], set_up: object) -> None:
    """A set-up that is refused says which option it was, and not what was in it."""
    with pytest.raises(ga.ConfigurationError) as caught:
        set_up(**options)  # type: ignore[operator]
    chain: BaseException | None = caught.value
    while chain is not None:
        assert "verysecret" not in f"{chain} {chain!r}"
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


def _told_about_the_environment() -> str:
    try:
        return repr(ExportConfig.resolve())
    except ga.ConfigurationError as exc:
        return f"{exc!r} {exc.__cause__!r}"


async def test_secrets_in_the_environment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Headers and keys from the environment are masked just so, also when they cannot work."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", f"authorization=Bearer%20{_QUOTED},x=y")
    assert "verysecret" not in repr(ExportConfig.resolve())
    for name, value in (("HEADERS", f"bad name={_KEY}"), ("ENDPOINT", f"http://{_KEY} /"), ("TIMEOUT", _KEY)):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
        assert "verysecret" not in _told_about_the_environment()
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}")
    assert "verysecret" not in caplog.text


async def test_spans_hold_nothing_of_the_exporter(host: Host) -> None:
    """Neither the exporter's headers nor its URL are in what it sends."""
    async with Collector() as collector:
        async with host.running(endpoint=f"{collector.endpoint}/?key={_QUOTED}", headers={"k": _KEY}) as exporter:
            feed(exporter, 1)
            await exporter.flush(5)
        assert b"verysecret" not in collector.requests[0].body


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects(status: int, host: Host) -> None:
    """No redirect is followed, not even to the same host: headers would go along."""
    async with Collector() as elsewhere, Collector() as collector:
        collector.play([Status(status, location=f"{elsewhere.endpoint}/v1/traces")])
        async with host.running(endpoint=collector.endpoint, headers={"authorization": _KEY}) as exporter:
            feed(exporter, 1)
            assert dict((await exporter.flush(5)).dropped) == {f"rejected_{status}": 1}
        assert elsewhere.connections == 0
        assert len(collector.requests) == 1


class _Raw:
    """Any head and body at all."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    async def play(self, exchange: Exchange) -> None:
        await exchange.read()
        await exchange.send_raw(self.raw)


def _ok(*headers: bytes, body: bytes = b"{}") -> _Raw:
    head = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers]
    return _Raw(b"\r\n".join(head) + b"\r\n\r\n" + body)


_HOSTILE = {
    "cookies": _ok(b"set-cookie: a=b; Path=/"),
    "a login": _Raw(b"HTTP/1.1 401 No\r\nwww-authenticate: Basic realm=x\r\ncontent-length: 0\r\n\r\n"),
    "an upgrade": _Raw(b"HTTP/1.1 101 Go\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"),
    "endless headers": _Raw(b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * (1 << 20)),
    "many headers": _ok(*[b"x-%d: y" % number for number in range(3000)]),
    "two lengths": _Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 5\r\n\r\n{}"),
    "a negative length": _Raw(b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n{}"),
    "bad chunks": _Raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{}"),
    "deep JSON": _ok(body=b'{"partialSuccess":' + b"[" * 100_000),
    "a huge count": _ok(body=b'{"partialSuccess":{"rejectedSpans":"9' + b"9" * 400 + b'"}}'),
    "a negative count": _ok(body=b'{"partialSuccess":{"rejectedSpans":-5}}'),
    "a count that is none": _ok(body=b'{"partialSuccess":{"rejectedSpans":{"a":[]},"errorMessage":[1]}}'),
    "an unknown encoding": _ok(b"content-encoding: br", body=b"\x00\x01"),
    "a second response": _Raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP/1.1 503 No\r\n\r\n"),
}


@pytest.mark.parametrize("name", _HOSTILE)
async def test_nothing_in_a_response_is_trusted(name: str, host: Host, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever comes back, the exporter goes on, keeps its books, remembers nothing of it and says one line."""
    async with Collector([_HOSTILE[name]]) as collector:
        async with host.running(endpoint=collector.endpoint, timeout=1) as exporter:
            feed(exporter, 3)
            assert (await exporter.flush(5)).complete
            feed(exporter, 3, 10)
            assert (await exporter.flush(5)).complete
            stats = exporter.stats()
            assert stats.ended == 6 == stats.delivered + stats.dropped_total
        assert len(collector.accepted) >= 3
        assert "cookie" not in collector.requests[-1].headers
        assert all("authorization" not in request.headers for request in collector.requests)
    assert max(map(len, caplog.text.splitlines()), default=0) < 600


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory with an authority, certificates of a server and of a client by it, and those of a stranger."""
    if shutil.which("openssl") is None:
        pytest.skip("certificates are made with openssl")

    def openssl(command: str) -> None:
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=tmp_path)

    new = "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    for name in ("ca", "stranger"):
        usage = "-addext keyUsage=critical,keyCertSign,cRLSign"
        openssl(f"{new} -x509 -days 2 -subj /CN={name} {usage} -keyout {name}.key -out {name}.pem")
    # Without an identifier of the authority's key, Python 3.13 takes no certificate.
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid")
    (tmp_path / "wrong").write_text("subjectAltName=IP:127.0.0.2\nauthorityKeyIdentifier=keyid")
    for name, names in (("server", "names"), ("elsewhere", "wrong"), ("client", "names")):
        openssl(f"{new} -subj /CN={name} -keyout {name}.key -out {name}.csr")
        authority = "-CA ca.pem -CAkey ca.key -CAcreateserial"
        openssl(f"x509 -req -days 2 -in {name}.csr {authority} -extfile {names} -out {name}.pem")
    return tmp_path


def _server(directory: Path, name: str, *, asks: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / f"{name}.pem", directory / f"{name}.key")
    if asks:
        context.load_verify_locations(directory / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


async def _try(host: Host, context: ssl.SSLContext, **options: object) -> tuple[int, int]:
    """How many of a few spans are delivered, and how many requests the collector read."""
    async with Collector(ssl_context=context) as collector:
        headers = {"authorization": _KEY}
        async with host.running(
            endpoint=collector.endpoint, shutdown_timeout=0, headers=headers, **options
        ) as exporter:
            feed(exporter, 2)
            outcome = await exporter.flush(0.4 if "certificate" not in options else 1.5)
        return outcome.delivered, len(collector.requests)


# A transport whose handshake failed is closed in the loop's next step, and by then the loop may have ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_tls_is_verified(certificates: Path, host: Host) -> None:
    """A certificate that nobody vouches for, or for another host, is refused before a header is sent."""
    ca = str(certificates / "ca.pem")
    assert await _try(host, _server(certificates, "server")) == (0, 0)
    assert await _try(host, _server(certificates, "server"), certificate=str(certificates / "stranger.pem")) == (0, 0)
    assert await _try(host, _server(certificates, "elsewhere"), certificate=ca) == (0, 0)
    assert await _try(host, _server(certificates, "server"), certificate=ca) == (2, 1)


async def test_client_certificates(certificates: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that asks for a certificate gets ours, by option or by variable, and nobody passes without."""
    ca, own, key = (str(certificates / name) for name in ("ca.pem", "client.pem", "client.key"))
    context = _server(certificates, "server", asks=True)
    assert await _try(host, context, certificate=ca) == (0, 0)
    assert await _try(host, context, certificate=ca, client_certificate=own, client_key=key) == (2, 1)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", ca)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", own)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", key)
    assert await _try(host, context) == (2, 1)


# As above.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("renewed", ["ca", "client"])
async def test_certificates_that_are_renewed(renewed: str, certificates: Path, host: Host) -> None:
    """What is written over a file is used after the next failure; while it is no certificate, what was before is."""
    sign = "x509 -req -in client.csr -CA stranger.pem -CAkey stranger.key -CAcreateserial -out unknown.pem"
    subprocess.run(["openssl", *sign.split()], check=True, capture_output=True, cwd=certificates)
    file = certificates / "present.pem"
    shutil.copy(certificates / ("stranger.pem" if renewed == "ca" else "unknown.pem"), file)
    options = {"certificate": "ca.pem", "client_certificate": "client.pem", "client_key": "client.key"}
    options["certificate" if renewed == "ca" else "client_certificate"] = file.name
    paths = {name: str(certificates / path) for name, path in options.items()}
    faults = [Accept(), Reset("before"), Reset("before")]
    async with (
        Collector(faults, ssl_context=_server(certificates, "server", asks=True)) as collector,
        host.running(endpoint=collector.endpoint, shutdown_timeout=0, retry=FAST, **paths) as exporter,
    ):
        await wait_all_tasks_blocked()  # so that it is not the first flush that sends, and another one later
        feed(exporter, 1)
        assert (await exporter.flush(0.3)).pending == 1
        shutil.copy(certificates / f"{renewed}.pem", file)
        assert (await exporter.flush(5)).delivered == 1
        file.write_text("half a certifi")
        feed(exporter, 1, 2)
        assert (await exporter.flush(5)).delivered == 2
        assert "cannot set up the connection: SSLError" in (exporter.stats().last_error or "")


async def test_a_handshake_that_never_comes(host: Host) -> None:
    """Neither a request's time-out nor closing leaves a connection open that was in the middle of its handshake."""
    async with Collector() as collector, collector.stalled():
        endpoint = collector.endpoint.replace("http:", "https:")
        for options in ({"timeout": 0.1, "shutdown_timeout": 0.3}, {"timeout": 20, "shutdown_timeout": 0.3}):
            async with host.running(endpoint=endpoint, **options) as exporter:
                feed(exporter, 2)
            assert dict(exporter.stats().dropped) == {"shutdown": 2}
            assert exporter.stats().requests
            del exporter
            gc.collect()  # a socket that was left open says so now


async def test_faults_over_tls(certificates: Path, host: Host) -> None:
    """Resets, partial successes and huge answers are the same through TLS."""
    faults = [Reset("before"), Reset("after"), Status(503), PartialSuccess(1), HugeBody()]
    async with Collector(faults, ssl_context=_server(certificates, "server")) as collector:
        async with host.running(
            endpoint=collector.endpoint, certificate=str(certificates / "ca.pem"), retry=FAST
        ) as exporter:
            for number in range(3):
                feed(exporter, 3, 1 + 3 * number)
                assert (await exporter.flush(5)).complete
                await anyio.sleep(0)
            stats = exporter.stats()
        assert dict(stats.dropped) == {"partial_success": 1, "response_too_large": 3}
        assert stats.delivered == 5


def test_files_of_the_spool(tmp_path: Path) -> None:
    """What a spool writes is for its owner only, whatever the umask, and secrets of the set-up are not in it."""
    import os
    import stat

    from genai_async.export import Exporter

    directory = tmp_path / "spool"
    before = os.umask(0)
    try:
        exporter = Exporter(
            ExportConfig.resolve(endpoint=f"http://127.0.0.1:1/?k={_QUOTED}", headers={"k": _KEY}, spool=directory)
        )
        feed(exporter, 3)
        assert exporter.flush_blocking().spooled == 3
    finally:
        os.umask(before)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = list(directory.iterdir())
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(b"verysecret" not in file.read_bytes() for file in files)
    exporter.shutdown(0)


def _hide(text: str) -> str:
    if "poison" in text:
        raise ValueError(text)
    return text.replace("s3cret", "[hidden]")


@pytest.mark.parametrize("joins", [False, True])
async def test_spans_of_others_are_redacted(joins: bool) -> None:
    """With `redact_others` the redactor reads all that other instrumentations say; where it fails nothing is said."""
    own = TracerProvider(shutdown_on_exit=False) if joins else None
    async with (
        Collector() as collector,
        ga.tracing(endpoint=collector.endpoint, tracer_provider=own, redact=_hide, redact_others=True) as tracing,
    ):
        tracer = tracing.provider.get_tracer("somebody else's")
        with ga.Session(session_id="s3cret-id") as session, session.start_turn("s3cret", agent_name="bot"):
            other = tracer.start_span("other")
            with tracer.start_as_current_span(
                "GET s3cret",
                attributes={"url": "?k=s3cret", "list": ["s3cret"], "s3cret": 5, "bad": "poison"},
                links=[Link(other.get_span_context(), {"why": "s3cret"})],
            ) as span:
                span.add_event("s3cret", {"what": "s3cret"})
                span.set_status(StatusCode.ERROR, "s3cret")
            other.end()
        assert (await tracing.flush(10)).delivered == 3
    found = {span.name: span for span in collector.spans}
    assert found.keys() == {"invoke_agent bot", "other", "GET [hidden]"}
    shown = found["GET [hidden]"]
    text = repr(shown).replace("s3cret-id", "")
    assert "s3cret" not in text
    assert "poison" not in text
    assert shown.attributes["gen_ai.conversation.id"] == "s3cret-id"
    assert shown.parent_span_id == found["invoke_agent bot"].span_id
    assert "[hidden]" in repr(found["invoke_agent bot"])


def test_redacting_others_needs_a_redactor() -> None:
    """There is nothing to read them with else."""
    with pytest.raises(ga.ConfigurationError, match="redact_others"):
        ga.tracing(redact_others=True)
