"""What a fork must wait for: a child cannot import, nor set up TLS, while a thread of its parent was just doing so.

The locks of that stay locked in the child, where their thread does not exist.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Final

__all__ = ["Importing", "importing"]

# Files that do not answer (certificates on a dead mount) must not keep the program from forking.
_PATIENCE: Final = 5.0


class Importing:
    """Held while a thread of ours imports or sets up TLS; a fork waits for that, though not for ever."""

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._lock = threading.RLock()
        self._patience = patience

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def begin_fork(self) -> None:
        """Wait for the thread that holds it."""
        self._lock.acquire(timeout=self._patience)

    def end_fork(self) -> None:
        """Go on in the parent."""
        with suppress(RuntimeError):  # the other thread holds it still
            self._lock.release()

    def end_fork_in_child(self) -> None:
        """Go on in the child, without the thread that may hold it still."""
        try:
            self._lock.release()
        except RuntimeError:
            self._lock = threading.RLock()


importing: Final = Importing()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=importing.begin_fork,
        after_in_parent=importing.end_fork,
        after_in_child=importing.end_fork_in_child,
    )
