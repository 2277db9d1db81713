from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import json
import tracemalloc
import weakref
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Annotated, Any, Generic, Optional, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

import genai_async as ga
from genai_async.testing import assert_tree, capture

pytestmark = pytest.mark.anyio

ARGUMENTS = "gen_ai.tool.call.arguments"
RESULT = "gen_ai.tool.call.result"


def contents(span: Any, key: str) -> list[str]:
    """The texts of a span's messages."""
    return [part["content"] for message in json.loads(span.attributes[key]) for part in message["parts"]]


class Desk:
    """Methods of every kind."""

    @ga.tool
    async def track(self, id: int, *rest: int, deep: bool = False, **more: str) -> str:  # noqa: A002
        """Find a parcel.

        Anywhere.
        """
        return f"Osaka {id}"

    @classmethod
    @ga.tool
    def count(cls, kind: str) -> int:
        return len(kind)


async def test_tool_of_a_coroutine_function() -> None:
    """Arguments are recorded by name without self, with the result, the name and the docstring's first line."""
    with capture() as captured, ga.Session() as session, session.start_turn(agent_name="bot"):
        assert await Desk().track(7, 8, 9, deep=True, where="sea") == "Osaka 7"
        assert Desk.count("abc") == 3
    assert_tree(captured, "invoke_agent bot\n  execute_tool track\n  execute_tool count")
    track, count = captured.one("execute_tool track"), captured.one("execute_tool count")
    assert json.loads(track.attributes[ARGUMENTS]) == {"id": 7, "rest": [8, 9], "deep": True, "where": "sea"}
    assert track.attributes[RESULT] == '"Osaka 7"'
    assert track.attributes["gen_ai.tool.description"] == "Find a parcel."
    assert track.attributes["gen_ai.tool.type"] == "function"
    assert (count.attributes[ARGUMENTS], count.attributes[RESULT]) == ('{"kind":"abc"}', "3")


async def test_tool_with_options() -> None:
    """Options name the tool, describe it and hide parameters."""

    @ga.tool(name="find", description="Finds.", tool_type="datastore", hide=["key"], attributes={"own": 1})
    def search(query: str, key: str) -> None: ...

    with capture() as captured, ga.Session():
        search("a", key="secret")
    attributes = captured.one("execute_tool find").attributes
    assert attributes[ARGUMENTS] == '{"query":"a"}'
    assert attributes["gen_ai.tool.description"] == "Finds."
    assert (attributes["gen_ai.tool.type"], attributes["own"]) == ("datastore", 1)
    assert attributes[RESULT] == "null"


async def test_errors_pass_and_are_recorded() -> None:
    """What a function raises, also for a call that does not fit it, goes on and fails the span."""
    with capture() as captured, ga.Session():
        with pytest.raises(TypeError):
            await Desk().track()  # type: ignore[call-arg]
    assert captured.one("execute_tool track").attributes["error.type"] == "TypeError"


async def test_a_plain_function_that_raises_ends_its_span() -> None:
    """The exception of a plain function fails its span at once, and what was current before is so again."""

    @ga.tool
    def fail() -> None:
        assert ga.start_tool("inner").end() is None
        raise LookupError("no parcel")

    with capture() as captured, ga.Session(), ga.start_turn(agent_name="bot"):
        with pytest.raises(LookupError, match="no parcel"):
            fail()
        assert captured.open == ["invoke_agent bot"]
        ga.start_tool("after").end()
    tree = "invoke_agent bot\n  execute_tool fail ! LookupError\n    execute_tool inner\n  execute_tool after"
    assert_tree(captured, tree)
    (event,) = captured.one("execute_tool fail").events
    assert event.attributes["exception.message"] == "no parcel"


async def test_a_generator_that_fails_while_it_is_closed() -> None:
    """What a body raises when it is closed goes on and fails the span, which ends."""

    @ga.tool
    async def ask() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            raise LookupError("no more")

    with capture() as captured, ga.Session():
        body = ask()
        await anext(body)
        with pytest.raises(LookupError, match="no more"):
            await body.aclose()  # type: ignore[attr-defined]
    assert captured.open == []
    span = captured.one("execute_tool ask")
    assert (span.status, span.attributes["error.type"], span.attributes[RESULT]) == ("ERROR", "LookupError", "[1]")


