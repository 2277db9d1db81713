"""TLS of the connections: whom they trust, what they show, and whether the files that say so have changed."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import httpx

from .._env import text
from .._errors import ConfigurationError
from ._config import KEY_IS_ENCRYPTED

if TYPE_CHECKING:
    from ._config import ExportConfig

__all__ = ["Stamps", "certified", "stamps", "trusting"]

Stamps: TypeAlias = "tuple[tuple[int, int, int] | None, ...]"
"""What of each file differs once it was written or replaced: number on its disk, time and size; None if it is away."""


def certified(config: ExportConfig) -> ssl.SSLContext:
    """The context for the collector: the authorities to trust, and the client's certificate if there is one."""
    context = trusting(config.certificate)
    if config.client_certificate is not None:
        context.load_cert_chain(config.client_certificate, config.client_key, password=_refuse)
    return context


def trusting(certificate: str | None) -> ssl.SSLContext:
    """A context that trusts the authorities of this file, or else those of httpx.

    They are those of `SSL_CERT_FILE` or `SSL_CERT_DIR`, or else of certifi.
    """
    return httpx.create_ssl_context() if certificate is None else ssl.create_default_context(cafile=certificate)


def stamps(config: ExportConfig) -> Stamps:
    """The present state of all files that `certified` reads."""
    names = (config.certificate or text("SSL_CERT_FILE"), config.client_certificate, config.client_key)
    return tuple(_stamp(name) for name in names if name is not None)


def _stamp(name: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(name)  # noqa: PTH116  # as `ssl` takes it
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def _refuse() -> NoReturn:
    # Without this OpenSSL would ask for it on the terminal, and wait.
    raise ConfigurationError(KEY_IS_ENCRYPTED)
