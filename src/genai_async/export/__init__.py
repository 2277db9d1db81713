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
| `spool_full` | were to be written when `max_spool_bytes` was used up |
| `spool_expired` | waited on disk for more than `max_spool_age` |
| `spool_corrupt` | could not be read from disk again |
| `unsendable` | cannot be put into an HTTP request |
"""

from __future__ import annotations

from ._config import ExportConfig, ExportOptions
from ._exporter import Exporter
from ._host import ThreadHost
from ._processor import ExportProcessor
from ._retry import RetryPolicy
from ._stats import Drop, ExportStats, FlushResult

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
