"""What anyio has no way for: naming the running task, calling into a loop without waiting, and a
task that belongs to an object instead of a block. asyncio's and trio's own APIs are used here only.
"""

from __future__ import annotations

import math
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any, cast

import anyio


def _known(module: str, name: str) -> Any | None:
    # Importing asyncio or trio costs milliseconds; where nobody has, no task of it runs and nothing of it was raised.
    # The same holds while another thread is in the middle of importing it (httpx does), when parts are missing.
    return getattr(sys.modules.get(module), name, None)


_asyncio_current: Callable[[], Any] | None = None


def _asyncio_task() -> Any | None:
    global _asyncio_current  # noqa: PLW0603  # looked up once: this runs for each span that is entered
    if _asyncio_current is None:
        _asyncio_current = _known("asyncio", "current_task")
        if _asyncio_current is None:
            return None
    try:
        return _asyncio_current()
    except RuntimeError:
        return None


def _trio_task() -> Any | None:
    is_inside = _known("trio.lowlevel", "in_trio_task")
    if is_inside is None or not is_inside():
        return None
    return sys.modules["trio.lowlevel"].current_task()


def current_task() -> Any | None:
    """The running asyncio or trio task, or None in plain threads and loop callbacks."""
    return _asyncio_task() or _trio_task()


def whoever_runs() -> object:
    """The running task, or the thread where no loop runs: equal while that goes on, and it keeps nothing alive.

    A callback of a loop is nobody: it is gone when it returns, and what it starts can only inherit from it.
    """
    task = _asyncio_task()
    if task is None:
        task = _trio_task()
    if task is not None:
        return weakref.ref(task)
    return object() if _is_in_asyncio() else weakref.ref(threading.current_thread())


def still_runs(who: object) -> bool:
    """Whether a task or thread that `whoever_runs` named may still come back; a callback does not."""
    if isinstance(who, weakref.ref):
        task = cast("weakref.ref[Any]", who)()
        if isinstance(task, threading.Thread):
            return task.is_alive()
        is_done = getattr(task, "done", None)
        return task is not None and not (is_done is not None and is_done())
    return False


def is_in_loop() -> bool:
    """Whether the calling thread runs an event loop, in a task or in a callback."""
    return _is_in_asyncio() or _trio_task() is not None


def _is_in_asyncio() -> bool:
    running = _known("asyncio", "_get_running_loop")
    return running is not None and running() is not None


def is_cancellation(exc: BaseException) -> bool:
    """Whether asyncio or trio raised this to cancel a task."""
    return isinstance(exc, (_known("asyncio", "CancelledError") or (), _known("trio", "Cancelled") or ()))


def failure_of(future: object) -> BaseException | None:
    """What an asyncio future that is done has failed with; None for any other.

    Whoever asks it by its public method has seen the exception: the report of one that nobody saw would be lost.
    """
    found = getattr(future, "_exception", None)
    return found if isinstance(found, BaseException) else None


def is_timeout(exc: BaseException) -> bool:
    """Whether this says that something took too long."""
    return isinstance(exc, (TimeoutError, _known("trio", "TooSlowError") or ()))


def is_overdue(cancellation: BaseException | None) -> bool:
    """Whether it was a deadline that cancelled: trio names the source, anyio the reason.

    The effective deadline cannot tell: it is minus infinity once a scope is cancelled, for whatever reason.
    """
    seen: set[int] = set()
    waiting = [cancellation]
    while waiting:
        exc = waiting.pop()
        if exc is None or id(exc) in seen:
            continue
        seen.add(id(exc))
        if isinstance(exc, BaseExceptionGroup):
            waiting += cast("BaseExceptionGroup[BaseException]", exc).exceptions
        elif is_cancellation(exc):
            if getattr(exc, "source", None) == "deadline" or "deadline exceeded" in str(exc):
                return True
            # On trio, anyio's task group raises a new cancellation that is caused by a group of the ones it had.
            waiting.append(exc.__cause__)
    return False


