"""A home for an exporter in programs without a loop: one daemon thread with a loop of its own."""

from __future__ import annotations

import atexit
import sys
import threading
from typing import cast

import anyio

from .._loop import run_inline
from ._exporter import Exporter
from ._fork import importing

__all__ = ["ThreadHost"]

_AFTER_THE_PROGRAMS = -100


class ThreadHost:
    """Runs one exporter on a daemon thread until it is closed, at the latest when the interpreter exits.

    In a child process after a fork the thread starts again with the first span.

        host = ThreadHost()
        host.start(exporter)
    """

    def __init__(self) -> None:
        self._exporter: Exporter | None = None
        self._thread: threading.Thread | None = None

    def start(self, exporter: Exporter) -> None:
        """Start the thread; the interpreter's exit closes `exporter` within its `shutdown_timeout`."""
        self._exporter = exporter
        atexit.register(exporter.shutdown)
        exporter.keep(self)

    def stand_by(self, exporter: Exporter) -> None:
        """Start the thread in child processes only, after a fork: here a loop of the program's runs `exporter`."""
        self._exporter = exporter
        exporter.leave_to(self)

    def join(self, timeout: float | None = None) -> bool:
        """Wait in the calling thread until the thread has ended, which it does once the exporter is closed.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it has ended.
        """
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return False
        thread.join(None if timeout is None else min(timeout, threading.TIMEOUT_MAX))
        return not thread.is_alive()

    def launch(self) -> None:
        """Start a thread for the exporter, which has none or lost it in a fork.

        Raises:
            RuntimeError: No thread can be had.
        """
        exporter = cast(Exporter, self._exporter)
        _close_with_worker_process(exporter)
        self._thread = threading.Thread(target=self._run, args=(exporter,), name="genai_async-export", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
            raise

    def is_alive(self) -> bool:
        """Whether the thread runs, or is being started."""
        thread = self._thread
        return thread is not None and (thread.ident is None or thread.is_alive())

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is this one."""
        return self._thread is threading.current_thread()

    def _run(self, exporter: Exporter) -> None:
        while not exporter.is_closed:
            try:
                with importing:
                    run_inline(anyio.lowlevel.checkpoint)  # asyncio and what anyio needs of it load now
                run_inline(exporter.run_alone)
            except Exception as exc:  # there are no descriptors for a loop, mostly
                # While the interpreter exits it cannot be taken down in order, and then all is over.
                if not exporter.is_closed:
                    exporter.stumble(exc)
        atexit.unregister(exporter.shutdown)


def _close_with_worker_process(exporter: Exporter) -> None:
    """Have a process of `multiprocessing` send what waits when it ends, as it calls no exit handlers of Python."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and multiprocessing.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, exporter.shutdown, exitpriority=_AFTER_THE_PROGRAMS)