async def test_content_that_is_not_captured() -> None:
    """With capture off neither arguments nor results nor messages are recorded."""

    @ga.turn
    async def answer(question: str) -> AsyncIterator[str]:
        yield await Desk().track(7)

    with capture(capture_content=False) as captured:
        assert [piece async for piece in answer("secret")] == ["Osaka 7"]
    assert "secret" not in repr(captured.spans)
    assert "Osaka" not in repr(captured.spans)


async def test_turn_is_current_and_starts_a_conversation_outside_of_any() -> None:
    """A turn's body finds it; each call outside of a session is a conversation of its own."""

    @ga.turn
    async def answer(question: str) -> str:
        turn = ga.current_turn()
        assert turn is not None
        turn.start_soon(Desk().track, 7)
        return "Here."

    with capture() as captured:
        await answer("Where?")
        await answer("Where?")
    first, second = [span for span in captured.spans if span.name == "invoke_agent answer"]
    assert first.attributes["gen_ai.conversation.id"] != second.attributes["gen_ai.conversation.id"]
    assert contents(first, "gen_ai.input.messages") == ["Where?"]
    assert contents(first, "gen_ai.output.messages") == ["Here."]
    assert captured.faults == {}


async def test_turn_in_a_session() -> None:
    """In a session a turn is the session's, under its agent's name; one parameter is what the user says."""

    @ga.turn(message="question")
    def answer(history: list[str], question: str) -> ga.Message:
        return ga.Message.assistant("Here.")

    with capture() as captured, ga.Session(session_id="c", agent_name="bot"):
        answer([], question="Where?")
    (turn,) = captured.spans
    assert (turn.name, turn.attributes["gen_ai.conversation.id"]) == ("invoke_agent bot", "c")
    assert contents(turn, "gen_ai.input.messages") == ["Where?"]
    assert contents(turn, "gen_ai.output.messages") == ["Here."]


async def test_subagent_with_several_arguments() -> None:
    """Several arguments are the JSON of one message, and so is a result that is no text; messages stay."""

    @ga.subagent(name="scout", model="m")
    def scout(topic: str, depth: int = 2) -> Any:
        return {"found": depth} if topic == "a" else [{"role": "assistant", "content": "b"}]

    with capture() as captured, ga.Session():
        scout("a", depth=3)
        scout("b", 1)
    first, second = captured.spans
    assert contents(first, "gen_ai.input.messages") == ['{"topic":"a","depth":3}']
    assert contents(first, "gen_ai.output.messages") == ['{"found":3}']
    assert contents(second, "gen_ai.output.messages") == ["b"]
    assert first.attributes["gen_ai.request.model"] == "m"


async def test_generators_do_not_see_each_other() -> None:
    """Interleaved generators keep their spans to themselves, and the consumer sees none of them."""

    @ga.subagent
    async def think(topic: str) -> AsyncIterator[str]:
        with ga.start_tool(f"look {topic}"):
            yield topic
        yield "!"

    with capture() as captured, ga.Session(), ga.start_turn(agent_name="bot") as turn:
        one, two = think("a"), think("b")
        pieces = [await anext(one), await anext(two)]
        with ga.start_tool("own"):
            assert ga.current_turn() is turn
        pieces += [piece async for piece in one]
        pieces += [piece async for piece in two]
    assert pieces == ["a", "b", "!", "!"]
    tree = "invoke_agent bot\n  invoke_agent think\n    execute_tool look {}\n"
    assert "execute_tool own" in str(captured)
    for topic in "ab":
        look = captured.one(f"execute_tool look {topic}")
        (above,) = [span for span in captured.spans if span.span_id == look.parent_span_id]
        assert above.name == "invoke_agent think", tree
        assert contents(above, "gen_ai.output.messages") == [f"{topic}!"]


_database: ContextVar[str] = ContextVar("database")


async def test_a_generator_shares_its_consumers_context_variables() -> None:
    """A decorator looks on: what others keep in context variables goes in and out of a generator as without it."""

    @ga.tool
    async def rows() -> AsyncIterator[str]:
        yield _database.get()
        _database.set("inner")
        yield "last"

    stream = rows()
    _database.set("outer")
    assert [row async for row in stream] == ["outer", "last"]
    assert _database.get() == "inner"


