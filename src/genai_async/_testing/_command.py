"""`python -m genai_async collect`: the collector in a process of its own."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import BinaryIO

import anyio

from ._collector import Collector
from ._wire import decode_request


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
    with ExitStack() as stack:
        path: Path | None = arguments.json_lines
        try:
            keep = _print if path is None else _appender(stack.enter_context(path.open("ab")))
        except OSError as exc:
            return _refuse(f"cannot write to {path}: {exc}")
        return anyio.run(_collect, arguments, keep)


async def _collect(arguments: argparse.Namespace, keep: Callable[[bytes], object]) -> int:
    async with AsyncExitStack() as stack:
        collector = Collector(host=arguments.host, port=arguments.port, keep=False, on_accept=keep)
        try:
            await stack.enter_async_context(collector)
        except (OSError, OverflowError) as exc:
            return _refuse(f"cannot listen on {arguments.host}, port {arguments.port}: {exc}")
        print(collector.endpoint, flush=True)  # noqa: T201
        async with anyio.create_task_group() as group:
            group.start_soon(_until_signal, group.cancel_scope)
            if arguments.until_eof:
                group.start_soon(_until_eof, group.cancel_scope)
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
    await anyio.wait_readable(sys.stdin.fileno())
    scope.cancel()


def _appender(file: BinaryIO) -> Callable[[bytes], object]:
    def append(line: bytes) -> None:
        file.write(line + b"\n")
        file.flush()

    return append


def _print(line: bytes) -> None:
    for span in decode_request(line):
        print(f"{span.trace_id}  {span.duration * 1000:9.1f} ms  {span.status:<5}  {span.name}")  # noqa: T201
    sys.stdout.flush()
