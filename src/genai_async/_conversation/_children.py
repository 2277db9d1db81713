"""The tasks of a session, turn or sub-agent: started from anywhere in it, all ended before it ends.

A task group must be opened and closed by one task, in stack order. A turn cannot promise that: its first task may be
started inside somebody's time-out scope, from another task or a thread, and most turns start none. So the group lives
in a task of its own, made when the first child is, and the turn's `__aexit__` waits for it: a supervisor, owned by
the turn. What anyio gives for errors and cancellation comes from the real group that it holds.
"""

from __future__ import annotations

import contextvars
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from inspect import CO_ASYNC_GENERATOR
from types import FrameType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias, TypeVar, TypeVarTuple, Unpack, cast

import anyio
from opentelemetry.context import Context, attach, get_current
from opentelemetry.trace import INVALID_SPAN, Span

from .._loop import Host, Loop, block_of, is_cancellation, spawn, whoever_runs
from ._scope import (
    NOWHERE,
    Scope,
    bare,
    context_with,
    current_context,
    has_ended,
    own_of,
    reference_to,
    restore,
    scope_of,
)

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

Propagation: TypeAlias = Literal["inherit", "link", "detach"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")


class ChildTask(Generic[_T]):
    """A started task; awaiting it waits for its end and gives what it returned or raises what it raised."""

    __slots__ = ("_args", "_ended", "_exception", "_func", "_siblings", "_value")

    def __init__(
        self, func: Callable[..., Awaitable[_T]], args: tuple[Any, ...], siblings: set[ChildTask[Any]]
    ) -> None:
        self._func = func
        self._args = args
        self._siblings = siblings
        self._ended = anyio.Event()
        self._exception: BaseException | None = None
        self._value: _T | None = None

    async def run(self) -> None:
        """Run the function; its error goes to the group as well."""
        try:
            self._value = await self._func(*self._args)
        except BaseException as exc:
            self._exception = exc
            raise
        finally:
            self._ended.set()
            self._siblings.discard(self)
            del self  # or the exception holds the frame and the frame, by this, the exception

    def give_up(self) -> None:
        """Tell who waits that the task was cancelled before its first step."""
        self._exception = RuntimeError("the task was cancelled")
        self._ended.set()

    def __await__(self) -> Generator[Any, Any, _T]:
        yield from self._ended.wait().__await__()
        if self._exception is None:
            return cast(_T, self._value)
        if is_cancellation(self._exception):
            # Raising it here would cancel whoever waits.
            raise RuntimeError("the task was cancelled") from self._exception
        raise self._exception


class Children:
    """The task group of one owner, and the supervisor that holds it open until the owner is left."""

    def __init__(self, block: Any, name: str) -> None:
        self.cancel_scope: anyio.CancelScope = anyio.CancelScope()
        self._host = Host(block) if block else None
        self._loop = Loop()
        self._group: TaskGroup | None = None
        self.unfinished: set[ChildTask[Any]] = set()
        """The tasks that were started and have not ended."""
        self._backlog: list[Callable[[TaskGroup], object]] = []
        self._ready = anyio.Event()
        self._closing = anyio.Event()
        self._done = anyio.Event()
        self._body_error: BaseException | None = None
        self._failure: BaseException | None = None
        self._is_left = False
        # Whether a task has failed while the block was going on.
        self._is_early = False
        self._supervisor = spawn(self._supervise, self._end, f"tasks of {name}")

    def start_soon(self, child: ChildTask[Any], start: Callable[[TaskGroup], object]) -> None:
        """Have the group start a task, by `start`, in the context that this is called in.

        Raises:
            RuntimeError: The owner has ended, or this is neither its event loop nor a worker thread of it.
        """
        if self._loop.is_here:
            self._begin(child, start)
        else:
            # Not by a plain call into the loop: in a thread's context anyio's group doesn't know its own event loop.
            anyio.from_thread.run_sync(self._begin, child, start)

    def _begin(self, child: ChildTask[Any], start: Callable[[TaskGroup], object]) -> None:
        self._check_open()
        self.unfinished.add(child)
        placed = contextvars.copy_context()
        if self._group is None:
            self._backlog.append(lambda group: placed.run(start, group))
        else:
            placed.run(start, self._group)

    async def group(self) -> TaskGroup:
        """The real group, once the supervisor holds it.

        Raises:
            RuntimeError: The owner has ended.
        """
        await self._ready.wait()
        self._check_open()
        return cast("TaskGroup", self._group)

    def _check_open(self) -> None:
        if self._done.is_set():
            raise RuntimeError("no more tasks can be started here: it has ended")

    async def _supervise(self) -> None:
        try:
            with self.cancel_scope:
                await self._hold()
        except BaseException as exc:  # raised again in the host, by `join`
            self._failure = exc
            if self._is_early:
                # Outside of the group and not shielded: what ends the loop ends this.
                with suppress(BaseException):
                    await self._closing.wait()

    def _end(self) -> None:
        self._ready.set()
        self._done.set()
        while self.unfinished:
            self.unfinished.pop().give_up()

    async def _hold(self) -> None:
        async with anyio.create_task_group() as group:
            self._group = group
            self._catch_up(group)
            self._ready.set()
            await self._wait_for_body()

    def _catch_up(self, group: TaskGroup) -> None:
        for start in self._backlog:
            start(group)
        self._backlog.clear()  # it holds what the tasks were called with

    async def _wait_for_body(self) -> None:
        """Stay in the group until the block is left; where a task fails before, the block is interrupted.

        Who cancels the supervisor alone, as a loop does at its end, has not made a task fail.
        """
        try:
            await self._closing.wait()
        except BaseException:
            has_failed = cast("TaskGroup", self._group).cancel_scope.cancel_called
            if has_failed and not self._is_left and not self.cancel_scope.cancel_called:
                self._is_early = True
                if self._host is not None:
                    self._host.interrupt()
            raise
        if self._body_error is not None:
            raise self._body_error

    async def join(self, body_error: BaseException | None) -> None:
        """Wait for the children, as the end of a task group's block does.

        Raises:
            BaseExceptionGroup: A child failed, or the body did while there were children.
        """
        self._is_left = True
        host = self._host
        if host is not None:
            body_error = host.settle(body_error)
        is_given_up = isinstance(body_error, GeneratorExit) or (body_error is not None and is_cancellation(body_error))
        if is_given_up:
            self.cancel_scope.cancel()
        else:
            self._body_error = body_error
        self._closing.set()
        try:
            await self._wait_for_children(shield=is_given_up)
        finally:
            failure = self._failure
            if self._is_early and self._body_error is not None and isinstance(failure, BaseExceptionGroup):
                # The group has ended by then; what the body failed with belongs into it all the same.
                group = cast("BaseExceptionGroup[BaseException]", failure)
                failure = group.derive([*group.exceptions, self._body_error])
            self._forget()
            try:
                if failure is not None and not is_cancellation(failure):
                    if host is not None:
                        host.pass_on()
                    raise failure
            finally:
                del failure, body_error

    def close(self) -> None:
        """Let the supervisor go when the last child has ended; called when the owner is ended by hand."""
        if self._loop.is_here:
            self._closing.set()
        else:
            self._loop.call_soon(self._closing.set)

    def _forget(self) -> None:
        # Tasks hold the context that they ran in, and that the owner, and so this: nothing would be freed at once.
        self._failure = self._body_error = self._host = self._group = self._supervisor = None
        self._backlog.clear()

    async def _wait_for_children(self, *, shield: bool) -> None:
        # However often it is interrupted: a task left behind would outlive its turn. Where the block was given up the
        # tasks are cancelled already, and a further cancellation (trio closes a dropped generator in a cancelled
        # scope) has nothing to add.
        interruption: BaseException | None = None
        try:
            while not self._done.is_set():
                try:
                    with anyio.CancelScope(shield=shield):
                        await self._done.wait()
                except BaseException as exc:
                    self.cancel_scope.cancel()
                    if not is_cancellation(exc):
                        raise
                    interruption = interruption or exc
                    shield = True
            if interruption is not None:
                raise interruption
        finally:
            del interruption


class TaskGroupView:
    """The tasks of a session, turn or sub-agent, in the shape of an `anyio.abc.TaskGroup`."""

    __slots__ = ("_owner",)

    def __init__(self, owner: TaskOwner) -> None:
        self._owner = owner

    @property
    def cancel_scope(self) -> anyio.CancelScope:
        """The scope that all the tasks are in."""
        return self._owner.opened_children().cancel_scope

    def cancel(self) -> None:
        """Cancel all the tasks."""
        self.cancel_scope.cancel()

    def start_soon(
        self, func: Callable[[Unpack[_Args]], Awaitable[_T]], *args: *_Args, name: object = None
    ) -> ChildTask[_T]:
        """Start a task, as `anyio.abc.TaskGroup.start_soon` does."""
        return self._owner.start_soon(func, *args, name=name)

    async def start(self, func: Callable[..., Awaitable[Any]], *args: Any, name: object = None) -> Any:
        """Start a task and wait until it calls `task_status.started()`; what it passed there is returned."""
        group = await self._owner.opened_children().group()
        outer, who = get_current(), whoever_runs()
        attach(self._owner.context_for_task("inherit"))
        try:
            return await group.start(cast(Any, func), *args, name=name)
        finally:
            restore(outer, who)


class TaskOwner:
    """What can start tasks that end before it does: sessions, turns and sub-agents entered with `async with`."""

    __slots__ = ()

    if TYPE_CHECKING:
        _scopes: Any  # list[Scope], or None before the first entry

    @property
    def task_group(self) -> TaskGroupView:
        """The tasks started here, in the shape of an `anyio.abc.TaskGroup`."""
        return TaskGroupView(self)

    def start_soon(
        self,
        func: Callable[[Unpack[_Args]], Awaitable[_T]],
        *args: *_Args,
        name: object = None,
        propagate: Propagation = "inherit",
    ) -> ChildTask[_T]:
        """Start a task that ends before this does, from any task of the event loop or one of anyio's worker threads.

        An error in it cancels the other tasks and the block, and comes out of the block in an exception group, as
        from an `anyio.abc.TaskGroup`.

        Args:
            func: A coroutine function.
            args: What it is called with.
            name: The task's name.
            propagate: `inherit` runs it inside this span; `link` gives its spans traces of their own that are linked
                here, in the same conversation; `detach` frees it from the conversation.

        Returns:
            The task; awaiting it gives the function's result.

        Raises:
            RuntimeError: This was not entered with `async with`, or it has ended.
            TypeError: `func` is no function.
            ValueError: `propagate` is none of the three.
        """
        if not callable(func):
            if hasattr(func, "close"):
                func.close()  # or Python says that nobody awaited it
            raise TypeError(f"start_soon takes the function and its arguments, not its call: {type(func).__name__}")
        context, children = self.context_for_task(propagate), self.opened_children()
        child = ChildTask(func, args, children.unfinished)
        label = name if name is not None else getattr(func, "__qualname__", None)

        def start(group: TaskGroup) -> None:
            attach(context)
            group.start_soon(child.run, name=label)

        children.start_soon(child, start)
        return child

    def opened_children(self) -> Children:
        """The group of tasks, made when the first of them is started."""
        block = self._block()
        if block is None or (block.children is None and block.host is None):
            raise RuntimeError("tasks can only be started inside its `async with` block, before it has ended")
        if block.children is None:
            try:
                self._open_children(block)
            except anyio.NoEventLoopError:
                anyio.from_thread.run_sync(self._open_children, block)
        return cast(Children, block.children)

    def context_for_task(self, propagate: Propagation) -> Context:
        """The OTel Context that a task starts with."""
        session, handle, span = self._ambient_parts()
        context = propagated(current_context(), session, handle, span, propagate)
        block, scope = self._block(), scope_of(context)
        if block is not None and scope is not None:
            scope.block = weakref.ref(block)
        return context

    def _block(self) -> Scope | None:
        scopes: list[Scope] = self._scopes or []
        return own_of(scopes) if scopes else None

    def _open_children(self, block: Scope) -> None:
        if block.children is None:
            block.children = Children(block.host or None, repr(self))

    def _note_host(self, caller: FrameType | None) -> None:
        # What a generator suspended over a `yield` would have interrupted is its consumer, who is not in the block.
        while caller is not None and caller.f_globals.get("__name__") == "contextlib":
            caller = caller.f_back  # an exit stack enters for whoever uses it
        in_generator = caller is not None and caller.f_code.co_flags & CO_ASYNC_GENERATOR
        if self._scopes:
            self._scopes[-1].host = False if in_generator else block_of()

    async def _join(self, error: BaseException | None) -> None:
        block = self._block()
        if block is not None:
            block.host = None
            if block.children is not None:
                await block.children.join(error)

    def _ambient_parts(self) -> tuple[Any, Any, Span | None]:
        raise AssertionError("sessions and agents say what is current in their tasks")


def propagated(
    base: Context, session: Any, handle: Any, span: Span | None, propagate: Propagation, stale: Span | None = None
) -> Context:
    """The context in which a task inherits, is linked to or is detached from a session or span.

    Args:
        base: What else is current.
        session: The session.
        handle: The handle in it, if there is one.
        span: The span that is current.
        propagate: Which of the three.
        stale: What to link to in place of a span that has ended.

    Raises:
        ValueError: `propagate` is none of the three.
    """
    # The scopes that stand around the start are left out: a task that lives on would hold them all.
    if propagate == "inherit":
        around = NOWHERE if handle is None else handle.context
        return context_with(base, Scope(session, handle, around, link=stale), span)
    if propagate == "link":
        if span is None or has_ended(span):
            span = stale or span or INVALID_SPAN
        return context_with(bare(base), Scope(session, None, NOWHERE, link=reference_to(span)), None)
    if propagate == "detach":
        return context_with(bare(base), Scope(None, None, NOWHERE), None)
    raise ValueError(f"propagate is 'inherit', 'link' or 'detach', not {propagate!r}")