async def test_generator_that_is_closed_or_fails_or_is_sent_to() -> None:
    """Closing abandons, an error fails, and what is sent or thrown in reaches the body."""
    seen: list[Any] = []

    @ga.tool
    async def ask(kind: str) -> AsyncIterator[int]:
        try:
            seen.append((yield 1))
        except KeyError:
            yield 2
        if kind == "fail":
            raise LookupError

    with capture() as captured, ga.Session():
        never, closed, failed, sent = ask("never"), ask("close"), ask("fail"), ask("send")
        await never.aclose()  # type: ignore[attr-defined]
        await anext(closed)
        await closed.aclose()  # type: ignore[attr-defined]
        with pytest.raises(LookupError):
            [number async for number in failed]
        await anext(sent)
        assert await sent.athrow(KeyError()) == 2  # type: ignore[attr-defined]
        with pytest.raises(StopAsyncIteration):
            await sent.asend("x")  # type: ignore[attr-defined]
    assert [span.attributes.get("error.type") for span in captured.spans] == ["abandoned", "LookupError", None]
    assert captured.spans[2].attributes[RESULT] == "[1,2]"
    assert seen == [None]


async def test_signature_is_kept() -> None:
    """A decorated function is one of its kind, with its name, docstring and signature."""
    assert inspect.iscoroutinefunction(Desk.track)
    assert Desk.track.__name__ == "track"
    assert list(inspect.signature(Desk.track).parameters) == ["self", "id", "rest", "deep", "more"]


async def test_without_a_set_up() -> None:
    """Where nothing is set up a function does what it does."""

    @ga.turn
    async def answer(question: str) -> str:
        assert ga.current_turn() is not None
        return question

    assert await answer("Where?") == "Where?"
    assert await Desk().track(7) == "Osaka 7"


@pytest.mark.parametrize("wrong", [staticmethod(len), classmethod(len), Desk, lambda: (yield)])
async def test_what_cannot_be_decorated(wrong: Any) -> None:
    """Generators, classes and method descriptors are refused where they are decorated."""
    with pytest.raises(TypeError):
        ga.tool(wrong)


async def test_message_that_is_no_parameter() -> None:
    """A wrong name for the message is told of at once."""
    with pytest.raises(TypeError, match="has no parameter 'question'"):
        ga.turn(message="question")(lambda text: text)


async def test_a_function_that_does_not_say_what_it_takes() -> None:
    """Some of Python's own have no signature to name arguments by."""
    with pytest.raises(TypeError, match="wrap it"):
        ga.tool(max)


async def test_what_is_to_be_hidden_is_there() -> None:
    """A wrong name to hide is told of at once: all would be recorded. Among `**options` there may be any."""
    with pytest.raises(TypeError, match="has no parameter 'api_kye' to hide"):
        ga.tool(hide=["api_kye"])(lambda query, api_key: query)
    ga.tool(hide=["api_key"])(lambda query, **options: query)("x", api_key="y")
    with pytest.raises(TypeError, match="name='search'"):
        ga.tool("search")  # type: ignore[call-overload]


async def test_a_plain_function_that_gives_an_awaitable_is_awaited_in_its_span() -> None:
    """The span of a plain function that returns a coroutine or future ends with that, and holds what it gives."""

    @ga.tool
    def later(value: str) -> Any:
        async def work() -> str:
            await anyio.lowlevel.checkpoint()
            ga.start_tool("inner").end()
            return value * 2

        return work()

    @ga.tool
    def fails() -> Any:
        async def work() -> None:
            raise ValueError("later")

        return work()

    with capture() as captured, ga.Session():
        assert await later("ab") == "abab"
        with pytest.raises(ValueError, match="later"):
            await fails()
        assert ga.current_turn() is None
    assert_tree(captured, "execute_tool later\n  execute_tool inner\nexecute_tool fails ! ValueError")
    span = captured.one("execute_tool later")
    assert (span.attributes[ARGUMENTS], span.attributes[RESULT]) == ('{"value":"ab"}', '"abab"')
    assert captured.one("execute_tool fails").attributes["error.type"] == "ValueError"


