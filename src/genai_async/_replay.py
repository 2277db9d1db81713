"""`python -m genai_async replay`: files of spans to a collector, by way of an exporter."""

from __future__ import annotations

import argparse
import math
import os
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import BinaryIO

import anyio

from ._errors import ConfigurationError
from ._progress import Progress
from ._testing._tree import escaped
from .export import ExportConfig, Exporter, ExportStats
from .export._line import look

_MAX_LINE_BYTES = 64 * 2**20
_MAX_QUEUE_BYTES = 8 * _MAX_LINE_BYTES
# So much is read ahead of the collector.
_AHEAD_BYTES = 16 * 2**20
_DRAW_DELAY = 0.1


@dataclass(slots=True)
class Survey:
    """What is in the files: spans, lines that cannot be read, files without a single line that can.

    Malformed spans are those that a collector would refuse, and with them all that are in the same request.
    """

    files: int = 0
    spans: int = 0
    malformed: int = 0
    torn: int = 0
    foreign: list[Path] = field(default_factory=list[Path])
    unreadable: list[Path] = field(default_factory=list[Path])

    @property
    def is_whole(self) -> bool:
        """Whether everything in them can be sent."""
        return not self.malformed and not self.torn and not self.foreign and not self.unreadable


class Source:
    """A file that is read twice, to look and to send; what can be read once only, like a pipe, is copied."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        self._stack = stack
        self._copy: BinaryIO | None = None

    def open(self) -> AbstractContextManager[BinaryIO]:
        """Its content from the beginning.

        Raises:
            OSError: It cannot be read.
        """
        if self._copy is None:
            file = self.path.open("rb")
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            with file:
                copy = self._stack.enter_context(TemporaryFile())  # noqa: SIM115
                copyfileobj(file, copy)
            self._copy = copy
        self._copy.seek(0)
        return nullcontext(self._copy)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a file, or a directory of .jsonl files")
    parser.add_argument("--endpoint", metavar="URL", help="the collector (default: OTEL_EXPORTER_OTLP_ENDPOINT)")
    parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE", help="may be given repeatedly")
    parser.add_argument("--compression", choices=("gzip", "none"), help="(default: OTEL_EXPORTER_OTLP_COMPRESSION)")
    parser.add_argument("--dry-run", action="store_true", help="check the files and send nothing")
    parser.add_argument(
        "--patience",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="give up after so long without progress, 0 after one try (default: %(default)g)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Send the files; 1 if anything in them was not delivered, 2 if nothing was tried."""
    if missing := list(_missing(arguments.paths)):
        _say("\n".join(missing))
        return 2
    try:
        config = ExportConfig.resolve(
            endpoint=arguments.endpoint,
            headers=_headers(arguments.header),
            compression=arguments.compression,
            max_queue_bytes=_MAX_QUEUE_BYTES,
        )
    except ConfigurationError as exc:
        _say(str(exc))
        return 2
    with ExitStack() as stack:
        sources = [Source(path, stack) for path in _files(arguments.paths)]
        survey = _survey(sources)
        for line in _told(survey):
            print(line)  # noqa: T201
        if arguments.dry_run:
            return 0 if survey.is_whole else 1
        return _run(config, sources, survey, arguments.patience)


def _run(config: ExportConfig, sources: Sequence[Source], survey: Survey, patience: float) -> int:
    foreign = {*survey.foreign, *survey.unreadable}
    sendable = [source for source in sources if source.path not in foreign]
    exporter = Exporter(config)
    try:
        anyio.run(_replay, sendable, survey.spans, exporter, patience)
    finally:  # whoever interrupts it should know what the collector has
        for line in _outcome(exporter.stats(), survey.spans):
            print(line, flush=True)  # noqa: T201
    return 0 if survey.is_whole and exporter.stats().delivered == survey.spans else 1


def _headers(pairs: Sequence[str]) -> Mapping[str, str] | None:
    """None without any, so that those of the environment count.

    Raises:
        ConfigurationError: One has no value.
    """
    if any("=" not in pair for pair in pairs):
        raise ConfigurationError("--header: must be NAME=VALUE")
    return {name.strip(): value.strip() for name, _, value in (pair.partition("=") for pair in pairs)} or None


