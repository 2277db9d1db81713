"""Log lines of the hot path: one per kind, so that a bad value in a loop does not fill the log."""

from __future__ import annotations

import logging

from .._log import logger, warn

_said: set[str] = set()


def once(message: str, *args: object) -> None:
    """Warn the first time this message comes up; with the exception being handled, if there is one, for debugging."""
    if message not in _said:
        _said.add(message)
        warn(message, *args, exc_info=logger.isEnabledFor(logging.DEBUG))


def forget() -> None:
    """Make every message new again (tests look at log lines one by one)."""
    _said.clear()