async def test_what_a_generator_yields_is_held_as_far_as_it_is_recorded() -> None:
    """An item itself is its consumer's; what is kept of all of them is no more than an attribute holds."""

    class Frame:
        def __init__(self, number: int) -> None:
            self.number = number

        def __str__(self) -> str:
            return f"frame {self.number}"

    alive: list[weakref.ref[Frame]] = []

    @ga.tool
    async def frames() -> AsyncIterator[Frame]:
        for number in range(3):
            frame = Frame(number)
            alive.append(weakref.ref(frame))
            yield frame
            del frame
            assert len([found() for found in alive if found()]) <= 1  # the step that is on its way

    @ga.tool
    async def numbers() -> AsyncIterator[Any]:
        given: dict[str, Any] = {"n": 0}
        for value in (1, 2**70, "\ud800", {(1, 2): 3}, None, 0.5, b"bytes"):
            given["n"] = value
            yield given

    @ga.tool
    async def texts(size: int) -> AsyncIterator[str]:
        for _ in range(10):
            yield "x" * size

    with capture() as captured, ga.Session(), ga.start_turn():
        async for _ in frames():
            del _
        [item async for item in numbers()]
        assert sum([len(text) async for text in texts(1)]) == 10
        tracemalloc.start()
        try:
            async for text in texts(2**20):
                del text
                held, _ = tracemalloc.get_traced_memory()
                assert held < 4 * 2**20
        finally:
            tracemalloc.stop()
    assert captured.one("execute_tool frames").attributes[RESULT] == '["frame 0","frame 1","frame 2"]'
    said = json.loads(captured.one("execute_tool numbers").attributes[RESULT])
    assert [item["n"] for item in said] == [1, 2**70, "\ufffd", {"(1, 2)": 3}, None, 0.5, "Ynl0ZXM="]
    short, long = [span.attributes[RESULT] for span in captured.spans if span.name == "execute_tool texts"]
    assert short == '"xxxxxxxxxx"'
    assert len(long) <= 2**21
    assert dict(captured.faults) == {"what a decorated function is given or gives": 7}


async def test_a_plain_function_that_gives_an_async_generator_is_stepped_in_its_span() -> None:
    """What a plain function's async generator yields is recorded, in a span that ends with it."""

    @ga.tool
    def count(upto: int) -> AsyncIterator[int]:
        async def work() -> AsyncIterator[int]:
            for number in range(upto):
                ga.start_tool("inner").end()
                yield number

        return work()

    with capture() as captured, ga.Session():
        assert [number async for number in count(2)] == [0, 1]
    assert_tree(captured, "execute_tool count\n  execute_tool inner\n  execute_tool inner")
    assert captured.one("execute_tool count").attributes[RESULT] == "[0,1]"


class Waiting:
    """An awaitable that is something else besides."""

    def __await__(self) -> Any:
        return (yield from anyio.lowlevel.checkpoint().__await__())


async def test_what_a_plain_function_gives_stays_what_it_is() -> None:
    """A future is given back as itself, and the span ends with it; of other awaitables no text is recorded."""

    @ga.tool
    def submit(fate: str) -> Future[str]:
        return futures[fate]

    @ga.tool
    def waiting() -> Waiting:
        return thing

    @ga.tool
    def odd() -> Any:
        return mute

    class Mute:
        def add_done_callback(self) -> None: ...

    futures: dict[str, Future[str]] = {fate: Future() for fate in ("done", "failed", "cancelled")}
    thing, mute = Waiting(), Mute()
    with capture() as captured, ga.Session():
        for fate, future in futures.items():
            assert submit(fate) is future
        assert len(captured.spans) == 0
        futures["done"].set_result("a")
        futures["failed"].set_exception(ValueError("b"))
        assert futures["cancelled"].cancel()
        assert waiting() is thing
        assert odd() is mute
    done, failed, cancelled, other, last = captured.spans
    assert done.attributes[RESULT] == '"a"'
    assert failed.attributes["error.type"] == "ValueError"
    assert cancelled.attributes["error.type"] == "concurrent.futures._base.CancelledError"
    assert RESULT not in {*other.attributes, *last.attributes}