def _missing(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        try:
            path.stat()
        except FileNotFoundError:
            yield f"{path}: no such file"
        except OSError as exc:
            yield f"{path}: cannot be read: {exc.strerror}"


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Each file once: those given, and the `.jsonl` files in directories; one that may not be read is itself."""
    seen: set[str] = set()
    for path in paths:
        try:
            found = sorted(path.iterdir()) if path.is_dir() else [path]
        except OSError:
            found = [path]
        for file in found:
            is_meant = file is path or file.suffix == ".jsonl"
            if is_meant and (real := os.path.realpath(file)) not in seen:
                seen.add(real)
                yield file


def _survey(sources: Sequence[Source]) -> Survey:
    survey = Survey()
    with Progress(len(sources), "files checked") as progress:
        for source in sources:
            _look(source, survey)
            progress.advance()
    return survey


def _look(source: Source, survey: Survey) -> None:
    survey.files += 1
    lines, spans = Counter[bool](), Counter[bool]()
    try:
        with source.open() as file:
            for line in _lines(file):
                found = _count(line)
                lines[found is not None] += 1
                spans.update(found)
    except OSError:
        survey.unreadable.append(source.path)
        return
    if lines[False] and not lines[True]:
        survey.foreign.append(source.path)
    else:
        survey.spans += spans[True]
        survey.malformed += spans[False]
        survey.torn += lines[False]


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines that are not blank; one over the cap comes empty."""
    is_rest = False
    while piece := file.readline(_MAX_LINE_BYTES):
        is_whole = piece.endswith(b"\n") or len(piece) < _MAX_LINE_BYTES
        if not is_rest and piece.strip():
            yield piece if is_whole else b""
        is_rest = not is_whole


def _count(line: bytes) -> Counter[bool] | None:
    """How many spans a line holds, by whether they can be sent, or None if it is torn or no traces."""
    try:
        return Counter(span is not None for _, span in look(line))
    except (ValueError, RecursionError):
        return None


async def _replay(sources: Sequence[Source], spans: int, exporter: Exporter, patience: float) -> None:
    """Send what can be read, a stretch at a time, until all of it is settled or nothing has moved for too long."""
    async with anyio.create_task_group() as group:
        group.start_soon(exporter.run)
        try:
            with Progress(spans, "spans sent") as progress:
                for source in sources:
                    if not await _send(source, exporter, progress, patience):
                        break
                else:
                    await _settle(exporter, progress, patience)
        finally:  # nothing else ends the sending, an interrupt does not either
            await exporter.aclose(0)


async def _send(source: Source, exporter: Exporter, progress: Progress, patience: float) -> bool:
    """Queue the spans of a file; false if the collector does not keep up at all."""
    try:
        opened = source.open()
    except OSError:
        return True
    with opened as file:
        for line in _lines(file):
            with suppress(ValueError):
                exporter.accept_line(line)
            if exporter.stats().queue_bytes > _AHEAD_BYTES and not await _settle(exporter, progress, patience):
                return False
    return True


async def _settle(exporter: Exporter, progress: Progress, patience: float) -> bool:
    """Wait until all that was queued is settled, for as long as something moves."""
    moved = time.monotonic()
    while not (await exporter.flush(_DRAW_DELAY)).complete:
        stats = exporter.stats()
        if settled := _advance(stats, progress):
            moved = time.monotonic()
        # While a request is under way it may still succeed, and its own time-out ends it.
        if not settled and stats.requests and not stats.in_flight and time.monotonic() >= moved + patience:
            return False
    _advance(exporter.stats(), progress)
    return True


def _advance(stats: ExportStats, progress: Progress) -> int:
    settled = stats.delivered + stats.dropped_total - progress.done
    progress.advance(settled)
    return settled


def _told(survey: Survey) -> Iterator[str]:
    yield f"{survey.spans:,} spans in {survey.files:,} files"
    if survey.malformed:
        yield f"{survey.malformed:,} spans are malformed"
    if survey.torn:
        yield f"{survey.torn:,} lines are torn or hold no traces"
    for path in survey.foreign:
        yield f"{escaped(str(path))}: holds no traces"
    for path in survey.unreadable:
        yield f"{escaped(str(path))}: cannot be read"


def _outcome(stats: ExportStats, spans: int) -> Iterator[str]:
    yield f"delivered {stats.delivered:,} of {spans:,} in {stats.requests:,} requests, {stats.retried:,} retried"
    given_up = {reason: count for reason, count in stats.dropped.items() if reason != "shutdown"}
    for reason, count in sorted(given_up.items()):
        yield f"given up {count:,}: {reason}"
    if waiting := spans - stats.delivered - sum(given_up.values()):
        yield f"not delivered {waiting:,}: {stats.last_error or 'interrupted, or the files changed meanwhile'}"


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError("a number of seconds")
    return seconds


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
