"""The shapes of ASGI (specification, version 3), without a framework."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
# Any: each framework has its own types for the three, and none would take another's.
App: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]
