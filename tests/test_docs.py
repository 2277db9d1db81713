"""Every Python sample of the README and the documentation runs as it stands, and its spans arrive."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai_async.testing import Collector

_ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"(?P<mark><!-- no-run -->\n+)?^```python\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def _pages() -> list[Path]:
    """All but the page on testing, whose samples are tests: tests/testing runs them as such."""
    return [_ROOT / "README.md", *sorted(page for page in (_ROOT / "docs").glob("*.md") if page.stem != "testing")]


def _samples() -> Iterator[object]:
    for page in _pages():
        text = page.read_text(encoding="utf-8")
        for block in _BLOCK.finditer(text):
            if block["mark"] is None:
                line = text.count("\n", 0, block.start("code")) + 1
                yield pytest.param(block["code"], id=f"{page.name}:{line}")


@pytest.mark.parametrize("code", list(_samples()))
def test_sample_runs_and_its_spans_arrive(code: str, tmp_path: Path) -> None:
    """A sample ends without an error or a word on stderr; what it sets up to be sent is delivered."""
    with Collector() as collector:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("COV", "OTEL"))}
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.endpoint
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            check=False,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=30,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        sends = re.search(r"ga\.(tracing|configure)\(|Exporter\(", code) is not None
        assert bool(collector.accepted) is sends


def test_samples_are_found() -> None:
    """The pattern that finds samples misses none."""
    written = sum(page.read_text(encoding="utf-8").count("```python\n") for page in _pages())
    marked = sum(page.read_text(encoding="utf-8").count("<!-- no-run -->") for page in _pages())
    assert len(list(_samples())) == written - marked > 0
