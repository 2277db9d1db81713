"""Delivery of ended spans to an OTLP/HTTP collector: at least once, in no order, every loss counted.

Takes spans of any OpenTelemetry SDK provider. Reasons for drops:

| reason | the spans |
|---|---|
| `queue_full` | ended while `max_queue_bytes` was used up |
| `encoding` | could not be read at all |
| `closed` | ended after the exporter was closed |
| `shutdown` | still waited at the deadline of `aclose` or `shutdown` |
| `rejected_<status>` | were refused with an HTTP status that must not be retried (3xx among them) |
| `partial_success` | were rejected by a collector that took the rest of their batch |
| `too_large` | were larger than the collector allows, even alone and trimmed |
| `response_too_large` | were answered with more than 4 MiB |
| `spool_full` | were to be written when `max_spool_bytes` was used up, and the collector took nothing |
| `spool_expired` | waited on disk for more than `max_spool_age` |
| `spool_corrupt` | could not be read from disk again |
| `unsendable` | cannot be put into an HTTP request, or nobody reads the standard output |
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ._config import ExportConfig, ExportOptions
from ._retry import RetryPolicy
from ._stats import Drop, ExportStats, FlushResult

if TYPE_CHECKING:
    from ._exporter import Exporter
    from ._host import ThreadHost
    from ._processor import ExportProcessor

__all__ = [
    "Drop",
    "ExportConfig",
    "ExportOptions",
    "ExportProcessor",
    "ExportStats",
    "Exporter",
    "FlushResult",
    "RetryPolicy",
    "ThreadHost",
]

# What sends is loaded when somebody is about to: a program that sets nothing up imports the library, too.
_LOADED_LATE: Final = {"Exporter": "._exporter", "ThreadHost": "._host", "ExportProcessor": "._processor"}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LOADED_LATE[name], __name__), name)
    return value
