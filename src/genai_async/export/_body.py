"""The body of a request: encoded spans joined below their resources and scopes."""

from __future__ import annotations

from collections.abc import Iterable

from ._encode import Group

__all__ = ["body", "gzipped"]

# Fast rather than tight: OTLP/JSON shrinks to a tenth even so, and the processor is shared with the program.
_GZIP_LEVEL = 1
_GZIP_WINDOW = 31


def body(spans: Iterable[tuple[Group, bytes]]) -> bytes:
    """An ExportTraceServiceRequest in JSON; equal resources and scopes share an envelope."""
    resources: dict[bytes, dict[bytes, list[bytes]]] = {}
    latest: Group | None = None
    together: list[bytes] = []
    for group, data in spans:
        if group is not latest:  # mostly it is: looking it up for each span costs as much as joining
            latest = resource, scope = group
            together = resources.setdefault(resource, {}).setdefault(scope, [])
        together += (b",", data)
    # One list of pieces and one join, because each step on the way would copy the whole batch once more.
    pieces = [b'{"resourceSpans":[']
    for number, (resource, scopes) in enumerate(resources.items()):
        pieces += (b",{" if number else b"{", resource, b',"scopeSpans":[')
        for place, (scope, together) in enumerate(scopes.items()):
            pieces += (b",{" if place else b"{", scope, b',"spans":[', *together[1:], b"]}")
        pieces.append(b"]}")
    pieces.append(b"]}")
    return b"".join(pieces)


def gzipped(data: bytes) -> bytes:
    """`data` in the gzip format."""
    import zlib

    compressor = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    return compressor.compress(data) + compressor.flush()
