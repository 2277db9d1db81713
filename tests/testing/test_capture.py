from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

import genai_async as ga
from genai_async import testing
from genai_async.testing import Capture, ManualClock, SequentialIds, SpanRecord, capture, spans

__all__ = ["spans"]

pytestmark = pytest.mark.anyio


async def visit(name: str = "", *, parent: dict[str, str] | None = None, **options: Any) -> None:
    session = ga.Session(agent_name=f"bot{name}", continue_trace=parent is not None, **options)
    async with session, session.start_turn("Where is it?", parent=parent) as turn:
        async with turn.start_llm("m", provider_name="demo") as llm:
            llm.record(usage=ga.Usage(input_tokens=3, output_tokens=0))
        with pytest.raises(KeyError):
            async with turn.start_tool("track"):
                raise KeyError("parcel")


TREE = """\
invoke_agent bot
├─ chat m
└─ execute_tool track ! KeyError"""


async def test_captures_a_tree() -> None:
    """What was traced reads as a tree of names and errors, on every event loop."""
    async with capture() as captured:
        await visit()
    assert str(captured) == TREE
    assert captured.open == []


async def test_is_the_same_in_every_run() -> None:
    """Ids, times and the snapshot do not differ between two runs of the same code."""
    runs: list[Capture] = []
    for _ in range(2):
        with capture() as captured:
            await visit()
        runs.append(captured)
    first, second = runs
    assert first.snapshot() == second.snapshot()
    assert [(s.trace_id, s.span_id, s.start_ns, s.end_ns) for s in first.spans] == [
        (s.trace_id, s.span_id, s.start_ns, s.end_ns) for s in second.spans
    ]
    assert first.spans[0].span_id == f"{1:016x}"


async def test_a_snapshot_has_no_measured_times_and_no_addresses() -> None:
    """What a stream's first chunk took, and where an object stood in memory, is no part of a snapshot."""
    found = []
    for _ in range(2):
        thing, error = object(), KeyError(object())
        with capture() as captured, ga.Session() as session, session.start_turn("?") as turn:
            async with turn.start_llm("m", provider_name="p") as llm:
                assert [chunk async for chunk in llm.stream(_chunks())] == ["a"]
            with pytest.raises(KeyError), turn.start_tool("t", arguments={"thing": thing}) as tool:
                tool.set_attributes({"things": [str(thing)]})
                raise error
        assert "gen_ai.response.time_to_first_chunk" in captured.one("chat m").attributes
        found.append((captured.snapshot(), thing, error))
    assert found[0][0] == found[1][0]
    (tree,) = found[0][0]
    assert tree["children"][1]["attributes"]["things"] == ["<object object at 0x...>"]


async def _chunks() -> AsyncIterator[str]:
    yield "a"


async def test_a_snapshot_is_plain_and_whole() -> None:
    """A snapshot holds names, kinds, statuses, attributes, events and children, and nothing that is empty."""
    with capture(capture_content=False) as captured:
        await visit()
    common = {"gen_ai.conversation.id": "conversation-1", "gen_ai.agent.name": "bot"}
    (turn,) = captured.snapshot()
    _, tool = turn.pop("children")
    assert turn == {
        "name": "invoke_agent bot",
        "kind": "INTERNAL",
        "attributes": {
            **common,
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.usage.input_tokens": 3,
            "gen_ai.usage.output_tokens": 0,
        },
    }
    assert tool["attributes"]["error.type"] == "KeyError"
    assert tool["status"].startswith("ERROR")
    assert all("exception.stacktrace" not in event["attributes"] for event in tool.get("events", []))


async def test_keeps_given_conversation_ids() -> None:
    """An id that the program chose stands in the snapshot, made-up ones are numbered."""
    with capture() as captured:
        await visit("a", session_id="mine")
        await visit("b")
        await visit("c")
    ids = [tree["attributes"]["gen_ai.conversation.id"] for tree in captured.snapshot()]
    assert ids == ["mine", "conversation-1", "conversation-2"]


async def test_tells_what_has_not_ended() -> None:
    """Spans that are still open are named, and counted among the spans once they end."""
    with capture() as captured, ga.Session() as session:
        turn = session.start_turn("?")
        assert (captured.open, captured.spans) == (["invoke_agent"], [])
        turn.end()
        assert captured.open == []
        assert captured.one("invoke_agent").parent_span_id is None


async def test_finds_the_only_span_of_a_name() -> None:
    """Asking for one span where there is none shows what there is."""
    with capture() as captured:
        await visit()
        assert captured.one("chat m").kind == "CLIENT"
        with pytest.raises(AssertionError, match=r"0 spans are called 'chat n'; the spans were:\ninvoke_agent bot"):
            captured.one("chat n")
        captured.clear()
        assert captured.spans == []


async def test_uses_the_clock_it_is_given() -> None:
    """With a manual clock a span takes as long as the test says."""
    clock = ManualClock(5)
    with capture(clock=clock) as captured, ga.Session() as session, session.start_turn("?"):
        clock.advance(1.5)
    (span,) = captured.spans
    assert (span.start_ns, span.duration) == (5, 1.5)


async def test_shows_real_times_when_asked() -> None:
    """What is recorded after the fact keeps the times it was given."""
    with capture(real_time=True) as captured, ga.Session() as session:
        session.start_turn("?", start_time=1_000).end(end_time=3_000)
    (span,) = captured.spans
    assert (span.start_ns, span.end_ns) == (1_000, 3_000)


