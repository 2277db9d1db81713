"""Starting spans: parent, ids, sampling."""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Sequence
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    Sampler,
    SamplingResult,
)
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from ._notice import once
from ._processors import Processors
from ._span import Span
from ._values import FIXED, PLAIN

_FLAGS = tuple(TraceFlags(value) for value in range(4))
_SAMPLED = TraceFlags.SAMPLED
_RANDOM = TraceFlags.RANDOM_TRACE_ID
# What the SDK's own four samplers decide is known without asking: (samples roots, follows the parent).
_KNOWN = {
    id(ALWAYS_ON): (True, False),
    id(ALWAYS_OFF): (False, False),
    id(DEFAULT_ON): (True, True),
    id(DEFAULT_OFF): (False, True),
}
_random_bits = random.getrandbits
# The key under which OTel keeps the current span, learnt through its public interface: asking that costs half a
# microsecond a span.
(_SPAN,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())


class Tracer(sdk.Tracer):
    """The SDK's tracer with another way to start a span."""

    def __init__(
        self,
        base: sdk.Tracer,
        scope: InstrumentationScope,
        limits: SpanLimits,
        processors: Processors,
        kept: Collection[str] = (),
    ) -> None:
        self.base = base
        self.is_enabled: bool = base._is_enabled()
        """Whether the provider's configurator has not switched this scope off."""
        super().__init__(
            base.sampler, base.resource, processors, base.id_generator, base.instrumentation_info, limits, scope
        )
        self.scope = scope
        self.limits = limits
        self.processors = processors
        self.max_attributes = sys.maxsize if limits.max_span_attributes is None else limits.max_span_attributes
        self.kept = kept
        self.max_length = limits.max_span_attribute_length
        self.plain_types = PLAIN if limits.max_span_attribute_length is None else FIXED
        self._draws_random = type(base.id_generator) is RandomIdGenerator

    @property
    def sampler(self) -> Sampler:
        """What decides which spans are recorded."""
        return self._sampler

    @sampler.setter
    def sampler(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._samples_roots, self._follows_parents = _KNOWN.get(id(sampler), (False, False))
        self._asks_sampler = id(sampler) not in _KNOWN

    @property
    def resource(self) -> Resource:
        """Read through: the provider replaces it in a forked child."""
        return self.base.resource

    @resource.setter
    def resource(self, resource: Resource) -> None:
        self.base.resource = resource

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        if not self.is_enabled:
            return NonRecordingSpan(trace.get_current_span(context).get_span_context())
        parent = _parent(context)
        draws = self._draws_random
        if parent is None:
            # The generator is asked after all when chance drew 0, which is no valid id.
            trace_id, state = (draws and _random_bits(128)) or self.id_generator.generate_trace_id(), None
            flags = _RANDOM if draws or self.id_generator.is_trace_id_random() else 0
            is_recording = is_sampled = self._samples_roots
        else:
            # A SpanContext is a tuple by its public base; its properties are Python calls.
            trace_id, _, _, inherited, state, _ = parent
            flags = inherited & _RANDOM
            is_recording = is_sampled = bool(inherited & _SAMPLED) if self._follows_parents else self._samples_roots
        if self._asks_sampler:
            result = self._ask_sampler(context, trace_id, name, kind, attributes, links or (), state=state)
            attributes, state = _attributes_of(result), result.trace_state
            is_recording = result.decision is not Decision.DROP
            is_sampled = result.decision is Decision.RECORD_AND_SAMPLE
        span_id = (draws and _random_bits(64)) or self.id_generator.generate_span_id()
        own = SpanContext(trace_id, span_id, False, _FLAGS[flags | is_sampled], state)
        if not is_recording:
            return NonRecordingSpan(own)
        span = Span.begin(self, name, own, parent, kind, attributes, links, start_time)
        if not (record_exception and set_status_on_exception):
            span.leave_exceptions(record_exception, set_status_on_exception)
        if self.processors.starting:
            self.processors.on_start(span, context)
        return span

    def unsampled(self, context: Context | None) -> trace.Span | None:
        """What stands for a span of which nothing is kept, where that is certain; None where it is not.

        Under one that is not sampled either that one stands for it: nobody will ever see the difference.
        """
        if self._asks_sampler or not self.is_enabled:
            return None
        parent = _parent(context)
        follows = parent is not None and self._follows_parents
        is_sampled = parent[3] & _SAMPLED if parent is not None and follows else self._samples_roots
        if is_sampled:
            return None
        standing = (get_current() if context is None else context).get(_SPAN)
        if parent is None or type(standing) is not NonRecordingSpan or parent[3] & _SAMPLED or parent.is_remote:
            return self.start_span("", context)
        return standing

    def _ask_sampler(self, *question: Any, state: TraceState | None) -> SamplingResult:
        try:
            return self._sampler.should_sample(*question)
        except Exception:
            once("a sampler failed: what it was asked about is not recorded")
            return SamplingResult(Decision.DROP, None, state)


def _attributes_of(result: SamplingResult) -> Attributes:
    return cast(Attributes, result.attributes)  # pyright: ignore[reportUnknownMemberType]


def _parent(context: Context | None) -> SpanContext | None:
    span = (get_current() if context is None else context).get(_SPAN)
    kind = type(span)
    # The question to the abstract class comes last, as it is slow.
    if span is None or (kind is not Span and kind is not NonRecordingSpan and not isinstance(span, trace.Span)):
        return None
    parent = cast(trace.Span, span).get_span_context()
    if isinstance(parent, SpanContext):  # pyright: ignore[reportUnnecessaryIsInstance]
        return parent if parent.is_valid else None
    if parent is None:
        return None
    raise TypeError("parent_span_context must be a SpanContext or None.")
