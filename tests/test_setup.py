"""Set-ups come and go: they deliver, leave nothing behind, join what is there and refuse what cannot work."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import genai_async as ga
from genai_async._testing._wire import decode_request
from genai_async.testing import Collector, Status


class Sink(httpx.AsyncBaseTransport):
    """Takes what is sent without a network."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.bodies.append(msgspec.json.decode(await request.aread()))
        return httpx.Response(200, content=b"{}", headers={"content-type": "application/json"})

    @property
    def names(self) -> list[str]:
        return [
            span["name"]
            for body in self.bodies
            for resource in body["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]

    @property
    def resource(self) -> dict[str, Any]:
        found = self.bodies[-1]["resourceSpans"][-1]["resource"]["attributes"]
        return {item["key"]: next(iter(item["value"].values())) for item in found}


class Own:
    """A provider of the user's with an exporter of its own."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.exporter.get_finished_spans()]


def one_turn(name: str = "bot") -> ga.Turn:
    with ga.Session(agent_name=name) as session, session.start_turn("hi") as turn:
        return turn


def is_set_up() -> bool:
    turn = ga.Session().start_turn()
    try:
        return turn.is_recording
    finally:
        turn.end()


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    """After each test nothing is set up, and the threads are those from before."""
    before = set(threading.enumerate())
    yield
    assert not is_set_up()
    left = [thread for thread in threading.enumerate() if thread not in before and "genai" in thread.name]
    assert left == []


@pytest.mark.anyio
async def test_spans_arrive() -> None:
    """Within the block spans are recorded and arrive over a real socket; after it nothing is."""
    async with Collector() as collector:
        async with ga.tracing(endpoint=collector.endpoint, service_name="shop") as tracing:
            turn = one_turn()
            result = await tracing.flush(timeout=10)
            assert (result.delivered, dict(result.dropped), result.pending) == (1, {}, 0)
            assert await turn.delivered(timeout=10)
            one_turn("late")
        assert not is_set_up()
        stats = tracing.stats()
        assert (stats.ended, stats.delivered, stats.queued, stats.in_flight) == (2, 2, 0, 0)
        first, second = await collector.wait_for(2)
        assert (first.name, second.name) == ("invoke_agent bot", "invoke_agent late")
        assert first.resource["service.name"] == "shop"
        assert first.scope == "genai_async"
        assert collector.requests[0].path == "/v1/traces"


@pytest.mark.anyio
async def test_the_bodys_exception_comes_out_as_it_is() -> None:
    """What is raised in the block is neither wrapped nor lost, and what had ended is still sent."""
    error = ValueError("mine")
    sink = Sink()
    with pytest.raises(ValueError) as caught:
        async with ga.tracing(transport=sink):
            one_turn()
            raise error
    assert caught.value is error
    assert sink.names == ["invoke_agent bot"]


@pytest.mark.anyio
async def test_a_group_of_exceptions_stays_one() -> None:
    """A task group inside of the block raises its own group, once."""
    with pytest.raises(ExceptionGroup) as caught:
        async with ga.tracing(transport=Sink()), anyio.create_task_group():
            raise ValueError("mine")
    assert [type(error) for error in caught.value.exceptions] == [ValueError]


@pytest.mark.anyio
async def test_cancellation_passes_and_spans_are_sent() -> None:
    """A cancelled block ends as cancelled, after it has sent what had ended in it."""
    sink = Sink()
    went_on = False
    with anyio.CancelScope() as scope:
        async with ga.tracing(transport=sink):
            async with ga.Session() as session, session.start_turn():
                scope.cancel()
                await anyio.sleep_forever()
        went_on = True
    assert scope.cancelled_caught
    assert not went_on
    assert sink.names == ["invoke_agent"]


@pytest.mark.anyio
async def test_entering_what_is_cancelled() -> None:
    """A block that is entered in a cancelled scope is left at its first wait, and nothing stays set up."""
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with ga.tracing(transport=Sink()):
            await anyio.sleep_forever()
    assert scope.cancelled_caught


@pytest.mark.anyio
async def test_leaving_keeps_the_deadline() -> None:
    """With a collector that cannot be reached the block ends in time and says what it lost."""
    with anyio.fail_after(10):
        async with ga.tracing(endpoint="http://127.0.0.1:1", shutdown_timeout=0.2) as tracing:
            one_turn()
    result = await tracing.aclose()
    assert (result.delivered, result.pending, sum(result.dropped.values())) == (0, 0, 1)


@pytest.mark.anyio
async def test_a_closed_set_up() -> None:
    """After the end there is nothing to flush, closing again gives the same result, and entering again is refused."""
    async with ga.tracing(transport=Sink()) as tracing:
        one_turn()
    result = await tracing.aclose()
    assert result.delivered == 1
    assert await tracing.aclose() is result
    assert tracing.shutdown() is result
    with pytest.raises(ga.ClosedError):
        await tracing.flush()
    with pytest.raises(ga.ClosedError):
        tracing.start()
    with pytest.raises(RuntimeError):
        async with tracing:
            pass
    one_turn()
    assert tracing.stats().ended == 1


@pytest.mark.anyio
async def test_a_set_up_that_never_begins(caplog: pytest.LogCaptureFixture) -> None:
    """Whoever forgets `async with` is told, and is not told that all was delivered."""
    tracing = ga.tracing(transport=Sink())
    with pytest.raises(RuntimeError, match="has not begun"):
        await tracing.flush()
    del tracing
    gc.collect()
    assert caplog.text.count("never entered") == 1
    script = ga.configure(transport=Sink())
    with pytest.raises(RuntimeError, match=r"configure\(\) has begun"):
        await script.__aenter__()
    await script.aclose()


@pytest.mark.anyio
async def test_options_beside_a_provider(caplog: pytest.LogCaptureFixture) -> None:
    """What a provider that is there already decides by itself is named where it is passed."""
    own = Own()
    options: dict[str, Any] = {"service_name": "mine", "on_drop": print, "capture_content": True}
    async with ga.tracing(tracer_provider=own.provider, **options):
        pass
    assert "makes the spans: service_name not used" in caplog.text
    assert "sends the spans: on_drop not used without `endpoint`" in caplog.text
    caplog.clear()
    async with ga.tracing(tracer_provider=own.provider, transport=Sink(), on_drop=print):
        pass
    assert "not used" not in caplog.text


@pytest.mark.anyio
async def test_closing_inside_of_the_block() -> None:
    """Who closes early, once or from two tasks at a time, gets the whole result; leaving does no more."""
    results: list[ga.FlushResult] = []
    async with ga.tracing(transport=Sink()) as tracing:
        one_turn()

        async def close() -> None:
            results.append(await tracing.aclose())

        async with anyio.create_task_group() as group:
            group.start_soon(close)
            group.start_soon(close)
        assert not is_set_up()
    assert [result.delivered for result in results] == [1, 1]


@pytest.mark.anyio
async def test_a_span_that_ends_after_the_set_up_is_counted() -> None:
    """What ends too late is dropped and counted, not lost without a word."""
    async with ga.tracing(transport=Sink()) as tracing:
        turn = ga.Session().start_turn()
    turn.end()
    stats = tracing.stats()
    assert (stats.ended, dict(stats.dropped)) == (1, {"closed": 1})


async def set_ups(count: int) -> None:
    async with Collector() as collector:
        for _ in range(count):
            async with ga.tracing(endpoint=collector.endpoint, schedule_delay=0):
                one_turn()
        await collector.wait_for(count)
        assert set(collector.accepted.values()) == {1}


@pytest.mark.anyio
async def test_a_hundred_set_ups_leave_nothing_behind() -> None:
    """Set-ups in a row leave no task, no thread and no socket, and each delivers its own."""
    files = Path("/proc/self/fd")
    if not files.exists():
        pytest.skip("open files cannot be counted here")
    found: list[tuple[int, int, int]] = []
    for count in (2, 100):  # the first ones start the loop's own worker threads and wake-up pipes
        await set_ups(count)
        await anyio.wait_all_tasks_blocked()
        gc.collect()
        found.append((len(list(files.iterdir())), threading.active_count(), len(anyio.get_running_tasks())))
    assert all(after <= before for before, after in zip(*found, strict=True)), found  # others' threads may end


@pytest.mark.anyio
async def test_set_ups_may_nest_and_end_in_any_order() -> None:
    """Spans go to the newest set-up that is there, and a handle to the one that it was made under."""
    outer, inner = Sink(), Sink()
    async with ga.tracing(transport=outer):
        kept = ga.Session(agent_name="kept").start_turn()
        async with ga.tracing(transport=inner):
            one_turn("inner")
            kept.start_tool("t").end()
        one_turn("outer")
        kept.end()
    assert inner.names == ["invoke_agent inner"]
    assert sorted(outer.names) == ["execute_tool t", "invoke_agent kept", "invoke_agent outer"]

    first, second = ga.configure(transport=outer), ga.configure(transport=inner)
    first.shutdown()
    one_turn("second")
    second.shutdown()
    assert inner.names[-1] == "invoke_agent second"


@pytest.mark.anyio
async def test_other_instrumentations_follow_the_set_up() -> None:
    """A tracer of OpenTelemetry's global, made at any time, sends to whatever is set up just then."""
    early = trace.get_tracer("other")
    for _ in range(2):
        sink = Sink()
        async with ga.tracing(transport=sink):
            with ga.Session(session_id="c-1"), early.start_as_current_span("theirs") as span:
                assert span.attributes["gen_ai.conversation.id"] == "c-1"  # type: ignore[attr-defined]
                trace.get_tracer("late").start_span("late").end()
        assert sorted(sink.names) == ["late", "theirs"]
    assert not early.start_span("nowhere").is_recording()


@pytest.mark.anyio
async def test_a_provider_of_the_users_is_joined() -> None:
    """Spans go through the provider that was passed; nothing of ours is sent unless it was asked for."""
    own = Own()
    async with ga.tracing(tracer_provider=own.provider) as tracing:
        assert tracing.provider is own.provider
        turn = one_turn()
        with ga.Session(session_id="c-1"):
            own.provider.get_tracer("x").start_span("theirs").end()
        assert tracing.stats().ended == 0
        assert (await tracing.flush(timeout=5)).complete
        assert await turn.delivered(timeout=5)
    assert own.names == ["invoke_agent bot", "theirs"]
    assert own.exporter.get_finished_spans()[1].attributes == {"gen_ai.conversation.id": "c-1"}
    own.provider.get_tracer("x").start_span("still works").end()
    assert own.names[-1] == "still works"


@pytest.mark.anyio
async def test_our_exporter_joins_only_while_it_is_set_up() -> None:
    """Asked for by an option, our exporter gets each span of the user's provider once, and none after its end."""
    own = Own()
    for _ in range(3):
        sink = Sink()
        async with ga.tracing(tracer_provider=own.provider, transport=sink):
            one_turn()
            own.provider.get_tracer("x").start_span("theirs").end()
        assert sorted(sink.names) == ["invoke_agent bot", "theirs"]
    assert len(own.names) == 6


@pytest.mark.anyio
async def test_the_global_stand_in_may_be_passed_back() -> None:
    """OpenTelemetry's global, given as `tracer_provider`, is what it stands for and never itself."""
    sink, inner = Sink(), Sink()
    async with ga.tracing(transport=sink):
        stand_in = trace.get_tracer_provider()
        async with ga.tracing(tracer_provider=stand_in):
            one_turn()
            trace.get_tracer("x").start_span("theirs").end()
    assert sorted(sink.names) == ["invoke_agent bot", "theirs"]
    async with ga.tracing(tracer_provider=trace.get_tracer_provider(), transport=inner):
        one_turn("alone")
    assert inner.names == ["invoke_agent alone"]


class Broken(TracerProvider):
    """A provider that fails where it is told to."""

    def __init__(self, *broken: str) -> None:
        super().__init__(shutdown_on_exit=False)
        self.broken = broken

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        if "get_tracer" in self.broken:
            raise RuntimeError("no tracer")
        tracer = super().get_tracer(*args, **kwargs)
        if "start_span" in self.broken:
            tracer.start_span = _fails  # type: ignore[method-assign]
        return tracer

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        if "add_span_processor" in self.broken:
            raise RuntimeError("no processor")
        super().add_span_processor(span_processor)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        if "force_flush" in self.broken:
            raise RuntimeError("no flush")
        return super().force_flush(timeout_millis)


def _fails(*args: Any, **kwargs: Any) -> Any:
    raise RuntimeError("no span")


@pytest.mark.anyio
@pytest.mark.parametrize("where", ["get_tracer", "add_span_processor"])
async def test_a_provider_that_cannot_be_joined(where: str) -> None:
    """A provider that fails at set-up is refused with a clear error, time and again, and nothing stays set up."""
    provider = Broken(where)
    for _ in range(2):
        with pytest.raises(ga.ConfigurationError, match="tracer_provider"):
            async with ga.tracing(tracer_provider=provider, transport=Sink()):
                raise AssertionError("unreachable")
        with pytest.raises(ga.ConfigurationError, match="tracer_provider"):
            ga.configure(tracer_provider=provider, transport=Sink())
        assert not is_set_up()
    provider.broken = ()
    sink = Sink()
    async with ga.tracing(tracer_provider=provider, transport=sink):
        one_turn()
    assert sink.names == ["invoke_agent bot"]


@pytest.mark.anyio
async def test_a_provider_that_cannot_start_spans() -> None:
    """A provider that fails later costs its spans, counted, and never the caller's work."""
    async with ga.tracing(tracer_provider=Broken("start_span", "force_flush")) as tracing:
        with ga.Session() as session, session.start_turn("x") as turn:
            turn.start_tool("t").end()
            assert not turn.is_recording
        assert tracing.faults == {"a span that its provider could not start": 2}
        assert not (await tracing.flush(timeout=5)).complete


class Raising(SpanProcessor):
    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        raise RuntimeError("at start")

    def on_end(self, span: ReadableSpan) -> None:
        raise RuntimeError("at end")

    def shutdown(self) -> None:
        raise RuntimeError("at shutdown")


@pytest.mark.anyio
@pytest.mark.parametrize("own", [True, False])
async def test_processors_that_raise(own: bool) -> None:
    """Other people's processors may fail at each step: the caller's work and the set-up's end go on."""
    provider = None if own else TracerProvider(shutdown_on_exit=False)
    sink = Sink()
    async with ga.tracing(tracer_provider=provider, transport=sink) as tracing:
        tracing.provider.add_span_processor(Raising())  # type: ignore[attr-defined]
        with ga.Session() as session, session.start_turn("x") as turn:
            turn.start_tool("t").end()
    # The SDK's own provider lets no span start then, which is counted.
    assert sorted(sink.names) == (["execute_tool t", "invoke_agent"] if own else [])
    fault = {"a processor that failed to shut down": 1} if own else {"a span that its provider could not start": 2}
    assert tracing.faults == fault


@pytest.mark.anyio
async def test_a_disabled_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under `OTEL_SDK_DISABLED` a set-up does nothing, and everything may be called."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "TRUE")
    sink = Sink()
    async with ga.tracing(transport=sink) as tracing:
        assert not is_set_up()
        assert await one_turn().delivered(timeout=5)
        assert (await tracing.flush(timeout=5)).complete
    tracing = ga.configure(transport=sink)
    one_turn()
    assert tracing.shutdown().complete
    assert sink.bodies == []


@pytest.mark.anyio
async def test_no_exporter_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """`OTEL_TRACES_EXPORTER=none` records spans for other processors and sends none, unless an option asks for it."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    exporter, sink = InMemorySpanExporter(), Sink()
    async with ga.tracing() as tracing:
        tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))  # type: ignore[attr-defined]
        one_turn()
        assert (await tracing.flush(timeout=5)).complete
        assert tracing.stats().ended == 0
    assert len(exporter.get_finished_spans()) == 1
    async with ga.tracing(transport=sink):
        one_turn()
    assert sink.names == ["invoke_agent bot"]


@pytest.mark.parametrize("is_sending", [False, True])
def test_an_exporter_that_nobody_knows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_sending: bool
) -> None:
    """A name among the exporters that is not known here is told once and ignored."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    tracing = ga.configure(transport=Sink() if is_sending else None)
    assert caplog.text.count("zipkin") == 1
    one_turn()
    assert tracing.shutdown().complete
    assert tracing.stats().ended == is_sending


def test_a_protocol_that_is_not_spoken(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where the environment asks for gRPC, a warning says that JSON is sent."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    ga.tracing()
    assert "grpc" in caplog.text


_UNUSABLE = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317",
    "OTEL_EXPORTER_OTLP_HEADERS": "no header",
    "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such/file",
}


@pytest.mark.parametrize("variable", _UNUSABLE)
@pytest.mark.parametrize("off", ["OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none", "OTEL_TRACES_EXPORTER=zipkin"])
def test_what_is_off_reads_no_variables_of_export(monkeypatch: pytest.MonkeyPatch, variable: str, off: str) -> None:
    """Turning tracing off works where a variable of the exporter cannot; options in the code are still checked."""
    monkeypatch.setenv(variable, _UNUSABLE[variable])
    with pytest.raises(ga.ConfigurationError):
        ga.tracing()
    monkeypatch.setenv(*off.split("="))
    tracing = ga.configure()
    one_turn()
    assert tracing.shutdown().complete
    with pytest.raises(ga.ConfigurationError, match=r"^timeout:"):
        ga.tracing(timeout=0)


@pytest.mark.parametrize("variable", _UNUSABLE)
def test_a_provider_that_is_joined_has_the_variables(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Beside a provider with exporters of its own the variables of export are those exporters' affair."""
    monkeypatch.setenv(variable, _UNUSABLE[variable])
    own = Own()
    tracing = ga.configure(tracer_provider=own.provider)
    one_turn()
    assert tracing.shutdown().complete
    assert own.names == ["invoke_agent bot"]


@pytest.mark.anyio
async def test_resource_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectors that the environment names are asked."""
    monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", "process")
    sink = Sink()
    async with ga.tracing(transport=sink, service_name="s"):
        one_turn()
    assert sink.resource["process.pid"] == str(os.getpid())
    assert sink.resource["service.name"] == "s"


@pytest.mark.parametrize(
    "variable",
    [
        "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_SPAN_EVENT_COUNT_LIMIT",
    ],
)
@pytest.mark.parametrize("value", ["many", "-1"])
def test_limits_that_are_none(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    """A limit in the environment that is no count is an error that names it."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ga.ConfigurationError, match=variable):
        ga.tracing(transport=Sink())


class Stop(BaseException):
    pass


@pytest.mark.anyio
async def test_what_is_no_exception_passes_as_well() -> None:
    """Something that ends the program passes through the block as it is, after the spans were sent."""
    sink, stop = Sink(), Stop()
    with pytest.raises(Stop) as caught:
        async with ga.tracing(transport=sink):
            one_turn()
            raise stop
    assert caught.value is stop
    assert sink.names == ["invoke_agent bot"]


@pytest.mark.anyio
async def test_a_task_that_is_cancelled(anyio_backend_name: str) -> None:
    """asyncio's own cancellation of the task ends the block as cancelled, after the spans were sent."""
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own")
    sink, entered = Sink(), anyio.Event()

    async def main() -> None:
        async with ga.tracing(transport=sink), ga.Session() as session, session.start_turn():
            entered.set()
            await anyio.sleep_forever()

    task = asyncio.create_task(main())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sink.names == ["invoke_agent"]


@pytest.mark.anyio
async def test_a_provider_that_does_nothing() -> None:
    """Under OpenTelemetry's own no-op provider everything may be called and nothing is recorded."""
    async with ga.tracing(tracer_provider=trace.NoOpTracerProvider()) as tracing:
        assert not is_set_up()
        with ga.Session() as session, session.start_turn("x") as turn:
            turn.record(output_messages="y").start_tool("t").end(error=ValueError())
        assert (await tracing.flush(timeout=5)).complete
        assert await turn.delivered(timeout=5)


@pytest.mark.anyio
async def test_a_flush_that_takes_too_long() -> None:
    """Where a provider of the user's hangs in its flush, ours keeps its time and says that something is pending."""
    release = threading.Event()

    class Slow(TracerProvider):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return release.wait(10)

    async with ga.tracing(tracer_provider=Slow(shutdown_on_exit=False)) as tracing:
        turn = one_turn()
        assert (await tracing.flush(timeout=0.01)).pending == 1
        assert not await turn.delivered(timeout=0.01)
        release.set()
        assert await turn.delivered(timeout=5)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"service.name": "of the environment", "deployment": "e", "telemetry.sdk.language": "python"}),
        ({"service_name": "given"}, {"service.name": "given", "deployment": "e"}),
        ({"resource": {"service.name": "mine", "deployment": "r"}}, {"service.name": "mine", "deployment": "r"}),
        ({"resource": Resource({"a": "b"}), "service_name": "s"}, {"service.name": "s", "a": "b", "deployment": "e"}),
    ],
)
async def test_who_sends(monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: dict[str, str]) -> None:
    """The service's name comes from its option, the resource, the environment, in that order."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "of the environment")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment=e")
    sink = Sink()
    async with ga.tracing(transport=sink, **options):
        one_turn()
    assert {key: value for key, value in sink.resource.items() if key in expected} == expected


@pytest.mark.anyio
async def test_without_a_name_the_service_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a name from anywhere the service has the specification's default name."""
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    sink = Sink()
    async with ga.tracing(transport=sink):
        one_turn()
    assert sink.resource["service.name"] == Resource.create().attributes["service.name"]


