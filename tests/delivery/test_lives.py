"""Whole programs that end, fork, fail and begin again with a set-up in them: every span arrives once, nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from tests.pace import Lateness

import genai_async as ga
from genai_async.export import FlushResult
from genai_async.testing import Collector, Slow

from .programs import run, started

_ENDS = {
    "asyncio": "import asyncio\ngo = asyncio.run\n",
    "trio": "import trio\ngo = lambda coro: trio.run(lambda: coro)\n",
}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def _once(collector: Collector, count: int) -> None:
    assert sorted(collector.accepted.values()) == [1] * count


@pytest.mark.parametrize(
    "ending", ["", "sys.exit(3)", "raise ValueError('mine')", "os.kill(os.getpid(), signal.SIGINT)"]
)
def test_a_script_with_configure(ending: str, collector: Collector) -> None:
    """However a script leaves the interpreter, what it traced arrives."""
    done = run(f"ga.configure(endpoint=url)\nturns(3)\n{ending}", collector.endpoint, status=None)
    _once(collector, 3)
    assert (done.returncode == 0) is (ending == "")
    if ending in {"", "sys.exit(3)"}:
        assert done.stderr == ""


def test_an_exit_handler_of_the_program(collector: Collector) -> None:
    """Spans that end in the program's own exit handlers arrive when they were registered after the set-up."""
    program = "import atexit\nga.configure(endpoint=url)\natexit.register(turns, 2)\nturns(1)"
    assert run(program, collector.endpoint).stderr == ""
    _once(collector, 3)


