"""The demo's receiver: a collector in a process of its own, read through the file it writes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio import to_thread
from anyio.streams.buffered import BufferedByteReceiveStream

from .._testing._record import SpanRecord
from .._testing._wire import decode_request


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where it listens, and the file of OTLP/JSON lines that it writes before it answers."""

    endpoint: str
    file: Path

    async def spans(self) -> list[SpanRecord]:
        """Everything received so far, each span once."""
        return await to_thread.run_sync(self._spans)

    def _spans(self) -> list[SpanRecord]:
        lines = self.file.read_bytes().splitlines() if self.file.exists() else []
        return list({span.span_id: span for line in lines for span in decode_request(line)}.values())


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    """Run a receiver on a free loopback port within the block."""
    with TemporaryDirectory(prefix="genai-async-") as folder:
        file = Path(folder, "received.jsonl")
        command = [sys.executable, "-m", "genai_async", "collect", "--port=0", f"--json-lines={file}", "--until-eof"]
        # In a session of its own Ctrl-C does not reach it: it ends when the demo does.
        starting = anyio.open_process(command, stdin=subprocess.PIPE, stderr=None, start_new_session=True)
        async with await starting as process:
            if process.stdout is None:
                raise RuntimeError("the receiver has no output")
            endpoint = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 1024)
            try:
                yield Receiver(endpoint.decode().strip(), file)
            finally:
                process.terminate()