async def test_keeps_concurrent_conversations_apart() -> None:
    """Many conversations at once are all captured, each in its own."""
    with capture() as captured:
        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(visit, str(number))
    testing.assert_isolated(captured, conversations=20)
    testing.assert_ended(captured)
    assert len(captured.spans) == 60


async def test_starts_no_thread() -> None:
    """Capturing happens in the caller's threads alone."""
    before = threading.active_count()
    with capture():
        assert threading.active_count() == before


async def test_sees_other_instrumentations() -> None:
    """Spans made with OpenTelemetry's own API inside a turn are captured under it, with its conversation id."""
    captured = capture()
    tracer = captured.provider.get_tracer("other")
    with captured, ga.Session(session_id="s") as session, session.start_turn("?"), tracer.start_as_current_span("GET"):
        span = trace.get_current_span()
        span.add_event("sent", {"n": (1, 2)})
        span.set_attribute("hosts", ("a", "b"))
    found = captured.one("GET")
    assert (found.scope, found.attributes) == ("other", {"hosts": ["a", "b"], "gen_ai.conversation.id": "s"})
    assert found.events[0].attributes == {"n": [1, 2]}
    assert str(captured) == "invoke_agent\n└─ GET"


async def test_counts_what_could_not_be_recorded() -> None:
    """Wrong values are counted where tests can see them."""
    captured = capture()
    assert captured.faults == {}
    with captured, ga.Session() as session, session.start_turn("?") as turn:
        turn.record(temperature="hot")  # type: ignore[arg-type]
    assert sum(captured.faults.values()) == 1


async def test_leaves_nothing_behind() -> None:
    """After the block nothing is traced any more, also if the block failed."""
    with pytest.raises(ZeroDivisionError):
        async with capture() as captured:
            raise ZeroDivisionError
    await visit()
    captured.__exit__(None, None, None)
    assert captured.spans == []


async def test_links_are_plain_values() -> None:
    """A turn inside another span has a link to it, as hex ids."""
    with capture() as captured, captured.provider.get_tracer("other").start_as_current_span("request") as request:
        await visit()
    (link,) = captured.one("invoke_agent bot").links
    assert link.span_id == f"{request.get_span_context().span_id:016x}"
    assert link.trace_id == captured.one("request").trace_id


@pytest.mark.parametrize("parent", [None, {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}])
async def test_wire_and_memory_agree(parent: dict[str, str] | None) -> None:
    """A span looks the same whether it was captured or received, but for its times."""
    collector = testing.Collector()
    async with collector, ga.tracing(endpoint=collector.endpoint, id_generator=SequentialIds(), resource={}) as tracing:
        await visit(session_id="s", parent=parent)
        assert (await tracing.flush(5)).complete
    with capture() as captured:
        await visit(session_id="s", parent=parent)
    for seen in (captured, collector):
        testing.assert_isolated(seen, conversations=1)
        assert [s.name for s in seen.spans if s.is_parent_remote] == (["invoke_agent bot"] if parent else [])
    testing.assert_tree(captured, TREE)
    testing.assert_tree(collector, TREE)
    assert [_timeless(span) for span in captured.spans] == sorted(map(_timeless, collector.spans))


def _timeless(span: SpanRecord) -> tuple[object, ...]:
    attributes = {key: value for key, value in span.attributes.items() if "time" not in key}
    parent = (span.parent_span_id, span.is_parent_remote)
    return (span.span_id, span.trace_id, parent, span.name, span.kind, span.status, str(attributes))


def test_the_fixture_captures(spans: Capture) -> None:
    """The fixture `spans` holds what the test traced."""
    with ga.Session() as session:
        session.start_turn("?").end()
    assert str(spans) == "invoke_agent"


async def test_a_program_that_sets_itself_up(caplog: pytest.LogCaptureFixture) -> None:
    """Set-ups that begin inside a capture send nothing and start no thread: their spans are the capture's."""
    threads = set(threading.enumerate())
    with capture() as captured:
        async with ga.tracing(endpoint="http://127.0.0.1:9") as tracing:
            with ga.Session(agent_name="bot") as session:
                session.start_turn("?").end()
            tracing.provider.get_tracer("x").start_span("theirs").end()
            assert (await tracing.flush(timeout=1)).complete
        script = ga.configure(endpoint="http://127.0.0.1:9", sampler=ALWAYS_OFF)
        with ga.Session(agent_name="script") as session:
            session.start_turn("?").end()
        assert {thread for thread in threading.enumerate() if "genai_async" in thread.name} <= threads
        assert script.shutdown().complete
        with capture() as inner:
            ga.start_tool("inner").end()
        ga.start_tool("outer").end()
    assert [span.name for span in captured.spans] == [
        "invoke_agent bot",
        "theirs",
        "invoke_agent script",
        "execute_tool outer",
    ]
    assert [span.name for span in inner.spans] == ["execute_tool inner"]
    assert "127.0.0.1" not in caplog.text


def test_other_names_are_unknown() -> None:
    """The lazy fixture is the only name that the module makes up."""
    with pytest.raises(AttributeError, match="no attribute 'span'"):
        testing.span  # noqa: B018


def test_ids_count_up_in_other_providers() -> None:
    """Sequential ids work with the SDK's own provider."""

    class Keep(SpanExporter):
        def export(self, spans: object) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(id_generator=SequentialIds(), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Keep()))
    tracer = provider.get_tracer("x")
    contexts = [tracer.start_span("s").get_span_context() for _ in range(2)]
    assert [(found.trace_id, found.span_id) for found in contexts] == [(1, 1), (2, 2)]
    assert trace.format_span_id(2) == f"{2:016x}"
