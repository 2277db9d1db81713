"""Draws docs/demo.svg from what the demo really prints in a terminal: `nox -s picture`."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

_COMMAND = "python -m genai_async demo"
_WIDTH = 92


def main() -> None:
    """Run the demo in a pseudo-terminal and write the picture of its first tree and its totals."""
    console = Console(record=True, width=_WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(f"$ {_COMMAND}", highlight=False)
    console.print(Text.from_ansi(_shortened(_printed())))
    picture = console.export_svg(title="genai_async", unique_id="demo")
    # Pages that show it load no fonts from elsewhere, and should not have to.
    Path("docs/demo.svg").write_text(re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL))


def _printed() -> str:
    ours, theirs = pty.openpty()
    arguments = [sys.executable, *_COMMAND.split()[1:], "--path", "src"]
    with subprocess.Popen(arguments, stdout=theirs, stderr=subprocess.DEVNULL, close_fds=True) as process:
        os.close(theirs)
        output = b"".join(iter(lambda: _read(ours), b""))
    if process.returncode:
        raise SystemExit("the demo failed")
    return output.decode().replace("\r\n", "\n")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux's way of saying that the other end was closed
        return b""


def _shortened(printed: str) -> str:
    """The first conversation and the totals: what stands between looks like the first."""
    blocks = re.split(r"\n[ \t]*\n", printed.strip())
    return "\n\n".join([blocks[0], *blocks[-2:]])


if __name__ == "__main__":
    main()
