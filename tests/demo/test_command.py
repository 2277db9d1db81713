from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from genai_async.__main__ import main
from genai_async.testing import Collector, Status, assert_isolated

COMMAND = [sys.executable, "-m", "genai_async"]


def one_span(name: str) -> dict[str, object]:
    span = {"traceId": "1" * 32, "spanId": "2" * 16, "name": name}
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("an error\nand a second line\n")
    (tmp_path / "b.py").write_text("import sys\n")
    return tmp_path


def test_the_demo_delivers_every_span_in_its_place(folder: Path) -> None:
    """In a process of its own, as people run it, whatever their environment: everything arrives, nothing is wrong."""
    command = [*COMMAND, "demo", "--json", "--conversations", "20", "--path", str(folder)]
    environment = {**os.environ, "HTTP_PROXY": "http://127.0.0.1:9", "OTEL_TRACES_SAMPLER": "always_off"}
    done = subprocess.run(command, capture_output=True, timeout=50, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, b"")
    totals = json.loads(done.stdout)
    assert " ".join(totals) == "sessions turns spans delivered dropped wrong_conversation_ids wrong_parents"
    assert totals["sessions"] == 20
    assert totals["spans"] >= 20 * 26
    assert totals["delivered"] == totals["spans"]
    assert (totals["dropped"], totals["wrong_conversation_ids"], totals["wrong_parents"]) == (0, 0, 0)


