"""What a log says of an error."""

from __future__ import annotations

import errno
import socket
import ssl

import anyio
import httpx
import pytest
from tests.exports import feed, running

from genai_async._errors import ConfigurationError
from genai_async.export._trouble import cause


def _raised(outer: Exception, inner: BaseException) -> Exception:
    try:
        raise inner
    except BaseException:
        try:
            raise outer from None
        except Exception as exc:
            return exc


_REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('10.0.0.1', 80)")


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (OSError(errno.ENOSPC, "hush", "/hush"), "OSError (No space left on device)"),
        (OSError("hush"), "OSError"),
        (OSError("hush", "hush"), "OSError"),
        (OSError(1 << 80, "hush"), "OSError"),
        (ValueError("hush"), "ValueError"),
        (ModuleNotFoundError("No module named 'socksio'"), "ModuleNotFoundError (No module named 'socksio')"),
        (ConfigurationError("client_key: no"), "client_key: no"),
        (_raised(httpx.ConnectError("hush"), _REFUSED), "ConnectError (Connection refused)"),
        (_raised(httpx.ConnectError("hush"), ExceptionGroup("hush", [_REFUSED])), "ConnectError (Connection refused)"),
        (_raised(httpx.ConnectError("hush"), socket.gaierror(-2, "Unknown")), "ConnectError (Unknown)"),
        (_raised(httpx.ReadError("hush"), ssl.SSLError(1, "[SSL] PEM lib")), "ReadError ([SSL] PEM lib)"),
    ],
)
def test_causes(exc: Exception, text: str) -> None:
    """What the system says of the innermost error is told, and no text that others wrote."""
    assert cause(exc) == text


@pytest.mark.anyio
async def test_a_port_that_nobody_listens_at() -> None:
    """What httpx's layers and the loops wrap differently is told in the same words."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    async with running(endpoint=f"http://127.0.0.1:{port}", shutdown_timeout=0) as exporter:
        feed(exporter, 1)
        await exporter.flush(0.2)
        assert (exporter.stats().last_error or "").endswith("ConnectError (Connection refused)")
