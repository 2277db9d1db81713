from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from tests.exports import FAST, balanced, feed, span
from tests.pace import Lateness

from genai_async.export import ExportConfig, Exporter, ExportProcessor, ThreadHost
from genai_async.export._fork import Importing

from .support import Seen

_PROGRAM = """
import os, sys, time
from genai_async.export import *
from opentelemetry.sdk.trace import TracerProvider
url = sys.argv[1]
exporter = Exporter(ExportConfig.resolve(endpoint=url, shutdown_timeout=float(sys.argv[2])))
provider = TracerProvider()
provider.add_span_processor(ExportProcessor(exporter))
def end(count=1):
    for _ in range(count):
        provider.get_tracer("t").start_span("s").end()
"""


class _Server(ThreadingHTTPServer):
    """A collector in threads, for programs in other processes."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[str] = []
        self.url = f"http://localhost:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        seen = Seen({}, self.rfile.read(int(self.headers["content-length"])))
        self.server.spans += [span["spanId"] for span in seen.spans]
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[_Server]:
    found = _Server()
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


def _run(program: str, url: str, timeout: float = 5, status: int | None = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", _PROGRAM + program, url, str(timeout)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert status is None or done.returncode == status, done.stderr
    return done


@pytest.mark.parametrize("ending", ["", "sys.exit(0)", "raise SystemExit"])
def test_a_script_that_just_ends(server: _Server, ending: str) -> None:
    """Leaving the interpreter sends what waits, without a word on the console."""
    done = _run(f"ThreadHost().start(exporter)\nend(3)\n{ending}", server.url)
    assert len(server.spans) == 3
    assert done.stderr == ""


def test_a_script_that_fails(server: _Server) -> None:
    """An exception that ends the program does not keep its spans."""
    done = _run("ThreadHost().start(exporter)\nend(3)\nraise ValueError", server.url, status=1)
    assert len(server.spans) == 3
    assert "ValueError" in done.stderr


def test_the_exit_keeps_its_deadline() -> None:
    """With nobody listening the interpreter leaves within `shutdown_timeout`, saying what was lost."""
    program = "ThreadHost().start(exporter)\nend(3)\nimport atexit\nbegun = time.monotonic()\n"
    program += "exporter.flush_blocking(0.1)\nprint(time.monotonic() - begun)"
    with Lateness() as late:
        done = _run(program, "http://localhost:1", 0.3)
    assert float(done.stdout) < 0.2 + late.seconds
    assert "shutdown" in done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork(server: _Server) -> None:
    """After a fork parent and children each send their own spans, and none twice."""
    program = """
ThreadHost().start(exporter)
end(5)
for _ in range(2):
    if not os.fork():
        assert exporter.stats().ended == 0
        end(2)
        assert exporter.shutdown().delivered == 2
        os._exit(0)
for _ in range(2):
    assert os.wait()[1] == 0
end(1)
"""
    _run(program, server.url)
    assert len(server.spans) == len(set(server.spans)) == 5 + 2 * 2 + 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_after_closing(server: _Server) -> None:
    """A closed exporter stays closed in a child."""
    program = """
ThreadHost().start(exporter)
exporter.shutdown()
if not os.fork():
    end(1)
    assert dict(exporter.stats().dropped) == {"closed": 1}
    os._exit(0)
assert os.wait()[1] == 0
"""
    _run(program, server.url)
    assert server.spans == []


_NO_DESCRIPTORS = """
    import resource
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.open("/dev/null", 0))
    except OSError:
        pass
"""
_NO_THREADS = """
    import threading
    held = []
    threading.stack_size(2**46)
