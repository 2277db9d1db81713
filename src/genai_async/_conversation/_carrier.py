"""Crossing processes: a conversation and a span as a plain dict of W3C headers, and back.

What comes from outside is not trusted: ids are checked for length and characters, and what cannot be read is ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast
from urllib.parse import quote, unquote

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Span

from . import _semconv as sc
from ._copying import utf8
from ._faults import FieldError
from ._ids import checked_id
from ._runtime import current_runtime
from ._scope import span_of

if TYPE_CHECKING:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_LONGEST_HEADER: Final = 8192  # W3C Baggage, section 3.3.2; more than 32 members of a tracestate need
_LONGEST_PARENT: Final = 128
_MOST_MEMBERS: Final = 32  # W3C Trace Context, section 3.3
_STATE_MEMBER: Final = (
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)


class Origin(msgspec.Struct, frozen=True):
    """What a carrier told: the span that it came from and the conversation, each None where it says nothing."""

    span: Span | None
    conversation_id: str | None


@cache
def _trace() -> TraceContextTextMapPropagator:
    # Takes milliseconds to load, and most programs are one process.
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator()


def write_carrier(context: Context, conversation_id: str | None) -> dict[str, str]:
    """`traceparent` and `tracestate` of the context's span, and the conversation's id as `baggage` if it is given."""
    carrier: dict[str, str] = {}
    _trace().inject(carrier, context)
    if conversation_id is not None:
        if checked_id(conversation_id) is None:
            _note_unusual()
        member = f"{sc.CONVERSATION_ID}={quote(utf8(conversation_id), safe='')}"
        if len(member) <= _LONGEST_HEADER:
            carrier["baggage"] = member
    return carrier


def _note_unusual() -> None:
    runtime = current_runtime()
    if runtime is not None:
        text = "a conversation's id is longer than 128 characters or not of visible ASCII: others may refuse it"
        runtime.faults.note("an unusual conversation id in a carrier", text)


def read_carrier(carrier: object) -> Origin:
    """What a carrier tells; header names are taken in any case.

    Raises:
        FieldError: It is no mapping, or tells nothing that can be read.
    """
    if not isinstance(carrier, Mapping):
        raise FieldError(f"a carrier is a mapping, not {type(carrier).__name__}")
    items = cast("Mapping[Any, Any]", carrier).items()
    headers = {key.lower(): value for key, value in items if isinstance(key, str) and isinstance(value, str)}
    if len(headers.get("traceparent", "")) > _LONGEST_PARENT:
        del headers["traceparent"]
    if not _is_state(headers.get("tracestate", "")):
        del headers["tracestate"]
    span = span_of(_trace().extract(headers, Context()))
    conversation_id = checked_id(_named(headers.get("baggage", "")))
    if span is None and conversation_id is None:
        raise FieldError("a carrier has neither a readable traceparent nor a conversation id")
    return Origin(span, conversation_id)


# Both headers are looked at here because OpenTelemetry's readers log what they cannot read, at every request.


def _is_state(header: str) -> bool:
    members = [member.strip(" \t") for member in header[:_LONGEST_HEADER].split(",")]
    given = [member for member in members if member]
    is_short = len(header) <= _LONGEST_HEADER and len(given) <= _MOST_MEMBERS
    return is_short and all(re.fullmatch(_STATE_MEMBER, member) for member in given)


def _named(header: str) -> str | None:
    """The conversation that a baggage header names."""
    for member in header.split(",") if len(header) <= _LONGEST_HEADER else ():
        key, _, value = member.partition(";")[0].partition("=")
        if key.strip() == sc.CONVERSATION_ID:
            return unquote(value.strip())
    return None
