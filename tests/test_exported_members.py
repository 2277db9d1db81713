"""The public names: complete, sorted, documented, and nothing besides them."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

import genai_async

_SOURCE = Path(genai_async.__file__).parent


def _doors() -> list[str]:
    """The modules without an underscore in their names."""
    names = [
        ".".join(["genai_async", *path.relative_to(_SOURCE).with_suffix("").parts]) for path in _SOURCE.rglob("*.py")
    ]
    doors = {name.removesuffix(".__init__") for name in names}
    return sorted(name for name in doors if not any(part.startswith("_") for part in name.split(".")))


@pytest.fixture(params=_doors())
def door(request: pytest.FixtureRequest) -> ModuleType:
    """Each public module; those of extras that are not installed are left out."""
    module = pytest.importorskip(request.param, exc_type=ImportError)
    assert isinstance(module, ModuleType)
    return module


def test_the_root_is_a_door() -> None:
    """The list of doors is no empty one."""
    assert {"genai_async", "genai_async.export", "genai_async.testing"} <= set(_doors())


def test_all_names_exist_once_and_are_sorted(door: ModuleType) -> None:
    """`__all__` is sorted as the linter sorts it, without repetition, and each name can be imported."""
    names = list(door.__all__)
    assert len(names) == len(set(names))
    assert names == sorted(names, key=_rank)
    for name in names:
        assert hasattr(door, name), name


def _rank(name: str) -> tuple[int, str]:
    return (0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2, name)


def test_no_other_name_is_public(door: ModuleType) -> None:
    """What a module shows without an underscore is in `__all__`, a submodule or an import of somebody else's."""
    own = {
        name
        for name, value in vars(door).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name != "annotations"
        if str(getattr(value, "__module__", "")).startswith("genai_async")
    }
    if door.__name__.count(".") == 0 or door.__file__ is None or Path(door.__file__).name == "__init__.py":
        assert own <= set(door.__all__)
    else:
        assert {name for name in own if getattr(door, name).__module__ == door.__name__} <= set(door.__all__)


def test_every_public_name_is_documented(door: ModuleType) -> None:
    """Each public class and function begins with a sentence of its own, and so do the public methods of classes.

    What a public protocol of the same module has said of a method need not be said again.
    """
    said = {name for value in vars(door).values() if getattr(value, "_is_protocol", False) for name in vars(value)}
    assert _sentence(door.__doc__), door.__name__
    for name in door.__all__:
        value = getattr(door, name)
        if not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        assert _sentence(value.__doc__), name
        if inspect.isclass(value):
            undocumented = {member for member, found in _members(value) if not _sentence(found.__doc__)} - said
            assert not undocumented, name


def _members(cls: type) -> list[tuple[str, object]]:
    """The public methods and properties that our own classes add."""
    found: dict[str, object] = {}
    for base in reversed([base for base in cls.__mro__ if base.__module__.startswith("genai_async")]):
        found.update(vars(base))
    outside = {name for base in cls.__mro__ if not base.__module__.startswith("genai_async") for name in vars(base)}
    return [
        (name, getattr(value, "__func__", value))
        for name, value in found.items()
        if not name.startswith("_") and name not in outside
        if isinstance(value, property | classmethod | staticmethod) or inspect.isfunction(value)
    ]


def _sentence(docstring: str | None) -> bool:
    first = (docstring or "").strip().partition("\n\n")[0]
    return first.endswith((".", ":", "?")) and not first.startswith("Alias for field")


def test_every_public_name_is_used_as_a_caller_would() -> None:
    """`tests/typing/api.py`, which is only type-checked, forgets no name of the root."""
    used = {
        node.attr
        for node in ast.walk(ast.parse((Path(__file__).parent / "typing" / "api.py").read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ga"
    }
    assert set(import_module("genai_async").__all__) - used == set()
