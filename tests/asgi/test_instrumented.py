from __future__ import annotations

from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from opentelemetry import trace
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

import genai_async as ga
from genai_async.asgi import SessionMiddleware
from genai_async.testing import SpanRecord, assert_isolated

from .conftest import Spans
from .servers import serve

pytestmark = pytest.mark.anyio

TURN = "invoke_agent bot"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


async def plain(scope: Any, receive: Any, send: Any) -> None:
    """An application that runs a tool."""
    assert ga.current_turn() is scope["state"]["turn"]
    with ga.start_tool("look"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def check(spans: Spans) -> tuple[SpanRecord, list[SpanRecord]]:
    """The turn is a root with its tool in it; gives the turn and the other instrumentation's spans."""
    (turn,), (tool,) = spans.named(TURN), spans.named("execute_tool look")
    others = [span for span in spans.all if span not in (turn, tool)]
    assert turn.parent_span_id is None
    assert (tool.trace_id, tool.parent_span_id) == (turn.trace_id, turn.span_id)
    return turn, others


async def get(client: httpx.AsyncClient, app: Any, **headers: str) -> httpx.Response:
    """Ask an application that is served."""
    with serve(app) as address:
        return await client.get(f"http://{address}/", headers={"x-session-id": "c", **headers})


async def test_instrumentation_outside(spans: Spans, client: httpx.AsyncClient) -> None:
    """Outside, the server's span is what the turn is linked to, and its own spans stay in its trace."""
    app = OpenTelemetryMiddleware(SessionMiddleware(plain, turn="request", agent_name="bot"))
    await get(client, app, traceparent=TRACEPARENT)
    turn, others = check(spans)
    (server,) = [span for span in others if span.kind == "SERVER"]
    assert (server.trace_id, server.parent_span_id) == (TRACE, PARENT)
    assert [link.span_id for link in turn.links] == [server.span_id]
    assert {span.trace_id for span in others} == {TRACE}
    assert {span.parent_span_id for span in others} == {PARENT, server.span_id}


async def test_instrumentation_inside(spans: Spans, client: httpx.AsyncClient) -> None:
    """Inside, the server's span is under the turn; the handler's spans are found under both."""
    app = SessionMiddleware(OpenTelemetryMiddleware(plain), turn="request", agent_name="bot")
    await get(client, app)
    (turn,) = spans.named(TURN)
    assert {span.trace_id for span in spans.all} == {turn.trace_id}
    assert {span.attributes["gen_ai.conversation.id"] for span in spans.all} == {"c"}


async def test_instrumentation_inside_of_a_session_without_turn(spans: Spans, client: httpx.AsyncClient) -> None:
    """An instrumentation that starts its context afresh does not lose the session."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # it has no lifespan, and says so
        with ga.start_turn(agent_name="bot"):
            scope["state"]["turn"] = ga.current_turn()
            await plain(scope, receive, send)

    await get(client, SessionMiddleware(OpenTelemetryMiddleware(app)), traceparent=TRACEPARENT)
    (server,) = [span for span in spans.all if span.kind == "SERVER"]
    assert (server.trace_id, server.parent_span_id) == (TRACE, PARENT)
    assert {span.attributes["gen_ai.conversation.id"] for span in spans.all} == {"c"}


@pytest.mark.parametrize("is_inside", [True, False])
async def test_fastapi_by_itself(is_inside: bool, spans: Spans, client: httpx.AsyncClient) -> None:
    """FastAPI's own telemetry keeps its trace, whichever of the two is outside."""
    app: Any = _fastapi()
    if is_inside:
        app = SessionMiddleware(app, turn="request", agent_name="bot")
    else:
        app.add_middleware(SessionMiddleware, turn="request", agent_name="bot")
    await get(client, app)
    assert spans.faults == {}
    turns, tools = spans.named(TURN), spans.named("execute_tool look")
    assert (len(turns), len(tools)) == (1, 1)
    assert tools[0].trace_id == turns[0].trace_id


async def test_fastapi_instrumentor(spans: Spans, client: httpx.AsyncClient) -> None:
    """Beside opentelemetry-instrumentation-fastapi the turn is linked to the server's span."""
    app = _fastapi()
    app.add_middleware(SessionMiddleware, turn="request", agent_name="bot")
    FastAPIInstrumentor.instrument_app(app)
    await get(client, app)
    (turn,) = spans.named(TURN)
    servers = [span for span in spans.all if span.kind == "SERVER"]
    assert [link.span_id for link in turn.links] == [servers[0].span_id]


def _fastapi() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def root() -> None:
        with ga.start_tool("look"):
            pass

    return app


async def test_traceparent_is_linked(spans: Spans, client: httpx.AsyncClient) -> None:
    """Alone, the turn is a root that is linked to the caller's span."""
    await get(client, SessionMiddleware(plain, turn="request", agent_name="bot"), traceparent=TRACEPARENT)
    turn, _ = check(spans)
    assert [(link.trace_id, link.span_id) for link in turn.links] == [(TRACE, PARENT)]


@pytest.mark.parametrize("tracestate", ["", "a=1,b@c=2", "broken", "a=1,a=2", "a=" + "x" * 600])
async def test_traceparent_is_continued(tracestate: str, spans: Spans, client: httpx.AsyncClient) -> None:
    """When asked for, the turn is nested in the caller's trace."""
    app = SessionMiddleware(plain, turn="request", agent_name="bot", continue_trace=True)
    await get(client, app, traceparent=TRACEPARENT, tracestate=tracestate)
    (turn,) = spans.named(TURN)
    assert (turn.trace_id, turn.parent_span_id, turn.links) == (TRACE, PARENT, ())


@pytest.mark.parametrize("is_instrumented", [False, True])
@pytest.mark.parametrize("continue_trace", [False, True])
async def test_a_request_without_a_turn(
    continue_trace: bool, is_instrumented: bool, spans: Spans, client: httpx.AsyncClient
) -> None:
    """A tool outside of any turn is linked to where the request comes from, or is its child, like a turn."""

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"  # it has no lifespan, and says so
        with ga.start_tool("look"):
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    app: Any = SessionMiddleware(bare, continue_trace=continue_trace)
    await get(client, OpenTelemetryMiddleware(app) if is_instrumented else app, traceparent=TRACEPARENT)
    (tool,) = spans.named("execute_tool look", "c")
    nearest = next((span.span_id for span in spans.all if span.kind == "SERVER"), PARENT)
    assert (tool.parent_span_id == nearest, tool.trace_id == TRACE) == (continue_trace, continue_trace)
    assert [link.span_id for link in tool.links] == ([] if continue_trace else [nearest])


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("continue_trace", [False, True])
async def test_server_that_was_started_inside_a_span(is_open: bool, continue_trace: bool, spans: Spans) -> None:
    """Such a span, ended or not, is not what a request comes from: its caller's is, or none once it has ended."""
    app = SessionMiddleware(plain, turn="request", agent_name="bot", continue_trace=continue_trace)
    with trace.get_tracer("boot").start_as_current_span("boot", end_on_exit=False) as boot:
        if not is_open:
            boot.end()
        for headers in ([(b"traceparent", TRACEPARENT.encode())], []):
            await app({"type": "http", "path": "/", "headers": headers}, plain, _drop)
    if is_open:
        boot.end()
    called, alone = spans.named(TURN)
    boot_id = trace.format_span_id(boot.get_span_context().span_id)
    links = [[link.span_id for link in turn.links] for turn in (called, alone)]
    if continue_trace:
        assert (called.trace_id, called.parent_span_id) == (TRACE, PARENT)
        assert alone.parent_span_id == (boot_id if is_open else None)
        assert links == [[], []]
    else:
        assert (called.parent_span_id, alone.parent_span_id) == (None, None)
        assert links == [[PARENT], [boot_id] if is_open else []]


async def test_middlewares_in_each_other(spans: Spans) -> None:
    """The turn of an inner middleware is linked to the outer one's turn, and that to the caller's span."""
    inner = SessionMiddleware(plain, turn="request", agent_name="inner")
    scope = {"type": "http", "path": "/", "headers": [(b"traceparent", TRACEPARENT.encode())]}
    await SessionMiddleware(inner, turn="request", agent_name="bot")(scope, plain, _drop)
    (turn,), (inside,) = spans.named(TURN), spans.named("invoke_agent inner")
    assert [link.span_id for link in turn.links] == [PARENT]
    assert [link.span_id for link in inside.links] == [turn.span_id]
    assert_isolated(spans.capture, conversations=1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "00",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        TRACEPARENT.upper(),
        TRACEPARENT + "x" * 5000,
        "\xff" * 55,
    ],
)
async def test_broken_traceparent(value: str, spans: Spans) -> None:
    """A broken `traceparent` is none."""
    await SessionMiddleware(plain, turn="request", agent_name="bot", continue_trace=True)(
        {"type": "http", "path": "/", "headers": [(b"traceparent", value.encode("latin-1"))]}, plain, _drop
    )
    turn, _ = check(spans)
    assert turn.links == ()


async def _drop(message: Any) -> None: ...