"""
_ROOM = """
    for file in held:
        os.close(file)
    import threading
    threading.stack_size(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is short there is not the same elsewhere")
@pytest.mark.parametrize(
    ("shortage", "said"), [(_NO_DESCRIPTORS, "Too many open files"), (_NO_THREADS, "can't start new thread")]
)
def test_nothing_to_start_with(shortage: str, said: str, server: _Server) -> None:
    """A child that lacks descriptors or threads with its first span says so in one line, and sends once it has them."""
    program = f"""
ThreadHost().start(exporter)
end(1)
assert exporter.flush_blocking(5).delivered == 1
if not os.fork():
    {shortage}
    end(1)
    while exporter.stats().last_error is None:
        time.sleep(0.01)
    {_ROOM}
    while not exporter.stats().delivered:
        end(1)
        time.sleep(0.05)
    import threading
    assert [thread.name for thread in threading.enumerate()][1:] == ["genai_async-export"]
    assert exporter.shutdown(5).complete
    os._exit(0)
assert os.wait()[1] == 0
"""
    done = _run(program, server.url)
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert len(server.spans) == len(set(server.spans)) > 2


def test_a_fork_while_we_import() -> None:
    """It waits for that, but not for ever; the child has a lock of its own then."""
    importing = Importing(patience=0.01)
    thread = threading.Thread(target=importing.__enter__)  # and it never leaves, as one that a child lacks
    thread.start()
    thread.join()
    importing.begin_fork()
    importing.end_fork()
    importing.end_fork_in_child()
    with importing:
        pass


def test_debug_mode_of_asyncio(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """On a thread of our own work is done in place, and that a step takes long is not worth a line."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")

    def answer(request: httpx.Request) -> httpx.Response:
        time.sleep(0.11)
        return httpx.Response(200)

    exporter, host = _exporter("http://x", transport=httpx.MockTransport(answer)), ThreadHost()
    host.start(exporter)
    feed(exporter, 1)
    assert exporter.shutdown(5).delivered == 1
    assert host.join(5)
    assert not caplog.records


def test_asyncio_run_that_is_left(server: _Server) -> None:
    """A task that `asyncio.run` cancels at its end still delivers when it closes the exporter."""
    program = """
import asyncio
async def serve():
    async with asyncio.TaskGroup() as group:
        group.create_task(exporter.run())
        try:
            end(3)
            await asyncio.sleep(100)
        finally:
            print((await exporter.aclose()).delivered)
async def main():
    task = asyncio.create_task(serve())
    await asyncio.sleep(0.01)
asyncio.run(main())
"""
    assert _run(program, server.url).stdout.strip() == "3"
    assert len(server.spans) == 3


def test_keyboard_interrupt(server: _Server) -> None:
    """Ctrl-C ends the program as usual, and its spans arrive."""
    program = "import signal\nThreadHost().start(exporter)\nend(3)\nsignal.raise_signal(signal.SIGINT)"
    assert "KeyboardInterrupt" in _run(program, server.url, status=None).stderr
    assert len(server.spans) == 3


def _exporter(url: str, **options: Any) -> Exporter:
    return Exporter(ExportConfig.resolve(endpoint=url, retry=FAST, **{"shutdown_timeout": 1, **options}))


def test_a_thread_of_its_own(server: _Server) -> None:
    """Without a loop in the program the exporter lives on one daemon thread, which ends with it."""
    exporter, host = _exporter(server.url), ThreadHost()
    assert not host.join()
    host.start(exporter)
    processor = ExportProcessor(exporter)
    processor.on_start(span())  # type: ignore[arg-type]
    processor.on_end(span())
    assert processor.force_flush(5000)
    assert len(server.spans) == 1
    processor.shutdown()
    assert host.join(5)
    assert processor.force_flush(5000)


def test_unsampled_spans_are_left_alone(server: _Server) -> None:
    """Spans that were recorded but not sampled are not exported."""
    exporter = _exporter(server.url)
    processor = ExportProcessor(exporter)
    unsampled = span()
    plain = type(unsampled)("x")
    processor.on_end(plain)
    assert exporter.stats().ended == 0


def test_force_flush_tells_the_truth() -> None:
    """With nobody listening it returns false at its deadline."""
    exporter, host = _exporter("http://127.0.0.1:1", shutdown_timeout=0), ThreadHost()
    host.start(exporter)
    processor = ExportProcessor(exporter)
    processor.on_end(span())
    with Lateness() as late:
        begun = time.monotonic()
        assert not processor.force_flush(200)
        took = time.monotonic() - begun
    assert 0.18 < took < 0.22 + late.seconds
    assert exporter.shutdown(0.1).dropped == {"shutdown": 1}
    assert host.join(5)


def test_nobody_runs_it(server: _Server) -> None:
    """In a plain thread the waiting calls send by themselves when nobody else does."""
    exporter = _exporter(server.url)
    feed(exporter, 2)
    assert exporter.flush_blocking(5).delivered == 2
    feed(exporter, 2)
    assert exporter.shutdown(5).delivered == 4


def test_a_loop_closed_without_closing(server: _Server, caplog: pytest.LogCaptureFixture) -> None:
    """A loop that was thrown away with the exporter in it is noticed, and nothing hangs or is lost."""
    exporter = _exporter(server.url, schedule_delay=60)

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(exporter.run())
        await asyncio.sleep(0.01)
        feed(exporter, 2)
        return task

    loop = asyncio.new_event_loop()
    task = loop.run_until_complete(begin())
    loop.close()
    assert exporter.shutdown(5).delivered == 2
    assert balanced(exporter)
    caplog.set_level(logging.CRITICAL, "asyncio")  # the loop's own complaint about its pending task
    del task
    gc.collect()


def test_on_another_loop_than_it_runs_in(server: _Server) -> None:
    """Every waiting call works in a loop that is not the host's."""
    exporter, host = _exporter(server.url, schedule_delay=60), ThreadHost()
    host.start(exporter)

    async def main() -> None:
        feed(exporter, 2)
        assert await exporter.settled(0, 2, 5)
        feed(exporter, 2)
        assert (await exporter.flush(5)).delivered == 4
        feed(exporter, 2)
        assert (await exporter.aclose(5)).delivered == 6

    anyio.run(main)
    assert host.join(5)


def test_who_waits_takes_over(server: _Server) -> None:
    """When the loop that sends gives up, the one that waits for it sends what that had under way."""
    asked = threading.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if not asked.is_set():
            asked.set()
            await anyio.sleep_forever()
        return httpx.Response(200)

    exporter = _exporter("http://x", transport=httpx.MockTransport(answer), schedule_delay=60)
    given_up = threading.Event()

    async def send() -> None:
        task = asyncio.create_task(exporter.run())
        await asyncio.to_thread(given_up.wait, 5)
        task.cancel()
        await asyncio.wait([task])

    async def wait() -> None:
        feed(exporter, 2)
        async with anyio.create_task_group() as group:
            group.start_soon(exporter.settled, 0, 2, 10)
            while not asked.is_set():
                await anyio.sleep(0.001)
            given_up.set()

    thread = threading.Thread(target=asyncio.run, args=(send(),))
    thread.start()
    while not exporter._is_hosted():
        time.sleep(0.001)
    anyio.run(wait)
    thread.join(5)
    assert exporter.stats().delivered == 2
    assert balanced(exporter)


def test_a_hundred_of_them() -> None:
    """Set-ups and tear-downs leave no thread and no file behind."""
    threads, files = threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        transport = httpx.MockTransport(lambda request: httpx.Response(200))
        exporter, host = _exporter("http://x", transport=transport), ThreadHost()
        host.start(exporter)
        feed(exporter, 1)
        assert exporter.shutdown(5).delivered == 1
        assert host.join(5)
    assert threading.active_count() == threads
    assert len(list(Path("/proc/self/fd").iterdir())) == files


def test_many_threads(server: _Server) -> None:
    """Spans from many threads at once are each delivered once."""
    exporter, host = _exporter(server.url, max_batch_spans=50), ThreadHost()
    host.start(exporter)
    threads = [threading.Thread(target=feed, args=(exporter, 500, 1 + 500 * number)) for number in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert balanced(exporter)
    assert exporter.flush_blocking(10).delivered == 4000
    assert len(server.spans) == len(set(server.spans)) == 4000
    exporter.shutdown()
    assert host.join(5)


def test_spans_that_end_in_finalizers(server: _Server) -> None:
    """The garbage collector may end spans in the middle of our own work on the same thread."""
    exporter, host = _exporter(server.url), ThreadHost()
    host.start(exporter)

    class Abandoned:
        def __init__(self, number: int) -> None:
            self.cycle = self
            self.number = number

        def __del__(self) -> None:
            exporter.accept(span(self.number))

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(1, 1001):
            Abandoned(number)
            exporter.accept(span(1000 + number))
    finally:
        gc.set_threshold(*thresholds)
    bound = time.monotonic() + 30
    # While the exporter's thread collects, and waits in a finalizer, a collection of ours does nothing.
    while exporter.stats().ended < 2000 and time.monotonic() < bound:
        gc.collect()
        time.sleep(0.001)
    assert balanced(exporter)
    assert exporter.flush_blocking(10).delivered == 2000
    assert len(set(server.spans)) == 2000
    exporter.shutdown()
    assert host.join(5)


def test_importing_is_cheap() -> None:
    """Neither httpx nor asyncio nor TLS is loaded before something is sent."""
    check = "import sys, genai_async.export; print(sorted({'httpx', 'ssl', 'asyncio', 'gzip'} & sys.modules.keys()))"
    before = subprocess.run(
        [sys.executable, "-c", check.replace("genai_async.export", "opentelemetry.sdk.trace")],
        capture_output=True,
        text=True,
        check=True,
    )
    after = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert json.loads(after.stdout.replace("'", '"')) == json.loads(before.stdout.replace("'", '"'))
