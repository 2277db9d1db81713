"""The lock of what is rare: events, links, a status, limits that bite."""

from __future__ import annotations

import os
import threading
from typing import Final


class _RareLock:
    """Held for a moment, by all spans. It is re-entrant, because a finalizer may come back into it."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """Begin anew: in a forked child the thread that held it does not exist, so nobody would ever release it."""
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


RARE: Final = _RareLock()

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=RARE.renew)
