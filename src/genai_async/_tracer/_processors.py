"""The span processors of a provider: other people's code, called in order and never let into the caller's work."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, SynchronousMultiSpanProcessor

from ._notice import once


class Processors(SynchronousMultiSpanProcessor):
    """The SDK's processor of processors, except that one that raises harms neither the others nor the caller."""

    _registered: tuple[SpanProcessor, ...] = ()
    # Most processors listen to some of the calls only: those who do not listen are not called.
    starting: tuple[SpanProcessor, ...] = ()
    ending: tuple[SpanProcessor, ...] = ()
    ended: tuple[SpanProcessor, ...] = ()

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def _span_processors(self) -> tuple[SpanProcessor, ...]:
        """Where the SDK keeps them, and programs that take processors out write to."""
        return self._registered

    @_span_processors.setter
    def _span_processors(self, processors: tuple[SpanProcessor, ...]) -> None:  # pyright: ignore
        self._registered = processors
        self.starting = tuple([each for each in processors if _listens(each, "on_start")])
        self.ending = tuple([each for each in processors if _listens(each, "_on_ending")])
        self.ended = tuple([each for each in processors if _listens(each, "on_end")])

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        for processor in self.starting:
            try:
                processor.on_start(span, parent_context=parent_context)
            except Exception:
                once("on_start of %s failed", type(processor))

    def _on_ending(self, span: Span) -> None:
        # Who wants to know that the span ends is told so; it takes no more changes.
        for processor in self.ending:
            try:
                processor._on_ending(span)
            except Exception:
                once("_on_ending of %s failed", type(processor))

    def on_end(self, span: ReadableSpan) -> None:
        for processor in self.ended:
            try:
                processor.on_end(span)
            except Exception:
                once("on_end of %s failed", type(processor))


def _listens(processor: SpanProcessor, name: str) -> bool:
    """Whether a processor has a hook of its own, and not the one of the SDK's base class, which does nothing."""
    hook = getattr(processor, name, None)
    return hook is not None and getattr(hook, "__func__", hook) is not getattr(SpanProcessor, name, None)
