"""The provider: the SDK's own, but for the tracers it hands out."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk import trace as sdk
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.util.types import Attributes

from .._env import flag
from ._processors import Processors
from ._tracer import Tracer

_METRICS = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"


class Provider(sdk.TracerProvider):
    """A tracer provider with lean spans; otherwise the SDK's, environment variables included.

    What is None comes from the `OTEL_*` variables or is the SDK's default. Nothing is registered to run at
    interpreter exit: whoever makes a provider shuts it down.

    Args:
        resource: Who makes the spans.
        sampler: Decides which are recorded.
        id_generator: Makes their ids.
        span_limits: How much a span holds.
        kept: Keys of attributes that go last where a span has more than it holds; the SDK drops the oldest.

    Raises:
        ValueError: An `OTEL_*` limit is not a number that is at least 0.
    """

    def __init__(
        self,
        *,
        resource: Resource | None = None,
        sampler: Sampler | None = None,
        id_generator: IdGenerator | None = None,
        span_limits: SpanLimits | None = None,
        kept: Collection[str] = (),
    ) -> None:
        # The provider's own hook after a fork uses an executor, whose module has such a hook, too: that one must come
        # first, and comes with the import. Else the child waits for a lock that nobody will ever release.
        importlib.import_module("concurrent.futures.thread")
        self._processors = Processors()
        self._limits = span_limits or SpanLimits()
        self._kept = kept
        super().__init__(
            sampler=sampler,
            resource=resource,
            shutdown_on_exit=False,
            active_span_processor=self._processors,
            id_generator=id_generator,
            span_limits=self._limits,
        )
        self._lean: dict[sdk.Tracer, Tracer] = {}
        # The SDK's metrics about itself are counted inside its own tracer. Who asks for them gets that one.
        self._is_measured = flag(_METRICS)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> trace.Tracer:
        """The tracer of a scope, the same one for the same scope; one that does nothing under `OTEL_SDK_DISABLED`."""
        base = super().get_tracer(instrumenting_module_name, instrumenting_library_version, schema_url, attributes)
        if self._is_measured or not isinstance(base, sdk.Tracer):
            return base
        lean = self._lean.get(base)
        if lean is None:
            name, version = instrumenting_module_name or "", instrumenting_library_version or ""
            scope = InstrumentationScope(name, version, schema_url, attributes)
            lean = self._lean.setdefault(base, Tracer(base, scope, self._limits, self._processors, self._kept))
        return lean

    def _set_tracer_configurator(self, *, tracer_configurator: Any) -> None:
        super()._set_tracer_configurator(tracer_configurator=tracer_configurator)
        for base, lean in list(self._lean.items()):
            lean.is_enabled = base._is_enabled()
