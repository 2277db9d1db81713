"""Setting tracing up: the one room that joins the others."""

from ._tracing import Tracing, capturing, configure, tracing

__all__ = ["Tracing", "capturing", "configure", "tracing"]
