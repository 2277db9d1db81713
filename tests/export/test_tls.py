from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.tls import TLSListener
from tests.exports import feed, running

from .support import Collector

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
