"""What happens to spans of other instrumentations: they get their conversation, and are redacted if that is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import Link, Status

from . import _semconv as sc
from ._content import Gate
from ._faults import Faults
from ._scope import scope_around
from ._texts import FAILED

_NO_NAME: Final = "[redacted]"


class ConversationProcessor(SpanProcessor):
    """Writes `gen_ai.conversation.id` when a span starts, so that the processors after it see it.

    The conversation is that of the context which the span starts in, also where that is passed as `context=`. Inside
    of one a span cannot be of another: an id that its instrumentation has for it is kept under `sc.OTHER_CONVERSATION`.

    Args:
        own_scope: The name of the instrumentation scope that is ours: those spans have it from the start.
    """

    def __init__(self, own_scope: str) -> None:
        self._own_scope = own_scope

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        if not isinstance(span, ReadableSpan):
            return
        made_by = span.instrumentation_scope
        if made_by is not None and made_by.name == self._own_scope:
            return
        scope = scope_around(get_current() if parent_context is None else parent_context)
        if scope is None or scope.session is None:
            return
        ours = scope.session.session_id
        theirs = (span.attributes or {}).get(sc.CONVERSATION_ID, ours)
        if theirs != ours:
            span.set_attribute(sc.OTHER_CONVERSATION, theirs)
        span.set_attribute(sc.CONVERSATION_ID, ours)


class RedactingProcessor(SpanProcessor):
    """Shows the spans of other instrumentations to one processor only after the redactor has read all their texts.

    Args:
        inner: What sees the spans: our own as they are, as they went through the gate, others as redacted copies.
        own_scope: The name of the instrumentation scope that is ours.
        gate: Whose redactor reads the texts.
        faults: Counts the spans that could not be copied; of those nothing but ids and times is shown.
    """

    def __init__(self, inner: SpanProcessor, own_scope: str, gate: Gate, faults: Faults) -> None:
        self._inner = inner
        self._own_scope = own_scope
        self._gate = gate
        self._faults = faults

    def on_end(self, span: ReadableSpan) -> None:
        """Pass the span on."""
        scope = span.instrumentation_scope
        self._inner.on_end(span if scope is not None and scope.name == self._own_scope else self._redacted(span))

    def shutdown(self) -> None:
        """Shut the processor down."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the processor."""
        return self._inner.force_flush(timeout_millis)

    def _redacted(self, span: ReadableSpan) -> ReadableSpan:
        try:
            return _Copy(span, self._gate)
        except Exception as exc:
            self._faults.drop("what a span of others says", type(exc).__name__)
            return _Copy(span, None)


class _Copy(ReadableSpan):
    """A span with other texts; without a gate with none at all."""

    def __init__(self, span: ReadableSpan, gate: Gate | None) -> None:
        self._original = span
        code, said = span.status.status_code, span.status.description
        super().__init__(
            FAILED if gate is None else _named(span.name, gate),
            span.get_span_context(),
            span.parent,
            span.resource,
            {} if gate is None else _read(span.attributes, gate),
            [] if gate is None else [_event(event, gate) for event in span.events],
            [] if gate is None else [Link(link.context, _read(link.attributes, gate)) for link in span.links],
            span.kind,
            status=Status(code, gate.attribute(said) if gate is not None and said else None),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )

    @property
    def dropped_attributes(self) -> int:
        return self._original.dropped_attributes

    @property
    def dropped_events(self) -> int:
        return self._original.dropped_events

    @property
    def dropped_links(self) -> int:
        return self._original.dropped_links


def _named(name: str, gate: Gate) -> str:
    # There has to be one.
    found: str | None = gate.attribute(name)
    return found or _NO_NAME


def _event(event: Event, gate: Gate) -> Event:
    return Event(_named(event.name, gate), _read(event.attributes, gate), event.timestamp)


def _read(attributes: Mapping[str, Any] | None, gate: Gate) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in (attributes or {}).items():
        # What decides how backends group and what is no text of anybody's stays.
        name, kept = (key, value) if key == sc.CONVERSATION_ID else gate.pair(key, value)
        if name is not None:
            found[name] = kept
    return found
