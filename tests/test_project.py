"""The walls between the rooms, what an import costs, and that the project's files say the same thing."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_SOURCE = _ROOT / "src" / "genai_async"
_PACKAGE = "genai_async"

# What a room may import of the others; what no room is named for (`_env`, `_errors`, `_loop` and so on) is anybody's.
_ROOMS = {
    "_conversation": set[str](),
    "_tracer": set[str](),
    "export": set[str](),
    "_testing": {"_conversation", "_setup", "_tracer", "export"},
}
_ANYBODYS = {"_env", "_errors", "_log", "_loop", "_plain", "_version"}
_FOREIGN_LOOPS = {"asyncio", "trio", "sniffio", "uvloop"}


def _files() -> list[Path]:
    return sorted(_SOURCE.rglob("*.py"))


def _name(path: Path) -> str:
    parts = path.relative_to(_SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


_MODULES = {_name(path): path for path in _files()}


def _imports(path: Path, *, at_import: bool = False) -> Iterator[str]:
    """Every module that a file imports, by its whole name; with `at_import` those that run when it is loaded."""
    for node in _loaded(_tree(path)) if at_import else ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(path, node)
            for alias in node.names:
                submodule = f"{base}.{alias.name}"
                yield submodule if submodule in _MODULES else base


def _loaded(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is loaded: nothing in functions or under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _loaded(child)


def _absolute(path: Path, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = _name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    package = package[: len(package) - node.level + 1]
    return ".".join([*package, node.module] if node.module else package)


def _room(module: str) -> str:
    return [*module.split("."), ""][1]


def _shown(path: Path) -> str:
    return str(path.relative_to(_SOURCE))


@pytest.mark.parametrize("room", _ROOMS)
def test_room_imports_only_what_it_may(room: str) -> None:
    """A room imports itself, what is anybody's, and the rooms that the design lets it meet."""
    allowed = {room} | _ANYBODYS | _ROOMS[room]
    found = {
        f"{_shown(path)} imports {module}"
        for path in sorted((_SOURCE / room).rglob("*.py"))
        for module in _imports(path)
        if module.startswith(f"{_PACKAGE}.") and _room(module) not in allowed
    }
    assert not found


def test_nobody_imports_the_root_package() -> None:
    """No module reaches through the root's public names, so that rooms can be loaded and read on their own."""
    found = {_shown(path) for path in _files() if path != _SOURCE / "__init__.py" and _PACKAGE in _imports(path)}
    assert not found


def test_imports_form_no_cycle() -> None:
    """Loading a module never comes back to a module that is still being loaded."""
    edges = {
        name: {module for module in _imports(path, at_import=True) if module in _MODULES and module != name}
        for name, path in _MODULES.items()
    }
    for name, modules in edges.items():  # the package above is loaded first, but a room's door may name its rooms
        modules -= {name.rpartition(".")[0]}
    assert len(list(TopologicalSorter(edges).static_order())) >= len(_MODULES)


def test_convention_names_are_spelled_in_one_file() -> None:
    """A change of the conventions is a change of one file."""
    found = {
        _shown(path)
        for path in _files()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.match(r"gen_ai\.[a-z]", node.value)
    }
    assert found == {"_conversation/_semconv.py"}


def test_environment_is_read_in_one_file() -> None:
    """What the environment decides can be found in one place."""
    pattern = re.compile(r"os\.(environ|getenv)|from os import[^\n]*\b(environ|getenv)")
    assert {_shown(path) for path in _files() if pattern.search(path.read_text(encoding="utf-8"))} == {"_env.py"}


def test_event_loops_are_touched_in_one_file() -> None:
    """All else is written on anyio, so it runs on every event loop that anyio runs on."""
    found = {
        _shown(path) for path in _files() for module in _imports(path) if module.partition(".")[0] in _FOREIGN_LOOPS
    }
    assert found == {"_loop.py"}


def test_private_parts_of_opentelemetry_are_not_used() -> None:
    """A new version of OpenTelemetry may change what it does not show."""
    found = {
        f"{_shown(path)} imports {module}.{name}"
        for path in _files()
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.ImportFrom) and (module := node.module or "").startswith("opentelemetry")
        for name in (alias.name for alias in node.names)
        if any(part.startswith("_") and not part.startswith("__") for part in [*module.split("."), name])
    }
    assert not found


