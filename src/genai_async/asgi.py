"""Sessions and turns for ASGI applications, of any framework and under any server."""

from __future__ import annotations

from ._asgi._middleware import SessionMiddleware
from ._asgi._sources import Baggage, Cookie, Header, Path, Query, Source

__all__ = ["Baggage", "Cookie", "Header", "Path", "Query", "SessionMiddleware", "Source"]
