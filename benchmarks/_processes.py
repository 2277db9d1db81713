"""The processes of a comparison, as seen from the one that leads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ._venv import REQUIREMENTS, python_for

# A batch processor that drops what its queue cannot hold would be faster for it, and its run void.
_ENVIRONMENT = {"OTEL_BSP_MAX_QUEUE_SIZE": "1000000", "WEAVE_DISABLED": "false"}


class Sink:
    """The collector's process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def spans(self, name: str) -> int:
        """How many spans have come under this name."""
        return self.totals().get(name, {}).get("spans", 0)

    def totals(self) -> dict[str, dict[str, int]]:
        """Requests, spans and bytes so far, by name."""
        with urllib.request.urlopen(self.url) as answer:
            return json.load(answer)  # type: ignore[no-any-return]


@contextmanager
def sink() -> Iterator[Sink]:
    """Run a sink."""
    command = [sys.executable, "-m", "benchmarks._sink"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Sink(int(process.stdout.readline()))
        finally:
            process.terminate()


class Remote:
    """A peer's process; it does one order at a time."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name = name
        self.process = process
        self.about = self._answer()

    def ask(self, order: str, **options: Any) -> dict[str, Any]:
        """Give an order and wait for its result."""
        assert self.process.stdin is not None
        print(json.dumps({"do": order, **options}), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # whatever else a library prints
                return json.loads(line)  # type: ignore[no-any-return]
        raise RuntimeError(f"{self.name} has gone")


@contextmanager
def peer(name: str, url: str) -> Iterator[Remote]:
    """Run a peer's process, in its own environment.

    Raises:
        subprocess.CalledProcessError: It cannot be installed.
        RuntimeError: It cannot start.
    """
    environment = {**os.environ, **_ENVIRONMENT}
    if name in REQUIREMENTS:
        environment.pop("PYTHONPATH", None)
    command = [python_for(name), "-m", "benchmarks._drive", name, f"{url}/{name}"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            yield Remote(name, process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
