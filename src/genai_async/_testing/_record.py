"""A finished span as a plain value: what the collector received and what `capture()` saw look alike."""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

__all__ = ["EventRecord", "LinkRecord", "SpanRecord"]


class EventRecord(Struct, frozen=True, kw_only=True):
    """Something that happened at one moment within a span."""

    name: str
    time_ns: int = 0
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


class LinkRecord(Struct, frozen=True, kw_only=True):
    """A span's reference to another span."""

    trace_id: str
    span_id: str
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


class SpanRecord(Struct, frozen=True, kw_only=True):
    """One finished span; ids are lower-case hex, `parent_span_id` is None for a root.

    `is_parent_remote` says that the parent is a span of another process, as far as the SDK or the wire told.
    Two records compare equal when all their fields do, so a snapshot is a comparison with plain values;
    `msgspec.to_builtins(record)` makes a dict of it.
    """

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None = None
    is_parent_remote: bool = False
    kind: str = "INTERNAL"
    start_ns: int = 0
    end_ns: int = 0
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])
    events: tuple[EventRecord, ...] = ()
    links: tuple[LinkRecord, ...] = ()
    status: str = "UNSET"
    status_message: str = ""
    scope: str = ""
    resource: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def duration(self) -> float:
        """Seconds between start and end."""
        return (self.end_ns - self.start_ns) / 1e9
