"""`python -m genai_async replay`: everything readable in the files arrives, the rest is counted and told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from tests.exports import FAST, feed

from genai_async.__main__ import main
from genai_async.export import ExportConfig, Exporter
from genai_async.testing import Accept, Collector, PartialSuccess, Reset, Slow, Status, TooLarge


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as found:
        yield found


def _spool(directory: Path, count: int, first: int = 1, text: str = "") -> set[str]:
    """Files as an exporter leaves them that never reached its collector."""
    exporter = Exporter(ExportConfig.resolve(endpoint="http://127.0.0.1:1", spool=directory, retry=FAST))
    ids = feed(exporter, count, first, {"text": text})
    outcome = exporter.flush_blocking()
    assert outcome.pending == outcome.spooled >= count
    exporter.shutdown(0)
    return ids


def _replay(*arguments: object) -> int:
    return main(["replay", *map(str, arguments)])


def test_a_spool(collector: Collector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a process left is sent once, with the headers that were asked for, and stays where it is."""
    ids = _spool(tmp_path, 1000) | _spool(tmp_path, 10, 5000)
    before = sorted(tmp_path.glob("*.jsonl"))
    assert _replay(tmp_path, before[0], "--endpoint", collector.endpoint, "--header", "x-key=a=b") == 0
    assert collector.accepted == dict.fromkeys(ids, 1)
    assert {request.headers["x-key"] for request in collector.requests} == {"a=b"}
    assert sorted(tmp_path.glob("*.jsonl")) == before
    assert "1,010 spans" in capsys.readouterr().out


def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A check opens no connection, and its status says whether all of it could be sent."""
    _spool(tmp_path, 10)
    assert _replay(tmp_path, "--dry-run", "--endpoint", "http://127.0.0.1:1") == 0
    (tmp_path / "other.jsonl").write_text('{"resourceLogs": []}\n')
    assert _replay(tmp_path, "--dry-run") == 1
    assert "10 spans" in capsys.readouterr().out


def test_damage(collector: Collector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Torn lines, foreign and unreadable files are counted and named; the rest arrives, and the status is 1."""
    ids = _spool(tmp_path, 5)
    segment = next(tmp_path.glob("*.jsonl"))
    whole = segment.read_bytes()
    segment.write_bytes(
        whole + b"\n" + whole[: len(whole) // 2] + b"\n" + whole.replace(b'"name":"s"', b'"name":"\xff"')
    )
    (tmp_path / "logs.jsonl").write_text('{"resourceLogs": []}\n')
    (tmp_path / "noise.jsonl").write_bytes(os.urandom(10_000))
    (tmp_path / "deep.jsonl").write_text('{"resourceSpans":' + "[" * 100_000)
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "a.directory.jsonl").mkdir()
    assert _replay(tmp_path, "--endpoint", collector.endpoint) == 1
    assert collector.accepted.keys() == ids
    told = capsys.readouterr().out
    assert "2 lines are torn" in told
    for name in ("logs", "noise", "deep"):
        assert f"{name}.jsonl: holds no traces" in told
    assert "directory.jsonl: cannot be read" in told
    assert "empty" not in told


@contextmanager
def _nobody() -> Iterator[None]:
    """As somebody who may not read everything."""
    if is_root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions of POSIX")
def test_what_may_not_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    """A directory that does not let one look is not an empty one, and a file in it is told in one line."""
    with TemporaryDirectory() as open_to_all:
        Path(open_to_all).chmod(0o755)
        spool = Path(open_to_all) / "theirs"
        _spool(spool, 5)
        segment = next(spool.glob("*.jsonl"))
        spool.chmod(0)
        with _nobody():
            assert _replay(spool, "--dry-run") == 1
            assert "theirs: cannot be read" in capsys.readouterr().out
            assert _replay(segment, "--dry-run") == 2
            assert "cannot be read: Permission denied" in capsys.readouterr().err
        spool.chmod(0o700)


def test_a_link_to_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even a name that leads nowhere is a traceback."""
    (tmp_path / "a.jsonl").symlink_to("a.jsonl")
    assert _replay(tmp_path, "--dry-run") == 1
    assert "a.jsonl: cannot be read" in capsys.readouterr().out
    assert _replay(tmp_path / "a.jsonl", "--dry-run") == 2


def test_a_pipe(collector: Collector, tmp_path: Path) -> None:
    """What can be read once only, such as the output of another command, is sent all the same."""
    ids = _spool(tmp_path, 1000, text="x" * 200)
    command = [sys.executable, "-m", "genai_async", "replay", "/dev/stdin", "--endpoint", collector.endpoint]
    files = b"".join(file.read_bytes() for file in tmp_path.glob("*.jsonl"))
    done = subprocess.run(command, input=files, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert collector.accepted == dict.fromkeys(ids, 1)


def test_malformed_spans(collector: Collector, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A span that no collector would take costs nobody else, and is counted, by a check, too."""
    bad = ['{"name":"no ids"}', f'{{"traceId":"{1:032x}","spanId":"{1:016x}","startTimeUnixNano":[]}}', "{}"]
    good = [f'{{"traceId":"{1:032x}","spanId":"{number:016x}"}}' for number in (1, 2)]
    lines = [
        f'{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}\n' for span in (*bad, ",".join(good + bad))
    ]
    (tmp_path / "old.jsonl").write_text("".join(lines))
    for arguments in ("--dry-run",), ("--endpoint", collector.endpoint):
        assert _replay(tmp_path, *arguments) == 1
        told = capsys.readouterr().out
        assert "2 spans in 1 files" in told
        assert "6 spans are malformed" in told
    assert set(collector.accepted.values()) == {1}
    assert len(collector.accepted) == 2


