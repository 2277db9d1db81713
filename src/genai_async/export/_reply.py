"""What one request came to, in terms that hold no httpx, and the caps on both its sides."""

from __future__ import annotations

import msgspec

from ._retry import Action, Verdict, judge
from ._trouble import cause

__all__ = ["MAX_REQUEST_BYTES", "MAX_RESPONSE_BYTES", "Reply", "SendError", "failure", "verdict"]

MAX_REQUEST_BYTES = 64 * 2**20
"""Larger requests are not sent (opentelemetry-proto, docs/specification.md, "Request size limits")."""

MAX_RESPONSE_BYTES = 4 * 2**20
"""Larger responses, decompressed, are failures that are not retried (same source)."""


_INFLATE_ANY = 47


class Reply(msgspec.Struct, frozen=True):
    """A response as it came: `raw` is its body, still encoded, and cut soon after it is over the cap."""

    status: int
    retry_after: str | None
    raw: bytes
    encoding: str = ""


class SendError(Exception):
    """No response came; `is_retryable` tells connection trouble from a request that can never be sent."""

    def __init__(self, kind: str, *, is_retryable: bool) -> None:
        super().__init__(kind)
        self.kind = kind
        self.is_retryable = is_retryable


# Whatever is in them may be large, and becomes a value only where it is of the type that is of use.
_NOTHING = msgspec.Raw(b"null")


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: msgspec.Raw = _NOTHING
    error_message: msgspec.Raw = _NOTHING


class _Said(msgspec.Struct, rename="camel"):
    """What is of use in an ExportTraceServiceResponse or a google.rpc.Status."""

    message: msgspec.Raw = _NOTHING
    partial_success: _Partial = msgspec.field(default_factory=_Partial)


def verdict(reply: Reply, spans: int, now: float) -> Verdict:
    """The decision on a response to a request with so many spans; `now` is the wall clock in seconds.

    Inflating and reading a large body takes some milliseconds.
    """
    body, problem = _body(reply)
    if len(body) > MAX_RESPONSE_BYTES:
        return Verdict(Action.DROP, "response_too_large", detail=f"HTTP {reply.status}")
    decided = judge(reply.status, reply.retry_after, now)
    said = _decoded(body)
    if decided.action is Action.DELIVERED:
        partial = said.partial_success
        rejected = min(max(_count(partial.rejected_spans), 0), spans)
        return Verdict(Action.DELIVERED, rejected=rejected, detail=_text(partial.error_message) or problem)
    detail = f"HTTP {reply.status} {_text(said.message)}".rstrip()
    return Verdict(decided.action, decided.reason, decided.after, detail=detail)


def _body(reply: Reply) -> tuple[bytes, str]:
    """The body without its encoding, as far as it is over the cap; or nothing, and why."""
    encoding = reply.encoding.strip().lower()
    if encoding in {"", "identity"} or len(reply.raw) > MAX_RESPONSE_BYTES:
        return reply.raw, ""
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        return b"", "the response has an encoding that was not asked for"
    import zlib

    try:
        return zlib.decompressobj(_INFLATE_ANY).decompress(reply.raw, MAX_RESPONSE_BYTES + 1), ""
    except zlib.error:
        return b"", "the response is not what its encoding says"


def _decoded(body: bytes) -> _Said:
    """What a body says; nothing in it is needed, so whatever else it holds is taken for silence."""
    try:
        return msgspec.json.decode(body or b"{}", type=_Said)
    except (ValueError, RecursionError):
        return _Said()


def _text(value: msgspec.Raw) -> str:
    try:
        return msgspec.json.decode(value, type=str)
    except ValueError:
        return ""


def _count(value: msgspec.Raw) -> int:
    """A 64-bit integer of proto3 JSON, which may be a number or a string."""
    digits = bytes(value).strip(b'"')
    return int(digits[:10]) if digits.isdigit() else 0


def failure(exc: Exception) -> Verdict:
    """The decision on an error that is not the collector's: what is short now may be there later."""
    is_short = isinstance(exc, (MemoryError, OSError)) or str(exc).startswith("can't start new thread")
    action, reason = (Action.RETRY, "") if is_short else (Action.DROP, "unsendable")
    return Verdict(action, reason, detail=cause(exc), is_ours=True)
