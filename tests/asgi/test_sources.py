from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest

import genai_async as ga
from genai_async import ConfigurationError
from genai_async.asgi import Baggage, Cookie, Header, Path, Query, SessionMiddleware, Source

from .conftest import Spans

pytestmark = pytest.mark.anyio


def scope(path: str = "/", *headers: tuple[str, str], query: str = "", **more: Any) -> dict[str, Any]:
    """The scope of a request."""
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "path": path, "headers": raw, "query_string": query.encode("latin-1"), **more}


async def session_id(source: str | Source, scope: dict[str, Any], **options: Any) -> tuple[str, list[Any]]:
    """The id that an application sees for a request, and its response's headers."""
    seen: list[str] = []
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["session"].session_id)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})
        await send({"type": "http.response.body"})

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    await SessionMiddleware(app, session_id=source, **options)(scope, receive, send)
    return seen[0], sent[0]["headers"]


async def coroutine(scope: Any) -> str | None:
    """A source that has to wait."""
    return str(scope["path"]).rpartition("/")[2]


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("X-Chat", scope("/", ("x-other", "no"), ("x-chat", "c-1"), ("x-chat", "c-2"))),
        (Header("x-chat"), scope("/", ("x-chat", " c-1\t"))),
        (Cookie("sid"), scope("/", ("cookie", "a=b; xsid=no; sid=c-1; sid=c-2"))),
        (Cookie("sid"), scope("/", ("cookie", "a=b"), ("cookie", 'sid="c-1"'))),
        (Query("chat"), scope(query="a=b&chat=c%2D1&chat=c-2")),
        (Query("the chät"), scope(query="the=1&the+chat=2&the%20ch%C3%A4t=c-1&the+ch%c3%a4t=c-2")),
        (Query("c+"), scope(query="c+=1&xc%2B=2&c%2Bx=3&%63%2b=c-1")),
        (Query("100%"), scope(query="100%25=c-1")),
        (Path("/chats/{chat}"), scope("/chats/c-1")),
        (Path("/chats/{chat}"), scope("/chats/c-1/messages")),
        (Path("/users/*/chats/{chat}/"), scope("/users/7/chats/c-1")),
        (Path("/chats/{chat}"), scope("/api/chats/c-1", root_path="/api")),
        (Path("/chats/chat-{chat}.html"), scope("/chats/chat-c-1.html")),
        (Path("chat"), scope("/", path_params={"chat": "c-1"})),
        (Path("/chats/{id}"), scope("/users/ann/chats/c-1", root_path="/users/ann", path_params={"id": "ann"})),
        (Baggage(), scope("/", ("baggage", "a=b,gen_ai.conversation.id = c%2D1;ttl=3"))),
        (Baggage("chat"), scope("/", ("baggage", "a=b"), ("baggage", "chat=c-1"))),
        (lambda scope: "c-1", scope()),
        (coroutine, scope("/chats/c-1")),
        (lambda scope: Header("x-chat")(scope) or Cookie("sid")(scope), scope("/", ("cookie", "sid=c-1"))),
    ],
)
async def test_source(source: Any, given: dict[str, Any]) -> None:
    """Each source finds the id where it is said to stand."""
    found, _ = await session_id(source, given)
    assert found == "c-1"


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("x-chat", scope()),
        ("x-chat", scope("/", ("x-chat", ""))),
        (Cookie("sid"), scope("/", ("cookie", "xsid=no; sid"))),
        (Query("chat"), {"type": "http", "path": "/", "headers": []}),
        (Query("chat"), scope(query="chat&chat=c-1")),
        (Path("/chats/{chat}"), scope("/chat/c-1")),
        (Path("/chats/{chat}"), scope("/chats/")),
        (Path("chat"), scope("/chat")),
        (Baggage(), scope("/", ("baggage", "a=b"))),
        (lambda scope: None, scope()),
        (lambda scope: "", scope()),
        (Path("/chats/{id}"), scope("/", path_params={"id": "ann"})),
    ],
)
async def test_absent(source: Any, given: dict[str, Any], spans: Spans) -> None:
    """Without an id a fresh one is made, and nothing is counted."""
    found, _ = await session_id(source, given)
    assert len(found) == 36
    assert spans.faults == {}


@pytest.mark.parametrize(
    "value",
    ["x" * 129, "x" * 1_000_000, "a b", "a\x00b", "a\r\nb", "caf\xe9", "\xff\xfe", "<script>", '"', "\\"],
)
async def test_unusable_id_is_replaced_and_counted(value: str, spans: Spans, quiet: Any) -> None:
    """An id that is too long or has unusual characters is replaced by a fresh one, which goes back."""
    quiet()
    found, headers = await session_id("x-chat", scope("/", ("x-chat", value)))
    assert len(found) == 36
    assert headers == [(b"a", b"b"), (b"x-chat", found.encode())]
    assert spans.faults == {"an unusable session id": 1}


@pytest.mark.parametrize("value", ["a" * 128, "19:a@thread.tacv2;messageid=1", "{a}", "a,b"])
async def test_usual_ids_are_taken(value: str, spans: Spans) -> None:
    """128 characters are an id, and so is what others call a conversation."""
    assert (await session_id("x-chat", scope("/", ("x-chat", value))))[0] == value
    assert ga.Session.from_carrier(ga.Session(session_id=value).carrier(baggage=True)).session_id == value
    assert spans.faults == {}


