from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from opentelemetry.context import attach, detach, get_current

import genai_async as ga
from genai_async.asgi import SessionMiddleware
from genai_async.testing import assert_isolated, assert_tree

from .conftest import Spans

pytestmark = pytest.mark.anyio

App = Callable[[Any, Any, Any], Awaitable[None]]
START = {"type": "http.response.start", "status": 200, "headers": ()}
END = {"type": "http.response.body"}


async def run(app: App, *messages: dict[str, Any], scope: dict[str, Any] | None = None, **options: Any) -> list[Any]:
    """Run an application for one connection on which these messages come in, and give what it sent."""
    arriving = iter(messages)
    sent: list[Any] = []

    async def receive() -> Any:
        return next(arriving)

    async def send(message: Any) -> None:
        sent.append(message)

    given: dict[str, Any] = {"type": "http", "path": "/", "headers": [(b"x-session-id", b"c")], **(scope or {})}
    await SessionMiddleware(app, **{"turn": ("request", "message"), **options})(given, receive, send)
    return sent


async def test_other_scopes_pass_untouched() -> None:
    """Lifespan and what a future specification brings reach the application as they are."""
    scope = {"type": "lifespan"}
    seen: list[Any] = []

    async def app(*given: Any) -> None:
        seen.extend(given)

    await SessionMiddleware(app)(scope, test_other_scopes_pass_untouched, run)
    assert seen == [scope, test_other_scopes_pass_untouched, run]
    assert scope == {"type": "lifespan"}


@pytest.mark.parametrize(
    ("path", "is_excluded"),
    [
        ("/health", True),
        ("/health/live", True),
        ("/healthy", False),
        ("/", True),
        ("/static/a.js", True),
        ("/a", False),
    ],
)
async def test_excluded_paths(path: str, is_excluded: bool) -> None:
    """An excluded path passes untouched with all below it; the root excludes only itself."""
    seen: list[ga.Session | None] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(ga.current_session())

    await run(app, scope={"path": path}, exclude=["/health", "/static/", "/"])
    assert (seen[0] is None) is is_excluded


async def test_without_a_set_up() -> None:
    """Where nothing is set up the application finds the same session, turn and header."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert ga.current_turn() is scope["state"]["turn"]
        assert ga.current_session() is scope["state"]["session"]
        await send(START)
        await send(END)

    assert (await run(app))[0]["headers"] == [(b"x-session-id", b"c")]
    assert ga.current_session() is None


async def test_session_without_turns(spans: Spans) -> None:
    """Without turns there is no span but those that the application starts."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert "turn" not in scope["state"]
        assert ga.current_turn() is None
        with ga.start_turn(agent_name="own"):
            pass

    await run(app, turn=None)
    (turn,) = spans.all
    assert (turn.name, turn.attributes["gen_ai.conversation.id"]) == ("invoke_agent own", "c")


async def test_state_of_the_application(spans: Spans) -> None:
    """The state is the server's own dict, and what stands there under the same name stays."""
    state = {"session": "a database"}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["state"] is state
        assert isinstance(state["turn"], ga.Turn)

    await run(app, scope={"state": state})
    assert state["session"] == "a database"


async def test_state_of_an_odd_kind(spans: Spans) -> None:
    """A state that is no mapping is left alone."""
    state = object()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["state"] is state
        assert ga.current_turn() is not None

    await run(app, scope={"state": state})


async def test_turn_ends_with_the_body(spans: Spans) -> None:
    """The turn is open until the last part of the body has been sent, and not longer."""
    states: list[bool] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        turn = scope["state"]["turn"]
        for message in (START, {**END, "more_body": True}, END):
            states.append(turn.is_ended)
            await send(message)
        states.append(turn.is_ended)
        assert ga.current_turn() is None
        assert ga.current_session() is scope["state"]["session"]

    await run(app)
    assert states == [False, False, False, True]