class Loop:
    """The event loop that runs in this thread, held so that any thread may call into it."""

    __slots__ = ("_native", "_thread")

    def __init__(self) -> None:
        self._native: Any = anyio.lowlevel.current_token().native_token
        self._thread = threading.get_ident()

    @property
    def is_here(self) -> bool:
        """Whether the calling thread runs this loop just now."""
        return threading.get_ident() == self._thread and self.is_running()

    def is_running(self) -> bool:
        """Whether somebody runs this loop: one of asyncio may be stopped and go on later."""
        is_running = getattr(self._native, "is_running", None)
        return self.is_alive() if is_running is None else bool(is_running())

    def is_alive(self) -> bool:
        """Whether this loop has not been closed."""
        is_closed = getattr(self._native, "is_closed", None)
        # A trio token only tells when it is used. Where it need not be, that saves waking the loop up.
        return self.call_soon(_nothing_now) if is_closed is None else not is_closed()

    def call_soon(self, func: Callable[..., object], *args: object) -> bool:
        """Run `func` on the loop soon, from any thread and without waiting; False if the loop is gone."""
        # A trio token knows `run_sync_soon`, an asyncio loop `call_soon_threadsafe`. Both raise once
        # their loop has been closed: trio RunFinishedError (a RuntimeError), asyncio RuntimeError.
        call = getattr(self._native, "run_sync_soon", None) or self._native.call_soon_threadsafe
        try:
            call(func, *args)
        except RuntimeError:
            return False
        return True