@pytest.mark.anyio
async def test_instances_can_be_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The resource says all that the SDK's says, with detectors of one's own too, and which distribution this is."""
    found: list[set[str]] = []
    for detectors in ("", "process"):
        monkeypatch.setenv("OTEL_EXPERIMENTAL_RESOURCE_DETECTORS", detectors)
        sink = Sink()
        async with ga.tracing(transport=sink):
            one_turn()
        assert sink.resource["service.instance.id"] == Resource.create().attributes["service.instance.id"]
        found.append(set(sink.resource) - set(Resource.create().attributes))
    assert found == [{"telemetry.distro.name", "telemetry.distro.version"}] * 2


@pytest.mark.anyio
async def test_cancelled_work_may_count_as_success() -> None:
    """`record_cancellation_as_error=False` leaves cancelled and abandoned spans without an error; failures stay."""
    exporter = InMemorySpanExporter()
    async with ga.tracing(transport=Sink(), record_cancellation_as_error=False) as tracing:
        tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))  # type: ignore[attr-defined]
        session = ga.Session()
        with anyio.CancelScope() as scope:
            async with session.start_turn():
                scope.cancel()
                await anyio.sleep_forever()
        session.start_turn().end(error=GeneratorExit())
        session.start_turn().end(error=ValueError())
    errors = [(span.attributes or {}).get("error.type") for span in exporter.get_finished_spans()]
    assert errors == [None, None, "ValueError"]


BAD: list[dict[str, Any]] = [
    {"no_such_option": 1},
    {"endpoint": "localhost:4318"},
    {"endpoint": "ftp://x"},
    {"endpoint": "http://"},
    {"endpoint": "http://x\n"},
    {"endpoint": "http://x:port"},
    {"endpoint": 5},
    {"endpoint": ""},
    {"headers": {"a": "b\r\nc: d"}},
    {"headers": {"a b": "c"}},
    {"headers": {"a": 5}},
    {"headers": "a=b"},
    {"timeout": 0},
    {"timeout": -1},
    {"timeout": "5"},
    {"timeout": float("nan")},
    {"timeout": True},
    {"compression": "brotli"},
    {"compression": True},
    {"service_name": 5},
    {"resource": "service"},
    {"sampler": "always_on"},
    {"id_generator": object()},
    {"capture_content": "yes"},
    {"redact": "x"},
    {"max_queue_bytes": 0},
    {"max_queue_bytes": 1.5},
    {"max_batch_bytes": -1},
    {"max_batch_spans": "1"},
    {"schedule_delay": -0.1},
    {"shutdown_timeout": float("inf")},
    {"spool": 5},
    {"on_drop": 5},
    {"tracer_provider": object()},
    {"transport": "http"},
    {"transport": httpx.HTTPTransport()},
    {"record_cancellation_as_error": 1},
]


@pytest.mark.parametrize("make", [ga.tracing, ga.configure])
@pytest.mark.parametrize("options", BAD, ids=lambda options: "-".join(map(repr, options.items())))
def test_options_that_cannot_work(make: Callable[..., Any], options: dict[str, Any]) -> None:
    """A wrong option is refused at the call, by its name, and nothing is set up."""
    with pytest.raises(ga.ConfigurationError, match=next(iter(options))):
        make(**options)
    assert not is_set_up()


@pytest.mark.parametrize("name", sorted({next(iter(options)) for options in BAD[1:]}))
def test_none_is_not_given(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """None stands for each option's default."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    ga.tracing(**{name: None})  # type: ignore[arg-type]


