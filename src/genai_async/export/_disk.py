"""A thread for calls that a disk may not answer, as a mount does whose server has gone."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeAlias, TypeVar

import anyio

from .._loop import Signal

__all__ = ["Disk"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Call: TypeAlias = Callable[[], Callable[[], None]]
"""Does what is asked for, and gives back how to tell of it."""

_LINGER = 10.0
# So often within somebody's patience it is looked whether a call hangs: several may come back before one's own.
_LOOKS = 4


class Disk:
    """Makes calls one after the other, in a daemon thread that is there while there are some.

    What was begun goes on whoever stops waiting for it, and what hangs holds up neither a loop nor the exit.
    """

    def __init__(self) -> None:
        self._ready = threading.Condition()
        self._calls: deque[_Call] = deque()
        self._since: float | None = None
        self._has_thread = False
        self._is_over = False

    @property
    def is_busy(self) -> bool:
        """Whether a call is under way, or is about to be."""
        return self._since is not None or bool(self._calls)

    def is_stuck(self, patience: float) -> bool:
        """Whether the call under way has taken more than so many seconds."""
        since = self._since
        return since is not None and time.monotonic() - since > patience

    def begin(self, func: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Call `func` once the calls before it have come back; not if the future is cancelled by then."""
        future: Future[_T] = Future()
        with self._ready:
            self._calls.append(partial(_call, future, partial(func, *args, **kwargs)))
            self._ready.notify()
            if self._has_thread:
                return future
            self._has_thread = True
        try:
            threading.Thread(target=self._work, args=(_LINGER,), name="genai_async-disk", daemon=True).start()
        except RuntimeError:  # no thread can be had, as while the interpreter exits
            self._work(0)
        return future

    async def outcome(self, future: Future[_T], patience: float) -> _T:
        """What a call has come to.

        Raises:
            TimeoutError: The call under way, this one or one before, has taken more than so many seconds, and goes on.
        """
        done = Signal()
        future.add_done_callback(lambda _: done.set())
        while not future.done() and not self.is_stuck(patience):
            with anyio.move_on_after(patience / _LOOKS):
                await done.wait()
        return future.result(0)

    def end(self, func: Callable[[], None]) -> None:
        """Call `func` last: here, as it is quick, or after what is under way. Its errors are ignored."""
        self._is_over = True
        if self.is_busy:
            self.begin(func)
            return
        with self._ready:
            self._ready.notify()
        with suppress(OSError, ValueError):
            func()

    def _work(self, linger: float) -> None:
        while (call := self._next(linger)) is not None:
            tell = call()
            self._since = None
            tell()  # who is told may look at once whether something is under way

    def _next(self, linger: float) -> _Call | None:
        with self._ready:
            self._ready.wait_for(lambda: self._calls or self._is_over, linger)
            self._has_thread = bool(self._calls)
            if not self._has_thread:
                return None
            self._since = time.monotonic()
            return self._calls.popleft()


def _call(future: Future[_T], func: Callable[[], _T]) -> Callable[[], None]:
    if not future.set_running_or_notify_cancel():
        return lambda: None
    try:
        return partial(future.set_result, func())
    except BaseException as exc:  # raised again where it is waited for
        return partial(future.set_exception, exc)