class Signal:
    """An event that any thread may set and that tasks of any loop may await.

    `anyio.Event` belongs to one loop, `threading.Event` blocks it; delivery crosses both.
    """

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = False
        # Each waiter puts itself in and takes itself out, in single steps of the list: whatever interrupts `set`, a
        # finalizer or a signal's handler that raises, nobody is forgotten. The next `set` wakes who is still there.
        self._waiters: list[Callable[[], object]] = []

    def is_set(self) -> bool:
        """Whether `set` was called since the last `clear`."""
        return self._is_set

    def set(self) -> None:
        """Wake every waiter, in whatever loop or thread it is; idempotent."""
        self._is_set = True
        for wake in tuple(self._waiters):
            wake()

    def clear(self) -> None:
        """Make later waits wait again."""
        self._is_set = False

    async def wait(self) -> None:
        """Wait until the signal is set, in any anyio task; always lets others run."""
        await any_of(self)

    def wait_blocking(self, timeout: float | None) -> bool:
        """Wait in a plain thread for `timeout` seconds at most; whether the signal was set."""
        event = threading.Event()
        self._waiters.append(event.set)
        try:
            return self._is_set or event.wait(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        finally:
            self._forget(event.set)

    def _forget(self, wake: Callable[[], object]) -> None:
        with suppress(ValueError):
            self._waiters.remove(wake)


async def any_of(*signals: Signal) -> None:
    """Wait until one of the signals is set, in any anyio task; always lets others run."""
    event = anyio.Event()
    loop = Loop()

    def wake() -> None:
        loop.call_soon(event.set)

    for signal in signals:
        signal._waiters.append(wake)
    try:
        if any(signal.is_set() for signal in signals):
            await anyio.lowlevel.checkpoint()
        else:
            await event.wait()
    finally:
        for signal in signals:
            signal._forget(wake)


def spawn(func: Callable[[], Awaitable[None]], end: Callable[[], object], name: str) -> Any:
    """Start `func` as a task that no block owns and return it: the caller keeps it and waits for its end.

    `end` is called when the task has ended, also one that was cancelled before its first step. `func` must not raise.
    The task is not inside the caller's cancel scopes, so its owner passes cancellation on.
    """
    if _trio_task() is not None:
        import trio

        async def run() -> None:
            try:
                await func()
            finally:
                end()

        return trio.lowlevel.spawn_system_task(run, name=name)
    import asyncio

    task = asyncio.get_running_loop().create_task(cast(Any, func()), name=name)
    task.add_done_callback(lambda _: end())
    return task


def block_of() -> Any:
    """Note the running task as the one that runs a block: for `Host`, should something have to interrupt it."""
    task = _asyncio_task()
    if task is not None:
        return task
    task = _trio_task()
    return None if task is None else (task, _nesting(task))


def _nesting(task: Any) -> object:
    # How deep a trio task is in cancel scopes has no public name. Where the private one is gone nothing is interrupted,
    # and what would have been comes out at the block's end.
    return getattr(task, "_cancel_status", None)


class Host:
    """The task that runs a block, for a supervisor beside it that may have to interrupt the block.

    An asyncio task is cancelled, as `asyncio.TaskGroup` does to its host. trio has no such thing: there it takes a
    cancel scope in the block itself. It is entered as late as the first need, and only where the task stands in no
    scope that is younger than the block, since scopes must be left in the order in which they were entered.
    """

    __slots__ = ("_depth", "_has_interrupted", "_scope", "_task")

    def __init__(self, block: Any) -> None:
        self._has_interrupted = False
        self._scope: anyio.CancelScope | None = None
        task, depth = cast("tuple[Any, object]", block) if isinstance(block, tuple) else (block, None)
        self._task: Any = task
        self._depth: object = depth
        if self._depth is not None and self._is_at(self._depth):
            self._scope = anyio.CancelScope()
            self._scope.__enter__()
            self._depth = _nesting(self._task)

    def interrupt(self) -> None:
        """Cancel what the block is waiting for."""
        if self._scope is not None:
            self._scope.cancel()
        elif self._depth is None and self._task.cancel():
            self._has_interrupted = True
            _interrupted[self._task] = _interrupted.get(self._task, 0) + 1

    def settle(self, error: BaseException | None) -> BaseException | None:
        """Take the interruption back, at the block's end, and say what of the block's error was not that."""
        if self._has_interrupted:
            self._task.uncancel()
            _interrupted[self._task] -= 1
        if self._scope is None:
            return error
        if self._is_at(self._depth):
            error = self._leave(error)
            late = _late.get(self._task, [])
            while (host := next((host for host in late if host._is_at(host._depth)), None)) is not None:
                late.remove(host)
                host._leave(None)
        else:
            # A block around another one was left first: its scope waits until it is the innermost.
            _late.setdefault(self._task, []).append(self)
        return error

    def pass_on(self) -> None:
        """Interrupt the block around this one once more, if it was: this one's error takes the cancellation's place."""
        if _interrupted.get(self._task):
            # As `asyncio.TaskGroup` does it since Python 3.13; the number of requests stays the same.
            self._task.uncancel()
            self._task.cancel()

    def _leave(self, error: BaseException | None) -> BaseException | None:
        scope, self._scope = cast(anyio.CancelScope, self._scope), None
        try:
            is_all = scope.__exit__(
                None if error is None else type(error), error, None if error is None else error.__traceback__
            )
        except BaseException as rest:  # not swallowed: the caller raises it, in the group of what failed
            return rest
        else:
            return None if is_all else error
        finally:
            del error  # which may be a group with the rest in it, and that holds this frame

    def _is_at(self, depth: object) -> bool:
        return _trio_task() is self._task and _nesting(self._task) is depth


# How many blocks of an asyncio task have asked for its cancellation and are not left yet.
_interrupted: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

_late: weakref.WeakKeyDictionary[Any, list[Host]] = weakref.WeakKeyDictionary()


async def load(*modules: str) -> None:
    """Have modules loaded in another thread, and what anyio needs for the running loop: the first time some 25 ms."""
    missing = [name for name in modules if name not in sys.modules]
    if _asyncio_task() is not None and "anyio._backends._asyncio" not in sys.modules:
        import asyncio

        await asyncio.get_running_loop().run_in_executor(None, _load_with_backend, missing)
    elif missing:
        await anyio.to_thread.run_sync(_load, missing)


def _load(modules: list[str]) -> None:
    for name in modules:
        import_module(name)


def _load_with_backend(modules: list[str]) -> None:
    # anyio itself loads its parts when they are named, so they are named here.
    anyio.run(_nothing)
    _load(modules)


async def _nothing() -> None:
    pass


def _nothing_now() -> None:
    pass


def run_inline(func: Callable[[], Awaitable[object]]) -> None:
    """Run `func` in a new loop in this thread that needs no other thread while the interpreter exits.

    None can be started any more then, and no work handed to executors. Until then what blocks, as a look-up of a host
    does whose name server does not answer, has a daemon thread of its own: it holds up neither the loop nor the exit.
    """
    import asyncio

    class InlineLoop(asyncio.SelectorEventLoop):
        _is_made = False

        def __init__(self) -> None:
            super().__init__()
            self._is_made = True
            # Work is done in place here, so in debug mode it is no news that a step takes long.
            self.slow_callback_duration = math.inf

        def is_closed(self) -> bool:
            # One that lacked the descriptors for its making would close again what it never opened.
            return not self._is_made or super().is_closed()

        def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
            future = self.create_future()

            def work() -> None:
                try:
                    settle = partial(future.set_result, func(*args))
                except Exception as exc:
                    settle = partial(future.set_exception, exc)
                with suppress(RuntimeError):  # the loop has been closed meanwhile
                    self.call_soon_threadsafe(lambda: future.done() or settle())

            try:
                threading.Thread(target=work, name="genai_async-lookup", daemon=True).start()
            except RuntimeError:
                work()
            return future

    async def main() -> None:
        await func()

    anyio.run(main, backend_options={"loop_factory": InlineLoop})
