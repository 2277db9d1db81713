"""Every task of the project: `nox -s NAME`, and `nox` for what must be green before a change goes in."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "virtualenv"
nox.options.error_on_external_run = True
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "lint", "types"]

_PYPROJECT = nox.project.load_toml("pyproject.toml")


def _group(name: str) -> list[str]:
    return list(nox.project.dependency_groups(_PYPROJECT, name))


@nox.session
def demo(session: nox.Session) -> None:
    """Trace many agents at once and show what arrived; arguments go to the demo."""
    session.install(".")
    session.run("python", "-m", "genai_async", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests against the built package, with branch coverage; arguments go to pytest."""
    session.install(".", *_group("tests"))
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    if not session.posargs:
        _report_coverage(session)


def _report_coverage(session: nox.Session) -> None:
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and spelling."""
    session.install(*_group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("codespell")


@nox.session
def types(session: nox.Session) -> None:
    """Check types as the package sees them and as its callers do."""
    session.install(".", *_group("types"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--ignoreexternal", "--verifytypes", "genai_async")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare cost with other tracing libraries, in one run, and show where it goes; arguments go to the comparison."""
    session.install(".", *_group("bench"))
    session.run("python", "-m", "benchmarks.compare", *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "benchmarks.parts")
        session.run("python", "-m", "benchmarks.scale")
        session.notify("asgi_throughput")


@nox.session
def asgi_throughput(session: nox.Session) -> None:
    """Load a FastAPI service with and without tracing, in an environment that has nothing else; arguments go to it."""
    # What other packages bring along is loaded with httpx, and the garbage collector walks it in the traced server.
    session.install(".[fastapi]", "uvicorn")
    session.run("python", "benchmarks/asgi_throughput.py", *session.posargs)


@nox.session
def compare_correctness(session: nox.Session) -> None:
    """Ask the same hard questions of other tracing libraries."""
    session.install(".", *_group("bench"))
    session.run("python", "-m", "benchmarks.compare_correctness", *session.posargs)


@nox.session
def soak(session: nox.Session) -> None:
    """Trace for minutes while the collector misbehaves, and account for every span."""
    session.install(".", *_group("tests"))
    session.run("python", "-m", "benchmarks.soak", *session.posargs)


@nox.session
def stress(session: nox.Session) -> None:
    """Run the concurrency tests for longer, with other seeds."""
    session.install(".", *_group("tests"))
    session.run("python", "-m", "pytest", "tests/concurrency", *session.posargs, env={"GENAI_ASYNC_STRESS": "1"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Feed more nonsense and kill more processes than a normal run of the tests does."""
    session.install(".", *_group("tests"))
    files = ["tests/delivery/test_fuzz.py", "tests/delivery/test_kill.py"]
    session.run("python", "-m", "pytest", *files, *session.posargs, env={"GENAI_ASYNC_STRESS": "1"})


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install(".[fastapi]", *_group("docs"))
    built = Path("docs/_build")
    shutil.rmtree(built, ignore_errors=True)
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-b", "html", "docs", str(built))
    session.log(f"open {built / 'index.html'}")


@nox.session
def picture(session: nox.Session) -> None:
    """Draw the README's picture of the demo."""
    session.install(".", "rich")
    session.run("python", "docs/_picture.py")
