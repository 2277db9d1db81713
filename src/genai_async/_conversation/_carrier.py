"""Crossing processes: a conversation and a span as a plain dict of W3C headers, and back.

What comes from outside is not trusted: ids are checked for length and characters, and what cannot be read is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast
from urllib.parse import quote, unquote

import msgspec
from opentelemetry.context import Context
from opentelemetry.trace import Span, get_current_span

from . import _semconv as sc
from ._faults import FieldError
from ._ids import id_from_outside, is_plain_id
from ._runtime import note
from ._texts import utf8
from ._traceparent import remote_span, write_span

_LONGEST_HEADER: Final = 8192  # W3C Baggage, section 3.3.2


class Origin(msgspec.Struct, frozen=True):
    """What a carrier told: the span that it came from and the conversation, each None where it says nothing."""

    span: Span | None
    conversation_id: str | None


def write_carrier(context: Context, conversation_id: str | None) -> dict[str, str]:
    """`traceparent` and `tracestate` of the context's span, and the conversation's id as `baggage` if it is given."""
    carrier: dict[str, str] = {}
    write_span(get_current_span(context).get_span_context(), carrier)
    if conversation_id is not None:
        if not is_plain_id(conversation_id):
            text = "a conversation's id is longer than 128 characters or no plain ASCII: others will refuse it"
            note("an unusual conversation id in a carrier", text)
        member = f"{sc.CONVERSATION_ID}={quote(utf8(conversation_id), safe='')}"
        if len(member) <= _LONGEST_HEADER:
            carrier["baggage"] = member
    return carrier


def read_carrier(carrier: object) -> Origin:
    """What a carrier tells; header names are taken in any case.

    Raises:
        FieldError: It is no mapping, or tells nothing that can be read.
    """
    if not isinstance(carrier, Mapping):
        raise FieldError(f"a carrier is a mapping, not {type(carrier).__name__}")
    items = cast("Mapping[Any, Any]", carrier).items()
    headers = {key.lower(): value for key, value in items if isinstance(key, str) and isinstance(value, str)}
    span = remote_span(headers.get("traceparent", ""), [headers.get("tracestate", "")])
    named = _named(headers.get("baggage", ""))
    if span is None and not is_plain_id(named):
        raise FieldError("a carrier has neither a readable traceparent nor a conversation id")
    return Origin(span, id_from_outside(named))


def _named(header: str) -> str | None:
    """The conversation that a baggage header names."""
    for member in header.split(",") if len(header) <= _LONGEST_HEADER else ():
        key, _, value = member.partition(";")[0].partition("=")
        if key.strip() == sc.CONVERSATION_ID:
            return unquote(value.strip())
    return None
