"""The exporter's books as metrics of OpenTelemetry."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
from opentelemetry.metrics import CallbackOptions, Observation

from genai_async.export import ExportConfig, Exporter, ExportStats
from genai_async.export._metrics import _exported, _of_exporter, _plain, _processed, _shown
from genai_async.testing import Collector, PartialSuccess, Status

from .programs import run

_PROGRAM = """
import json
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
reader = InMemoryMetricReader()
late = sys.argv[2] == "late"
if not late:
    metrics.set_meter_provider(MeterProvider([reader]))
t = ga.configure(endpoint=url, schedule_delay=60, max_queue_bytes=4000)
if late:
    metrics.set_meter_provider(MeterProvider([reader]))
def flush():
    assert t.provider.force_flush(10000)
turns(2); flush()   # 503, then delivered
turns(2); flush()   # one of them rejected
turns(2); flush()   # 400
turns(30)           # more than there is room for
found = {}
for resource in reader.get_metrics_data().resource_metrics:
    for scope in resource.scope_metrics:
        for metric in scope.metrics:
            found[metric.name] = [(dict(point.attributes), point.value) for point in metric.data.data_points]
print(json.dumps(found))
print(json.dumps([t.stats().queued, t.stats().dropped["queue_full"], t.stats().queue_bytes]))
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_what_a_meter_provider_sees(when: str) -> None:
    """A MeterProvider, set before or after us, reads the books under the conventions' names, losses by cause."""
    with Collector([Status(503), None, PartialSuccess(1), Status(400)]) as collector:  # type: ignore[list-item]
        done = run(_PROGRAM, collector.endpoint, when)
        port = collector.port
    found, (queued, full, used) = map(json.loads, done.stdout.splitlines())

    def points(name: str) -> dict[Any, Any]:
        return {attributes.get("error.type"): value for attributes, value in found[name]}

    assert points("otel.sdk.exporter.span.exported") == {None: 3, "rejected": 1, "rejected_400": 2}
    assert points("otel.sdk.processor.span.processed") == {None: 6, "queue_full": full}
    assert points("otel.sdk.processor.span.queue.size") == {None: queued}
    assert points("otel.sdk.exporter.span.inflight") == {None: 0}
    assert points("genai_async.export.queue.usage") == {None: used}
    assert points("genai_async.export.requests") == {None: 4}
    assert points("genai_async.export.retries") == {None: 1}
    attributes, _ = found["otel.sdk.exporter.span.exported"][0]
    assert (attributes["server.address"], attributes["server.port"]) == ("127.0.0.1", port)
    assert attributes["otel.component.name"] == "genai_async_exporter/0"


def test_books_of_one_exporter() -> None:
    """Each loss is told once: as a span that was never processed, or as an export that failed."""
    stats = ExportStats(
        ended=21,
        delivered=1,
        dropped={"queue_full": 2, "closed": 3, "encoding": 4, "partial_success": 5, "shutdown": 6},
        spooled=0,
        queued=0,
        in_flight=0,
        queue_bytes=0,
        requests=0,
        retried=0,
        rejected=5,
        last_error=None,
        oldest_age=0.0,
    )
    assert sorted(_exported(stats), key=str) == [(1, None), (5, "rejected"), (6, "shutdown")]
    assert list(_processed(stats)) == [(12, None), (2, "queue_full"), (3, "already_shutdown"), (4, "encoding")]


def test_observations() -> None:
    """An exporter is observed for as long as it exists, with where it sends to."""
    exporter = Exporter(ExportConfig.resolve(endpoint="https://collector.example"))

    def ours() -> list[Observation]:
        found = _shown(_of_exporter, _plain("queued"))(CallbackOptions())
        return [seen for seen in found if (seen.attributes or {})["server.address"] == "collector.example"]

    (seen,) = ours()
    assert (seen.value, (seen.attributes or {})["server.port"]) == (0, 443)
    del exporter
    gc.collect()
    assert ours() == []