SENT: dict[str, list[dict[str, Any]]] = {
    "a file by its path": [START, {"type": "http.response.pathsend", "path": "/"}],
    "files in pieces": [
        START,
        {"type": "http.response.zerocopysend", "file": 3, "more_body": True},
        {"type": "http.response.zerocopysend", "file": 3},
    ],
    "trailers": [
        {**START, "trailers": True},
        END,
        {"type": "http.response.trailers", "headers": [], "more_trailers": True},
        {"type": "http.response.trailers", "headers": []},
    ],
}


@pytest.mark.parametrize("what", SENT)
async def test_other_ends_of_a_response(what: str, spans: Spans) -> None:
    """What ASGI's extensions send is part of the response: the turn ends with the last of it, and not before."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for message in SENT[what]:
            assert not scope["state"]["turn"].is_ended
            await send(message)
        assert scope["state"]["turn"].is_ended

    await run(app)


def _shared(error: Exception, *, depth: int) -> Exception:
    for _ in range(depth):
        error = ExceptionGroup("", [error, error])
    return error


OUTCOMES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], BaseException | None, str | None]] = {
    "a good one": ([], [START, END], None, None),
    "a client's error": ([], [{**START, "status": 404}, END], None, None),
    "a server's error": ([], [{**START, "status": 503}, END], None, "503"),
    "an error that was answered": ([], [{**START, "status": 500}, END], LookupError("x"), "LookupError"),
    "an error after the response": ([], [START, END], LookupError("x"), None),
    "an error after a server's error": ([], [{**START, "status": 503}, END], LookupError("x"), "503"),
    "an error in the stream": ([], [START], LookupError("x"), "LookupError"),
    "no response": ([], [], None, "incomplete_response"),
    "half a response": ([], [START], None, "incomplete_response"),
    "a cancelled handler": ([], [START], asyncio.CancelledError(), "cancelled"),
    "a client that has gone": ([{"type": "http.disconnect"}], [START], None, "abandoned"),
    "a response to a client that has gone": ([{"type": "http.disconnect"}], [START, END], None, "abandoned"),
    "cancelled for a client that has gone": (
        [{"type": "http.disconnect"}],
        [START],
        asyncio.CancelledError(),
        "abandoned",
    ),
    "an error beside a client that has gone": ([{"type": "http.disconnect"}], [START], LookupError("x"), "LookupError"),
    "tasks that fail as the client has gone": (
        [{"type": "http.disconnect"}],
        [START],
        ExceptionGroup("", [OSError(), ExceptionGroup("", [ConnectionResetError()])]),
        "abandoned",
    ),
    "tasks that share their failures as the client has gone": (
        [{"type": "http.disconnect"}],
        [START],
        _shared(OSError(), depth=100),
        "abandoned",
    ),
    "tasks that fail beside a client that has gone": (
        [{"type": "http.disconnect"}],
        [START],
        ExceptionGroup("", [OSError(), LookupError("x")]),
        "ExceptionGroup",
    ),
    "a client that goes after the response": ([{"type": "http.disconnect"}], [START, END], None, None),
}


@pytest.mark.parametrize("case", OUTCOMES)
async def test_outcomes(case: str, spans: Spans) -> None:
    """How a request ended is told apart: failed, cancelled, abandoned, or well."""
    arriving, sending, error, expected = OUTCOMES[case]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if case.endswith("after the response"):
            arriving.reverse()
        else:
            for _ in arriving:
                await receive()
        try:
            if error is not None and case.endswith("was answered"):
                raise error
        finally:
            # As frameworks do it: the answer to an error is sent while that is handled.
            for message in sending:
                await send(message)
        if case.startswith("a client that goes"):
            await receive()
        if error is not None:
            raise error

    if error is None:
        await run(app, *arriving)
    else:
        with pytest.raises(type(error)) as raised:
            await run(app, *arriving)
        assert raised.value is error
    (turn,) = spans.all
    assert turn.attributes.get("error.type") == expected
    assert turn.status == ("UNSET" if expected is None else "ERROR")


async def test_work_after_a_server_error(spans: Spans) -> None:
    """The turn of a request that failed ends with its response, too: what still runs is linked to it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({**START, "status": 503})
        await send(END)
        with ga.start_tool("later"):
            pass

    await run(app, agent_name="bot")
    turn, later = spans.all
    assert (later.parent_span_id, [link.span_id for link in later.links]) == (None, [turn.span_id])


