"""Who traces ordinary concurrent programs right: `python -m benchmarks.compare_correctness [--docs] [LIBRARY ...]`.

Each program of `benchmarks/_patterns` is written once and runs over every library as its release on PyPI is, in a
process and an environment of the library's own; nothing is sent anywhere. `--docs` puts the table into
`docs/concurrency.md`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

from ._report import RESULTS, note, save, say, table
from ._venv import REQUIREMENTS, python_for

LIBRARIES = ("genai_async", "opentelemetry_util_genai", "langfuse", "weave")
TITLES = {"opentelemetry_util_genai": "util-genai", "weave": "weave conversation"}
_NAME = "correctness"
_PAGE = Path("docs/concurrency.md")
_BEGIN, _END = "<!-- compare_correctness begins -->\n", "<!-- compare_correctness ends -->\n"
_WEAKEST = ("id", "parent", "open", "spans", "context", "log", "error")

Results: TypeAlias = dict[str, dict[str, Any]]
"""By library: `python`, `versions`, and `verdicts`: by program, what was wrong by kind."""


def run(name: str) -> dict[str, Any]:
    """Every program over one library.

    Raises:
        subprocess.SubprocessError: The library cannot be installed, started or brought to an end.
        ValueError: It said nothing.
    """
    environment = {**os.environ, "WEAVE_DISABLED": "false"}
    if name in REQUIREMENTS:
        environment.pop("PYTHONPATH", None)
    command = [python_for(name), "-m", "benchmarks._patterns", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600, env=environment)
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not answers:
        raise ValueError(f"{name} said nothing: {done.stderr[-500:]}")
    return json.loads(answers[-1])  # type: ignore[no-any-return]


def gather(names: list[str]) -> Results:
    """The results of each library that can be had."""
    results: Results = {}
    for name in names:
        note(f"running {name}")
        try:
            results[name] = run(name)
        except (OSError, ValueError, subprocess.SubprocessError) as exc:
            note(f"skipped {name}: {exc} {getattr(exc, 'stderr', None) or ''}")
    return results


def _cell(faults: dict[str, list[str]]) -> str:
    return ", ".join(kind for kind in _WEAKEST if kind in faults) or "right"


def report(results: Results) -> str:
    """The table."""
    verdicts = [result["verdicts"] for result in results.values()]
    programs = list(verdicts[0])
    rows = [[program, *(_cell(each[program]) for each in verdicts)] for program in programs]
    totals = [sum(not faults for faults in each.values()) for each in verdicts]
    head = ["program", *(TITLES.get(name, name) for name in results)]
    return table(head, [*rows, ["right", *(f"{total} of {len(programs)}" for total in totals)]])


def provenance(results: Results) -> str:
    """Versions, date and interpreter."""
    versions = {package: version for result in results.values() for package, version in result["versions"].items()}
    pythons = sorted({result["python"] for result in results.values()})
    named = ", ".join(f"{package} {version}" for package, version in versions.items())
    return f"{named}; Python {' and '.join(pythons)}, asyncio; {datetime.now(UTC):%Y-%m-%d}."


def write_docs(text: str) -> None:
    """Replace the table on the documentation's page.

    Raises:
        ValueError: The page has no place for it.
    """
    before, _, rest = _PAGE.read_text().partition(_BEGIN)
    _, found, after = rest.partition(_END)
    if not found:
        raise ValueError(f"{_PAGE} has no place for the table")
    _PAGE.write_text(f"{before}{_BEGIN}\n{text}\n\n{_END}{after}")


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", metavar="LIBRARY", help=", ".join(LIBRARIES))
    parser.add_argument("--docs", action="store_true", help=f"put the table into {_PAGE}")
    parser.add_argument("--verbose", action="store_true", help="say what was wrong")
    options = parser.parse_args()
    if unknown := set(options.libraries) - set(LIBRARIES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    results = gather(options.libraries or list(LIBRARIES))
    if not results:
        parser.exit(1, "nothing could be run\n")
    text = f"{report(results)}\n\n{provenance(results)}"
    say(text)
    if options.verbose:
        _explain(results)
    save(_NAME, {"date": f"{datetime.now(UTC):%Y-%m-%d}", "libraries": results})
    note(f"written to {RESULTS / _NAME}.json")
    if options.docs:
        write_docs(text)


def _explain(results: Results) -> None:
    for name, result in results.items():
        for program, faults in result["verdicts"].items():
            for kind, texts in faults.items():
                say(f"{name}: {program}: {kind}: {texts[0][:300]}" + f" and {len(texts) - 1} more" * (len(texts) > 1))


if __name__ == "__main__":
    main()
