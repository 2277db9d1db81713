"""Attributes that one room has looked at, so that the next one need not."""

from __future__ import annotations

from typing import Any


class Plain(dict[str, Any]):
    """Attributes as the SDK would keep them: they are taken over without a look at each.

    The keys are texts with something in them, the values texts, numbers, bools, bytes, or tuples of these.
    """

    __slots__ = ()
