"""A span as W3C Trace Context writes it: `traceparent` and `tracestate`.

Not by OpenTelemetry's propagator: that one logs what it cannot read, which anybody may send, and takes milliseconds to
load.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    TraceState,
    format_span_id,
    format_trace_id,
)

# Compiled at the first use: most programs are one process.
_PARENT: Final = r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
_MEMBER: Final = (
    r"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=([ -+\--<>-~]{0,255}[!-+\--<>-~])"
)
_LONGEST_PARENT: Final = 128
_LONGEST_STATE: Final = 8192  # more than anybody needs, and little to look through
_MOST_MEMBERS: Final = 32  # section 3.3.1.1
_KNOWN_FLAGS: Final = TraceFlags.SAMPLED | TraceFlags.RANDOM_TRACE_ID


def remote_span(parent: str, states: Iterable[str] = ()) -> NonRecordingSpan | None:
    """The span that a `traceparent` names, with what `tracestate` headers say; None where it names none.

    A state that is broken anywhere is left out as a whole.
    """
    found = re.fullmatch(_PARENT, parent.strip(" \t")) if len(parent) <= _LONGEST_PARENT else None
    if found is None or found[1] == "ff" or (found[1] == "00" and found[5]):
        return None
    flags = TraceFlags(int(found[4], 16) & _KNOWN_FLAGS)
    context = SpanContext(int(found[2], 16), int(found[3], 16), True, flags, _state(",".join(states)))
    return NonRecordingSpan(context) if context.is_valid else None


def write_span(span: SpanContext, headers: dict[str, str]) -> None:
    """Add the headers that name a span; none, if it has no ids."""
    if not span.is_valid:
        return
    ids = f"{format_trace_id(span.trace_id)}-{format_span_id(span.span_id)}"
    headers["traceparent"] = f"00-{ids}-{span.trace_flags:02x}"
    if span.trace_state:
        headers["tracestate"] = span.trace_state.to_header()


def _state(header: str) -> TraceState | None:
    if not header or len(header) > _LONGEST_STATE:
        return None
    members = [member.strip(" \t") for member in header.split(",")]
    found = [re.fullmatch(_MEMBER, member) for member in members if member]
    entries = [(match[1], match[2]) for match in found if match is not None]
    is_valid = len(entries) == len(found) <= _MOST_MEMBERS and len(dict(entries)) == len(entries)
    return TraceState(entries) if is_valid else None
