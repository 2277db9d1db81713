"""`isolated`: a function whose context variables are its own, also while it is suspended over a `yield`."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator
from contextvars import Context, copy_context
from typing import Any, ParamSpec, TypeVar, cast, overload

from opentelemetry.context import attach, get_current

from .._loop import whoever_runs
from ._scope import restore

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Sent = TypeVar("_Sent")


@overload
def isolated(func: Callable[_P, AsyncGenerator[_T, _Sent]]) -> Callable[_P, AsyncGenerator[_T, _Sent]]: ...
@overload
def isolated(func: Callable[_P, AsyncIterator[_T]]) -> Callable[_P, AsyncIterator[_T]]: ...
@overload
def isolated(func: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]: ...
def isolated(func: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what an async generator (or coroutine) function makes current to itself.

    The body starts with what is current where the function is called, sees what it enters itself over every `yield`,
    and the consumer never does; interleaved streams don't see each other. That is so for all context variables: what
    other libraries keep in them can be reset in the body wherever it is closed. Every step runs in the consumer's own
    task, so that cancel scopes, `asyncio.timeout` and task groups inside the body work as without it.

        @isolated
        async def answer(session, question):
            async with session.start_turn(question) as turn:
                async for piece in ...:
                    yield piece

    Raises:
        TypeError: `func` is neither an async generator function nor a coroutine function.
    """
    if inspect.isasyncgenfunction(func):

        @functools.wraps(func)
        def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            return stepwise(func(*args, **kwargs), functools.partial(_within, copy_context()))

        return generator
    if not inspect.iscoroutinefunction(func):
        raise TypeError("isolated takes an async generator function or a coroutine function")

    @functools.wraps(func)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        return await _within(copy_context(), func(*args, **kwargs))

    return coroutine


async def stepwise(
    body: AsyncGenerator[Any, Any], within: Callable[[Awaitable[Any]], Awaitable[Any]]
) -> AsyncGenerator[Any, Any]:
    """The same generator, each of whose steps is awaited by `within`."""
    # A native generator, so that the event loop finalizes it when it is dropped: it comes before the body then, which
    # it holds, and closes it in its own context.
    resume: Callable[[], Awaitable[Any]] | None = functools.partial(first_step, body)
    while True:
        try:
            step, resume = cast("Callable[[], Awaitable[Any]]", resume)(), None
            try:
                item = await within(step)
            finally:
                del step  # it holds what was thrown in, and that this frame
        except StopAsyncIteration:
            return
        try:
            resume = functools.partial(body.asend, (yield item))
        except GeneratorExit:
            await within(body.aclose())
            raise
        except BaseException as exc:  # thrown in by the consumer: the body's to handle, or to let out again
            resume = functools.partial(body.athrow, exc)


@types.coroutine
def _within(context: Context, awaitable: Awaitable[_T]) -> Generator[Any, Any, _T]:
    """Await in the running task, but in another context: what `yield from` does, one step at a time."""
    steps: Any = awaitable.__await__()
    resume: Callable[[], Any] = functools.partial(next, steps)
    try:
        while True:
            try:
                waited_for = context.run(resume)
            except StopIteration as done:
                return cast(_T, done.value)
            try:
                resume = functools.partial(steps.send, (yield waited_for))
            except GeneratorExit:
                context.run(steps.close)
                raise
            except BaseException as exc:
                resume = functools.partial(steps.throw, exc)
    finally:
        del steps, resume, awaitable  # they hold what was thrown in, and that this frame


class Ambience:
    """The OTel Context of a body alone, for what must change nothing else in a program that it only looks at."""

    __slots__ = ("_context",)

    def __init__(self) -> None:
        self._context = get_current()

    async def within(self, step: Awaitable[_T]) -> _T:
        """Await a step of the body with its own context in place, in the task that takes the step."""
        outer, who = get_current(), whoever_runs()
        attach(self._context)
        try:
            return await step
        finally:
            self._context = get_current()
            restore(outer, who)


def first_step(body: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Begin with a body that the event loop does not get to know.

    It would close at its end all the generators that it knows at once, this one and the one which closes it.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return body.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)