def test_threads_may_shut_down_together() -> None:
    """A set-up on a thread of its own is closed from several threads at once; each gets the same result."""
    with Collector() as collector:
        tracing = ga.configure(endpoint=collector.endpoint)
        one_turn()
        results: list[ga.FlushResult] = []
        threads = [threading.Thread(target=lambda: results.append(tracing.shutdown(10))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {result.delivered for result in results} == {1}
        assert len(collector.wait_for_blocking(1)) == 1


def test_shutdown_keeps_its_deadline() -> None:
    """Without anybody who listens, shutting down ends in time and tells the loss."""
    with Collector(lambda number: Status(503)) as collector:
        tracing = ga.configure(endpoint=collector.endpoint)
        one_turn()
        result = tracing.shutdown(timeout=0.2)
    assert (result.delivered, result.pending, sum(result.dropped.values())) == (0, 0, 1)


@pytest.mark.anyio
async def test_shutdown_on_the_loops_own_thread() -> None:
    """Called where waiting would stop the sending, it only begins, says what is pending and blocks nothing."""
    sink = Sink()
    async with ga.tracing(transport=sink) as tracing:
        one_turn()
        result = tracing.shutdown()
        assert result.pending == 1
        assert not is_set_up()
    assert sink.names == ["invoke_agent bot"]
    assert (await tracing.aclose()).delivered == 1


@pytest.mark.anyio
async def test_a_thread_set_up_serves_async_code() -> None:
    """What `configure()` made is flushed and closed from any loop, and a span waits for its delivery there."""
    async with Collector() as collector:
        tracing = ga.configure(endpoint=collector.endpoint)
        turn = one_turn()
        assert await turn.delivered(timeout=10)
        assert (await tracing.flush(timeout=10)).delivered == 1
        assert (await tracing.aclose(timeout=10)).delivered == 1
        tracing.shutdown()


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of its own; warnings are errors there, too."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env={**variables, **environment},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_a_script_delivers_at_its_exit() -> None:
    """A script that only calls `configure()` has sent everything when it is over, without a word of its own."""
    script = """
        import genai_async as ga
        ga.configure(service_name="script")
        with ga.Session(session_id="c-1", agent_name="bot") as session, session.start_turn("hi") as turn:
            turn.start_tool("t").end()
    """
    with Collector() as collector:
        done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        spans = collector.wait_for_blocking(2)
    assert sorted(span.name for span in spans) == ["execute_tool t", "invoke_agent bot"]
    assert {span.resource["service.name"] for span in spans} == {"script"}
    assert {span.attributes["gen_ai.conversation.id"] for span in spans} == {"c-1"}


def test_a_script_that_fails_delivers_too() -> None:
    """An exception that ends the script is on its span, and the script's own."""
    script = """
        import genai_async as ga
        ga.configure()
        with ga.Session() as session, session.start_turn("hi"):
            raise ValueError("mine")
    """
    with Collector() as collector:
        done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert done.returncode == 1
        assert done.stderr.strip().endswith("ValueError: mine")
        (span,) = collector.wait_for_blocking(1)
    assert span.attributes["error.type"] == "ValueError"


_OWN = """
    import anyio
    import genai_async as ga
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    def one_turn():
        with ga.Session() as session, session.start_turn("hi"):
            pass
"""


def test_a_global_provider_is_used() -> None:
    """A provider that the program made global is joined: its exporter gets our spans, ours gets none by itself."""
    script = (
        _OWN
        + """
    trace.set_tracer_provider(provider)
    async def main():
        async with ga.tracing() as tracing:
            assert tracing.provider is provider
            one_turn()
            assert tracing.stats().ended == 0
        assert trace.get_tracer_provider() is provider
    anyio.run(main)
    print([span.name for span in exporter.get_finished_spans()])
    """
    )
    with Collector() as collector:
        done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert (done.stdout.strip(), done.stderr) == ("['invoke_agent']", "")
        assert collector.connections == 0


def test_a_global_that_is_not_set_yet_may_be_passed() -> None:
    """OpenTelemetry's global before anybody has set it is no provider to join: ours is made."""
    script = """
        import genai_async as ga
        from opentelemetry import trace
        ga.configure(tracer_provider=trace.get_tracer_provider())
        with ga.Session() as session, session.start_turn("hi") as turn:
            assert turn.is_recording
        trace.get_tracer("x").start_span("theirs").end()
    """
    with Collector() as collector:
        done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert done.stderr == ""
        assert sorted(span.name for span in collector.wait_for_blocking(2)) == ["invoke_agent", "theirs"]


def test_a_provider_that_comes_later_is_told_off_by_opentelemetry() -> None:
    """What we put into the global stays there: who sets one afterwards is told by OpenTelemetry, and ours goes on."""
    script = (
        _OWN
        + """
    tracing = ga.configure()
    trace.set_tracer_provider(provider)
    one_turn()
    assert tracing.shutdown().delivered == 1
    """
    )
    with Collector() as collector:
        done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint)
        assert done.returncode == 0, done.stderr
        assert len(collector.wait_for_blocking(1)) == 1


def test_the_console_as_exporter() -> None:
    """`OTEL_TRACES_EXPORTER=console` prints spans, beside the exporter if both are named."""
    script = """
        import genai_async as ga
        ga.configure()
        with ga.Session(agent_name="bot") as session, session.start_turn("hi"):
            pass
    """
    with Collector() as collector:
        done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_EXPORTER="console, otlp")
        assert '"name": "invoke_agent bot"' in done.stdout
        assert done.stderr == ""
        collector.wait_for_blocking(1)
        done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint, OTEL_TRACES_EXPORTER="console")
        assert '"name": "invoke_agent bot"' in done.stdout
        assert len(collector.accepted) == 1


