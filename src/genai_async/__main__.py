"""The commands: `python -m genai_async COMMAND`. Each is loaded only when it is asked for."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Final, NamedTuple


class _Command(NamedTuple):
    """Where a command lives: a module with `add_arguments(parser)` and `run(arguments) -> int`."""

    module: str
    summary: str


# As a shell has it for a command that Ctrl-C ended.
_INTERRUPTED: Final = 130

_COMMANDS: Final = {
    "demo": _Command("._demo._command", "trace many agents at once and check what arrived"),
    "collect": _Command("._testing._command", "receive traces on a local port and write them down"),
    "replay": _Command("._replay", "send files of spans, such as a spool left behind, to a collector"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status."""
    _open_streams()
    try:
        return _main(argv)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has seen enough; Python would complain about it again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _open_streams() -> None:
    """Give streams that were closed before the start somewhere to write to, and have all of them take any text."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _main(argv: Sequence[str] | None) -> int:
    given = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="python -m genai_async", description="Tracing for async agents.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in _COMMANDS.items():
        subparser = commands.add_parser(name, help=command.summary, description=f"{command.summary.capitalize()}.")
        if name in given[:1]:
            loaded = import_module(command.module, __package__)
            loaded.add_arguments(subparser)
            subparser.set_defaults(run=loaded.run)
    arguments = parser.parse_args(given)
    status = int(arguments.run(arguments))
    sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