@pytest.mark.parametrize(("raised", "error_type"), [(503, "503"), (404, "LookupError")])
async def test_exceptions_that_frameworks_answer(raised: int, error_type: str, spans: Spans) -> None:
    """An exception that only carries the response's status says less than the status; any other is the outcome."""

    class Answered(Exception):
        status_code = raised

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            raise Answered if error_type == "503" else LookupError
        except (Answered, LookupError):
            await send({**START, "status": 503})
            await send(END)

    await run(app)
    (turn,) = spans.all
    assert turn.attributes["error.type"] == error_type


async def test_send_to_a_client_that_has_gone(spans: Spans) -> None:
    """A server that raises where the client has gone leaves the turn abandoned, and its error passes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(START)

    async def send(message: Any) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await SessionMiddleware(app, turn="request")({"type": "http", "path": "/", "headers": []}, run, send)
    assert spans.all[0].attributes["error.type"] == "abandoned"


async def test_timed_out_handler(spans: Spans) -> None:
    """A deadline around the application shows as a time-out."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0.01):
        await run(app)
    assert spans.all[0].attributes["error.type"] == "timeout"


async def test_tasks_of_the_turn(spans: Spans) -> None:
    """A turn waits for the tasks that were started in it, also beyond its response."""

    async def later() -> None:
        await anyio.sleep(0)
        with ga.start_tool("later"):
            await anyio.sleep(0)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["turn"].start_soon(later)
        await send(START)
        await send(END)

    await run(app, agent_name="bot")
    assert_tree(spans.capture, "invoke_agent bot\n  execute_tool later")
    tool, turn = spans.named("execute_tool later")[0], spans.named("invoke_agent bot")[0]
    assert tool.end_ns <= turn.end_ns


async def test_task_that_fails(spans: Spans) -> None:
    """A failing task of the turn fails the turn and comes out of the application, as from a task group."""

    async def later() -> None:
        raise LookupError("x")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["turn"].start_soon(later)
        await send(START)
        await send(END)

    with pytest.raises(ExceptionGroup):
        await run(app)
    assert spans.all[0].attributes["error.type"] == "LookupError"


async def test_tasks_of_the_session(spans: Spans) -> None:
    """A session's tasks are waited for; they are not in the turn, which ends before."""
    ended: list[bool] = []

    async def later(turn: ga.Turn) -> None:
        await anyio.sleep(0)
        ended.append(turn.is_ended)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["state"]["session"].start_soon(later, scope["state"]["turn"])
        await send(START)
        await send(END)

    await run(app)
    assert ended == [True]


async def test_task_that_outlives_the_request(spans: Spans) -> None:
    """A span in a task that nobody waits for is ended by its own block, not by the request's end."""
    go_on, tasks = asyncio.Event(), []

    async def forgotten() -> None:
        with ga.start_tool("forgotten"):
            await go_on.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks.append(asyncio.create_task(forgotten()))
        await asyncio.sleep(0)
        scope["state"]["turn"].start_tool("left open")
        await send(START)
        await send(END)

    await run(app)
    assert spans.capture.open == ["execute_tool forgotten"]
    go_on.set()
    await tasks[0]
    assert spans.capture.open == []


SOCKET = {"type": "websocket"}
ACCEPT = {"type": "websocket.accept"}
MESSAGE = {"type": "websocket.receive", "text": "hello"}
GONE = {"type": "websocket.disconnect", "code": 1006}


async def test_socket_denied() -> None:
    """The response that denies a connection names the conversation, too."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 403, "headers": []})

    assert (await run(app, scope=SOCKET))[0]["headers"] == [(b"x-session-id", b"c")]


async def test_socket_without_turns(spans: Spans) -> None:
    """Without turns for messages a connection is one session and no span."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        assert ga.current_turn() is None
        assert ga.current_session() is scope["state"]["session"]
        await receive()

    await run(app, MESSAGE, GONE, scope=SOCKET, turn="request")
    assert spans.all == []


