"""What the receiver got, for people to read: a tree per conversation, then the totals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from .._conversation import _semconv as sc
from .._testing._record import SpanRecord
from .._testing._tree import Node, forest
from ._style import Style

_COLOURS = {sc.INVOKE_AGENT: "magenta", sc.CHAT: "yellow", sc.EXECUTE_TOOL: "cyan"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a tree, still in columns."""

    guide: str
    name: str
    colour: str
    duration: str
    tokens: str
    error: str

    @property
    def width(self) -> int:
        """How wide the tree's column must be."""
        return len(self.guide) + len(self.name)

    def line(self, width: int, style: Style) -> str:
        """The columns side by side; `width` is the tree's."""
        tree = style.paint(self.guide, "dim") + style.paint(self.name, self.colour) + " " * (width - self.width)
        columns = f"{tree}  {style.paint(self.duration.rjust(9), 'dim')}  {self.tokens:<13}"
        return f"{columns}  {style.paint(self.error, 'red')}".rstrip()


def trees(spans: Sequence[SpanRecord], shown: Sequence[str], style: Style, *, turns: int) -> Iterator[str]:
    """The lines of the conversations with these ids, with so many turns of each, aligned with each other."""
    by_conversation = _by_conversation(spans)
    roots = {name: forest(by_conversation[name]) for name in shown if name in by_conversation}
    rows = {name: list(_rows(found[:turns])) for name, found in roots.items()}
    width = max((row.width for found in rows.values() for row in found), default=0)
    for name, found in rows.items():
        yield _heading(name, by_conversation[name], style)
        yield from (row.line(width, style) for row in found)
        yield from _more(len(roots[name]) - turns, "turn", style)
        yield ""
    yield from _more(len(by_conversation) - len(rows), "conversation", style)


def conversation_ids(spans: Iterable[SpanRecord]) -> list[str]:
    """The conversations in the order of their ids."""
    return sorted(_by_conversation(spans))


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it needs it."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _by_conversation(spans: Iterable[SpanRecord]) -> dict[str, list[SpanRecord]]:
    found: defaultdict[str, list[SpanRecord]] = defaultdict(list)
    for span in spans:
        found[str(span.attributes.get(sc.CONVERSATION_ID, "without conversation id"))].append(span)
    return found


def _more(number: int, noun: str, style: Style) -> Iterator[str]:
    if number > 0:
        yield style.paint(f"... and {counted(number, f'more {noun}')}", "dim")


def _heading(name: str, spans: Sequence[SpanRecord], style: Style) -> str:
    turns = sum(span.parent_span_id is None for span in spans)
    failed = sum(span.status == "ERROR" for span in spans)
    errors = style.paint(f", {counted(failed, 'error')}", "red") if failed else ""
    return f"{style.paint(name, 'bold')}  {counted(turns, 'turn')}, {counted(len(spans), 'span')}{errors}"


def _rows(nodes: Sequence[Node], guide: str = "") -> Iterator[Row]:
    for node in nodes:
        is_last = node is nodes[-1]
        yield _row(node.span, guide + ("└─ " if is_last else "├─ "))
        yield from _rows(node.children, guide + ("   " if is_last else "│  "))


def _row(span: SpanRecord, guide: str) -> Row:
    operation = span.attributes.get(sc.OPERATION, "")
    error = str(span.attributes.get(sc.ERROR_TYPE, "")) if span.status == "ERROR" else ""
    return Row(
        guide=guide,
        name=span.name,
        colour=_COLOURS.get(operation, "bold"),
        duration=f"{span.duration * 1000:.1f} ms",
        tokens=_tokens(span),
        error=error,
    )


def _tokens(span: SpanRecord) -> str:
    used, made = (span.attributes.get(key) for key in (sc.USAGE_INPUT_TOKENS, sc.USAGE_OUTPUT_TOKENS))
    return "" if used is None and made is None else f"{used or 0:>4} → {made or 0} tok"
