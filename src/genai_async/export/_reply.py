"""What one request came to, in terms that hold no httpx, and the caps on both its sides."""

from __future__ import annotations

from typing import Any

import msgspec

from ._retry import Action, Verdict, judge

__all__ = ["MAX_REQUEST_BYTES", "MAX_RESPONSE_BYTES", "Reply", "SendError", "verdict"]

MAX_REQUEST_BYTES = 64 * 2**20
"""Larger requests are not sent (opentelemetry-proto, docs/specification.md, "Request size limits")."""

MAX_RESPONSE_BYTES = 4 * 2**20
"""Larger responses, decompressed, are failures that are not retried (same source)."""


class Reply(msgspec.Struct, frozen=True):
    """A whole response: `body` is None when it could not be read for good, and `problem` says why."""

    status: int
    retry_after: str | None
    body: bytes | None
    problem: str = ""
    is_too_large: bool = False


class SendError(Exception):
    """No response came; `is_retryable` tells connection trouble from a request that can never be sent."""

    def __init__(self, kind: str, *, is_retryable: bool) -> None:
        super().__init__(kind)
        self.kind = kind
        self.is_retryable = is_retryable


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: Any = 0
    error_message: Any = ""


class _Said(msgspec.Struct, rename="camel"):
    """What is of use in an ExportTraceServiceResponse or a google.rpc.Status."""

    message: Any = ""
    partial_success: _Partial = msgspec.field(default_factory=_Partial)


def verdict(reply: Reply, spans: int, now: float) -> Verdict:
    """The decision on a response to a request with so many spans; `now` is the wall clock in seconds."""
    if reply.is_too_large:
        return Verdict(Action.DROP, "response_too_large", detail=f"HTTP {reply.status}")
    decided = judge(reply.status, reply.retry_after, now)
    said = _decoded(reply.body)
    if decided.action is Action.DELIVERED:
        partial = said.partial_success
        rejected = min(max(_count(partial.rejected_spans), 0), spans)
        return Verdict(Action.DELIVERED, rejected=rejected, detail=_text(partial.error_message) or reply.problem)
    detail = f"HTTP {reply.status} {_text(said.message)}".rstrip()
    return Verdict(decided.action, decided.reason, decided.after, detail=detail)


def _decoded(body: bytes | None) -> _Said:
    """What a body says; nothing in it is needed, so whatever else it holds is taken for silence."""
    try:
        return msgspec.json.decode(body or b"{}", type=_Said)
    except (ValueError, RecursionError):
        return _Said()


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int:
    """A 64-bit integer of proto3 JSON, which may be a number or a string."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value[:10])
    return value if isinstance(value, int) else 0