def test_lines_of_otlp_as_exporter() -> None:
    """`OTEL_TRACES_EXPORTER=otlp/stdout` writes each span as a line that a collector can read."""
    script = """
        import genai_async as ga
        ga.configure(service_name="s")
        with ga.Session(agent_name="bot") as session, session.start_turn("hi ü") as turn:
            turn.start_tool("t").end()
    """
    done = run(script, OTEL_TRACES_EXPORTER="otlp/stdout")
    assert done.stderr == ""
    spans = [span for line in done.stdout.splitlines() for span in decode_request(line.encode())]
    assert [span.name for span in spans] == ["execute_tool t", "invoke_agent bot"]
    assert spans[0].resource["service.name"] == "s"


_TO_STDOUT = ["otlp/stdout", "console"]


@pytest.mark.parametrize("exporter", _TO_STDOUT)
def test_what_a_tool_prints_is_caught_without_spans(exporter: str) -> None:
    """Whoever catches what is printed for a moment, as to run code that a model wrote, finds no span in it."""
    script = """
        import contextlib, io, sys, time
        import genai_async as ga
        ga.configure()
        with ga.Session() as session, session.start_turn("hi") as turn:
            turn.start_tool("before").end()
            with contextlib.redirect_stdout(io.StringIO()) as caught:
                time.sleep(0.3)
                print(42)
        sys.stderr.write(caught.getvalue())
    """
    done = run(script, OTEL_TRACES_EXPORTER=exporter)
    assert done.stderr == "42\n"
    assert "execute_tool before" in done.stdout


