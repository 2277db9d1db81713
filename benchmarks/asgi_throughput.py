"""What the middleware costs a FastAPI application under uvicorn: requests per second and p99 latency, with and without.

    python benchmarks/asgi_throughput.py [--rounds 10] [--requests 6000] [--wait 0 0.1 0.5] [--json results.json]

The endpoint waits for a model, as a chat service does, and how long it does decides what is measured: with 0.5 s the
server has time to spare, with 0.1 s its requests come in bursts that keep it just busy, with 0 s its one core is
saturated, and what the ratio shows then is the middleware's CPU time beside the framework's own.

Two servers of the same application run in processes of their own, one of them with `SessionMiddleware`, a turn in each
request, and an exporter that sends to a sink in a third process. The load comes from this process: 200 connections,
each with one request in flight. Rounds are interleaved, and each pair of rounds gives one ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

IN_FLIGHT = 200
THROUGHPUT_BAR = 0.93
P99_BAR = 1.15
_REQUEST = (
    b"POST /chat HTTP/1.1\r\nhost: 127.0.0.1\r\nx-session-id: c-%d\r\ncontent-type: application/json\r\n"
    b"user-agent: bench\r\naccept: */*\r\ncontent-length: %d\r\n\r\n%s"
)
_BODY = json.dumps({"question": "Where is my parcel?", "history": ["Hello!", "How can I help?"]}).encode()


def application(sink: str | None, wait: float) -> Any:
    """A chat endpoint: traced, if there is a sink to send to."""
    import fastapi
    import pydantic

    import genai_async as ga
    from genai_async.asgi import SessionMiddleware

    class Question(pydantic.BaseModel):
        question: str
        history: list[str]

    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        async with ga.tracing(endpoint=sink):
            yield

    # FastAPI's own spans are its own affair: they would be made as soon as there is a provider.
    app = fastapi.FastAPI(lifespan=lifespan if sink else None, telemetry={"tracing": False})
    if sink:
        app.add_middleware(SessionMiddleware, turn="request", agent_name="support-bot", model="gpt-4o")

    async def chat(question: Question) -> dict[str, str]:
        await asyncio.sleep(wait)
        return {"answer": f"You asked: {question.question}"}

    chat.__annotations__["question"] = Question
    app.post("/chat")(chat)
    return app


def serve(port: int, sink: str | None, wait: float, *, freeze: bool) -> None:
    """Run the application under uvicorn."""
    import gc

    import uvicorn

    app = application(sink, wait)
    if freeze:
        gc.collect()
        gc.freeze()
    uvicorn.run(app, port=port, log_level="warning", access_log=False)


class _Sink(asyncio.Protocol):
    """Answers every request at once."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._rest = 0

    def data_received(self, data: bytes) -> None:
        if self._rest == 0:
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            self._rest = length - len(body)
        else:
            self._rest -= len(data)
        if self._rest <= 0:
            self._rest = 0
            self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


async def sink(port: int) -> None:
    """Run the sink."""
    server = await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", port)
    await server.serve_forever()


class _Connection(asyncio.Protocol):
    """One request in flight after the other, until the round has had enough."""

    def __init__(self, number: int, todo: Iterator[int], latencies: list[float], done: asyncio.Future[None]) -> None:
        self._request = _REQUEST % (number, len(_BODY), _BODY)
        self._todo = todo
        self._latencies = latencies
        self._done = done
        self._buffer = b""
        self._is_warm = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        if next(self._todo, None) is None:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)
            return
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if found and len(body) >= int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            assert head.startswith(b"HTTP/1.1 200"), head
            self._buffer = b""
            if self._is_warm:
                self._latencies.append(time.perf_counter() - self._asked)
            self._is_warm = True  # the first request of a round waits for 200 connections to be accepted
            self._ask()