def test_prints_trees_and_totals(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For people it prints a few trees, plain in a pipe, with what failed and what was cancelled, then the totals."""
    assert main(["demo", "--conversations", "4", "--path", str(folder)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    for expected in (
        "demo-0-0000  3 turns, 32 spans",
        "└─ execute_tool query",
        "sqlite3.OperationalError",
        "cancelled",
        "... and 1 more conversation\n",
        "dropped 0   wrong conversation id 0   wrong parent 0",
    ):
        assert expected in out


def test_sends_to_a_collector_of_the_users(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With an endpoint the spans go there, and the figures are the exporter's own."""
    with Collector() as collector:
        given = ["demo", "--conversations", "2", "--path", str(folder), "--endpoint", collector.endpoint, "--json"]
        assert main(given) == 0
    totals = json.loads(capsys.readouterr().out)
    assert totals["delivered"] == totals["spans"] == len(collector.spans)
    assert (totals["wrong_conversation_ids"], totals["wrong_parents"]) == (None, None)
    assert_isolated(collector, conversations=2)


def test_says_what_was_lost(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A collector that refuses everything makes the demo fail, and the exporter's trouble is told."""
    with Collector(lambda _: Status(400)) as collector:
        assert main(["demo", "--conversations", "1", "--path", str(folder), "--endpoint", collector.endpoint]) == 1
    out = capsys.readouterr().out
    assert "delivered 0   dropped 32" in out
    assert "wrong" not in out
    assert "last trouble: " in out


@pytest.mark.parametrize("given", [["--conversations", "0"], ["--conversations", "many"]])
def test_refuses_what_makes_no_sense(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A number of conversations that cannot be is refused with a word about it."""
    with pytest.raises(SystemExit) as caught:
        main(["demo", *given])
    assert caught.value.code == 2
    assert "--conversations" in capsys.readouterr().err


def test_needs_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that is no folder is an error of the caller's."""
    assert main(["demo", "--path", str(tmp_path / "nowhere")]) == 2
    assert "not a folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("endpoint", "variable", "value"),
    [("localhost", "X", ""), ("http://h:port", "X", ""), (None, "OTEL_EXPORTER_OTLP_HEADERS", "a b=c")],
)
def test_says_what_cannot_be_used(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    endpoint: str | None,
    variable: str,
    value: str,
) -> None:
    """An endpoint or a variable that cannot work is one line on the error stream."""
    monkeypatch.setenv(variable, value)
    given = [] if endpoint is None else ["--endpoint", endpoint]
    assert main(["demo", "--path", str(folder), *given]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "endpoint" in err or "headers" in err


def test_ends_quietly_when_it_is_interrupted(folder: Path) -> None:
    """Ctrl-C ends the demo and its receiver without a traceback."""
    command = [*COMMAND, "demo", "--conversations", "5000", "--path", str(folder)]
    with Collector() as collector:
        given = [*command, "--endpoint", collector.endpoint]
        with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            while not collector.spans:
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err


def test_a_span_that_may_have_few_attributes_is_not_wrong(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a limit takes the demo's own mark away, the conversation's id still counts."""
    monkeypatch.setenv("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "2")
    assert main(["demo", "--conversations", "2", "--path", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["wrong_conversation_ids"] == 0


def test_says_when_tracing_is_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A demo that could trace nothing says so."""
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert main(["demo"]) == 2
    assert "OTEL_SDK_DISABLED" in capsys.readouterr().err


def test_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, and when asked, it says which there are."""
    for given, code in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as caught:
            main(given)
        assert caught.value.code == code
    out, err = capsys.readouterr()
    assert "demo" in out
    assert "collect" in out
    assert "COMMAND" in err


@pytest.mark.parametrize("options", [["--port=99999"], ["--port=-1"], ["--json-lines", "/nowhere/x"]])
def test_collect_says_what_cannot_be(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A port or file that cannot be had is told in one line."""
    assert main(["collect", *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_ends_quietly_when_nobody_reads_on() -> None:
    """A reader that goes away ends the command without a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [*COMMAND, "collect", "--port=0"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=30, check=False)
    os.close(writer)
    assert done.returncode == 1
    assert done.stderr == b""


def test_collects_in_a_process_of_its_own(tmp_path: Path) -> None:
    """`collect` says where it listens, appends each request as a line, and ends with its input."""
    file = tmp_path / "received.jsonl"
    file.write_bytes(b'{"resourceSpans":[]}\n')
    command = [*COMMAND, "collect", "--port=0", f"--json-lines={file}", "--until-eof"]
    body = one_span("ü\u2028")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        endpoint = process.stdout.readline().decode().strip()
        assert httpx.post(f"{endpoint}/v1/traces", json=body).status_code == 200
        assert process.communicate(timeout=20) == (b"", b"")
    assert process.returncode == 0
    assert [json.loads(line) for line in file.read_bytes().splitlines()] == [{"resourceSpans": []}, body]


def test_collect_shows_what_comes() -> None:
    """Without a file `collect` prints a line for each span; a signal ends it."""
    with subprocess.Popen([*COMMAND, "collect", "--port=0"], stdout=subprocess.PIPE) as process:
        assert process.stdout
        endpoint = process.stdout.readline().decode().strip()
        httpx.post(f"{endpoint}/v1/traces", json=one_span("chat m"))
        line = process.stdout.readline().decode()
        process.terminate()
    assert process.returncode == 0
    assert line.split() == ["1" * 32, "0.0", "ms", "UNSET", "chat", "m"]


@pytest.mark.parametrize("given", ["/dev/null", __file__, None])
def test_collect_ends_with_an_input_that_is_none(given: str | None) -> None:
    """A file, nothing or no stream at all in the place of the input is at its end at once."""
    command = shlex.join([*COMMAND, "collect", "--port=0", "--until-eof"])
    redirected = "<&-" if given is None else f"< {shlex.quote(given)}"
    done = subprocess.run(["sh", "-c", f"{command} {redirected}"], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_collect_reads_its_input_to_the_end() -> None:
    """What comes in before the end is not the end."""
    command = [*COMMAND, "collect", "--port=0", "--until-eof"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        endpoint = process.stdout.readline().decode().strip()
        process.stdin.write(b"not yet")
        process.stdin.flush()
        for _ in range(5):
            assert httpx.post(f"{endpoint}/v1/traces", json=one_span("x")).status_code == 200
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")  # noqa: PTH110
def test_collect_ends_when_it_cannot_keep_what_comes() -> None:
    """A disk that is full is told, and the request is not taken, so that its sender keeps it."""
    command = [*COMMAND, "collect", "--port=0", "--json-lines=/dev/full"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        endpoint = process.stdout.readline().decode().strip()
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{endpoint}/v1/traces", json=one_span("x"))
        _, told = process.communicate(timeout=20)
    assert process.returncode == 2
    assert told.decode().splitlines() == ["cannot write to /dev/full: [Errno 28] No space left on device"]


def test_collect_ends_when_its_reader_has_gone() -> None:
    """Nobody sees what comes any more, so nothing is taken."""
    with subprocess.Popen([*COMMAND, "collect", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        endpoint = process.stdout.readline().decode().strip()
        process.stdout.close()
        with pytest.raises(httpx.TransportError):
            httpx.post(f"{endpoint}/v1/traces", json=one_span("x"))
        assert process.wait(20) == 1
        assert process.stderr.read() == b""


def test_collect_shows_names_as_text() -> None:
    """What controls a terminal or looks like another line is escaped, whatever the encoding of the output."""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    with subprocess.Popen([*COMMAND, "collect", "--port=0"], stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        endpoint = process.stdout.readline().decode().strip()
        httpx.post(f"{endpoint}/v1/traces", json=one_span("\x1b[2Jü\nline\u202e"))
        told = process.stdout.readline().decode()
        process.terminate()
    assert told.endswith("UNSET  \\x1b[2J\\xfc\\nline\\u202e\n")


@pytest.mark.parametrize("stream", [1, 2])
def test_a_command_without_a_stream(stream: int, tmp_path: Path) -> None:
    """A stream that was closed before the start is as good as one that nobody sees."""
    command = shlex.join([*COMMAND, "replay", "--dry-run", str(tmp_path)])
    done = subprocess.run(["sh", "-c", f"{command} {stream}>&-"], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