@pytest.mark.parametrize(("source", "header"), [(Cookie("sid"), "cookie"), (Baggage("sid"), "baggage")])
@pytest.mark.parametrize(
    ("lengths", "is_found"), [([70_000], True), ([30_000] * 2, True), ([30_000, 30_000, 5_530], False)]
)
async def test_only_so_much_is_searched(source: Source, header: str, lengths: list[int], is_found: bool) -> None:
    """A header that is too long is left out, and many of them are no longer than one may be."""
    fillers = [(header, "x" * length) for length in lengths]
    found, _ = await session_id(source, scope("/", *fillers, (header, "sid=c-1")))
    assert (found == "c-1") is is_found


async def test_a_long_query_is_searched_at_once() -> None:
    """A parameter behind thousands of others is found, however they are written, and none behind too many."""
    query = "&".join(["c%68ax=1"] * 5_000)
    assert (await session_id(Query("chat"), scope(query=f"{query}&c%68at=c-1")))[0] == "c-1"
    assert (await session_id(Query("chat"), scope(query=f"{query}&{query}&chat=c-1")))[0] != "c-1"


def broken(scope: Any) -> str:
    """A source that fails."""
    raise LookupError("secret")


async def broken_later(scope: Any) -> str:
    """A source that fails after a while."""
    raise LookupError("secret")


@pytest.mark.parametrize("source", [broken, broken_later])
async def test_failing_source_is_counted(source: Any, spans: Spans, quiet: Any) -> None:
    """A function that fails leaves the request alone, with a fresh id."""
    quiet()
    assert len((await session_id(source, scope()))[0]) == 36
    assert spans.faults == {"a session id that could not be found": 1}


class Clause:
    """What is neither true nor false nor awaited, and of no class."""

    def __bool__(self) -> bool:
        raise TypeError("no truth value")

    def __eq__(self, other: object) -> bool:
        raise TypeError("no equality")

    def __len__(self) -> int:
        raise TypeError("no length")


class Unbound:
    """A proxy for something that is not there."""

    @property
    def __class__(self) -> Any:
        raise RuntimeError("working outside of context")


@pytest.mark.parametrize("answer", [7, b"c-1", ["c-1"], 0, False, b"", [], Clause()])
async def test_source_of_another_type(answer: Any, spans: Spans, quiet: Any) -> None:
    """What is no text is no id, whatever it makes of questions; None and the empty text alone are absent ids."""
    quiet()

    async def later(scope: Any) -> Any:
        return answer

    assert len((await session_id(later, scope()))[0]) == 36
    assert spans.faults == {"an unusable session id": 1}
    assert len((await session_id(lambda scope: answer, scope()))[0]) == 36
    assert spans.faults == {"an unusable session id": 2}


async def test_source_that_gives_a_proxy(spans: Spans, quiet: Any) -> None:
    """What cannot even be asked whether it is awaitable is counted, too."""
    quiet()
    assert len((await session_id(lambda scope: Unbound(), scope()))[0]) == 36
    assert spans.faults == {"a session id that could not be found": 1}


async def test_id_of_an_enumeration() -> None:
    """A text of another type is an id as good as any, and goes on as a plain one."""
    found, _ = await session_id(lambda scope: StrEnum("Chats", {"A": "c-1"}).A, scope())
    assert (found, type(found)) == ("c-1", str)


@pytest.mark.parametrize("inner_header", ["x-session-id", "x-chat"])
async def test_middlewares_in_each_other(inner_header: str) -> None:
    """Without an id of its own an inner middleware goes on with the outer one's conversation."""
    seen: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["session"].session_id)
        await inner(scope, receive, send)

    async def innermost(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["state"]["session"].session_id)

    async def nothing(*args: Any) -> None: ...

    inner = SessionMiddleware(innermost, session_id=inner_header)
    await SessionMiddleware(app)(scope(), nothing, nothing)
    await SessionMiddleware(app)(scope("/", (inner_header, "c-1")), nothing, nothing)
    assert seen[0] == seen[1]
    assert seen[3] == "c-1"


@pytest.mark.parametrize(
    ("source", "options", "name"),
    [
        ("X-Chat", {}, b"x-chat"),
        (Cookie("sid"), {}, b"x-session-id"),
        ("x-chat", {"response_header": "X-Other"}, b"x-other"),
        ("x-chat", {"response_header": ""}, None),
        ("a", {}, None),
    ],
)
async def test_response_header(source: Any, options: dict[str, Any], name: bytes | None) -> None:
    """The id goes back in the header that it came in, in another, or in none; the application's own header wins."""
    found, headers = await session_id(source, scope(), **options)
    assert headers == [(b"a", b"b"), *([(name, found.encode())] if name else [])]


@pytest.mark.parametrize(
    "options",
    [
        {"session_id": 7},
        {"session_id": "a b"},
        {"session_id": "caf\xe9"},
        {"turn": "always"},
        {"turn": ["request", "always"]},
        {"exclude": ["health"]},
        {"exclude": [7]},
        {"response_header": "a\r\nb"},
        {"agentname": "bot"},
    ],
)
async def test_wrong_options(options: dict[str, Any]) -> None:
    """An option that cannot work is told of where it is given."""
    with pytest.raises(ConfigurationError):
        SessionMiddleware(broken_later, **options)


@pytest.mark.parametrize("make", [lambda: Path("/chats"), lambda: Path("/{a}/{b}"), lambda: Cookie("a;b")])
async def test_wrong_sources(make: Any) -> None:
    """A source that could never find anything is told of, too."""
    with pytest.raises(ConfigurationError):
        make()


async def test_repr() -> None:
    """Sources show what they look for."""
    assert repr(Path("/{a}")) == "Path('/{a}')"
    assert repr(Baggage("chat")) == "Baggage(key='chat')"