def test_an_exit_handler_that_shuts_down(collector: Collector) -> None:
    """A program's own shutdown at exit, twice, is as good as ours."""
    program = "import atexit\nt = ga.configure(endpoint=url)\natexit.register(t.shutdown)\nturns(1)\n"
    program += "atexit.register(t.shutdown)"
    assert run(program, collector.endpoint).stderr == ""
    _once(collector, 1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("ending", ["sys.exit(3)", "raise ValueError('mine')", "signal.raise_signal(signal.SIGINT)"])
def test_leaving_the_block(ending: str, backend: str, collector: Collector) -> None:
    """An exit, an error and Ctrl-C inside `tracing()` come out as they are, and the spans arrive."""
    program = f"""
async def main():
    async with ga.tracing(endpoint=url):
        turns(3)
        {ending}
        await anyio.sleep(10)
anyio.run(main, backend={backend!r})
"""
    done = run(program, collector.endpoint, status=None)
    _once(collector, 3)
    if "exit" in ending:
        assert (done.returncode, done.stderr) == (3, "")
    else:
        assert ("mine" if "mine" in ending else "KeyboardInterrupt") in done.stderr.splitlines()[-1]
        assert "ExceptionGroup" not in done.stderr


def test_a_second_ctrl_c_while_closing() -> None:
    """Who has no patience with a collector that hangs leaves the block at once; the interpreter's exit still sends."""
    program = """
import asyncio
async def main():
    async with ga.tracing(endpoint=url, schedule_delay=60, shutdown_timeout=20) as tracing:
        turns(3)
        def insist():
            while not tracing.stats().in_flight:  # the end of the block has begun to send
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=insist, daemon=True).start()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(100)
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("left")
"""
    with Collector([Slow(accept=100)]) as collector:
        assert run(program, collector.endpoint).stdout == "left\n"
        _once(collector, 3)


def test_asyncio_run_that_leaves_a_task(collector: Collector) -> None:
    """A task that `asyncio.run` cancels at its end, with the set-up in it, delivers."""
    program = """
import asyncio
async def serve(begun):
    async with ga.tracing(endpoint=url):
        turns(3)
        begun.set()
        await asyncio.sleep(100)
async def main():
    begun = asyncio.Event()
    task = asyncio.create_task(serve(begun))
    await begun.wait()
asyncio.run(main())
"""
    assert run(program, collector.endpoint).stderr == ""
    _once(collector, 3)


def test_a_loop_that_is_closed_under_us(collector: Collector) -> None:
    """A loop that was closed with the set-up in it: a later `shutdown` delivers what waited."""
    program = """
import asyncio, warnings
warnings.simplefilter("ignore")
loop = asyncio.new_event_loop()
t = ga.tracing(endpoint=url, schedule_delay=60)
loop.run_until_complete(t.__aenter__())
turns(3)
loop.close()
turns(2)
print(t.shutdown(5).delivered)
sys.stdout.flush()
os._exit(0)
"""
    assert run(program, collector.endpoint).stdout.strip() == "5"
    _once(collector, 5)


def test_loops_in_threads(collector: Collector) -> None:
    """Loops in several threads with a set-up each: the newest takes the spans, and all are accounted for."""
    program = """
told = []
def thread(number):
    async def main():
        async with ga.tracing(endpoint=url, schedule_delay=0.01) as t:
            async with ga.Session() as session:
                for _ in range(5):
                    async with session.start_turn("Hello") as turn:
                        await anyio.sleep(0.01)
        told.append(t.stats())
    anyio.run(main, backend=["asyncio", "trio"][number % 2])
threads = [threading.Thread(target=thread, args=(n,)) for n in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
print(sum(stats.delivered for stats in told), sum(stats.dropped.get("closed", 0) for stats in told))
"""
    done = run(program, collector.endpoint)
    assert all("spans dropped: closed" in line for line in done.stderr.splitlines())
    delivered, closed = map(int, done.stdout.split())
    assert delivered + closed == 30  # a span whose set-up closed before it ended is counted there
    _once(collector, delivered)


def test_one_set_up_for_many_loops(collector: Collector) -> None:
    """Loops in threads, at once and one after the other, share one `configure`."""
    program = """
ga.configure(endpoint=url, schedule_delay=0.01)
def thread(number):
    async def main():
        async with ga.Session() as session:
            async with session.start_turn("Hello") as turn:
                pass
        assert await turn.delivered(5)
    for _ in range(3):
        anyio.run(main, backend=["asyncio", "trio"][number % 2])
threads = [threading.Thread(target=thread, args=(n,)) for n in range(6)]
[t.start() for t in threads]
[t.join() for t in threads]
"""
    assert run(program, collector.endpoint).stderr == ""
    _once(collector, 18)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("spooled", [False, True])
def test_workers_after_a_preload(spooled: bool, collector: Collector, tmp_path: Path) -> None:
    """A parent that set up and traced before it forked, and its workers with loops of their own: none sends twice."""
    program = """
options = {"spool": sys.argv[2]} if sys.argv[2] else {}
t = ga.configure(endpoint=url, schedule_delay=0.01, **options)
turns(5)  # still waits when the workers come to be
children = []
for number in range(4):
    child = os.fork()
    if not child:
        async def serve():
            for _ in range(3):
                turns(2)
                await anyio.sleep(0.01)
        anyio.run(serve, backend=["asyncio", "trio"][number % 2])
        if number == 3:
            sys.exit(0)  # by way of exit handlers
        assert t.shutdown(5).complete
        os._exit(0)
    children.append(child)
turns(1)
for child in children:
    assert os.waitpid(child, 0)[1] == 0
turns(1)
"""
    done = run(program, collector.endpoint, str(tmp_path / "spool") if spooled else "")
    assert done.stderr == ""
    _once(collector, 5 + 4 * 6 + 2)
    if spooled:
        assert not [path.name for path in (tmp_path / "spool").iterdir() if path.suffix != ".lock"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("backend", _ENDS)
def test_processes_forked_inside_the_block(backend: str, collector: Collector) -> None:
    """A child has none of its parent's loops, and sends all the same: by a thread that its first span starts."""
    program = """
import multiprocessing, warnings
async def main():
    async with ga.tracing(endpoint=url, shutdown_timeout=25):
        turns(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which a loop has by itself
            child = multiprocessing.get_context("fork").Process(target=turns, args=(2,))
            child.start()
        await anyio.to_thread.run_sync(child.join)
        assert child.exitcode == 0
        assert "genai_async-export" not in [thread.name for thread in threading.enumerate()]
        turns(1)
go(main())
"""
    assert run(_ENDS[backend] + program, collector.endpoint).stderr == ""
    _once(collector, 4)


def test_sigterm_under_uvicorn(collector: Collector) -> None:
    """A server that is told to end ends its lifespan, and with it the set-up: its requests' spans arrive."""
    pytest.importorskip("uvicorn")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = f"""
import uvicorn
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        async with ga.tracing(endpoint=url, schedule_delay=60):
            await send({{"type": "lifespan.startup.complete"}})
            await receive()
        await send({{"type": "lifespan.shutdown.complete"}})
        return
    async with ga.Session() as session, session.start_turn("Hello"):
        await send({{"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]}})
        await send({{"type": "http.response.body"}})
uvicorn.run(app, port={port}, log_level="error")
"""
    with started(program, collector.endpoint) as process:
        for _ in range(3):
            _request(port)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    _once(collector, 3)


def _request(port: int) -> None:
    """One request, once the server listens."""
    for _ in range(400):
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)):
                threading.Event().wait(0.025)
                continue
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: client.recv(4096), b""))
            assert b"200" in answer.splitlines()[0]
            return
    raise AssertionError("the server never listened")


