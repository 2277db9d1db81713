"""Spans on the standard output: as lines of OTLP/JSON for whoever collects it (OTLP file exporter), or for people.

It takes the place of the network below an exporter, which so has the same queue, bounds and books as any other.
Writing waits for whoever reads: such an exporter belongs on a thread of its own (`ThreadHost`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from select import select
from typing import TYPE_CHECKING, Any, TextIO, cast

import msgspec

from ._body import body
from ._config import ExportConfig
from ._line import look

if TYPE_CHECKING:
    import httpx

__all__ = ["lines", "output", "pages"]

# For as long as it takes: what was written in part cannot be written again, and closing has a deadline of its own.
_TIMEOUT = 1e8
# Who looks on does not see it; a request for each span would cost several times as much as the span.
_DELAY = 0.1


def output(form: Callable[[bytes], Iterator[bytes]], options: Mapping[str, Any]) -> ExportConfig:
    """How an exporter writes to the standard output: soon, and in order.

    Args:
        form: Makes of a request's body what is written, in pieces that belong together.
        options: Further options of `ExportConfig`.
    """
    transport = cast("httpx.AsyncBaseTransport", _Output(form))
    return ExportConfig(
        endpoint="http://stdout",
        transport=transport,
        timeout=_TIMEOUT,
        schedule_delay=_DELAY,
        max_requests=1,
        **options,
    )


def lines(content: bytes) -> Iterator[bytes]:
    """Each span of a request as a line of OTLP/JSON, as those who collect output cut long lines."""
    for group, span in look(content, is_ours=True):
        if span is not None:
            yield body([(group, span)]) + b"\n"


def pages(content: bytes) -> Iterator[bytes]:
    """Each span of a request for people: indented, attributes by their names."""
    for _, span in look(content, is_ours=True):
        if span is not None:
            fields = _readable(msgspec.json.decode(span))
            yield msgspec.json.format(msgspec.json.encode({"name": "", **fields}), indent=4) + b"\n"


class OutputGoneError(Exception):
    """Nobody will ever read the standard output again."""


class _Output:
    """A transport as httpx's are, without their base class: importing that takes long, and happens elsewhere."""

    def __init__(self, form: Callable[[bytes], Iterator[bytes]]) -> None:
        self._form = form
        # The present one: programs put another in its place for a moment, to catch what is printed.
        self._stream: TextIO | None = sys.stdout

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        from httpx import Response

        pieces = list(self._form(await request.aread()))
        try:
            _write(self._stream, pieces)
        except (BrokenPipeError, ValueError) as exc:  # its reader has gone, or it was closed
            raise OutputGoneError from exc
        return Response(200)

    async def aclose(self) -> None:
        """Leave it open: it is the program's."""


def _write(stream: TextIO | None, pieces: Iterable[bytes]) -> None:
    """Write to the standard output what belongs together, after what the program has printed so far.

    Past its buffer, whose lock would be held for as long as nobody reads: interpreters abort at exit over that.
    """
    if stream is None:  # a program without a console
        raise OutputGoneError
    stream.flush()
    buffer = getattr(stream, "buffer", None)
    if buffer is None:  # a text stream in its place, as in a notebook
        stream.writelines(piece.decode() for piece in pieces)
        stream.flush()
        return
    raw = getattr(buffer, "raw", buffer)
    for piece in pieces:
        rest = memoryview(piece)
        while rest:
            written = raw.write(rest)
            if written is None:  # full, and set to non-blocking by somebody
                select([], [raw], [])
            rest = rest[written or 0 :]


def _readable(value: Any) -> Any:
    """A part of a span with each list of attributes as an object."""
    if isinstance(value, list):
        return [_readable(item) for item in cast("list[Any]", value)]
    if not isinstance(value, dict):
        return value
    fields = cast("dict[str, Any]", value)
    return {name: _named(part) if name == "attributes" else _readable(part) for name, part in fields.items()}


def _named(pairs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {pair["key"]: _value(pair.get("value", {})) for pair in pairs}


def _value(value: Mapping[str, Any]) -> Any:
    """What an AnyValue says."""
    for kind, found in value.items():
        if kind == "arrayValue":
            return [_value(item) for item in found.get("values", ())]
        if kind == "kvlistValue":
            return _named(found.get("values", ()))
        return int(found) if kind == "intValue" else found
    return None
