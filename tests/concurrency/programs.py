"""Random programs, each of whose spans is held against what the program's own text says of it.

A program is made while it runs: every piece draws from a generator of its own, forked where the piece is written, so
that a seed means the same program however its tasks are scheduled. A piece knows its `Place`, which is handed down like
a lexical scope and never read from the library. What a span must be is noted when it is started: by handle, a child of
the handle; by ambience, a child of the innermost scope that is open in the piece's own text.

Left out is what the design leaves open or names as a limit:
- foreign spans in a task that has outlived its scope, or between it and what it falls back to;
- links of spans that are roots for want of a turn, and of turns in a task that fell back to an open span;
- a model call beside another when all agents and tools above it, up to its turn, have ended;
- sessions that are entered again after their end;
- a plain generator that is closed elsewhere, where the consumer starts a task before it uses the library again;
- a body that trio doesn't interrupt.
Two tasks never race for one entered scope: it ends while all who stand in it wait. Anyone ends what nobody has entered.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from itertools import count
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
from opentelemetry.context import get_current
from opentelemetry.trace import Tracer, use_span

import genai_async as ga

from .lexical import Conversation, Fuse, Place, Started
from .stacks import Stack

Body = Callable[[Place], Awaitable[None]]


class Boom(Exception):
    """What goes wrong in a program."""


class Program:
    """One random program, what it started and what it found wrong."""

    def __init__(self, seed: int, tracer: Tracer) -> None:
        self.rng = random.Random(seed)
        self.tracer = tracer
        self.numbers: Iterator[int] = count()
        self.started: dict[str, Started] = {}
        self.wrong: list[str] = []
        self.kept: weakref.WeakSet[Any] = weakref.WeakSet()
        self.going_on = 0
        """The tasks, threads and streams that have begun and not ended."""
        self.asynchronous: tuple[Any, ...] = (
            self.tasks, self.soon, self.thread, self.outlive, self.end_session, self.streams, self.plain_generator,
            self.model_stream, self.cut, self.isolated_call,
        )  # fmt: skip

    async def run(self) -> None:
        """Run the program to its end."""
        before = get_current()
        await self.block(Place(), self.rng, self.rng.choice((3, 4, 4, 5)))
        while self.going_on:  # a stream that was dropped waits for the tasks of its turn, and nobody waits for it
            await anyio.sleep(0.001)
        for started in self.started.values():
            if started.is_loose:
                started.handle.end()
        self.check(get_current() is before, "the program left something current")

    def check(self, holds: bool, otherwise: str) -> None:
        """Note what is wrong, without changing how the program goes on."""
        if not holds:
            self.wrong.append(otherwise)

    # What every piece does.

    async def block(self, place: Place, rng: random.Random, size: int) -> None:
        """A few pieces, one after the other."""
        place = replace(place, seen=list(place.seen))
        self.probe(place)
        before = get_current()
        for _ in range(rng.randint(1, 3)):
            await self.tick(place)
            await self.piece(place, fork(rng), size - 1)
            self.probe(place)
            # What a task has outlived is let go bit by bit: its context says the same, but isn't the same object.
            self.check(place.is_over or get_current() is before, f"{place} was not restored")

    async def piece(self, place: Place, rng: random.Random, size: int) -> None:
        """Something at random."""
        if size <= 0 or rng.random() < 0.25:
            self.leaf(place, rng)
        elif place.hosts and not place.is_sync and rng.random() < 0.2:
            await self.soon(place, rng, size)
        elif place.is_sync or rng.random() < 0.5:
            await rng.choice((self.nest, self.nest, self.any_order, self.propagate))(place, rng, size)
        else:
            await rng.choice(self.asynchronous)(place, rng, size)

    async def tick(self, place: Place) -> None:
        """Wait for others; the block may be cut short here."""
        if not place.is_sync:
            if place.fuse is not None:
                place.fuse.tick()
            await anyio.lowlevel.checkpoint()

    def probe(self, place: Place) -> None:
        """Look at what is current, and have a span say so."""
        session = ga.current_session()
        self.check(session is (place.session and place.session.handle), f"{session} is current, not {place.session}")
        turn = place.span
        while turn is not None and turn.kind != "turn":
            turn = turn.parent
        if turn is None or not turn.is_loose:
            current, expected = ga.current_turn(), None if turn is None or turn.is_ended else turn.handle
            self.check(current is expected, f"{current} is the current turn, not {expected}")
        started = self.start_by_ambience(place, "tool")
        started.handle.end()
        started.is_ended = True

    def leaf(self, place: Place, rng: random.Random) -> None:
        """A span that is never entered; it ends at once, or whenever somebody likes."""
        started = self.start(place, rng)
        if started.kind == "foreign" or rng.random() < 0.5:
            started.handle.end()
            started.is_ended = True
        else:
            started.is_loose = True
            loose = [other for other in place.seen if other.is_loose]
            if rng.random() < 0.5:
                rng.choice(loose).handle.end()

    # Starting, and what must come of it.

    def start(self, place: Place, rng: random.Random, *, is_own: bool = False) -> Started:
        """A span of any kind, started in any way."""
        way = rng.random()
        if way < 0.1 and not place.is_unsure and not is_own:
            started = self.note(place, "foreign", place.session, place.current, [])
            started.handle = self.tracer.start_span(started.name)
            return started
        above = [other for other in place.seen if other.kind != "foreign"]
        if way < 0.4 and above:
            return self.start_by_handle(place, rng.choice(above), rng)
        sessions = [one for one in place.sessions if place.may_nest or not one.continues]
        if way < 0.6 and sessions:
            session = rng.choice(sessions)
            return self.turn(place, session, session.handle.start_turn)
        return self.start_by_ambience(place, rng.choice(("turn", "llm", "tool", "subagent")))

    def start_by_handle(self, place: Place, above: Started, rng: random.Random) -> Started:
        kind = rng.choice(("tool", "subagent") if above.kind == "llm" else ("llm", "tool", "subagent"))
        started = self.note(place, kind, above.session, above, [])
        return self.made(started, getattr(above.handle, f"start_{kind}"))

    def start_by_ambience(self, place: Place, kind: str) -> Started:
        if kind == "turn" and (place.may_nest or not (place.session and place.session.continues)):
            return self.turn(place, place.session, ga.start_turn)
        kind = "tool" if kind == "turn" else kind
        beside = place.beside()
        if beside is None and place.span is not None and kind == "llm":
            kind = "tool"
        above = beside if kind == "llm" else place.span
        if above is None and place.session and place.session.continues and not place.may_nest:
            # Where it goes hangs on whether somebody has ended the span that is current: another session's turn, then.
            session = self.converse(None, place)
            return self.turn(place, session, session.handle.start_turn)
        links = [] if above is not None else None if place.stale is None or place.is_vague else [place.stale.name]
        return self.made(self.note(place, kind, place.session, above, links), getattr(ga, f"start_{kind}"))

    def turn(self, place: Place, session: Conversation | None, start: Callable[..., Any]) -> Started:
        around = place.current or place.stale
        is_nested = session is not None and session.continues and place.current is not None
        links: list[str] | None = [] if is_nested or around is None else [around.name]
        if place.is_vague:
            links = None
        return self.made(self.note(place, "turn", session, place.current if is_nested else None, links), start)

    def note(
        self, place: Place, kind: str, session: Conversation | None, parent: Started | None, links: list[str] | None
    ) -> Started:
        started = Started(f"{kind}{next(self.numbers)}", kind, session, parent, links)
        self.started[started.name] = started
        place.seen.append(started)
        return started

    def made(self, started: Started, start: Callable[..., Any]) -> Started:
        options = {"turn": {"agent_name": started.name}, "llm": {"model": started.name, "provider_name": "p"}}
        named = options.get(started.kind, {"name": started.name})
        started.handle = start(**named)
        self.kept.add(started.handle)
        return started

    def converse(self, rng: random.Random | None, place: Place) -> Conversation:
        id_ = f"s{next(self.numbers)}"
        continues = rng is not None and not place.is_unsure and rng.random() < 0.2
        session = ga.Session(session_id=id_, continue_trace=continues)
        self.kept.add(session)
        return Conversation(session, id_, continues)

    # Pieces that wait for nobody.

    async def nest(self, place: Place, rng: random.Random, size: int) -> None:
        """A session or a span around more, by `with`, `async with` or by hand."""
        entered = self.converse(rng, place) if rng.random() < 0.3 else self.start(place, rng)
        await self.inside(place, entered, rng, lambda inner: self.block(inner, fork(rng), size))

    async def inside(self, place: Place, entered: Conversation | Started, rng: random.Random, body: Body) -> None:
        handle, inner, way = entered.handle, place.within(entered), rng.random()
        try:
            if isinstance(entered, Started) and entered.kind == "foreign":
                with use_span(handle, end_on_exit=True):
                    await body(inner)
            elif isinstance(entered, Started) and way < 0.2:
                try:
                    await body(place)
                finally:
                    handle.end()
            elif place.is_sync or way < 0.4:
                with handle:
                    await body(inner)
            else:
                async with handle:
                    await body(with_host(inner, entered))
        finally:
            if isinstance(entered, Started):
                entered.is_ended = True

    async def propagate(self, place: Place, rng: random.Random, size: int) -> None:
        """A part of the program that is linked to this one, or detached from it."""
        if rng.random() < 0.5:
            with ga.propagate("link"):
                await self.block(place.linked(), fork(rng), size)
        else:
            with ga.propagate("detach"):
                await self.block(place.detached(), fork(rng), size)

    async def any_order(self, place: Place, rng: random.Random, size: int) -> None:
        """Scopes entered one in the other, and ended and left in any order."""
        stack = Stack(self, place)
        try:
            for _ in range(rng.randint(2, 4)):
                stack.enter(rng)
            while stack.entered:
                if rng.random() < 0.3:
                    stack.end_one(rng)
                else:
                    stack.leave_one(rng)
                self.probe(stack.place)
                if rng.random() < 0.3:
                    await self.block(stack.place, fork(rng), size - 1)
        finally:
            stack.leave_all(rng)

    # Pieces with tasks, threads and streams.

    async def life(self, place: Place, rng: random.Random, size: int) -> None:
        """What a task does."""
        before = get_current()
        self.going_on += 1
        try:
            await self.block(place, rng, size)
        finally:
            self.going_on -= 1
            self.check(place.is_over or get_current() is before, "a task was left elsewhere")

    async def tasks(self, place: Place, rng: random.Random, size: int) -> None:
        """Tasks in an anyio group, beside the block that started them."""
        async with anyio.create_task_group() as group:
            for _ in range(rng.randint(1, 3)):
                group.start_soon(self.life, place, fork(rng), size)
            await self.block(place, fork(rng), size - 1)

    async def soon(self, place: Place, rng: random.Random, size: int) -> None:
        """A task of a turn, a sub-agent or a session that is open around here."""
        if not place.hosts:
            return await self.nest(place, rng, size)
        host, inner = rng.choice(place.hosts)
        propagate = rng.choice(("inherit", "link", "detach"))
        there = {"inherit": inner, "link": inner.linked(), "detach": inner.detached()}[propagate]
        if isinstance(host.handle, ga.Session):
            if place.is_unsure:
                return await self.nest(place, rng, size)
            inner = replace(inner, current=place.current)
            there = {"inherit": inner, "link": inner.linked(), "detach": inner.detached()}[propagate]
        there = replace(there, seen=list(place.seen))
        try:
            host.handle.start_soon(self.life, there, fork(rng), size, propagate=propagate)
        except RuntimeError:
            # A sibling has failed already, and the block was not interrupted yet.
            self.check(there.fuse is not None and there.fuse.is_burnt, "no task could be started")
        await self.tick(place)
        return None

    async def thread(self, place: Place, rng: random.Random, size: int) -> None:
        """A worker thread."""
        inner = replace(place, is_sync=True, seen=list(place.seen))
        await anyio.to_thread.run_sync(at_once, self.life, inner, fork(rng), size)

    async def isolated_call(self, place: Place, rng: random.Random, size: int) -> None:
        """A coroutine function of its own ambience, which leaves a scope standing."""
        standing: list[Started] = []

        @ga.isolated
        async def call() -> None:
            started = self.start(place, rng, is_own=True)
            started.handle.__enter__()
            standing.append(started)
            await self.block(place.within(started), fork(rng), size)

        try:
            await call()
            await self.block(place, fork(rng), size - 1)
        finally:
            for started in standing:
                started.is_ended = True
                started.handle.end()

    async def outlive(self, place: Place, rng: random.Random, size: int) -> None:
        """A task that goes on after the scopes that it was started in."""
        if place.span is not None and place.span.kind == "foreign":
            return await self.nest(place, rng, size)
        stack, over, ready, gone = Stack(self, place), anyio.Event(), anyio.Event(), anyio.Event()

        async def background(inner: Place) -> None:
            await anyio.lowlevel.checkpoint()
            stack.is_used = True
            try:
                await self.block(inner, fork(rng), size - 1)
                ready.set()
                await over.wait()
                assert inner.span is not None
                await self.block(inner.outlived(inner.span, place), fork(rng), size)
            finally:
                gone.set()

        async with anyio.create_task_group() as group:
            try:
                stack.enter(rng)
                stack.enter_this(self.start_by_ambience(stack.place, rng.choice(("turn", "tool", "subagent"))))
                group.start_soon(background, replace(stack.place, seen=list(place.seen)))
                await ready.wait()
            except BaseException:
                # The task may be in a thread, or clean up: it is over before its scopes are.
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    if stack.is_used:
                        await gone.wait()
                raise
            finally:
                stack.leave_all(rng)
            over.set()
            await self.block(place, fork(rng), size - 1)
        return None

    async def end_session(self, place: Place, rng: random.Random, size: int) -> None:
        """A session that is ended while there are tasks in it, which are in scopes of their own."""
        session, over = self.converse(rng, place), anyio.Event()
        ready: list[anyio.Event] = []

        async def child(inner: Place, own: random.Random, here: anyio.Event) -> None:
            stack = Stack(self, inner)
            try:
                for _ in range(own.randint(0, 2)):
                    stack.enter(own)
                await self.block(stack.place, fork(own), size - 1)
                here.set()
                await over.wait()
                assert inner.span is not None
                stack.around = inner.outlived(inner.span, inner.detached())
                stack.note_end_of(session)
                await self.block(stack.place, fork(own), size - 1)
            finally:
                stack.leave_all(own)

        stack = Stack(self, place)
        try:
            stack.enter_this(session)
            stack.enter_this(self.turn(stack.place, session, ga.start_turn))
            if rng.random() < 0.5:
                stack.enter_this(self.start_by_ambience(stack.place, "tool"))
            async with anyio.create_task_group() as group:
                for _ in range(rng.randint(1, 3)):
                    ready.append(anyio.Event())
                    inner = replace(stack.place, seen=list(stack.place.seen), hosts=())
                    group.start_soon(child, inner, fork(rng), ready[-1])
                for here in ready:
                    await here.wait()
                session.handle.end()
                stack.note_end_of(session)
                over.set()
                self.probe(stack.place)
                await self.block(stack.place, fork(rng), size - 1)
        finally:
            stack.leave_all(rng)

    async def streams(self, place: Place, rng: random.Random, size: int) -> None:
        """Isolated generators that are read alternately, and read to their end, closed or dropped."""

        @ga.isolated
        async def stream(own: random.Random, depth: int, inner: Place) -> AsyncGenerator[int, None]:
            entered = self.converse(own, inner) if own.random() < 0.3 else self.start(inner, own, is_own=True)
            self.going_on += 1
            try:
                async with entered.handle:
                    there = with_host(inner.within(entered), entered)
                    await self.block(there, fork(own), size - 1)
                    yield depth
                    if depth:
                        async with aclosing(stream(fork(own), depth - 1, there)) as deeper:
                            async for item in deeper:
                                await self.block(there, fork(own), size - 2)
                                yield item
                    self.probe(there)
            finally:
                self.going_on -= 1
                if isinstance(entered, Started):
                    entered.is_ended = True

        inner = replace(place, seen=list(place.seen))
        opened = [stream(fork(rng), rng.randint(0, 2), inner) for _ in range(rng.randint(1, 3))]
        try:
            while opened:
                found = opened.pop(rng.randrange(len(opened)))
                way = rng.random()
                if way < 0.1:
                    await found.aclose()
                elif (way < 0.8 or place.fuse is not None) and await anext(found, None) is not None:
                    opened.append(found)
                del found  # or it is dropped here
                self.probe(place)
                await self.block(place, fork(rng), size - 2)
        finally:
            with anyio.CancelScope(shield=True):
                async with AsyncExitStack() as closing:
                    for found in opened:
                        closing.push_async_callback(found.aclose)

    async def plain_generator(self, place: Place, rng: random.Random, size: int) -> None:
        """An undecorated generator that holds a scope: it stands in the consumer until it is closed, anywhere."""
        started = self.start(place, rng, is_own=True)

        async def plain() -> AsyncGenerator[int, None]:
            async with started.handle:
                yield 1

        found = plain()
        await anext(found)
        inner = place.within(started)
        self.probe(inner)
        started.is_ended = True
        if rng.random() < 0.5:
            await found.aclose()
        else:
            with anyio.CancelScope(shield=True):
                async with anyio.create_task_group() as group:
                    group.start_soon(found.aclose)
        self.probe(place)
        await self.block(place, fork(rng), size)

    async def model_stream(self, place: Place, rng: random.Random, size: int) -> None:
        """A streamed response with work between its chunks, read to its end, closed or dropped."""
        above = [other for other in place.seen if other.kind not in {"foreign", "llm"}]
        if not above:
            return self.leaf(place, rng)
        one = rng.choice(above)
        llm = self.made(self.note(place, "llm", one.session, one, []), one.handle.start_llm)
        llm.is_loose = True
        chunks = rng.randint(0, 3)

        async def response() -> AsyncGenerator[int, None]:
            for number in range(chunks):
                await self.tick(place)
                self.probe(place)
                yield number

        stream = llm.handle.stream(response())
        try:
            async for number in stream:
                await self.block(place, fork(rng), size - 1)
                if number == 1 and rng.random() < 0.5:
                    break
        finally:
            await stream.aclose()
        self.check(llm.handle.is_ended, f"{llm.name} did not end with its stream")
        return None

    async def cut(self, place: Place, rng: random.Random, size: int) -> None:
        """A block that is cancelled, timed out or fails at one of its awaits."""

        def fail() -> None:
            raise Boom

        way, after = rng.randrange(3), rng.randint(1, 12)
        before = get_current()
        try:
            with anyio.CancelScope() as scope:
                burn = (fail, scope.cancel, lambda: setattr(scope, "deadline", anyio.current_time()))[way]
                # Only what ends with the block may start tasks that the fuse cuts short, too.
                await self.block(replace(place, fuse=Fuse(after, burn), hosts=()), fork(rng), size)
        except* Boom:
            pass
        self.check(place.is_over or get_current() is before, "a block that was cut short was not restored")


def fork(rng: random.Random) -> random.Random:
    """A generator for a piece of its own."""
    return random.Random(rng.getrandbits(64))


def with_host(place: Place, entered: Any) -> Place:
    """The place, and whatever was entered as an owner of tasks."""
    if isinstance(entered, Started) and entered.kind not in {"turn", "subagent"}:
        return place
    return replace(place, hosts=(*place.hosts, (entered, place)))


def at_once(func: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    """Run what never waits."""
    try:
        func(*args).send(None)
    except StopIteration:
        return
    raise AssertionError("it waited")
