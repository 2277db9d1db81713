"""The options of an exporter: a given one first, then `OTEL_*` variables, then a named default."""

# Without `from __future__ import annotations`: a TypedDict compiles each annotation that is a string.

import math
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack
from urllib.parse import SplitResult, parse_qsl, quote, quote_plus, unquote, urlsplit

import msgspec

from .._env import integer, number, text, word
from .._errors import ConfigurationError
from ._retry import RetryPolicy
from ._stats import Drop

if TYPE_CHECKING:
    import httpx

__all__ = ["DeliveryOptions", "ExportConfig", "ExportOptions"]

DEFAULT_ENDPOINT = "http://localhost:4318"
DEFAULT_TIMEOUT = 10.0
DEFAULT_QUEUE_BYTES = 64 * 2**20
# nginx refuses larger bodies unless told otherwise, and it is the strictest of what usually stands before a collector.
DEFAULT_BATCH_BYTES = 2**20
DEFAULT_BATCH_SPANS = 512
DEFAULT_SCHEDULE_DELAY = 5.0
DEFAULT_SHUTDOWN_TIMEOUT = 5.0
DEFAULT_REQUESTS = 4
DEFAULT_SPOOL_BYTES = 512 * 2**20
DEFAULT_SPOOL_AGE = 7 * 24 * 3600.0
TRACES_PATH = "/v1/traces"

# Compiled when a configuration is made, and not when the library is imported.
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEADER_VALUE = r"(?![\t ])[\t\x20-\x7e\x80-\xff]*(?<![\t ])"
_LONGEST_URL = 65_536
_LONGEST_KEY = 65_536
KEY_IS_ENCRYPTED = "client_key: is encrypted, and there is no way to pass a passphrase"
_NUMERIC = "0123456789."
# Shorter words of a header's value are no secrets, and masking them would leave little to read.
_SHORTEST_WORD = 4
_OWN_HEADERS = frozenset({"content-type", "content-encoding", "content-length", "transfer-encoding", "host"})
_COMPRESSIONS = ("gzip", "none")
_FILES = ("certificate", "client_key", "client_certificate")


class DeliveryOptions(TypedDict, total=False):
    """What can be said of delivery wherever a set-up begins."""

    endpoint: str | None
    headers: Mapping[str, str] | None
    timeout: float | None
    compression: str | None
    max_queue_bytes: int | None
    max_batch_bytes: int | None
    max_batch_spans: int | None
    schedule_delay: float | None
    shutdown_timeout: float | None
    spool: str | os.PathLike[str] | None
    on_drop: Callable[[Drop], object] | None
    transport: "httpx.AsyncBaseTransport | None"


class ExportOptions(DeliveryOptions, total=False):
    """The options of `ExportConfig`, for functions that pass them on."""

    certificate: str | None
    client_key: str | None
    client_certificate: str | None
    max_requests: int | None
    retry: RetryPolicy | None
    max_spool_bytes: int | None
    max_spool_age: float | None


class ExportConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How and where an exporter sends.

    `ExportConfig(...)` takes values as they are; `ExportConfig.resolve(...)` fills what is not given from the
    environment. Wrong values raise at once, never later.

        ExportConfig.resolve(endpoint="https://collector.example", headers={"x-api-key": key})
        ExportConfig.resolve(transport=httpx.MockTransport(handler), schedule_delay=0.1)

    Attributes:
        endpoint: The whole URL that is posted to (`resolve` takes a base URL and appends `/v1/traces`).
        headers: Sent with each request. Their values are masked in the `repr`.
        timeout: Seconds that one request may take, all of connecting, sending and reading.
        compression: "gzip" or "none".
        certificate: Path of the PEM file of CA certificates to trust instead of the usual ones.
        client_key: Path of the PEM file of the client's private key, which has no passphrase.
        client_certificate: Path of the PEM file of the client's certificate chain.
        max_queue_bytes: Memory that waiting spans may take, with their resources and scopes; beyond it the newest is
            dropped as `queue_full`.
        max_batch_bytes: Size at which a batch is full, before compression. A larger span travels alone.
        max_batch_spans: Spans at which a batch is full.
        max_requests: Requests that may be under way at once.
        schedule_delay: Seconds that a span waits at most for others before it is sent.
        shutdown_timeout: Seconds that `aclose`, `shutdown` and the interpreter's exit take at most.
        retry: How long to leave a failing collector alone.
        spool: Directory in which spans are kept until they are delivered, so that they outlive the process. Several
            processes may share it. None keeps them in memory only.
        max_spool_bytes: Disk that the spans of this process may take; beyond it they are sent from memory, and dropped
            as `spool_full` while the collector takes nothing.
        max_spool_age: Seconds after which spans on disk are dropped as `spool_expired`.
        on_drop: Called with a `Drop` for spans that will not be delivered, by the task that sends. What it
            raises is ignored.
        transport: Sends the requests instead of a real connection, for tests.

    Raises:
        ConfigurationError: A value cannot work; the text names the option and shows no secret.
    """

    endpoint: str = DEFAULT_ENDPOINT + TRACES_PATH
    headers: Mapping[str, str] = msgspec.field(default_factory=dict[str, str])
    timeout: float = DEFAULT_TIMEOUT
    compression: str = "none"
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    max_queue_bytes: int = DEFAULT_QUEUE_BYTES
    max_batch_bytes: int = DEFAULT_BATCH_BYTES
    max_batch_spans: int = DEFAULT_BATCH_SPANS
    max_requests: int = DEFAULT_REQUESTS
    schedule_delay: float = DEFAULT_SCHEDULE_DELAY
    shutdown_timeout: float = DEFAULT_SHUTDOWN_TIMEOUT
    retry: RetryPolicy = msgspec.field(default_factory=RetryPolicy)
    spool: str | os.PathLike[str] | None = None
    max_spool_bytes: int = DEFAULT_SPOOL_BYTES
    max_spool_age: float = DEFAULT_SPOOL_AGE
    on_drop: Callable[[Drop], object] | None = None
    transport: "httpx.AsyncBaseTransport | None" = None

    def __post_init__(self) -> None:
        _check_endpoint(self.endpoint)
        _check_headers(self.headers)
        _check_seconds("timeout", self.timeout, positive=True)
        _check_seconds("schedule_delay", self.schedule_delay)
        _check_seconds("shutdown_timeout", self.shutdown_timeout)
        _check_seconds("max_spool_age", self.max_spool_age, positive=True)
        _check_directory("spool", self.spool)
        for name in ("max_queue_bytes", "max_batch_bytes", "max_batch_spans", "max_requests", "max_spool_bytes"):
            _check_count(name, getattr(self, name))
        if self.compression not in _COMPRESSIONS:  # no set: what is compared may have no hash
            raise ConfigurationError('compression: must be "gzip" or "none"')
        for name in _FILES:
            _check_file(name, getattr(self, name))
        if self.client_key is not None and self.client_certificate is None:
            raise ConfigurationError("client_key: needs client_certificate, too")
        _check_key(self.client_key or self.client_certificate)
        if self.on_drop is not None and not callable(self.on_drop):
            raise ConfigurationError("on_drop: must be callable")
        if not isinstance(self.retry, RetryPolicy):
            raise ConfigurationError("retry: must be a RetryPolicy")
        if self.transport is not None and not callable(getattr(self.transport, "handle_async_request", None)):
            raise ConfigurationError("transport: must be an httpx.AsyncBaseTransport")

    @classmethod
    def resolve(cls, **options: Unpack[ExportOptions]) -> Self:
        """The given options, completed from `OTEL_EXPORTER_OTLP_*` and `OTEL_BSP_*`.

        A passed `endpoint` is a base URL, to which `/v1/traces` is appended unless its path ends in it, and so is
        `OTEL_EXPORTER_OTLP_ENDPOINT`; `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is used as it is. Timeouts in the
        environment are seconds, as in OpenTelemetry Python; `OTEL_BSP_SCHEDULE_DELAY` is milliseconds. Numbers and
        words there that cannot work are logged and ignored, as the specification asks for; endpoints, headers and
        files have no meaning that they could fall back to.

        Raises:
            ConfigurationError: An option cannot work, or an endpoint, a header or a file in the environment; or there
                is no such option.
        """
        return cls(**{**_from_environment(), **_given(options)})

    def with_credentials(self) -> Self:
        """The same with user and password of the endpoint moved into an `Authorization` header."""
        parts = urlsplit(self.endpoint)
        if parts.username is None:
            return self
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        from base64 import b64encode

        headers = {"Authorization": "Basic " + b64encode(pair).decode(), **self.headers}
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        return msgspec.structs.replace(self, endpoint=bare.geturl(), headers=headers)

    @property
    def secrets(self) -> frozenset[str]:
        """Texts that must never be logged, in every form in which they travel."""
        parts = urlsplit(self.endpoint)
        texts = [parts.username, parts.password, parts.query]
        texts += (value or name for name, value in parse_qsl(parts.query, keep_blank_values=True))
        for value in self.with_credentials().headers.values():
            texts += (value, *(word for word in value.split() if len(word) >= _SHORTEST_WORD), *_basic_pair(value))
        return frozenset(form for text in filter(None, texts) for form in _forms(text))

    @property
    def origin(self) -> str:
        """The endpoint without user, password, path and query, for logs."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown["endpoint"] = self.origin + urlsplit(self.endpoint).path
        shown["headers"] = dict.fromkeys(self.headers, "***")
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def check(options: Mapping[str, Any]) -> None:
    """Refuse options that cannot work, whatever the environment says.

    Raises:
        ConfigurationError: An option cannot work, or there is no such option.
    """
    ExportConfig(**_given(options))


def _forms(text: str) -> tuple[str, ...]:
    """A text as it is and as it may be quoted in a URL."""
    plain = unquote(text)
    return text, plain, quote(plain), quote(plain, ""), quote_plus(plain)


def _basic_pair(value: str) -> tuple[str, ...]:
    """What a header of basic authentication (RFC 7617) holds: user and password, together and each."""
    scheme, _, encoded = value.partition(" ")
    if scheme.lower() != "basic":
        return ()
    try:
        from base64 import b64decode

        pair = b64decode(encoded).decode()
    except ValueError:
        return ()
    user, _, password = pair.partition(":")
    return pair, user, password


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := given.keys() - set(ExportConfig.__struct_fields__):
        raise ConfigurationError(f"{min(unknown)}: no such option")
    if "endpoint" in given:
        given["endpoint"] = _with_path(given["endpoint"], "endpoint")
    return given


def _from_environment() -> dict[str, Any]:
    delay = number("OTEL_BSP_SCHEDULE_DELAY")
    found = {
        "endpoint": _endpoint_from_environment(),
        "headers": _headers_from_environment(),
        "timeout": number(*_names("TIMEOUT"), positive=True),
        "compression": word(*_names("COMPRESSION"), known=_COMPRESSIONS),
        "certificate": text(*_names("CERTIFICATE")),
        "client_key": text(*_names("CLIENT_KEY")),
        "client_certificate": text(*_names("CLIENT_CERTIFICATE")),
        "schedule_delay": None if delay is None else delay / 1000,
        "max_batch_spans": integer("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", least=1),
    }
    return {name: value for name, value in found.items() if value is not None}


def _names(suffix: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_TRACES_{suffix}", f"OTEL_EXPORTER_OTLP_{suffix}"


def _endpoint_from_environment() -> str | None:
    exact, base = _names("ENDPOINT")
    if (url := text(exact)) is not None:
        parts = _split(url, exact)
        return url if parts.path else parts._replace(path="/").geturl()
    return None if (url := text(base)) is None else _with_path(url, base)


def _headers_from_environment() -> dict[str, str] | None:
    """`k=v,k2=v2`, percent-encoded (W3C baggage without properties)."""
    found = text(*_names("HEADERS"))
    if found is None:
        return None
    pairs = (item.partition("=") for item in found.split(",") if item.strip())
    return {unquote(name).strip().lower(): unquote(value).strip() for name, _, value in pairs}


def _with_path(base: str, option: str) -> str:
    parts = _split(base, option)
    path = parts.path.rstrip("/")
    return parts._replace(path=path if path.endswith(TRACES_PATH) else path + TRACES_PATH).geturl()


def _split(url: str, option: str) -> SplitResult:
    """The parts of a URL that can be posted to. The text of the URL stays out of errors, it may hold a key."""
    if not isinstance(url, str) or not 0 < len(url) <= _LONGEST_URL or not _is_visible(url):
        raise ConfigurationError(f"{option}: must be a URL without spaces and control characters")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(f"{option}: not a URL") from None
    if parts.scheme not in {"http", "https"}:
        raise ConfigurationError(f"{option}: must begin with http:// or https://")
    if not parts.hostname:
        raise ConfigurationError(f"{option}: has no host")
    if not _is_host(parts.hostname, is_bracketed="[" in parts.netloc):
        raise ConfigurationError(f"{option}: has a host that cannot be one")
    return parts


def _is_visible(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return min(text) > " " and "\x7f" not in text


def _is_host(host: str, *, is_bracketed: bool) -> bool:
    """Whether httpx takes it; importing that here to ask would hold up the caller."""
    from ipaddress import IPv4Address, IPv6Address

    try:
        if is_bracketed:
            IPv6Address(host)
        elif host.count(".") == 3 and not host.strip(_NUMERIC):
            IPv4Address(host)
        elif not host.isascii():
            import idna

            idna.encode(host)
    except ValueError:
        return False
    return True


def _check_endpoint(url: str) -> None:
    _split(url, "endpoint")


def _check_headers(headers: Mapping[str, str]) -> None:
    if not isinstance(headers, Mapping):
        raise ConfigurationError("headers: must be a mapping of names to values")
    for name, value in headers.items():
        if not isinstance(name, str) or not re.fullmatch(_HEADER_NAME, name):
            raise ConfigurationError("headers: a name is not an HTTP token")
        if name.lower() in _OWN_HEADERS:
            raise ConfigurationError(f"headers: {name} is set by the exporter")
        if not isinstance(value, str) or not re.fullmatch(_HEADER_VALUE, value):
            raise ConfigurationError(f"headers: the value of {name} has characters or blanks that HTTP does not allow")


def _check_seconds(option: str, value: float, *, positive: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ConfigurationError(f"{option}: must be a number of seconds")
    if value < 0 or (positive and value == 0):
        raise ConfigurationError(f"{option}: must be {'more than' if positive else 'at least'} 0 seconds")


def _check_count(option: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigurationError(f"{option}: must be a whole number of at least 1")


def _check_directory(option: str, path: str | os.PathLike[str] | None) -> None:
    if path is None:
        return
    try:
        is_path = b"\0" not in os.fsencode(path) and isinstance(os.fspath(path), str)
    except (TypeError, ValueError):
        is_path = False
    if not is_path or not os.fspath(path):
        raise ConfigurationError(f"{option}: must be the path of a directory")


def _check_file(option: str, path: str | None) -> None:
    if path is not None and not os.path.isfile(path):  # noqa: PTH113  # `pathlib` takes milliseconds to load
        raise ConfigurationError(f"{option}: no such file")


def _check_key(path: str | None) -> None:
    """Refuse a key with a passphrase; what cannot be read now is trouble that may pass."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            text = file.read(_LONGEST_KEY)
    except OSError:
        return
    # As the two formats of such keys begin (RFC 7468, section 11, and RFC 1421).
    if b"-BEGIN ENCRYPTED PRIVATE KEY-" in text or b"Proc-Type: 4,ENCRYPTED" in text:
        raise ConfigurationError(KEY_IS_ENCRYPTED)