async def load(port: int, requests: int) -> tuple[float, float]:
    """Requests per second and p99 latency of one round."""
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    todo = iter(range(requests))
    ends: list[asyncio.Future[None]] = []
    started = time.perf_counter()
    for number in range(IN_FLIGHT):
        done = loop.create_future()
        ends.append(done)
        await loop.create_connection(lambda n=number, d=done: _Connection(n, todo, latencies, d), "127.0.0.1", port)
    await asyncio.gather(*ends)
    elapsed = time.perf_counter() - started
    return requests / elapsed, statistics.quantiles(latencies, n=100)[98]


@contextmanager
def process(*arguments: str) -> Iterator[None]:
    """This file as another process."""
    running = subprocess.Popen([sys.executable, __file__, *arguments])
    try:
        yield
    finally:
        running.terminate()
        running.wait()


def wait_for(port: int) -> None:
    """Wait until somebody listens."""
    import socket

    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(f"nobody listens on port {port}")


def free_ports(count: int) -> list[int]:
    """Ports that nobody uses."""
    import socket

    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports


def measure(rounds: int, requests: int, wait: float, *, freeze: bool) -> dict[str, Any]:
    """Interleaved rounds, and what they say."""
    plain, traced, receiver = free_ports(3)
    options = ["--wait", str(wait), *(["--freeze"] if freeze else [])]
    with (
        process("--sink", str(receiver)),
        process("--serve", str(plain), *options),
        process("--serve", str(traced), *options, "--endpoint", f"http://127.0.0.1:{receiver}"),
    ):
        for port in (plain, traced, receiver):
            wait_for(port)
        results: dict[int, list[tuple[float, float]]] = {plain: [], traced: []}
        for number in range(-1, rounds):
            for port in (plain, traced) if number % 2 else (traced, plain):
                result = asyncio.run(load(port, requests))
                if number >= 0:
                    results[port].append(result)
    return {"wait": wait, "freeze": freeze, **summary(results[plain], results[traced])}


def summary(plain: list[tuple[float, float]], traced: list[tuple[float, float]]) -> dict[str, Any]:
    """Medians, and the ratios of the pairs."""
    pairs = list(zip(plain, traced, strict=True))
    throughput = sorted(after[0] / before[0] for before, after in pairs)
    p99 = sorted(after[1] / before[1] for before, after in pairs)
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "in_flight": IN_FLIGHT,
        "plain": {"requests_per_second": _median(plain, 0), "p99": _median(plain, 1)},
        "traced": {"requests_per_second": _median(traced, 0), "p99": _median(traced, 1)},
        "throughput_ratio": _spread(throughput),
        "p99_ratio": _spread(p99),
    }


def _median(rounds: list[tuple[float, float]], index: int) -> float:
    return statistics.median(entry[index] for entry in rounds)


def _spread(ratios: list[float]) -> dict[str, float]:
    return {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]}


def report(found: dict[str, Any]) -> str:
    """The table."""
    frozen = ", both servers frozen" if found["freeze"] else ""
    lines = [f"{found['wait']:g} s a request{frozen}", f"{'':10}{'requests/s':>12}{'p99 (ms)':>12}"]
    for name in ("plain", "traced"):
        row = found[name]
        lines.append(f"{name:10}{row['requests_per_second']:12.0f}{row['p99'] * 1000:12.1f}")
    lines.append(f"{'ratio':10}{found['throughput_ratio']['median']:11.3f}x{found['p99_ratio']['median']:11.3f}x")
    lines.append(f"{'bar':10}{THROUGHPUT_BAR:11.2f}x{P99_BAR:11.2f}x\n")
    return "\n".join(lines)


def main() -> None:
    """Measure, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--wait", type=float, nargs="+", default=[0.0, 0.1, 0.5], help="seconds that the model takes")
    parser.add_argument("--freeze", action="store_true", help="both servers call gc.freeze() when they are set up")
    parser.add_argument("--json", help="a file for the numbers")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--sink", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--endpoint", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve, given.endpoint, given.wait[0], freeze=given.freeze)
    elif given.sink:
        asyncio.run(sink(given.sink))
    else:
        found = [measure(given.rounds, given.requests, wait, freeze=given.freeze) for wait in given.wait]
        print("\n".join(map(report, found)))
        if given.json:
            Path(given.json).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
