"""Puts the conversation on spans of other instrumentations that start inside one."""

from __future__ import annotations

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from . import _semconv as sc
from ._scope import scope_around


class ConversationProcessor(SpanProcessor):
    """Writes `gen_ai.conversation.id` when a span starts, so that the processors after it see it.

    The conversation is that of the context which the span starts in, also where that is passed as `context=`.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        context = get_current() if parent_context is None else parent_context
        scope = scope_around(context)
        if scope is not None and scope.session is not None and isinstance(span, ReadableSpan):
            attributes = span.attributes
            if attributes is None or sc.CONVERSATION_ID not in attributes:
                span.set_attribute(sc.CONVERSATION_ID, scope.session.session_id)