class Proxy:
    """Stands for something that is not there, and says so whatever it is asked for."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of context")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError("working outside of context")


class Server:
    """Has every method that it is asked for."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self.called.append(name)


async def test_what_is_given_and_returned_is_not_run() -> None:
    """Objects that answer to any name, or fail at it, come through as they are, and their spans end."""

    @ga.tool
    def plain(value: Any) -> Any:
        return value

    @ga.tool
    async def coroutine(value: Any) -> Any:
        return value

    @ga.turn
    async def turn(value: Any) -> Any:
        return value

    @ga.subagent
    async def agent(value: Any) -> AsyncIterator[Any]:
        yield value

    proxy, server = Proxy(), Server()
    with capture() as captured, ga.Session():
        for thing in (proxy, server):
            assert plain(thing) is thing
            assert await coroutine(thing) is thing
            assert await turn(thing) is thing
            assert [item is thing async for item in agent(thing)] == [True]
    assert captured.open == []
    assert len(captured.spans) == 8
    assert server.called == []
    assert "error.type" not in str(captured.spans)


async def test_what_fails_while_it_is_recorded_is_counted() -> None:
    """A value that cannot be looked at is lost to the span, which ends, and to nobody else."""

    class Items(list[int]):
        def __bool__(self) -> bool:
            raise LookupError("no truth")

    @ga.turn
    def turn(value: list[int]) -> list[int]:
        return value

    items = Items()
    with capture() as captured:
        assert turn(items) is items
    assert captured.open == []
    assert captured.faults == {"what a decorated function is given or gives": 2}


async def test_future_whose_error_nobody_sees_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """asyncio's report of an exception that was never retrieved is not lost."""

    async def fail() -> None:
        raise LookupError("x")

    @ga.tool
    def start() -> Any:
        return asyncio.ensure_future(fail())

    async def main() -> None:
        with ga.Session():
            start()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    with capture() as captured, caplog.at_level("ERROR", "asyncio"):
        await anyio.to_thread.run_sync(asyncio.run, main())
        gc.collect()
    assert captured.one("execute_tool start").attributes["error.type"] == "LookupError"
    assert ["Task exception was never retrieved" in record.message for record in caplog.records] == [True]


class Quiet:
    """Methods whose first parameter has another name."""

    def __repr__(self) -> str:
        return "Quiet(password=hunter2)"

    @ga.tool
    async def ask(this, what: str) -> str:
        return what

    @ga.tool
    def tell(me, what: str) -> str:
        return what

    @ga.subagent
    async def stream(it, what: str) -> AsyncIterator[str]:
        yield what

    @classmethod
    @ga.tool
    def of(kind, what: str) -> str:
        return what

    @staticmethod
    @ga.tool
    def free(what: str) -> str:
        return what


async def test_the_object_of_a_method_is_never_an_argument() -> None:
    """Whatever a method calls its object, that is no argument; also where it is called through its class."""
    quiet = Quiet()

    @ga.tool
    def later(this: Any, what: str) -> str:
        return what

    with capture() as captured, ga.Session():
        assert await quiet.ask("a") == quiet.tell("a") == Quiet.of("a") == quiet.free("a") == "a"
        assert await Quiet.ask(quiet, what="a") == Quiet.tell(quiet, "a") == "a"
        assert [piece async for piece in quiet.stream("a")] == ["a"]
        assert later(1, "a") == "a"
    found = [span.attributes[ARGUMENTS] for span in captured.spans if ARGUMENTS in span.attributes]
    assert found == ['{"what":"a"}'] * 6 + ['{"this":1,"what":"a"}']
    assert contents(captured.one("invoke_agent stream"), "gen_ai.input.messages") == ["a"]
    assert "hunter2" not in repr(captured.spans)


class Node:
    """Something with a method that takes another of its kind."""

    def __repr__(self) -> str:
        return "a node"

    def merge(self, other: Any) -> None: ...


