"""The package's logger as the hot path uses it: a handler or filter that fails must not fail the traced program."""

from __future__ import annotations

import logging
from contextlib import suppress

logger = logging.getLogger("genai_async")


def warn(message: str, *args: object, exc_info: bool = False) -> None:
    """Log a warning; never raises, whatever listens."""
    with suppress(Exception):
        logger.warning(message, *args, exc_info=exc_info, stacklevel=2)