def test_failures_while_closing(collector: Collector) -> None:
    """Processors and callbacks that raise at the end neither stop the delivery nor come out."""
    program = """
from opentelemetry.sdk.trace import SpanProcessor
class Bad(SpanProcessor):
    def shutdown(self):
        raise ValueError
    def on_end(self, span):
        raise ValueError
def bad(drop):
    raise ValueError
async def main():
    async with ga.tracing(endpoint=url, on_drop=bad, max_queue_bytes=1500) as t:
        turns(1)
        t.provider.add_span_processor(Bad())
        turns(20)
    print(t.stats().delivered, t.stats().dropped_total)
anyio.run(main)
"""
    delivered, dropped = map(int, run(program, collector.endpoint).stdout.split())
    assert delivered + dropped == 21
    assert dropped
    _once(collector, delivered)


@pytest.mark.anyio
async def test_nested_set_ups() -> None:
    """A set-up inside a set-up takes the spans while it lasts; afterwards the outer one has them again."""
    async with Collector() as outer, Collector() as inner:
        async with ga.tracing(endpoint=outer.endpoint) as first:
            _turn()
            async with ga.tracing(endpoint=inner.endpoint):
                _turn()
            _turn()
        assert first.stats().delivered == 2
        assert (len(outer.accepted), len(inner.accepted)) == (2, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["tracing", "spool", "configure"])
async def test_a_hundred_set_ups(kind: str, tmp_path: Path) -> None:
    """Set-ups and tear-downs in a row, each delivering a span, leave no task, thread, socket or file behind."""
    async with Collector() as collector:
        options: dict[str, Any] = {"spool": tmp_path / "spool"} if kind == "spool" else {}
        for number in range(103):
            if number == 3:  # what is made once in a process is there by now
                before = _left(collector)
            if kind == "configure":
                tracing = ga.configure(endpoint=collector.endpoint)
                _turn()
                await tracing.aclose()
                assert await anyio.to_thread.run_sync(tracing.shutdown) is await tracing.aclose()
            else:
                async with ga.tracing(endpoint=collector.endpoint, **options):
                    _turn()
        _once(collector, 103)
        with anyio.move_on_after(5):  # the collector's side of the last connections closes a moment later
            while _more_than(before, collector):
                await anyio.sleep(0.01)
        assert not _more_than(before, collector)
        if kind == "spool":
            assert list((tmp_path / "spool").iterdir()) == []


def _turn() -> None:
    with ga.Session() as session:
        session.start_turn("Hello").end()


def _more_than(before: dict[str, int], collector: Collector) -> dict[str, int]:
    # Less is possible: what earlier tests left, such as a thread that was about to end.
    return {name: count for name, count in _left(collector).items() if count > before[name]}