async def test_the_first_argument_of_a_bound_method_is_one() -> None:
    """A method that is decorated when it is bound has its object already, whatever it is given."""

    @functools.wraps(Node().merge)
    def wrapped(*args: Any) -> None: ...

    with capture() as captured, ga.Session():
        for method in (Node().merge, wrapped):
            ga.tool(method)("a")
            ga.tool(method)(Node())
    found = [json.loads(span.attributes[ARGUMENTS])["other"] for span in captured.spans]
    assert found == ["a", "a node"] * 2


async def test_keywords_without_a_parameter() -> None:
    """They are recorded by name, apart where a positional parameter has the name, and hidden under either name."""

    @ga.tool(hide=["options", "key"])
    def search(query: str, **options: str) -> None: ...

    @ga.tool(hide=["key"])
    def look(a: int, /, *rest: int, **others: Any) -> None: ...

    with capture() as captured, ga.Session():
        search("x", token="secret")
        look(1, b=2, key="secret")
        look(1, a=2, b=3, others=4, key="secret")
        look(1, 2, rest=3)
    found = [json.loads(span.attributes[ARGUMENTS]) for span in captured.spans]
    assert found == [
        {"query": "x"},
        {"a": 1, "b": 2},
        {"a": 1, "others": {"a": 2, "b": 3, "others": 4}},
        {"a": 1, "rest": [2], "others": {"rest": 3}},
    ]


async def test_tool_of_a_partial() -> None:
    """A function with some arguments filled in keeps its name and what it says of itself."""

    def search(where: str, what: str) -> str:
        """Find something."""
        return where + what

    with capture() as captured, ga.Session():
        assert ga.tool(functools.partial(search, "a"))("b") == "ab"
    attributes = captured.one("execute_tool search").attributes
    assert attributes["gen_ai.tool.description"] == "Find something."
    assert json.loads(attributes[ARGUMENTS]) == {"what": "b"}


_T = TypeVar("_T")


class RunContext(Generic[_T]):
    """What frameworks give to tools, with all that the program has."""

    key = "s3cret"

    def __repr__(self) -> str:
        return self.key


class Mine(RunContext[int]):
    """A program's own kind of it."""


class Context:
    """As MCP's servers have it."""

    __module__ = "mcp.server.fastmcp.server"


class GoogleContext:
    """As Google's ADK has it: its `ToolContext` is this."""

    __module__ = "google.adk.agents.context"
    __qualname__ = "Context"


class Runtime:
    """A program's own class of a name that a framework uses."""


class ToolContext(Runtime):
    """Another one."""


class Ours(Context):
    """A program's own kind of a framework's class of such a name."""


class Other:
    """A class whose name says nothing, until its module does."""

    class Context:
        """One that is no framework's."""


Alias = RunContext[str]


def _of(annotation: Any) -> Any:
    def look(q: str, ctx: Any, *, more: Any = None) -> None: ...

    look.__annotations__ |= {"ctx": annotation, "more": annotation}
    return look


@pytest.mark.parametrize(
    "annotation",
    [
        RunContext,
        RunContext[int],
        RunContext[int] | None,
        None | RunContext[int],
        Optional[RunContext[int]],  # noqa: UP045 - as people write it
        Optional["RunContext[int]"],
        Annotated[RunContext[int], "why"],
        Mine,
        Alias,
        Context,
        GoogleContext,
        Ours,
        "Ours",
        "RunContext",
        "RunContext[int]",
        "frameworks.RunContextWrapper[Deps] | None",
        "None | tools.ToolContext",
        "Optional[ToolRuntime]",
        "typing.Annotated[RunnableConfig, 1]",
        "runtime.Runtime[Deps]",
        "langgraph.runtime.Runtime[Deps]",
        "Mine",
        "Alias",
        "Context | None",
        "mcp.Context",
        "fastmcp.server.Context",
    ],
)
async def test_a_frameworks_context_is_no_argument(annotation: Any) -> None:
    """A parameter for what a framework gives to tools is left out, however its annotation is written."""
    with capture() as captured, ga.Session():
        ga.tool(_of(annotation))("x", RunContext(), more=RunContext())
        ga.subagent(_of(annotation))("x", ctx=RunContext())
    tool, agent = captured.spans
    assert tool.attributes[ARGUMENTS] == '{"q":"x"}'
    assert contents(agent, "gen_ai.input.messages") == ["x"]


