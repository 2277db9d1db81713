"""The same application in four frameworks."""

# ruff: noqa: F821  # annotations that a framework reads come from its import in the function

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import agent


def starlette(**options: Any) -> Any:
    """Starlette, with the middleware in its own stack."""
    from starlette.applications import Starlette
    from starlette.background import BackgroundTask
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route, WebSocketRoute
    from starlette.websockets import WebSocket

    from genai_async.asgi import SessionMiddleware

    def number(request: Request) -> str:
        return request.query_params["n"]

    async def answer(request: Request) -> Response:
        assert request.state.session.session_id == request.state.turn.conversation_id
        return PlainTextResponse(await agent.answer(number(request)))

    def sync(request: Request) -> Response:
        return PlainTextResponse(agent.answer_in_thread(number(request)))

    async def stream(request: Request) -> Response:
        return StreamingResponse(agent.pieces(number(request)), media_type="text/event-stream")

    async def endless(request: Request) -> Response:
        return StreamingResponse(agent.endless(number(request)), media_type="text/event-stream")

    async def broken(request: Request) -> Response:
        return StreamingResponse(agent.broken(number(request)), media_type="text/event-stream")

    async def fail(request: Request) -> Response:
        raise LookupError(number(request))

    async def background(request: Request) -> Response:
        return PlainTextResponse("", background=BackgroundTask(agent.later, number(request)))

    async def late_failure(request: Request) -> Response:
        return PlainTextResponse("", background=BackgroundTask(agent.late_failure, number(request)))

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(await agent.answer(text))

    functions = (answer, sync, stream, endless, broken, fail, background, late_failure)
    routes = [Route(f"/{function.__name__}", function) for function in functions]
    return Starlette(
        routes=[*routes, WebSocketRoute("/socket", socket)], middleware=[Middleware(SessionMiddleware, **options)]
    )


def fastapi(**options: Any) -> Any:
    """FastAPI, with its dependency."""
    from fastapi import BackgroundTasks, FastAPI, WebSocket
    from fastapi.responses import PlainTextResponse, StreamingResponse

    from genai_async.asgi import SessionMiddleware
    from genai_async.fastapi import CurrentSession, CurrentTurn

    app = FastAPI(telemetry={"tracing": False})
    app.add_middleware(SessionMiddleware, **options)
    namespace = {"CurrentSession": CurrentSession, "CurrentTurn": CurrentTurn, "BackgroundTasks": BackgroundTasks}
    globals().update(namespace, WebSocket=WebSocket)

    @app.get("/answer", response_class=PlainTextResponse)
    async def answer(n: str, turn: CurrentTurn, session: CurrentSession) -> str:
        assert turn.conversation_id == session.session_id
        return await agent.answer(n)

    @app.get("/sync", response_class=PlainTextResponse)
    def sync(n: str, turn: CurrentTurn, session: CurrentSession) -> str:
        assert turn.conversation_id == session.session_id
        return agent.answer_in_thread(n)

    @app.get("/stream")
    async def stream(n: str) -> Any:
        return StreamingResponse(agent.pieces(n), media_type="text/event-stream")

    @app.get("/endless")
    async def endless(n: str) -> Any:
        return StreamingResponse(agent.endless(n), media_type="text/event-stream")

    @app.get("/broken")
    async def broken(n: str) -> Any:
        return StreamingResponse(agent.broken(n), media_type="text/event-stream")

    @app.get("/fail")
    async def fail(n: str) -> None:
        raise LookupError(n)

    @app.get("/background")
    async def background(n: str, tasks: BackgroundTasks) -> None:
        tasks.add_task(agent.later, n)

    @app.get("/late_failure")
    async def late_failure(n: str, tasks: BackgroundTasks) -> None:
        tasks.add_task(agent.late_failure, n)

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, session: CurrentSession) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            assert await agent.answer(text) == session.session_id
            await websocket.send_text(session.session_id)

    return app


def litestar(**options: Any) -> Any:
    """Litestar, wrapped from outside."""
    from litestar import Litestar, Request, WebSocket, get, websocket
    from litestar.background_tasks import BackgroundTask
    from litestar.response import Response, Stream

    from genai_async.asgi import SessionMiddleware

    globals().update(LitestarRequest=Request[Any, Any, Any], LitestarSocket=WebSocket, Response=Response, Stream=Stream)

    @get("/answer", media_type="text/plain")
    async def answer(request: LitestarRequest) -> str:
        return await agent.answer(request.query_params["n"])

    @get("/sync", media_type="text/plain", sync_to_thread=True)
    def sync(request: LitestarRequest) -> str:
        return agent.answer_in_thread(request.query_params["n"])

    @get("/stream")
    async def stream(request: LitestarRequest) -> Stream:
        return Stream(agent.pieces(request.query_params["n"]), media_type="text/event-stream")

    @get("/endless")
    async def endless(request: LitestarRequest) -> Stream:
        return Stream(agent.endless(request.query_params["n"]), media_type="text/event-stream")

    @get("/broken")
    async def broken(request: LitestarRequest) -> Stream:
        return Stream(agent.broken(request.query_params["n"]), media_type="text/event-stream")

    @get("/fail")
    async def fail(request: LitestarRequest) -> None:
        raise LookupError(request.query_params["n"])

    @get("/background")
    async def background(request: LitestarRequest) -> Response[str]:
        return Response("", background=BackgroundTask(agent.later, request.query_params["n"]))

    @get("/late_failure")
    async def late_failure(request: LitestarRequest) -> Response[str]:
        return Response("", background=BackgroundTask(agent.late_failure, request.query_params["n"]))

    @websocket("/socket")
    async def socket(socket: LitestarSocket[Any, Any, Any]) -> None:  # type: ignore[name-defined]
        await socket.accept()
        async for text in socket.iter_data():
            await socket.send_text(await agent.answer(text))

    handlers = [answer, sync, stream, endless, broken, fail, background, late_failure, socket]
    return SessionMiddleware(Litestar(handlers, logging_config=None), **options)


def quart(**options: Any) -> Any:
    """Quart, with its ASGI callable wrapped."""
    from quart import Quart, request, websocket
    from quart.wrappers import Response

    from genai_async.asgi import SessionMiddleware

    app = Quart(__name__)

    @app.get("/answer")
    async def answer() -> str:
        return await agent.answer(request.args["n"])

    @app.get("/sync")
    def sync() -> str:
        return agent.answer_in_thread(request.args["n"])

    @app.get("/stream")
    async def stream() -> Any:
        return Response(agent.pieces(request.args["n"]), mimetype="text/event-stream")

    @app.get("/endless")
    async def endless() -> Any:
        return Response(agent.endless(request.args["n"]), mimetype="text/event-stream")

    @app.get("/broken")
    async def broken() -> Any:
        return Response(agent.broken(request.args["n"]), mimetype="text/event-stream")

    @app.get("/fail")
    async def fail() -> str:
        raise LookupError(request.args["n"])

    @app.get("/background")
    async def background() -> str:
        app.add_background_task(agent.later, request.args["n"])
        return ""

    @app.get("/late_failure")
    async def late_failure() -> str:
        app.add_background_task(agent.late_failure, request.args["n"])
        return ""

    @app.websocket("/socket")
    async def socket() -> None:
        while True:
            await websocket.send(await agent.answer(await websocket.receive()))

    app.asgi_app = SessionMiddleware(app.asgi_app, **options)  # type: ignore[method-assign]
    return app


FRAMEWORKS: dict[str, Callable[..., Any]] = {
    "starlette": starlette,
    "fastapi": fastapi,
    "litestar": litestar,
    "quart": quart,
}
