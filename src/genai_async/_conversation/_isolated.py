"""`isolated`: a function whose ambient state is its own, also while it is suspended over a `yield`."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, ParamSpec, TypeVar, cast, overload

from opentelemetry.context import Context, attach, get_current

from .._loop import whoever_runs
from ._scope import restore

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Sent = TypeVar("_Sent")


class _Ambience:
    """The body's own OTel Context, put in place around each of its steps, in the task that takes the step."""

    __slots__ = ("_context", "_outer", "_who")

    def __init__(self) -> None:
        self._context = get_current()
        self._outer: Context | None = None
        self._who: object = None

    def __enter__(self) -> None:
        self._outer, self._who = get_current(), whoever_runs()
        attach(self._context)

    def __exit__(self, *_: object) -> None:
        self._context = get_current()
        restore(cast(Context, self._outer), self._who)


@overload
def isolated(func: Callable[_P, AsyncGenerator[_T, _Sent]]) -> Callable[_P, AsyncGenerator[_T, _Sent]]: ...
@overload
def isolated(func: Callable[_P, AsyncIterator[_T]]) -> Callable[_P, AsyncIterator[_T]]: ...
@overload
def isolated(func: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[_T]]: ...
def isolated(func: Callable[..., Any]) -> Callable[..., Any]:
    """Keep what an async generator (or coroutine) function makes current to itself.

    The body starts with what is current where the function is called, sees what it enters itself over every `yield`,
    and the consumer never does; interleaved streams don't see each other. Every step runs in the consumer's own task,
    so that cancel scopes, `asyncio.timeout` and task groups inside the body work as without it.

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
            return _stepwise(func(*args, **kwargs), _Ambience())

        return generator
    if not inspect.iscoroutinefunction(func):
        raise TypeError("isolated takes an async generator function or a coroutine function")

    @functools.wraps(func)
    async def coroutine(*args: Any, **kwargs: Any) -> Any:
        with _Ambience():
            return await func(*args, **kwargs)

    return coroutine


async def _stepwise(body: AsyncGenerator[Any, Any], ambience: _Ambience) -> AsyncGenerator[Any, Any]:
    # A native generator, so that the event loop finalizes it when it is dropped: it comes before the body then, which
    # it holds, and closes it in its own ambience.
    resume: Callable[[], Awaitable[Any]] | None = functools.partial(first_step, body)
    while True:
        try:
            with ambience:
                step, resume = cast("Callable[[], Awaitable[Any]]", resume)(), None
                try:
                    item = await step
                finally:
                    del step  # it holds what was thrown in, and that this frame
        except StopAsyncIteration:
            return
        try:
            resume = functools.partial(body.asend, (yield item))
        except GeneratorExit:
            with ambience:
                await body.aclose()
            raise
        except BaseException as exc:  # thrown in by the consumer: the body's to handle, or to let out again
            resume = functools.partial(body.athrow, exc)


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
