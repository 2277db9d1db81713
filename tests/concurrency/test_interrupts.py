"""A typical turn, interrupted at each of its awaits in each way there is."""

from __future__ import annotations

import asyncio
import gc
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from opentelemetry.context import get_current

import genai_async as ga

from .rig import CONVERSATION, Rig, is_trio, settle, subject

AWAITS = 22
PARENTS = {
    "a": None,
    "m": "a",
    "streamed": "a",
    "sub": "a",
    "m-sub": "sub",
    "x": "m",
    "y": "sub",
    "soon": "a",
    "in-soon": "soon",
    "soon-sub": "sub",
    "s-sibling": "a",
    "thread": "a",
    "b": None,
    "m-b": "b",
    "http": "m",
}


class Stop(Exception):
    """What a program may fail with."""


class Exit(BaseException):
    """What is no `Exception`, as `SystemExit` is none."""


class Steps:
    """Counts the awaits of a program and interrupts it at one of them."""

    def __init__(self, last: float, interrupt: Callable[[], object]) -> None:
        self.last = last
        self.interrupt = interrupt
        self.taken = 0

    async def __call__(self) -> None:
        self.taken += 1
        if self.taken == self.last:
            self.interrupt()
        await anyio.lowlevel.checkpoint()


async def _chunks(step: Steps) -> AsyncGenerator[int, None]:
    for number in range(3):
        await step()
        yield number


async def _work(step: Steps, name: str) -> None:
    async with ga.start_tool(name):
        await step()
        if name == "soon":
            async with ga.start_llm("in-soon", provider_name="p"):
                await step()


@ga.isolated
async def _answer(step: Steps, session: ga.Session) -> AsyncGenerator[int, None]:
    async with session.start_turn(agent_name="b"):
        await step()
        yield 1
        async with ga.start_llm("m-b", provider_name="p"):
            await step()
            yield 2


async def _program(step: Steps, rig: Rig) -> None:
    """A turn with a call, a streamed call, a sub-agent, tasks of its own and others', a thread and a stream."""
    async with ga.Session(session_id="s") as session:
        await step()
        async with session.start_turn(agent_name="a") as turn:
            turn.start_soon(_work, step, "soon")
            await step()
            async with turn.start_llm("m", provider_name="p"):
                with rig.tracer.start_as_current_span("http"):
                    await step()
                async with ga.start_tool("x"):
                    await step()
            async with turn.start_llm("streamed", provider_name="p").stream(_chunks(step)) as chunks:
                async for _ in chunks:
                    await step()
            async with turn.start_subagent("sub") as sub:
                sub.start_soon(_work, step, "soon-sub")
                async with ga.start_llm("m-sub", provider_name="p"):
                    await step()
                async with anyio.create_task_group() as group:
                    group.start_soon(_work, step, "y")
                    await step()
            await anyio.to_thread.run_sync(lambda: ga.start_tool("thread").end())
            answer = _answer(step, session)
            try:
                async for _ in answer:
                    await step()
            finally:
                with anyio.CancelScope(shield=True):
                    await answer.aclose()
            turn.start_soon(_work, step, "s-sibling")
        await step()


async def _judge(rig: Rig, words: set[str]) -> None:
    await settle()
    names = {span.get_span_context().span_id: subject(span) for span in rig.recorder.started}
    for span in rig.recorder.ended:
        attributes = span.attributes or {}
        assert attributes.get(CONVERSATION) == "s"
        assert (span.parent and names[span.parent.span_id]) == PARENTS[subject(span)]
        # OTel's own span says nothing when it is cancelled.
        assert subject(span) == "http" or attributes.get("error.type") in {None, "abandoned", *words}
    rig.check_spans()
    rig.check_silence()


@pytest.mark.parametrize("last", range(1, AWAITS + 2))
@pytest.mark.parametrize("way", ["cancelled", "timeout", "native"])
@pytest.mark.anyio
async def test_cancelled_at_each_await(rig: Rig, way: str, last: int) -> None:
    """Wherever a turn is cancelled or runs out of time all spans end, right in id and parent, and nothing stays."""
    if way == "native" and is_trio():
        pytest.skip("trio cancels scopes only")
    before = get_current()
    if way == "native":
        step = Steps(last, lambda: task.cancel())
        task = asyncio.create_task(_program(step, rig))
        with suppress(asyncio.CancelledError):
            await task
        was_cut = task.cancelled()
    else:
        with anyio.CancelScope() as scope:
            step = Steps(last, scope.cancel if way == "cancelled" else lambda: setattr(scope, "deadline", -math.inf))
            await _program(step, rig)
        was_cut = scope.cancelled_caught
    assert get_current() is before
    assert was_cut is (last <= AWAITS)
    # What a cancelled block cancels itself, such as its tasks, was not out of time.
    await _judge(rig, {"cancelled", "timeout"} if way == "timeout" else {"cancelled"})
    if was_cut and way == "timeout":
        assert "timeout" in {(span.attributes or {}).get("error.type") for span in rig.recorder.ended} or last in {
            1,
            AWAITS,
        }