async def test_socket_that_breaks_while_idle(spans: Spans) -> None:
    """A client that goes while nothing is being done leaves the last turn as it was."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        first = scope["state"]["turn"]
        await receive()
        assert first.is_ended
        assert scope["state"]["turn"] is ga.current_turn() is not first
        await receive()
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await run(app, MESSAGE, MESSAGE, GONE, scope=SOCKET)
    assert [turn.status for turn in spans.all] == ["UNSET", "UNSET"]


async def test_socket_that_breaks_at_work(spans: Spans) -> None:
    """A client that goes in the middle of an answer leaves its turn abandoned."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send(ACCEPT)
        await receive()
        with ga.start_tool("look"):
            await receive()

    await run(app, MESSAGE, GONE, scope=SOCKET, agent_name="bot")
    (turn,) = spans.named("invoke_agent bot")
    assert turn.attributes["error.type"] == "abandoned"


async def test_socket_handler_that_fails(spans: Spans) -> None:
    """An error in a handler fails the turn of the message that it was about."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await receive()
        raise LookupError("x")

    with pytest.raises(LookupError):
        await run(app, MESSAGE, MESSAGE, scope=SOCKET)
    assert [turn.attributes.get("error.type") for turn in spans.all] == [None, "LookupError"]


async def test_messages_received_in_another_task(spans: Spans) -> None:
    """A handler finds the turn of the last message, also where a task of its own has received it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in range(2):
            await asyncio.create_task(receive())
            assert ga.current_turn() is scope["state"]["turn"]
            with ga.start_tool("look"):
                pass

    await run(app, MESSAGE, MESSAGE, scope=SOCKET, agent_name="bot")
    assert_tree(spans.capture, "invoke_agent bot\n  execute_tool look\ninvoke_agent bot\n  execute_tool look")


async def test_work_on_a_message_stays_with_its_turn(spans: Spans) -> None:
    """What was started for one message is in its turn, or linked to it once that has ended."""
    go_on = asyncio.Event()

    async def answer(text: str) -> None:
        for what in ("search", "write"):
            with ga.start_tool(f"{what} {text}"):
                await asyncio.sleep(0)
            await go_on.wait()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        tasks = []
        for text in ("one", "two"):
            await receive()
            tasks.append(asyncio.create_task(answer(text)))
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*tasks)

    await run(app, MESSAGE, MESSAGE, scope=SOCKET, agent_name="bot")
    assert_tree(
        spans.capture,
        """
        invoke_agent bot
            execute_tool search one
        invoke_agent bot
            execute_tool search two
            execute_tool write two
        execute_tool write one
        """,
    )
    assert_isolated(spans.capture, conversations=1)
    (late,), (one, _) = spans.named("execute_tool write one"), spans.named("invoke_agent bot")
    assert [link.span_id for link in late.links] == [one.span_id]


async def test_a_block_on_a_turn_takes_tasks_until_it_is_left(spans: Spans) -> None:
    """Work on a message that goes on in a block of its turn starts tasks there, whatever has come meanwhile."""

    async def look(name: str) -> str:
        with ga.start_tool(name):
            return name

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        async with scope["state"]["turn"] as turn:
            assert await turn.start_soon(look, "early") == "early"
            await receive()
            for _ in range(9):
                await asyncio.sleep(0)
            late = turn.start_soon(look, "late")
        assert await late == "late"

    await run(app, MESSAGE, MESSAGE, scope=SOCKET, agent_name="bot")
    (one, _), (late,) = spans.named("invoke_agent bot"), spans.named("execute_tool late")
    assert [link.span_id for link in late.links] == [one.span_id]
    assert spans.capture.faults == {}


def test_paths_that_are_one_text() -> None:
    """A text is a collection of characters, and none of those is what was meant."""
    with pytest.raises(ga.ConfigurationError, match="collection of paths"):
        SessionMiddleware(run, exclude="/health")


