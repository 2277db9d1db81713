"""The span of another process that a request was sent from (W3C Trace Context).

Read here and not by OpenTelemetry's propagators: those log what they cannot read, and anybody may send it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

_PARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_MEMBER: Final = re.compile(r"([a-z0-9][a-z0-9_*/@-]{0,255})=([ -+\--<>-~]{0,255}[!-+\--<>-~])")
_MAX_PARENT_BYTES: Final = 128
_MAX_STATE_BYTES: Final = 512
_MAX_MEMBERS: Final = 32


def remote_span(headers: Iterable[tuple[bytes, bytes]]) -> NonRecordingSpan | None:
    """The caller's span; None without a `traceparent`, or with one that is broken or ambiguous."""
    parents = [value for name, value in headers if name == b"traceparent"]
    if len(parents) != 1 or len(parents[0]) > _MAX_PARENT_BYTES:
        return None
    found = _PARENT.fullmatch(parents[0].strip())
    if found is None or found[1] == b"ff" or (found[1] == b"00" and found[5]):
        return None
    trace_id, span_id = int(found[2], 16), int(found[3], 16)
    if not trace_id or not span_id:
        return None
    states = [value for name, value in headers if name == b"tracestate"]
    flags = TraceFlags(int(found[4], 16) & TraceFlags.SAMPLED)
    return NonRecordingSpan(SpanContext(trace_id, span_id, True, flags, _state(b",".join(states))))


def _state(header: bytes) -> TraceState | None:
    if not header or len(header) > _MAX_STATE_BYTES:
        return None
    members = [member.strip(" \t") for member in header.decode("latin-1").split(",")]
    found = [_MEMBER.fullmatch(member) for member in members if member]
    entries = [(match[1], match[2]) for match in found if match is not None]
    is_valid = len(entries) == len(found) <= _MAX_MEMBERS and len(dict(entries)) == len(entries)
    return TraceState(entries) if is_valid else None
