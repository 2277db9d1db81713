from __future__ import annotations

import io
import os
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from genai_async._demo._folder import Folder
from genai_async._demo._policy import Policy
from genai_async._demo._report import trees
from genai_async._demo._style import Style
from genai_async._demo._witness import MARKER, Witness, judge
from genai_async._progress import Progress
from genai_async.testing import SpanRecord

ID = "gen_ai.conversation.id"
PLAIN = Style(coloured=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Handle:
    def __init__(self, span_id: str) -> None:
        self.span_id = span_id
        self.attributes: dict[str, str] = {}

    def set_attributes(self, attributes: dict[str, str], /) -> None:
        self.attributes.update(attributes)


def record(span_id: str, parent: str | None = None, conversation: str = "a", **fields: object) -> SpanRecord:
    attributes = {ID: conversation, MARKER: "a", **fields}
    return SpanRecord(
        name=f"span {span_id}", trace_id="t", span_id=span_id, parent_span_id=parent, attributes=attributes
    )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    for name, text in {
        "a.txt": "one\nTwo words\n",
        "sub/b.py": "import sys\n",
        ".git/config": "secret",
        "node_modules/x.js": "",
        ".hidden/y": "",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (tmp_path / "link.txt").symlink_to(tmp_path / "a.txt")
    (tmp_path / os.fsdecode(b"\xff.txt")).touch()
    return Folder.survey(tmp_path)


def test_a_folder_leaves_out_what_is_not_the_users(folder: Folder) -> None:
    """Hidden, installed and linked files, and names that are no text, are not looked at."""
    assert folder.files == ("a.txt", "sub/b.py")
    assert folder.list_files(".py") == ["sub/b.py"]


def test_a_big_folder_is_bounded(tmp_path: Path) -> None:
    """However many and however large the files, a call reads a few and of each the beginning."""
    for number in range(350):
        (tmp_path / f"{number:03}.txt").write_text("x" * 40_000 if number == 0 else "word\n" * 20)
    folder = Folder.survey(tmp_path)
    assert len(folder.files) == 300
    assert len(folder.list_files()) == 20
    assert len(folder.read("000.txt")) == 32 << 10
    assert len(folder.grep("word")) == 10
    assert len(folder.query("SELECT path FROM files")) == 20


def test_what_may_not_be_read_is_left_out() -> None:
    """Files and folders that are not this user's to read are skipped, and nothing fails."""
    with TemporaryDirectory() as name:
        root = Path(name)
        (root / "mine.txt").write_text("x")
        (root / "theirs.txt").write_text("x")
        (root / "listed").mkdir()
        (root / "listed" / "inside.txt").write_text("x")
        (root / "closed").mkdir()
        for path, mode in {".": 0o755, "theirs.txt": 0, "listed": 0o644, "closed": 0}.items():
            (root / path).chmod(mode)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            found = Folder.survey(root)
            assert found.files == ("mine.txt",)
            assert Folder(root, ("listed/inside.txt",)).query("SELECT bytes FROM files") == [[0]]
        finally:
            os.seteuid(user)
            for path in ("listed", "closed"):
                (root / path).chmod(0o755)


def test_tools_do_real_work(folder: Folder) -> None:
    """Grep, count and query say what is in the files."""
    assert folder.grep("two") == [{"file": "a.txt", "line": 2, "text": "Two words"}]
    assert folder.count("a.txt") == {"lines": 2, "words": 3, "characters": 14}
    assert folder.query("SELECT suffix, bytes FROM files ORDER BY path") == [[".txt", 14], [".py", 11]]


def test_tools_fail_as_real_ones_do(folder: Folder) -> None:
    """Missing files, files outside and bad SQL are errors."""
    for file in ("missing.txt", "../outside", "/etc/hostname"):
        with pytest.raises(FileNotFoundError):
            folder.read(file)
    with pytest.raises(sqlite3.OperationalError):
        folder.query("SELECT * FROM nowhere")


def test_the_same_seed_asks_the_same_questions(folder: Folder) -> None:
    """Two policies of one seed decide alike, another seed otherwise somewhere."""
    decisions = [
        [(policy.questions(), policy.tool_calls(), policy.file()) for _ in range(5)]
        for policy in (Policy(folder, seed) for seed in ("1", "1", "2"))
    ]
    assert decisions[0] == decisions[1] != decisions[2]


def test_a_witness_notes_places_and_marks_spans() -> None:
    """A handle passes through, marked, and its place is noted."""
    witness = Witness("a")
    turn = witness.sees(Handle("1"))
    tool = witness.sees(Handle("2"), turn)
    assert tool.attributes == {MARKER: "a"}
    assert {key: tuple(place) for key, place in witness.noted.items()} == {"1": ("a", None), "2": ("a", "1")}


def test_a_verdict_counts_every_kind_of_fault() -> None:
    """Strange, misplaced and misattributed spans each count, lost ones with none of those that arrived."""
    witness = Witness("a")
    turn = witness.sees(Handle("1"))
    for span_id in "2345":
        witness.sees(Handle(span_id), turn)
    good = [record("1"), record("2", "1")]
    assert judge([witness], good) == (2, 0, 0)
    received = [*good, record("3", "2"), record("4", "1", "b"), record("9", "1")]
    assert judge([witness], received) == (4, 2, 2)


def test_trees_are_aligned_and_say_what_they_leave_out() -> None:
    """Columns stand under each other, and what is not shown is counted."""
    used = {"gen_ai.usage.input_tokens": 0, "gen_ai.usage.output_tokens": 7}
    spans = [record("1"), record("2", "1", **used), record("3"), record("4"), record("5", None, "b")]
    lines = list(trees(spans, ["a", "missing"], PLAIN, turns=2))
    assert lines == [
        "a  3 turns, 4 spans",
        "├─ span 1        0.0 ms",
        "│  └─ span 2     0.0 ms     0 → 7 tok",
        "└─ span 3        0.0 ms",
        "... and 1 more turn",
        "",
        "... and 1 more conversation",
    ]


def test_errors_and_colours_stand_in_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal gets colours unless it cannot show them or its owner wants none."""
    failed = SpanRecord(
        name="x", trace_id="t", span_id="1", status="ERROR", attributes={ID: "a", "error.type": "KeyError"}
    )
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[31mKeyError\x1b[0m" in "\n".join(trees([failed], ["a"], Style.of(Terminal()), turns=1))
    assert not Style.of(io.StringIO()).coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert not Style.of(Terminal()).coloured


def test_progress_draws_where_somebody_watches() -> None:
    """A bar fills up and goes away in a terminal; a pipe gets nothing."""
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        with Progress(2, "things", stream) as progress:
            progress.advance()
    assert f"\r{'━' * 16}{'─' * 16} 1/2 things" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert pipe.getvalue() == ""