@pytest.mark.parametrize("exporter", _TO_STDOUT)
@pytest.mark.anyio
async def test_the_standard_output_is_in_the_books(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes], exporter: str
) -> None:
    """What is written there is delivered, in order and after what the program has printed."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", exporter)
    async with ga.tracing() as tracing:
        sys.stdout.write("before\n")
        turns = [one_turn(name) for name in "abc"]
        assert await turns[-1].delivered(timeout=10)
        assert (await tracing.flush(timeout=10)).complete
        assert tracing.stats().delivered == 3
    told = capsysbinary.readouterr().out.decode()
    assert told.startswith("before\n")
    places = [told.index(f"invoke_agent {name}") for name in "abc"]
    assert places == sorted(places)


def test_the_console_beside_another_exporter(
    monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """The books are then those of what leaves over the network, and both are closed in the end."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp,otlp/stdout")
    sink = Sink()
    tracing = ga.configure(transport=sink, redact=lambda text: "", redact_others=True)
    one_turn()
    tracing.provider.get_tracer("theirs").start_span("secret").end()
    assert tracing.shutdown(timeout=10).delivered == 2
    assert len(sink.names) == 2
    told = capsysbinary.readouterr().out
    assert told.count(b'"spanId"') == 2
    assert b"secret" not in told