def _left(collector: Collector) -> dict[str, int]:
    """What a process may have too much of."""
    gc.collect()
    kinds = [ga.Tracing]
    return {
        # The loops' own pools keep a few threads for the next work, whoever it is for.
        "threads": sum(not thread.name.startswith(("AnyIO", "Trio")) for thread in threading.enumerate()),
        "many threads": threading.active_count() // 20,
        "files": len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0,  # noqa: PTH208
        "tasks": _tasks(),
        "set-ups": sum(isinstance(found, tuple(kinds)) for found in gc.get_objects()),
    }


def _tasks() -> int:
    try:
        return len(asyncio.all_tasks())
    except RuntimeError:
        import trio

        return int(trio.lowlevel.current_statistics().tasks_living)


_STUCK = """
import httpx
class Stuck(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request):
        time.sleep(30)  # as a name server does that never answers
"""


def _keeps_to_a_second(program: str, url: str) -> None:
    """Check the time that a program prints."""
    with Lateness() as late:
        done = run(program, url)
    assert 0.9 <= float(done.stdout) <= 1.1 + late.seconds
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("trouble", ["refused", "silent", "stuck"])
@pytest.mark.parametrize("ending", ["exit", "shutdown", "aclose"])
def test_deadlines_at_the_end(trouble: str, ending: str) -> None:
    """The interpreter's exit, `shutdown` and `aclose` keep to their time even if the sending thread is stuck."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if trouble == "silent":
            silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        program = (
            _STUCK
            + f"""
import atexit
begun = []
atexit.register(lambda: print(time.monotonic() - begun[0]))
given = {{"transport": Stuck()}} if {trouble == "stuck"} else {{"endpoint": url}}
t = ga.configure(shutdown_timeout=1, schedule_delay=0.01, **given)
turns(3)
time.sleep(0.5)
begun.append(time.monotonic())
async def close():
    assert dict((await t.aclose(1)).dropped) == {{"shutdown": 3}}
if {ending == "shutdown"}:
    assert dict(t.shutdown(1).dropped) == {{"shutdown": 3}}
elif {ending == "aclose"}:
    anyio.run(close)
"""
        )
        _keeps_to_a_second(program, url)


def test_a_processor_that_hangs(collector: Collector) -> None:
    """Somebody else's processor that takes its time to shut down does not add to the deadline of `aclose`."""
    program = """
from opentelemetry.sdk.trace import SpanProcessor
class Slow(SpanProcessor):
    def shutdown(self):
        time.sleep(1.8)
async def main():
    async with ga.tracing(endpoint="http://127.0.0.1:1") as t:
        t.provider.add_span_processor(Slow())
        turns(3)
        begun = time.monotonic()
        await t.aclose(1)
        print(time.monotonic() - begun, flush=True)
        os._exit(0)
anyio.run(main)
"""
    _keeps_to_a_second(program, collector.endpoint)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_disk_without_room(collector: Collector, tmp_path: Path) -> None:
    """When files cannot be written in full, none is left half written, and the spans are sent from memory."""
    program = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))  # every write beyond fails, as on a full disk
async def main():
    async with ga.tracing(endpoint=url, spool=sys.argv[2], schedule_delay=0.01) as t:
        turns(20)
        await t.flush(10)
        stats = t.stats()
        print(stats.delivered, stats.spooled, stats.dropped_total, stats.last_error)
anyio.run(main)
"""
    done = run(program, collector.endpoint, str(tmp_path))
    assert done.stdout.startswith("20 0 0 the spool cannot be used")
    _once(collector, 20)
    assert not [path.name for path in tmp_path.iterdir() if path.suffix != ".lock"]


def test_a_shutdown_that_leaves_spans_on_disk(tmp_path: Path) -> None:
    """What stays in a spool does not keep a set-up from its end: what others added to its provider ends once, too."""

    class Ends(SpanProcessor):
        seen = 0

        def shutdown(self) -> None:
            self.seen += 1

    ends = Ends()
    tracing = ga.configure(endpoint="http://127.0.0.1:1", spool=tmp_path)
    cast(TracerProvider, tracing.provider).add_span_processor(ends)
    _turn()
    assert tracing.shutdown() == FlushResult(delivered=0, dropped={}, pending=1, spooled=1)
    assert tracing.shutdown().spooled == 1
    assert ends.seen == 1
