"""The OTel context in which an exporter sends: no span of the caller, and instrumentation switched off."""

from __future__ import annotations

import contextvars
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cache

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from ._fork import importing

__all__ = ["sending_context", "suppressed"]


@cache
def sending_context() -> Context:
    """The context that the SDK itself gives to exporters; the first time takes milliseconds, best spent in a thread.

    The keys that instrumentations look for are private, so one span is put through the SDK's own processor to see
    what it sets. The plain key is what instrumentations looked for before there was that one.
    """
    with importing:
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Witness(SpanExporter):
        context = Context()

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            self.context = otel_context.get_current()
            return SpanExportResult.SUCCESS

    witness = Witness()
    # With a resource, as the SDK would detect one in threads, which cannot be had while the interpreter exits.
    context = SpanContext(1, 1, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    span = ReadableSpan("", context=context, resource=Resource.get_empty())
    contextvars.Context().run(SimpleSpanProcessor(witness).on_end, span)
    return Context({**witness.context, "suppress_instrumentation": True})


@contextmanager
def suppressed() -> Generator[None]:
    """Work in the sending context; must be entered and left in one task."""
    token = otel_context.attach(sending_context())
    try:
        yield
    finally:
        otel_context.detach(token)
