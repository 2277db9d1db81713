"""OpenTelemetry's ways without their detours: each is taken several times for every span."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar, Token, copy_context
from typing import Any

from opentelemetry import context as otel
from opentelemetry.context import Context


class Plain(dict[str, Any]):
    """Attributes as the SDK would keep them, so that nobody need look at each once more.

    The keys are texts with something in them, the values texts, numbers, bools, bytes, or tuples of these.
    """

    __slots__ = ()


def _variable() -> ContextVar[Context] | None:
    """The variable that OpenTelemetry keeps its current Context in, learnt through its public interface.

    None where a runtime context of somebody's own keeps it elsewhere.
    """
    marker = Context()
    otel.attach(marker)
    found = [variable for variable, value in copy_context().items() if value is marker]
    return found[0] if len(found) == 1 else None


_current = copy_context().run(_variable)  # in a copy, where the marker stays

get_current: Callable[[], Context] = otel.get_current if _current is None else _current.get
"""`opentelemetry.context.get_current` without two calls of Python in between."""

attach: Callable[[Context], Token[Context]] = otel.attach if _current is None else _current.set
"""`opentelemetry.context.attach`, as well."""
