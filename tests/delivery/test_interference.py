"""What other code in the program does to an exporter: it cancels all tasks, fails in a handler, forks, stops a loop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai_async.testing import Collector, Status

from .programs import run


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def test_every_task_is_cancelled(collector: Collector) -> None:
    """A program that cancels all its other tasks goes on in its block, and what it traced arrives."""
    program = """
import asyncio
async def main():
    async with ga.tracing(endpoint=url, schedule_delay=0.01):
        turns(1)
        await asyncio.sleep(0.05)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        turns(2)
        print("went on")
asyncio.run(main())
"""
    assert run(program, collector.endpoint).stdout == "went on\n"
    assert len(collector.accepted) == 3


@pytest.mark.parametrize("go", ["import asyncio; go = asyncio.run", "import trio; go = trio.run"])
def test_a_block_that_is_never_left(go: str, collector: Collector) -> None:
    """A program ends though an exception holds a generator, and that a turn which has had a task."""
    program = f"""
{go}
async def answer():
    async with ga.Session().start_turn() as turn:
        turn.start_soon(anyio.sleep, 0)
        yield 1
        yield 2
async def main():
    async for piece in answer():
        await anyio.sleep(0.01)
        raise ValueError("the program's own")
try:
    go(main() if "asyncio" in sys.modules and go.__module__.startswith("asyncio") else main)
except ValueError as exc:
    print(exc)
"""
    assert run(program, collector.endpoint).stdout == "the program's own\n"


def test_a_block_whose_tasks_are_cancelled_by_others(collector: Collector) -> None:
    """Cancelling all other tasks ends a turn's tasks, and not the block that did it."""
    program = """
import asyncio
async def main():
    async with ga.Session() as session, session.start_turn() as turn:
        turn.start_soon(asyncio.sleep, 9)
        await asyncio.sleep(0.01)
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.02)
        print("went on")
asyncio.run(main())
"""
    assert run(program, collector.endpoint).stdout == "went on\n"


def test_a_write_that_is_cancelled(collector: Collector, tmp_path: Path) -> None:
    """Spans whose writing to disk was cancelled are sent from memory, once: the file goes when the write has ended."""
    program = """
import asyncio, pathlib
rename, writes = pathlib.Path.rename, threading.Event()
def slow(self, target):
    writes.set()
    time.sleep(0.3)
    return rename(self, target)
async def main():
    async with ga.tracing(endpoint=url, spool=sys.argv[2], schedule_delay=0.01, shutdown_timeout=5) as t:
        await asyncio.sleep(0.2)
        pathlib.Path.rename = slow
        turns(3)
        while not writes.is_set():
            await asyncio.sleep(0.01)
        pathlib.Path.rename = rename
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.5)
        await t.flush(5)
    print([path.name for path in pathlib.Path(sys.argv[2]).iterdir() if path.suffix != ".lock"])
asyncio.run(main())
"""
    assert run(program, collector.endpoint, str(tmp_path)).stdout == "[]\n"
    assert sorted(collector.accepted.values()) == [1] * 3


def test_a_set_up_that_is_switched_off(collector: Collector) -> None:
    """Blocks that `OTEL_SDK_DISABLED` makes do nothing are not kept for the interpreter's exit."""
    program = """
import gc, weakref
os.environ["OTEL_SDK_DISABLED"] = "true"
found = []
async def main():
    for _ in range(5):
        async with ga.tracing() as t:
            found.append(weakref.ref(t))
        del t
anyio.run(main)
gc.collect()
print([ref() for ref in found if ref() is not None])
"""
    assert run(program, collector.endpoint).stdout == "[]\n"


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_tasks_cancelled_in_the_moment_of_the_end(backend: str, collector: Collector) -> None:
    """Spans of tasks that are cancelled just when the block is left, as a server's requests are, arrive."""
    program = f"""
async def request(depth):
    if depth:
        async with ga.start_tool(str(depth)):
            try:
                await request(depth - 1)
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.lowlevel.checkpoint()
    else:
        await anyio.sleep_forever()
async def main():
    async with anyio.create_task_group() as requests:
        async with ga.tracing(endpoint=url):
            with ga.Session():
                requests.start_soon(request, 5)
                await anyio.wait_all_tasks_blocked()
            requests.cancel_scope.cancel()
anyio.run(main, backend={backend!r})
"""
    run(program, collector.endpoint)
    assert len(collector.accepted) == 5


def test_a_request_is_cancelled(collector: Collector) -> None:
    """A transport that lets a cancellation out costs a retry and not the exporter."""
    program = """
import asyncio, httpx
class Leaks(httpx.AsyncHTTPTransport):
    left = 3
    async def handle_async_request(self, request):
        self.left -= 1
        if self.left >= 0:
            raise asyncio.CancelledError
        return await super().handle_async_request(request)
async def main():
    async with ga.tracing(endpoint=url, transport=Leaks(), schedule_delay=0.01) as t:
        for _ in range(5):
            turns(1)
            await asyncio.sleep(0.02)
        print((await t.flush(20)).delivered)
asyncio.run(main())
"""
    assert run(program, collector.endpoint).stdout == "5\n"
    assert len(collector.accepted) == 5