@pytest.mark.parametrize("last", range(1, AWAITS + 2))
@pytest.mark.parametrize("error", [Stop, Exit])
@pytest.mark.anyio
async def test_failing_at_each_await(rig: Rig, error: type[BaseException], last: int) -> None:
    """Wherever a turn fails, also with what is no `Exception`, the error comes out, and all spans end."""

    def fail() -> None:
        raise error

    before = get_current()
    seen: list[BaseException] = []
    try:
        await _program(Steps(last, fail), rig)
    except BaseException as exc:
        seen = _leaves(exc)
    assert get_current() is before
    assert {type(exc) for exc in seen} == ({error} if last <= AWAITS else set())
    del seen
    gc.collect()
    words = {f"{__name__}.{error.__name__}", "cancelled", "ExceptionGroup", "BaseExceptionGroup"}
    await _judge(rig, words)


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        group: BaseExceptionGroup[Any] = error
        return [leaf for inner in group.exceptions for leaf in _leaves(inner)]
    return [error]


@pytest.mark.parametrize("way", ["cancelled", "timeout"])
@pytest.mark.parametrize("waits", range(8))
@pytest.mark.anyio
async def test_cancelled_while_the_block_waits_for_its_tasks(rig: Rig, way: str, waits: int) -> None:
    """A turn that is cancelled inside `__aexit__` waits for its tasks' clean-up, however far they are."""
    ended: list[str] = []

    async def work(name: str) -> None:
        async with ga.start_tool(name):
            try:
                for _ in range(4):
                    await anyio.lowlevel.checkpoint()
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    for _ in range(3):
                        await anyio.lowlevel.checkpoint()
                ended.append(name)

    async def interrupt(scope: anyio.CancelScope) -> None:
        for _ in range(waits):
            await anyio.lowlevel.checkpoint()
        if way == "cancelled":
            scope.cancel()
        else:
            scope.deadline = -math.inf

    before = get_current()
    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            async with ga.Session(session_id="s") as session:
                async with session.start_turn(agent_name="a") as turn:
                    turn.start_soon(work, "x")
                    turn.start_soon(work, "y")
                    group.start_soon(interrupt, scope)
        assert scope.cancelled_caught
    assert get_current() is before
    await settle()
    tree = rig.tree()
    assert tree.pop("a") == ("s", None, way)
    assert sorted(ended) == sorted(tree)
    assert all(row == ("s", "a", "cancelled") for row in tree.values())
    rig.check_spans()
    rig.check_silence()


@pytest.mark.anyio
async def test_groups_of_errors(rig: Rig) -> None:
    """Errors of the body, a task and a nested group come out as one group, `BaseExceptionGroup` if one needs it."""

    async def fail(error: BaseException) -> None:
        async with ga.start_tool(type(error).__name__):
            try:
                await anyio.sleep_forever()
            finally:
                raise error

    before = get_current()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with ga.Session(session_id="s") as session, session.start_turn(agent_name="a") as turn:
            turn.start_soon(fail, Exit())
            turn.start_soon(fail, Stop())
            await anyio.wait_all_tasks_blocked()
            raise BaseExceptionGroup("several", [ValueError(), BaseExceptionGroup("inner", [GeneratorExit()])])
    assert not isinstance(caught.value, ExceptionGroup)
    assert sorted(type(exc).__name__ for exc in _leaves(caught.value)) == [
        "Exit",
        "GeneratorExit",
        "Stop",
        "ValueError",
    ]
    del caught
    assert get_current() is before
    await settle()
    rig.check(
        {
            "a": ("s", None, "BaseExceptionGroup"),
            "Exit": ("s", "a", f"{__name__}.Exit"),
            "Stop": ("s", "a", f"{__name__}.Stop"),
        }
    )
