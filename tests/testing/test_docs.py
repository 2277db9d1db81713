from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs" / "testing.md"


def test_the_samples_run(tmp_path: Path) -> None:
    """Every Python sample of the page is a test module that passes."""
    samples = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    for number, sample in enumerate(samples):
        (tmp_path / f"test_sample_{number}.py").write_text(sample)
    command = [sys.executable, "-m", "pytest", "-q", f"--rootdir={tmp_path}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert "5 passed" in done.stdout, done.stdout


def test_all_names_without_pytest() -> None:
    """`import *` works where pytest is not installed, without the fixture; with it, the fixture is among the names."""
    program = "from genai_async.testing import *; print(capture.__name__, 'spans' in dir())"
    for before, expected in (("import sys; sys.modules['pytest'] = None", "False"), ("", "True")):
        command = [sys.executable, "-c", f"{before}\n{program}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert (done.stdout.split(), done.stderr) == (["capture", expected], "")