def _python(*arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    return subprocess.run(
        [sys.executable, *arguments], check=True, capture_output=True, text=True, env=environment, timeout=30
    ).stdout


def test_import_loads_nothing_heavy() -> None:
    """Importing the package loads no HTTP client, TLS, event loop, framework or test tool, nor what sends."""
    heavy = ["asyncio", "h11", "httpcore", "httpx", "pytest", "ssl", "starlette", "trio", "uvloop"]
    heavy += [
        "genai_async.export._worker",
        "genai_async._conversation._decorators",
        "genai_async._conversation._reply",
        "zlib",
    ]
    before = "import sys, opentelemetry.sdk.trace; before = set(sys.modules)"
    code = f"{before}; import genai_async; print(*sorted(set({heavy}) & set(sys.modules) - before))"
    assert _python("-c", code).split() == []


def test_import_in_one_thread_is_possible_without_a_loop() -> None:
    """Each door can be imported on its own, in any order, in a fresh interpreter."""
    doors = [name for name in _MODULES if not any(part.startswith("_") for part in name.split(".")[1:])]
    for door in doors:
        assert _python("-c", f"import {door}; print('loaded')") == "loaded\n"


def test_names_that_load_their_module_late() -> None:
    """Each public name is there when it is asked for, listed from the start, and another one is no name."""
    code = "import genai_async as ga; listed = dir(ga); [getattr(ga, name) for name in ga.__all__]"
    code += "; print(set(ga.__all__) <= set(listed), hasattr(ga, 'another'))"
    assert _python("-c", code).split() == ["True", "False"]
    assert (
        _python("-c", "from genai_async import *; print(tool.__module__, log_turn.__name__)").split()[1] == "log_turn"
    )


@pytest.mark.parametrize("has_spool", [False, True])
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_what_sends_loads_in_another_thread(backend: str, has_spool: bool, tmp_path: Path) -> None:
    """Entering `tracing()` loads no module of the package on the loop's thread."""
    spool = str(tmp_path) if has_spool else None
    code = f"""
import sys, threading, anyio
import genai_async as ga

class Watch:
    def find_spec(self, name, path, target=None):
        if name.startswith("genai_async.") and threading.current_thread() is threading.main_thread():
            print(name)

async def main():
    sys.meta_path.insert(0, Watch())
    async with ga.tracing(endpoint="http://localhost:1", shutdown_timeout=0, spool={spool!r}):
        assert {{"genai_async.export._worker", "genai_async._conversation._reply"}} <= sys.modules.keys()
        sys.meta_path.pop(0)

anyio.run(main, backend={backend!r})
"""
    assert _python("-c", code) == ""


def test_unused_parts_do_not_load_with_the_package() -> None:
    """What is only asked for at times (commands, test kit, integrations) is loaded only then."""
    code = "import sys, genai_async; print(*sorted(name for name in sys.modules if name.startswith('genai_async.')))"
    loaded = {_room(name) for name in _python("-c", code).split()}
    assert loaded == {"_conversation", "_setup", "_tracer", "export"} | _ANYBODYS


def _project() -> dict[str, object]:
    found = tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert isinstance(found, dict)
    return found


def test_files_that_a_package_needs_are_there() -> None:
    """Licence, readme, changes and the marker of types are where packaging and type checkers look."""
    for name in ["LICENSE", "README.md", "CHANGELOG.md", "src/genai_async/py.typed"]:
        assert (_ROOT / name).is_file(), name
    assert "Apache License" in (_ROOT / "LICENSE").read_text(encoding="utf-8")
    assert _project()["license"] == "Apache-2.0"


def test_dependencies_are_the_four_of_the_design() -> None:
    """Anything else that the package can use is an extra."""
    dependencies = _project()["dependencies"]
    assert isinstance(dependencies, list)
    assert {re.split(r"[<>=]", name)[0] for name in dependencies} == {
        "anyio",
        "httpx",
        "msgspec",
        "opentelemetry-sdk",
    }


def _readme_commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (_ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def test_readme_shows_two_commands_that_do_all_set_up() -> None:
    """One line shows the demo and one runs the tests, on a machine that has Python and little else."""
    demo, tests = _readme_commands()
    assert demo.startswith("python3 -m venv ")
    assert demo.endswith(" -m genai_async demo")
    assert tests.startswith("python3 -m venv ")
    assert tests.endswith("nox -s tests")


def test_ci_runs_the_readmes_own_test_command() -> None:
    """CI takes its command from the README, so what is written there is what is known to work."""
    ci = _ROOT / ".ci" / "run"
    assert os.access(ci, os.X_OK)
    pattern = re.search(r"grep -m 1 '(.*)' README\.md", ci.read_text(encoding="utf-8"))
    assert pattern is not None
    lines = (_ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.search(pattern[1], line)] == _readme_commands()[1:]


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link in the README and the documentation names a file that exists."""
    pages = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith("https://"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_pages_fit_their_line_length() -> None:
    """The README's text keeps to the line length of the code; tables and links cannot."""
    lines = (_ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 120 and not line.startswith(("|", "python3"))] == []
