"""Spans as trees: who is under whom, in the order they started, drawn as text and read from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .._conversation._semconv import ERROR_TYPE
from ._record import SpanRecord

__all__ = ["Branch", "Node", "draw", "escaped", "forest", "label", "parse"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_GUIDES = re.compile(r"[\s│├└─|`+-]*")


class Branch(Protocol):
    """A line of a tree with the branches under it."""

    @property
    def label(self) -> str: ...

    @property
    def children(self) -> Sequence[Branch]: ...


@dataclass(frozen=True, slots=True)
class Node:
    """A span with the spans under it."""

    span: SpanRecord
    children: list[Node] = field(default_factory=list["Node"])

    @property
    def label(self) -> str:
        """The span in one line."""
        return label(self.span)


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was written by hand, with the lines under it."""

    label: str
    children: list[Line] = field(default_factory=list["Line"])


def escaped(text: str) -> str:
    """A text of other people's as a terminal may show it: one line, and nothing that steers the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def label(span: SpanRecord) -> str:
    """The span in one line: its name, and what went wrong; in quotes where that would not be read as one line."""
    text = span.name
    if span.status == "ERROR":
        text = f"{text} ! {span.attributes.get(ERROR_TYPE) or span.status_message or 'error'}"
    is_plain = text.splitlines() == [text.rstrip()] and not _guides_of(text) and not _CONTROL.search(text)
    return text if is_plain else repr(text)


def forest(spans: Iterable[SpanRecord]) -> list[Node]:
    """The spans as trees; one whose parent is not among them is a root."""
    nodes = {span.span_id: Node(span) for span in sorted(spans, key=lambda span: span.start_ns)}
    roots: list[Node] = []
    for node in nodes.values():
        parent = nodes.get(node.span.parent_span_id or "")
        (roots if parent is None or parent is node else parent.children).append(node)
    return roots


def parse(text: str) -> list[Line]:
    """The trees that a text draws, by its indentation; guides like those that `draw` makes may stand in it."""
    roots: list[Line] = []
    above: list[tuple[int, Line]] = []
    for written in filter(str.strip, text.splitlines()):
        depth = len(_guides_of(written))
        line = Line(written[depth:].rstrip())
        while above and above[-1][0] >= depth:
            above.pop()
        (above[-1][1].children if above else roots).append(line)
        above.append((depth, line))
    return roots


def _guides_of(line: str) -> str:
    found = _GUIDES.match(line)
    return found[0] if found else ""


def draw(branches: Sequence[Branch], *, any_order: bool = False) -> str:
    """The trees as text, roots at the margin; with `any_order`, siblings stand in the order of their text."""
    return "\n".join(line for tree in _texts(branches, any_order) for line in tree)


def _texts(branches: Sequence[Branch], any_order: bool) -> list[list[str]]:
    trees = [[branch.label, *_under(_texts(branch.children, any_order))] for branch in branches]
    return sorted(trees) if any_order else trees


def _under(trees: Sequence[Sequence[str]]) -> Iterator[str]:
    for number, (first, *rest) in enumerate(trees, 1):
        is_last = number == len(trees)
        yield ("└─ " if is_last else "├─ ") + first
        yield from (("   " if is_last else "│  ") + line for line in rest)
