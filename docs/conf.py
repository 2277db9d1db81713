"""How the documentation is built: `nox -s docs`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from genai_async import __version__
from genai_async.export import _config

if TYPE_CHECKING:
    from sphinx.application import Sphinx

# Its annotations name it, but it is imported only where it is used: autodoc reads signatures.
vars(_config)["httpx"] = httpx

project = "genai_async"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"genai_async {version}"
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "none"
napoleon_use_ivar = True
default_role = "code"


def _with_examples(_app: object, _what: str, _name: str, _obj: object, _options: object, lines: list[str]) -> None:
    """Mark indented and fenced examples as code, which need no marks in the source, and leave tables to the pages."""
    found: list[str] = []
    is_fenced = is_example = False
    for line in lines:
        if line.startswith("|"):  # a table: docs/export.md shows it
            continue
        if line.startswith("```"):
            is_fenced = not is_fenced
            found += ["", "::", ""] if is_fenced else [""]
            continue
        is_indented = line.startswith("    ")
        starts = is_indented and not is_fenced and not is_example and bool(found)
        if starts and (found[-1] == "" or found[-1] == "Example:"):
            if found[-1] == "Example:":
                found.pop()
            found += ["::", ""]
            is_example = True
        elif line and not is_indented:
            is_example = False
        found.append(f"    {line}" if is_fenced else line)
    lines[:] = [*found, ""]


def setup(app: Sphinx) -> None:
    """Take part in reading docstrings, before sections are looked for."""
    app.connect("autodoc-process-docstring", _with_examples, priority=100)
