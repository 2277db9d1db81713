"""The one place that reads the environment: `OTEL_*` variables as typed values.

An empty variable counts as unset, and a number or a word that cannot be used is reported once and treated as unset
(OpenTelemetry specification, configuration/common.md): what others set must not keep a program from starting.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection
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


def integer(*names: str, least: int = 0) -> int | None:
    """The first of these variables that is set, as an integer of at least `least`."""

    def parse(value: str) -> int | None:
        found = int(value)
        return found if found >= least else None

    return _parsed(parse, names, f"a whole number of at least {least}")


def number(*names: str, positive: bool = False) -> float | None:
    """The first of these variables that is set, as a finite float of at least 0, or with `positive` above it."""

    def parse(value: str) -> float | None:
        found = float(value)
        return found if math.isfinite(found) and (found > 0 if positive else found >= 0) else None

    return _parsed(parse, names, f"a number {'above' if positive else 'of at least'} 0")


def word(*names: str, known: Collection[str]) -> str | None:
    """The first of these variables that is set, as one of the words that are `known`, in lower case."""

    def parse(value: str) -> str | None:
        return value.lower() if value.lower() in known else None

    return _parsed(parse, names, f"one of {', '.join(known)}")


def flag(name: str) -> bool:
    """Whether the variable is `true` in any case; everything else is false."""
    return (text(name) or "").lower() == "true"


def _parsed(parse: Callable[[str], _T | None], names: tuple[str, ...], kind: str) -> _T | None:
    for name in names:
        value = text(name)
        if value is None:
            continue
        try:
            found = parse(value)
        except ValueError:
            found = None
        if found is not None:
            return found
        _logger.warning("%s is not %s and is ignored", name, kind)
    return None