def test_the_console_is_for_people(monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    """`console` writes attributes by their names, whatever they hold, in UTF-8."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    tracing = ga.configure()
    span = tracing.provider.get_tracer("theirs").start_span("x")
    span.set_attributes({"text": "ü", "number": 2**40, "list": [1.5, 2.5], "map": {"a": {"b": True}}, "none": [None]})  # type: ignore[dict-item]
    span.add_event("e", {"k": b"v"})
    span.end()
    tracing.shutdown()
    told = capsysbinary.readouterr().out
    shown = msgspec.json.decode(told)
    assert "ü" in told.decode()
    attributes = {"text": "ü", "number": 2**40, "list": [1.5, 2.5], "map": {"a": {"b": True}}, "none": [None]}
    assert shown["attributes"] == attributes
    assert shown["events"][0]["attributes"] == {"k": "dg=="}


def test_a_standard_output_of_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of text in its place, as in a notebook, gets text."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp/stdout")
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        tracing = ga.configure()
        one_turn("ü")
        assert tracing.shutdown().delivered == 1
    assert decode_request(page.getvalue().encode())[0].name == "invoke_agent ü"


_BUSY = """
    import sys
    import anyio
    import genai_async as ga
    async def main():
        async with ga.tracing(shutdown_timeout=float(sys.argv[1])) as tracing:
            for number in range(400):
                with ga.Session() as session, session.start_turn("é" * 300):
                    pass
        stats = tracing.stats()
        sys.stderr.write(f"{stats.ended} {stats.delivered + stats.dropped_total}\\n")
    anyio.run(main)
"""


def busy(exporter: str, timeout: float = 30, **environment: str) -> subprocess.Popen[bytes]:
    """A program that writes more to the standard output than a pipe holds."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(_BUSY), str(timeout)],
        env={**variables, "OTEL_TRACES_EXPORTER": exporter, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("exporter", _TO_STDOUT)
def test_a_standard_output_that_nobody_reads(exporter: str) -> None:
    """A reader that pauses holds up neither the program nor its end, and what it has not read is counted."""
    with busy(exporter, 0.2) as process:
        assert process.wait(50) == 0
        assert process.stdout is not None
        assert process.stderr is not None
        told = process.stderr.read().decode().splitlines()
    assert told[0].startswith("spans dropped: shutdown (")
    assert told[1:] == ["400 400"]


@pytest.mark.parametrize("exporter", _TO_STDOUT)
def test_a_standard_output_whose_reader_has_gone(exporter: str) -> None:
    """That is told once, and the spans are counted as dropped."""
    with busy(exporter) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.wait(50) == 0
        told = process.stderr.read().decode().splitlines()
    assert len(told) == 2
    assert "OutputGoneError" in told[0]
    assert told[1] == "400 400"


@pytest.mark.parametrize("exporter", _TO_STDOUT)
def test_a_standard_output_with_another_encoding(exporter: str) -> None:
    """The lines are UTF-8 all the same."""
    with busy(exporter, PYTHONIOENCODING="ascii") as process:
        told, complaints = process.communicate(timeout=50)
    assert told.decode().count("é" * 300) == 400
    assert complaints == b"400 400\n"