def test_trouble_on_the_way(tmp_path: Path) -> None:
    """Retries and splits are the exporter's own."""
    ids = _spool(tmp_path, 40, text="x" * 500)
    with Collector([Status(503), Reset("after"), *[TooLarge(8000)] * 30]) as collector:
        assert _replay(tmp_path, "--endpoint", collector.endpoint) == 0
        assert collector.accepted == dict.fromkeys(ids, 1)


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Spans that are given up make the status 1, and are told by reason."""
    _spool(tmp_path, 4)
    for fault, reason in (
        (Status(400), "given up 4: rejected_400"),
        (PartialSuccess(1), "given up 1: partial_success"),
    ):
        with Collector([fault]) as collector:
            assert _replay(tmp_path, "--endpoint", collector.endpoint) == 1
            assert reason in capsys.readouterr().out


def test_nobody_listens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without progress it gives up, says why, and the files are still there for the next time."""
    _spool(tmp_path, 4)
    assert _replay(tmp_path, "--endpoint", "http://127.0.0.1:1", "--patience", "0.2") == 1
    assert "not delivered 4: http://127.0.0.1:1 does not take spans, they are kept for later: ConnectError" in (
        capsys.readouterr().out
    )


def test_one_try(tmp_path: Path) -> None:
    """Without any patience a request is waited for, but none is made again."""
    _spool(tmp_path, 4)
    with Collector([Slow(headers=0.5)]) as collector:
        assert _replay(tmp_path, "--endpoint", collector.endpoint, "--patience", 0) == 0
    with Collector([Status(503), Status(503)]) as collector:
        assert _replay(tmp_path, "--endpoint", collector.endpoint, "--patience", 0) == 1
        assert len(collector.requests) == 1


def test_an_interrupt(tmp_path: Path) -> None:
    """Ctrl-C ends it at once, with an account of what was delivered and the status that shells expect."""
    _spool(tmp_path, 600)
    with Collector([Accept(), Slow(headers=60)]) as collector:
        command = [sys.executable, "-m", "genai_async", "replay", str(tmp_path), "--endpoint", collector.endpoint]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            deadline = time.monotonic() + 20
            while len(collector.requests) < 2 and time.monotonic() < deadline:
                time.sleep(0.02)  # it is another process that is waited for
            process.send_signal(signal.SIGINT)
            told, complaints = process.communicate(timeout=10)
    assert process.returncode == 130
    assert " of 600 in 2 requests" in told
    assert "not delivered" in told
    assert "Traceback" not in complaints


@pytest.mark.parametrize(
    "arguments",
    [
        ("missing",),
        (".", "--endpoint", "ftp://x"),
        (".", "--header", "no name=x"),
        (".", "--header", "x=\x00"),
        (".", "--header", "x"),
    ],
)
def test_misuse(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is not there and an option that cannot work are told before anything is tried."""
    assert _replay(*arguments) == 2
    assert capsys.readouterr().err


def test_a_large_file_in_little_memory(collector: Collector, tmp_path: Path) -> None:
    """A file much larger than what is read ahead is never in memory as a whole; a terminal shows a bar."""
    _spool(tmp_path, 100, text="x" * 100_000)
    segments = b"".join(path.read_bytes() for path in tmp_path.glob("*.jsonl"))
    whole = tmp_path / "whole.traces"
    with whole.open("wb") as file:
        for _ in range(12):
            file.write(segments)
    program = (
        # `ru_maxrss` would be at least that of the process which started this one.
        "import re, sys; from pathlib import Path; from genai_async.__main__ import main; "
        "sys.stderr.isatty = lambda: True; status = main(); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]); sys.exit(status)"
    )
    command = [sys.executable, "-c", program, "replay", str(whole), "--endpoint", collector.endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert done.returncode == 0, done.stderr
    assert sorted(collector.accepted.values()) == [12] * 100
    assert "1200/1200 spans sent" in done.stderr
    assert int(done.stdout.split()[-1]) < 150_000 + whole.stat().st_size / 1024 / 2  # KiB on Linux
