from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener
from tests.exports import FAST, feed, running

from genai_async.export import ExportConfig, Exporter
from genai_async.export._reply import Reply
from genai_async.export._tls import certified
from genai_async.export._transport import Transport

from .support import Answer, Collector, Seen

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl"),
]


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A key and its self-signed certificate for 127.0.0.1."""
    file = tmp_path / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=t"
    names = ["-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run([*command.split(), *names, "-keyout", "-"], capture_output=True, check=True)
    file.write_bytes(made.stdout)
    return file


# A transport whose handshake failed is closed in the loop's next step, and by then the loop may have ended.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_verification(certificate: Path) -> None:
    """Unknown certificates are refused, those of the given authority trusted, and ours is shown when asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    server = Collector()
    file = str(certificate)
    async with (
        TLSListener(
            await anyio.create_tcp_listener(local_host="127.0.0.1"), context, standard_compatible=False
        ) as port,
        anyio.create_task_group() as group,
    ):
        group.start_soon(port.serve, server.serve)
        url = f"https://127.0.0.1:{port.listener.extra(anyio.abc.SocketAttribute.local_port)}"
        async with running(endpoint=url, shutdown_timeout=0) as stranger:
            feed(stranger, 1)
            assert (await stranger.flush(0.5)).pending == 1
            assert "not trusted: self-signed certificate" in (stranger.stats().last_error or "").replace(
                "self ", "self-"
            )
        assert not server.seen
        async with running(
            endpoint=url, certificate=file, client_certificate=file, client_key=file, shutdown_timeout=1
        ) as friend:
            feed(friend, 1)
            assert (await friend.flush(5)).delivered == 1
        group.cancel_scope.cancel()


async def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    """A file without a certificate is trouble that may pass: spans are kept, and the log says why."""
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    async with running(endpoint="https://127.0.0.1:1", certificate=str(file), shutdown_timeout=0) as exporter:
        feed(exporter, 1)
        assert (await exporter.flush(0.3)).pending == 1
        assert "SSLError" in (exporter.stats().last_error or "")


async def test_connections_that_are_replaced() -> None:
    """A request that is under way on them comes to its end, and then they are closed."""
    asked, goes_on, is_left = anyio.Event(), anyio.Event(), anyio.Event()

    async def script(seen: Seen) -> Answer:
        asked.set()
        await goes_on.wait()
        return Answer()

    async def serve(stream: anyio.abc.SocketStream) -> None:
        await server.serve(stream)
        is_left.set()

    server = Collector(script)
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as port, anyio.create_task_group() as group:
        group.start_soon(port.serve, serve)
        url = f"http://127.0.0.1:{port.extra(anyio.abc.SocketAttribute.local_port)}"
        transport = Transport(ExportConfig.resolve(endpoint=url))
        replies: list[Reply] = []

        async def post() -> None:
            replies.append(await transport.post(b'{"resourceSpans": []}', {}))

        group.start_soon(post)
        await asked.wait()
        await transport.retire()
        goes_on.set()
        with anyio.fail_after(5):
            await is_left.wait()
        assert [reply.status for reply in replies] == [200]
        group.cancel_scope.cancel()


async def test_whom_connections_trust(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that httpx and OpenSSL know names the authorities, whether or not a certificate is shown."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for own in (None, str(certificate)):
        context = certified(ExportConfig(endpoint="https://x", client_certificate=own, client_key=own))
        assert len(context.get_ca_certs()) == 1


async def test_a_key_that_is_encrypted_later(certificate: Path) -> None:
    """Nobody is asked for a passphrase on the terminal: it is trouble that may pass, and the log says why."""
    config = ExportConfig.resolve(
        endpoint="https://127.0.0.1:1", client_certificate=str(certificate), shutdown_timeout=0.1, retry=FAST
    )
    command = ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", str(certificate)]
    key = subprocess.run(command, capture_output=True, check=True).stdout
    text = certificate.read_bytes()
    certificate.write_bytes(key + text[text.index(b"-----BEGIN CERTIFICATE") :])
    exporter = Exporter(config)
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        feed(exporter, 1)
        await exporter.flush(0.3)
        await exporter.aclose()
    assert "client_key: is encrypted" in (exporter.stats().last_error or "")
