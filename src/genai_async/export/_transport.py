"""One POST over httpx, with caps on time and size; the one place that turns httpx's errors into ours.

The transport of httpx is used without its client: the client logs every URL at INFO, and keys may be in it; it
would also keep cookies and could follow redirects, and an exporter wants neither.
"""

from __future__ import annotations

import importlib
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx
from opentelemetry.sdk.version import __version__ as SDK_VERSION  # noqa: N812

from .._errors import ConfigurationError
from .._version import VERSION
from ._reply import MAX_RESPONSE_BYTES, Reply, SendError
from ._tls import Stamps, certified, stamps, trusting
from ._trouble import cause

if TYPE_CHECKING:
    from ._config import ExportConfig

__all__ = ["Transport", "limits", "proxy_to"]

_CHUNKS_AT_ONCE = 50  # of a response, some 20 us each

# Beyond `schedule_delay`, in which a quiet program sends once: with httpx's five seconds it would connect each time.
_KEEPALIVE = 60.0

_PORTS: Final = {"http": 80, "https": 443}

# The first look-up of a host would import it else, maybe while the program forks.
importlib.import_module("encodings.idna")


class Transport:
    """Connections to one endpoint, kept alive between requests.

    Building one reads certificate stores, which takes up to 0.4 s: never on a loop that others share.
    """

    def __init__(self, config: ExportConfig) -> None:
        self._url = httpx.URL(config.endpoint)
        self._config = config
        # Taken before they are read: what is written meanwhile has changed.
        self._stamps = self._present()
        self._users = 0
        self._is_retired = False
        self._inner = config.transport or _connections(config)
        self._timeout = httpx.Timeout(config.timeout, pool=None).as_dict()
        # Names differ in case only by accident (RFC 9110, 5.1): one that is given replaces ours, however it is written.
        self._headers = {
            "user-agent": _user_agent(),
            **{name.lower(): value for name, value in config.headers.items()},
            "content-type": "application/json",
            "accept-encoding": "gzip",
        }

    async def post(self, content: bytes, headers: Mapping[str, str]) -> Reply:
        """Send one request and read its response, without a deadline of its own.

        Raises:
            SendError: There is no response.
        """
        self._users += 1
        try:
            return await self._post(content, headers)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL) as exc:
            raise SendError(cause(exc), is_retryable=False) from exc
        except (httpx.HTTPError, httpx.StreamError, OSError, ssl.SSLError) as exc:
            raise SendError(cause(exc), is_retryable=True) from exc
        finally:
            self._users -= 1
            await self._end()

    async def _post(self, content: bytes, headers: Mapping[str, str]) -> Reply:
        request = httpx.Request(
            "POST",
            self._url,
            headers={name.encode(): value.encode("latin-1") for name, value in {**self._headers, **headers}.items()},
            content=content,
            extensions={"timeout": self._timeout, "trace": _Handshake()},
        )
        request.stream = _Content(content)
        response = await self._inner.handle_async_request(request)
        try:
            return await _read(response)
        finally:
            await response.aclose()

    @property
    def has_files(self) -> bool:
        """Whether files decide whom it trusts or what it shows."""
        return bool(self._stamps)

    def is_outdated(self) -> bool:
        """Whether these files have changed since; to look blocks."""
        return self._present() != self._stamps

    def _present(self) -> Stamps:
        is_ours = self._config.transport is None and self._config.endpoint.startswith("https:")
        return stamps(self._config) if is_ours else ()

    async def retire(self) -> None:
        """Close the connections once nobody uses them: others take their place."""
        self._is_retired = True
        await self._end()

    async def _end(self) -> None:
        if self._is_retired and not self._users:
            with suppress(Exception):  # the answer that may have come counts more
                await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class _Handshake:
    """Closes a connection whose TLS handshake is cancelled, by a deadline mostly; httpcore forgets it, open.

    Called with the events of httpx's `trace` extension.
    """

    def __init__(self) -> None:
        self._stream: Any = None

    async def __call__(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._stream = info["return_value"]
        elif event == "connection.start_tls.complete":
            self._stream = None
        elif event == "connection.start_tls.failed" and self._stream is not None:
            with anyio.CancelScope(shield=True):
                await self._stream.aclose()


class _Content(httpx.AsyncByteStream):
    """A body without a generator: a request that breaks off would leave httpx's to the garbage collector, at which
    trio warns.
    """

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


class _Once:
    """One piece of a body."""

    def __init__(self, content: bytes) -> None:
        self._pieces = iter([content])

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


def _connections(config: ExportConfig) -> httpx.AsyncHTTPTransport:
    # Without TLS nothing will use it, and one that trusts nobody costs nothing to make.
    is_secure = config.endpoint.startswith("https:")
    context = certified(config) if is_secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncHTTPTransport(verify=context, limits=limits(config), proxy=proxy_to(config.endpoint))


def limits(config: ExportConfig) -> httpx.Limits:
    """How many connections there may be, and how long an idle one stays: longer than a quiet program waits."""
    return httpx.Limits(
        max_connections=config.max_requests,
        max_keepalive_connections=config.max_requests,
        keepalive_expiry=config.schedule_delay + _KEEPALIVE,
    )


def proxy_to(endpoint: str) -> httpx.Proxy | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY name; none to this machine, as in Go.

    A collector mostly runs beside its program, and a proxy elsewhere could not reach it there.

    Raises:
        ConfigurationError: It cannot be used.
    """
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    proxies = getproxies()
    found = proxies.get(parts.scheme) or proxies.get("all")
    if not found or _is_here(host) or _is_excepted(host, port, proxies.get("no", "")):
        return None
    url = found if "://" in found else f"http://{found}"
    try:
        # A context of its own, as httpx would make one on the loop; the collector's is not for the proxy.
        return httpx.Proxy(url, ssl_context=trusting(None) if url.startswith("https:") else None)
    except (ValueError, httpx.InvalidURL):
        raise ConfigurationError("the proxy that the environment names cannot be used") from None


def _is_excepted(host: str, port: int, names: str) -> bool:
    """Whether NO_PROXY names it: by host or domain, with or without its port, or by a network that it is in."""
    quoted = f"[{host}]" if ":" in host else host
    return proxy_bypass(host) or proxy_bypass(f"{quoted}:{port}") or _is_within(host, names)


def _is_within(host: str, names: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for name in names.split(","):
        with suppress(ValueError):
            if "/" in name and address in ip_network(name.strip(), strict=False):
                return True
    return False


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _user_agent() -> str:
    """The distribution's name before the name that OTLP asks for (protocol/exporter.md, "User Agent")."""
    return f"genai-async/{VERSION} OTel-OTLP-Exporter-Python/{SDK_VERSION}"


async def _read(response: httpx.Response) -> Reply:
    """The whole response, its body cut soon after it is over the cap."""
    status, retry_after = response.status_code, response.headers.get("retry-after")
    if response.is_stream_consumed:  # transports for tests hand out responses that are read and decoded already
        return Reply(status, retry_after, response.content)
    raw = bytearray()
    # Leaving the loop early would leave httpx's nested generators to the garbage collector, at which trio warns;
    # a cancellation ends them from the inside.
    with anyio.CancelScope() as scope:
        chunks = 0
        async for chunk in response.aiter_raw():
            chunks += 1
            if chunks % _CHUNKS_AT_ONCE == 0:
                await anyio.lowlevel.checkpoint()  # what has arrived already comes without one
            if len(raw) <= MAX_RESPONSE_BYTES:
                raw += chunk
            else:
                scope.cancel()
    return Reply(status, retry_after, bytes(raw), response.headers.get("content-encoding", ""))