@pytest.mark.parametrize(
    "annotation",
    [
        str,
        list[int],
        Any,
        Other,
        Other.Context,
        "Other.Context",
        Runtime,
        ToolContext | None,
        "Runtime",
        "None | ToolContext",
        "list[RunContexts]",
        "Missing",
        "",
        5,
        Proxy,
        Annotated[int, RunContext],
    ],
)
async def test_other_annotations_hide_nothing(annotation: Any) -> None:
    """What is no framework's context is an argument, whatever stands there as an annotation."""
    with capture() as captured, ga.Session():
        ga.tool(_of(Proxy() if annotation is Proxy else annotation))("x", 1)
    assert captured.spans[0].attributes[ARGUMENTS] == '{"q":"x","ctx":1}'


class Interrupt(Exception):
    """Asks a person, and goes on later."""


class Nested(Interrupt):
    """A kind of it."""


async def test_exceptions_that_steer_are_no_errors() -> None:
    """What is named in `not_errors` passes and ends the span without an error, in functions of every kind."""

    async def work(kind: type[Exception]) -> None:
        await anyio.lowlevel.checkpoint()
        raise kind

    @ga.tool(not_errors=(KeyError, Interrupt))
    async def coroutine(kind: type[Exception]) -> None:
        await work(kind)

    @ga.tool(not_errors=(Interrupt,))
    def plain(kind: type[Exception]) -> None:
        raise kind

    @ga.tool(not_errors=(Interrupt,))
    def awaited(kind: type[Exception]) -> Any:
        return work(kind)

    @ga.subagent(not_errors=(Interrupt,))
    async def generator(kind: type[Exception]) -> AsyncIterator[int]:
        yield 1
        raise kind

    @ga.turn(not_errors=(Interrupt,))
    async def turn(kind: type[Exception]) -> None:
        await work(kind)

    async def run(func: Any, kind: type[Exception]) -> None:
        if func is plain:
            func(kind)
        elif func is generator:
            [piece async for piece in func(kind)]
        else:
            await func(kind)

    for func in (coroutine, plain, awaited, generator, turn):
        with capture() as captured, ga.Session():
            for kind in (Interrupt, Nested, LookupError):
                with pytest.raises(kind):
                    await run(func, kind)
        assert [(span.status, span.attributes.get("error.type"), len(span.events)) for span in captured.spans] == [
            ("UNSET", None, 0),
            ("UNSET", None, 0),
            ("ERROR", "LookupError", 1),
        ], func
        assert captured.faults == {}


async def test_a_turn_with_tasks_is_steered_too() -> None:
    """Of a turn that has tasks the exception comes out in a group, and is the one that it holds."""

    @ga.turn(not_errors=(Interrupt,))
    async def turn() -> None:
        current = ga.current_turn()
        assert current is not None
        current.start_soon(anyio.sleep_forever)
        await anyio.lowlevel.checkpoint()
        raise Interrupt

    with capture() as captured:
        with pytest.raises(ExceptionGroup):
            await turn()
    assert (captured.spans[0].status, captured.open) == ("UNSET", [])


async def test_futures_end_as_their_functions_say() -> None:
    """The exception of a future is told apart as that of a call."""
    future: Future[str] = Future()

    @ga.tool(not_errors=(Interrupt,))
    def submit() -> Future[str]:
        return future

    with capture() as captured, ga.Session():
        submit()
        future.set_exception(Interrupt())
    assert "error.type" not in captured.spans[0].attributes


@pytest.mark.parametrize("wrong", [Interrupt, [Interrupt], ("Interrupt",), (Interrupt(),), (int,), None])
@pytest.mark.parametrize("decorate", [ga.tool, ga.subagent, ga.turn])
async def test_not_errors_are_classes(wrong: Any, decorate: Any) -> None:
    """Anything but a tuple of exception classes is refused where the function is decorated."""
    with pytest.raises(TypeError, match="not_errors"):
        decorate(not_errors=wrong)(lambda: None)


async def test_without_a_set_up_exceptions_that_steer_pass() -> None:
    """Where nothing is set up the option costs nothing."""

    @ga.tool(not_errors=(Interrupt,))
    def ask() -> None:
        raise Interrupt

    with pytest.raises(Interrupt):
        ask()
