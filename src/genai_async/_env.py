"""The one place that reads the environment: `OTEL_*` variables as typed values.

An empty variable counts as unset, and a value that cannot be read is reported once and treated as
unset (OpenTelemetry specification, configuration/sdk-environment-variables.md).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")

_logger = logging.getLogger("genai_async")


def text(*names: str) -> str | None:
    """The first of these variables that is set and not blank, stripped."""
    for name in names:
        value = os.environ.get(name, "").strip()
        if value:
            return value
    return None


def integer(*names: str) -> int | None:
    """The first of these variables that is set, as an integer."""
    return _parsed(int, names)


def number(*names: str) -> float | None:
    """The first of these variables that is set, as a float."""
    return _parsed(float, names)


def flag(name: str) -> bool:
    """Whether the variable is `true` in any case; everything else is false."""
    return (text(name) or "").lower() == "true"


def _parsed(parse: Callable[[str], _T], names: tuple[str, ...]) -> _T | None:
    for name in names:
        value = text(name)
        if value is None:
            continue
        try:
            return parse(value)
        except ValueError:
            _logger.warning("%s is not a number and is ignored", name)
    return None