def test_a_listener_of_drops_that_is_traced(collector: Collector) -> None:
    """Spans that end in `on_drop`, and are dropped as well, hold up neither the loop nor the end."""
    program = """
async def main():
    calls = []
    def on_drop(drop):
        calls.append(drop)
        turns(1)
    async with ga.tracing(endpoint="http://127.0.0.1:9", max_queue_bytes=1000, on_drop=on_drop, shutdown_timeout=0.1):
        turns(5)
        await anyio.sleep(0.1)
        print(0 < len(calls) < 50)
anyio.run(main)
"""
    assert run(program, collector.endpoint).stdout == "True\n"


def test_a_log_handler_that_fails() -> None:
    """Whoever listens to our logger and fails brings down neither the program nor the books."""
    program = """
import logging
class Fails(logging.Handler):
    def emit(self, record):
        raise RuntimeError("the log's sink is down")
logging.getLogger("genai_async").addHandler(Fails())
async def main():
    async with ga.tracing(endpoint=url, schedule_delay=0.01) as t:
        with ga.Session() as session:
            session.start_turn(attributes=5).end()
        print((await t.flush(10)).delivered, dict(t.faults))
anyio.run(main)
"""
    with Collector([Status(503)]) as collector:
        done = run(program, collector.endpoint)
    assert done.stdout == "1 {'attributes that cannot be read': 1}\n"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_directory_that_does_not_answer(collector: Collector, tmp_path: Path) -> None:
    """Where the spool hangs, spans are sent from memory after a second; the end keeps its time, as does the exit."""
    program = """
import pathlib
pathlib.Path.mkdir = lambda self, **_: threading.Event().wait()  # as a mount does whose server has gone
async def main():
    begun = time.monotonic()
    async with ga.tracing(endpoint=url, spool=sys.argv[2], schedule_delay=0.01, shutdown_timeout=1) as t:
        print((await t.flush()).complete)  # nobody knows what others left there
        turns(3)
        print((await t.flush(10)).delivered)
    print(time.monotonic() - begun < 5)
anyio.run(main)
"""
    assert run(program, collector.endpoint, str(tmp_path)).stdout == "False\n3\nTrue\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_an_executor(collector: Collector) -> None:
    """A child of a program that has used a thread pool comes up, and so does the child's child."""
    program = """
import asyncio
t = ga.configure(endpoint=url)
asyncio.run(asyncio.to_thread(int))
child = os.fork()
if child == 0:
    if os.fork() == 0:
        turns(1)
        t.shutdown(10)
    else:
        os.wait()
    os._exit(0)
os.waitpid(child, 0)
"""
    assert run(program, collector.endpoint).stderr == ""
    assert len(collector.accepted) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
def test_worker_processes(collector: Collector) -> None:
    """What the processes of `multiprocessing` traced arrives when they end."""
    program = """
import multiprocessing
ga.configure(endpoint=url)
turns(1)
processes = [multiprocessing.get_context("fork").Process(target=turns, args=(2,)) for _ in range(3)]
[process.start() for process in processes]
[process.join() for process in processes]
"""
    assert run(program, collector.endpoint).stderr == ""
    assert sorted(collector.accepted.values()) == [1] * 7


def test_a_flush_that_is_not_awaited(collector: Collector) -> None:
    """OpenTelemetry's `force_flush` does not hold up a loop, also where a thread does the sending."""
    program = """
t = ga.configure(endpoint="http://127.0.0.1:9", shutdown_timeout=0.1)
async def main():
    turns(1)
    begun = time.monotonic()
    print(t.provider.force_flush(20_000), time.monotonic() - begun < 5)
anyio.run(main)
"""
    assert run(program, collector.endpoint).stdout == "False True\n"


def test_a_loop_that_has_stopped(collector: Collector) -> None:
    """Spans of a block whose loop was stopped in the middle are sent by `shutdown`."""
    program = """
import asyncio
loop = asyncio.new_event_loop()
t = ga.tracing(endpoint=url)
loop.run_until_complete(t.__aenter__())
turns(3)
print(t.shutdown(10).delivered, flush=True)
os._exit(0)
"""
    assert run(program, collector.endpoint).stdout == "3\n"


def test_a_block_in_a_daemon_thread(collector: Collector) -> None:
    """A block that the interpreter's exit finds open, in a thread that nobody waits for, sends what it has."""
    program = """
entered = threading.Event()
async def main():
    async with ga.tracing(endpoint=url, schedule_delay=60):
        turns(3)
        entered.set()
        await anyio.sleep_forever()
threading.Thread(target=anyio.run, args=(main,), daemon=True).start()
entered.wait()
"""
    run(program, collector.endpoint)
    assert sorted(collector.accepted.values()) == [1] * 3


def test_processors_of_others(collector: Collector) -> None:
    """A processor that somebody added to our provider is shut down, also when our collector takes all the time."""
    program = """
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
theirs = InMemorySpanExporter()
async def main():
    async with ga.tracing(endpoint="http://127.0.0.1:9", shutdown_timeout=0.2) as t:
        t.provider.add_span_processor(BatchSpanProcessor(theirs))
        turns(3)
anyio.run(main)
time.sleep(0.5)
print(len(theirs.get_finished_spans()))
"""
    assert run(program, collector.endpoint).stdout == "3\n"
