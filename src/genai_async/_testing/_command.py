"""`python -m genai_async collect`: the collector in a process of its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from io import FileIO
from pathlib import Path
from typing import Final

import anyio

from ._collector import Collector
from ._tree import escaped
from ._wire import decode_request

_CHUNK_BYTES: Final = 65_536


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=4318, help="the port, 0 for a free one (default: %(default)s)")
    parser.add_argument(
        "--json-lines", type=Path, metavar="FILE", help="append every request to this file as OTLP/JSON"
    )
    parser.add_argument("--until-eof", action="store_true", help="end when the standard input does")


def run(arguments: argparse.Namespace) -> int:
    """Receive until interrupted; the first line on the standard output is the endpoint. 2 if it cannot be done."""
    path: Path | None = arguments.json_lines
    with ExitStack() as stack:
        try:
            keep = _print if path is None else _appender(stack.enter_context(path.open("ab", buffering=0)))
            return anyio.run(_collect, arguments, keep)
        except BrokenPipeError:
            raise
        except OSError as exc:
            return _refuse(f"cannot write to {'the standard output' if path is None else path}: {exc}")


async def _collect(arguments: argparse.Namespace, keep: Callable[[bytes], object]) -> int:
    scope = anyio.CancelScope()
    failures: list[OSError] = []

    def on_accept(line: bytes) -> None:
        try:
            keep(line)
        except OSError as exc:  # what nobody keeps must not be accepted, and so it will be with all that comes
            failures.append(exc)
            scope.cancel()
            raise

    async with AsyncExitStack() as stack:
        collector = Collector(host=arguments.host, port=arguments.port, keep=False, on_accept=on_accept)
        try:
            await stack.enter_async_context(collector)
        except (OSError, OverflowError, ValueError) as exc:
            return _refuse(f"cannot listen on {arguments.host}, port {arguments.port}: {exc}")
        print(collector.endpoint, flush=True)  # noqa: T201
        with scope:
            async with anyio.create_task_group() as group:
                group.start_soon(_until_signal, scope)
                if arguments.until_eof:
                    group.start_soon(_until_eof, scope)
    if failures:
        raise failures[0]
    return 0


def _refuse(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 2


async def _until_signal(scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            scope.cancel()


async def _until_eof(scope: anyio.CancelScope) -> None:
    # Whoever started this process holds the other end: however it dies, the pipe closes.
    # A file or no input at all has nothing to wait for, which the loop says by an error.
    with suppress(OSError):
        while sys.stdin is not None:
            await anyio.wait_readable(sys.stdin.fileno())
            if not os.read(sys.stdin.fileno(), _CHUNK_BYTES):
                break
    scope.cancel()


def _appender(file: FileIO) -> Callable[[bytes], object]:
    def append(line: bytes) -> None:
        rest = memoryview(line + b"\n")
        while rest:
            rest = rest[file.write(rest) :]

    return append


def _print(line: bytes) -> None:
    for span in decode_request(line):
        name = escaped(span.name)
        print(f"{span.trace_id}  {span.duration * 1000:9.1f} ms  {span.status:<5}  {name}")  # noqa: T201
    sys.stdout.flush()