@pytest.mark.parametrize("is_made_late", [False, True])
async def test_context_of_an_earlier_message(spans: Spans, is_made_late: bool) -> None:
    """Work that is given the context of a turn which has ended is linked to that turn, and not in the next one."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        one = scope["state"]["turn"]
        kept = None if is_made_late else one.context
        await receive()
        token = attach(kept or one.context)
        with ga.start_tool("late"):
            pass
        detach(token)
        with ga.start_tool("inside"):
            pass

    await run(app, MESSAGE, MESSAGE, scope=SOCKET, agent_name="bot")
    assert_tree(spans.capture, "invoke_agent bot\ninvoke_agent bot\n    execute_tool inside\nexecute_tool late")
    (late,), (one, _) = spans.named("execute_tool late"), spans.named("invoke_agent bot")
    assert [link.span_id for link in late.links] == [one.span_id]


async def test_turn_that_another_task_has_ended_is_left(spans: Spans) -> None:
    """Whoever ended the last turn, the caller's context is as it was."""
    before = get_current()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await asyncio.create_task(receive())

    await run(app, MESSAGE, MESSAGE, scope=SOCKET)
    assert get_current() == before


class _Client:
    """A client's side of one connection, as a server holds it: together with the scope."""

    def __init__(self, kind: str) -> None:
        self.scope: dict[str, Any] = {"type": kind, "path": "/", "headers": [(b"x-session-id", b"c-1")]}
        self._messages = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]

    async def receive(self) -> Any:
        return self._messages.pop(0) if self._messages else {"type": "websocket.disconnect"}

    async def send(self, message: Any) -> None: ...


async def _answers(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        while (await receive())["type"] != "websocket.disconnect":
            await send({"type": "websocket.accept"})
    await send(START)
    await send(END)


async def _fails(scope: Any, receive: Any, send: Any) -> None:
    await _answers(scope, receive, send)
    raise ValueError


async def _starts_tasks(scope: Any, receive: Any, send: Any) -> None:
    scope["state"]["session"].start_soon(anyio.lowlevel.checkpoint)
    await _answers(scope, receive, send)


@pytest.mark.parametrize("app", [_answers, _fails, _starts_tasks])
@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_nothing_is_left_for_the_collector(spans: Spans, kind: str, app: Any) -> None:
    """A request leaves no cycles behind, and a server that keeps its scope keeps no task and no context by that."""
    served: list[weakref.ref[Any]] = []

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.append(weakref.ref(task))
        try:
            await app(scope, receive, send)
        finally:
            served.extend(weakref.ref(scope["state"][name]) for name in ("session", "turn"))

    middleware = SessionMiddleware(watched, turn=("request", "message"))

    async def serve(client: _Client) -> None:
        with contextlib.suppress(ValueError):
            await middleware(client.scope, client.receive, client.send)

    gc.collect()
    gc.disable()
    try:
        client = _Client(kind)
        await asyncio.create_task(serve(client))
        await anyio.lowlevel.checkpoint()
        task, session, turn = served
        assert task() is None
        assert session() is client.scope["state"]["session"]
        del client
        assert (session(), turn()) == (None, None)
    finally:
        gc.enable()


async def test_a_block_on_the_turn_keeps_its_tasks(spans: Spans) -> None:
    """A block that the application opens on the request's turn waits for its tasks, also when the turn has ended."""
    done: list[str] = []

    async def child() -> None:
        await anyio.wait_all_tasks_blocked()
        done.append("child")
        raise ValueError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        with pytest.raises(BaseExceptionGroup):
            async with scope["state"]["turn"] as turn:
                turn.start_soon(child)
                await send(START)
                await send(END)
        done.append("block")

    client = _Client("http")
    await SessionMiddleware(app, turn="request")(client.scope, client.receive, client.send)
    assert done == ["child", "block"]


async def test_no_framework_is_imported() -> None:
    """The middleware costs no import of a framework."""
    frameworks = ("starlette", "fastapi", "litestar", "quart", "pydantic", "uvicorn")
    code = f"import sys, genai_async.asgi; print([name for name in {frameworks} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


async def test_without_fastapi() -> None:
    """Without FastAPI the dependency's module says what to install."""
    code = "import sys; sys.modules['fastapi'] = None; import genai_async.fastapi"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ImportError: genai_async.fastapi needs FastAPI: pip install 'genai-async[fastapi]'" in done.stderr
