"""OpenTelemetry's SDK with its batch processor and protobuf exporter, as most programs set it up."""

from __future__ import annotations

import asyncio

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor


class SDK:
    """The part that peers on top of the SDK share."""

    def set_up(self, url: str) -> TracerProvider:
        self.provider = TracerProvider(resource=Resource.create({"service.name": "bench"}))
        self.provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{url}/v1/traces")))
        return self.provider

    async def flush(self) -> None:
        assert await asyncio.to_thread(self.provider.force_flush, 60_000)

    async def close(self) -> None:
        await asyncio.to_thread(self.provider.shutdown)
