"""Programs in processes of their own, for ends that a test cannot meet in its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_PRELUDE = """
import os, signal, sys, threading, time
import anyio
import genai_async as ga
url = sys.argv[1]
def turns(count=1):
    with ga.Session() as session:
        for _ in range(count):
            session.start_turn("Hello").end()
"""


def _command(program: str, url: str, *arguments: str) -> list[str]:
    return [sys.executable, "-W", "error", "-c", _PRELUDE + program, url, *arguments]


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("COV", "OTEL"))}


def run(program: str, url: str, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; it finds the collector's URL in `url`, and `turns(n)` ends so many spans."""
    command = _command(program, url, *arguments)
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, check=False, env=_environment())
    assert status is None or done.returncode == status, done.stderr
    return done


@contextmanager
def started(program: str, url: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A program that runs within the block, and is killed at its end if it still does."""
    command = _command(program, url, *arguments)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
    ) as process:
        try:
            yield process
        finally:
            process.kill()
