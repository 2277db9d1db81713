"""Assertions about spans that say in words what is wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from difflib import ndiff
from typing import Any, Final, Protocol, TypeAlias

from .._conversation._semconv import CONVERSATION_ID
from ._record import SpanRecord
from ._tree import Node, draw, forest, label, parse

__all__ = [
    "assert_attributes",
    "assert_delivered",
    "assert_ended",
    "assert_isolated",
    "assert_no_errors",
    "assert_tree",
]


class HasSpans(Protocol):
    """A capture, a collector: whatever holds spans."""

    @property
    def spans(self) -> list[SpanRecord]: ...


class HasOpenSpans(Protocol):
    """A capture: what also knows which spans have not ended."""

    @property
    def open(self) -> list[str]: ...


class HasAccepted(Protocol):
    """A collector: what knows how often each span came."""

    @property
    def accepted(self) -> Counter[str]: ...


Spans: TypeAlias = HasSpans | Iterable[SpanRecord]

# What is wrong, in words, and the spans that it is about.
_Trouble: TypeAlias = tuple[str, Sequence[SpanRecord]]

# Their spans begin before anybody can know the conversation.
_RECEIVING: Final = frozenset({"SERVER", "CONSUMER"})
_MOST: Final = 20  # of what an error lists: more than anybody reads


def assert_isolated(spans: Spans, *, conversations: int | None = None) -> None:
    """Check that conversations don't mix: each span has an id, its parent has the same one, and so has its trace.

    A parent in another process need not be among the spans, and its trace may hold several conversations. What a server
    or a queue's consumer was given to do may have a span without an id, which began before the id was known: such a
    span is left aside. A parent may be missing where the spans are a list: whoever chooses may leave it out.

    Args:
        spans: a capture, a collector or the spans themselves.
        conversations: how many conversations there must be; at least one, if None.

    Raises:
        AssertionError: they mix, or there are no spans; the text names each span that is wrong.
    """
    found = _list(spans)
    judged = [span for span in found if _id(span) or span.kind not in _RECEIVING]
    strangers = _strangers(judged, found, is_whole=not isinstance(spans, Iterable))
    troubles = [*_without_id(judged), *strangers, *_mixed_traces(judged, found)]
    ids = {str(_id(span)) for span in judged if CONVERSATION_ID in span.attributes}
    if not judged and conversations is None:
        troubles.append(("there are no spans", ()))
    if conversations is not None and len(ids) != conversations:
        names = _few([repr(name) for name in sorted(ids)])
        troubles.append((f"there are {len(ids)} conversations, not {conversations}: [{names}]", ()))
    _fail(troubles, found)


def assert_tree(spans: Spans, expected: str, *, any_order: bool = False) -> None:
    """Check that the spans stand as a drawn tree says: each one's name under its parent's, ` ! error.type` after it.

    Only the indentation counts; the guides that `str(capture)` draws may be left out.

    Args:
        spans: a capture, a collector or the spans themselves.
        expected: the tree.
        any_order: whether siblings may come in any order, as concurrent ones do.

    Raises:
        AssertionError: they stand otherwise; the text shows both trees, line by line.
    """
    wanted = draw(parse(expected), any_order=any_order)
    found = draw(forest(_list(spans)), any_order=any_order)
    if wanted != found:
        difference = "\n".join(ndiff(wanted.splitlines(), found.splitlines()))
        raise AssertionError(f"the spans stand otherwise (- expected, + found):\n{difference}")


def assert_ended(capture: HasOpenSpans) -> None:
    """Check that every span that was started has ended.

    Raises:
        AssertionError: some have not; the text names them.
    """
    if capture.open:
        raise AssertionError(f"{len(capture.open)} spans have not ended: {_few(capture.open)}")


def assert_no_errors(spans: Spans) -> None:
    """Check that no span ended in an error.

    Raises:
        AssertionError: some did; the text names them with their errors.
    """
    found = _list(spans)
    _fail([(f"{_name(span)} failed: {label(span)}", [span]) for span in found if span.status == "ERROR"], found)


def assert_attributes(span: SpanRecord, expected: Mapping[str, Any]) -> None:
    """Check that a span has these attributes among its own; None means that it has not got the attribute.

    Raises:
        AssertionError: it has not; the text gives each attribute that differs.
    """
    troubles = [
        f"{key} is {span.attributes.get(key)!r}, not {value!r}"
        for key, value in expected.items()
        if span.attributes.get(key) != value
    ]
    if troubles:
        raise AssertionError(f"{_name(span)}: " + "; ".join(troubles))


def assert_delivered(collector: HasAccepted, span_ids: Iterable[str], *, once: bool = False) -> None:
    """Check that a collector accepted these spans.

    Args:
        collector: the receiver.
        span_ids: what was sent, as hex.
        once: whether duplicates are wrong, too.

    Raises:
        AssertionError: some were lost, or came twice; the text counts and names them.
    """
    wanted = set(span_ids)
    lost = sorted(wanted - collector.accepted.keys())
    twice = sorted(span_id for span_id in wanted if collector.accepted[span_id] > 1) if once else []
    troubles = [
        f"{len(ids)} of {len(wanted)} spans {what}: {_few(ids, 5)}"
        for what, ids in (("were lost", lost), ("came more than once", twice))
        if ids
    ]
    if troubles:
        raise AssertionError("\n".join(troubles))


def _without_id(spans: Iterable[SpanRecord]) -> Iterator[_Trouble]:
    for span in spans:
        if not _id(span):
            yield f"{_name(span)} has no conversation id", [span]


def _strangers(judged: Iterable[SpanRecord], spans: Iterable[SpanRecord], *, is_whole: bool) -> Iterator[_Trouble]:
    known = {span.span_id: span for span in spans}
    for span in judged:
        parent = known.get(span.parent_span_id or "")
        if parent is None:
            if is_whole and span.parent_span_id is not None and not span.is_parent_remote:
                yield f"{_name(span)} is under {span.parent_span_id}, which is not among the spans", [span]
        elif _id(span) != _id(parent) and (_id(parent) or parent.kind not in _RECEIVING):
            text = f"{_name(span)} is in conversation {_id(span)!r}, its parent {_name(parent)} in {_id(parent)!r}"
            yield text, [span]


def _mixed_traces(judged: Iterable[SpanRecord], spans: Iterable[SpanRecord]) -> Iterator[_Trouble]:
    continued = {span.trace_id for span in spans if span.is_parent_remote}
    traces: dict[str, list[SpanRecord]] = {}
    for span in judged:
        traces.setdefault(span.trace_id, []).append(span)
    for trace_id, members in traces.items():
        ids = {str(_id(span)) for span in members}
        if len(ids) > 1 and trace_id not in continued:
            yield f"trace {trace_id} holds {len(ids)} conversations: {_few(sorted(ids))}", members


def _id(span: SpanRecord) -> object:
    return span.attributes.get(CONVERSATION_ID)


def _name(span: SpanRecord) -> str:
    return f"{span.name!r} ({span.span_id})"


def _list(spans: Spans) -> list[SpanRecord]:
    return list(spans) if isinstance(spans, Iterable) else spans.spans


def _few(names: Sequence[str], most: int = _MOST) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _fail(troubles: Sequence[_Trouble], spans: Iterable[SpanRecord]) -> None:
    """Raise with the first of the troubles, if there are any, and the trees that they stand in."""
    if not troubles:
        return
    lines = [text for text, _ in troubles[:_MOST]]
    if len(troubles) > _MOST:
        lines.append(f"... and {len(troubles) - _MOST} more: {len(troubles)} in all")
    ids = {span.span_id for _, where in troubles[:_MOST] for span in where}
    trees = forest(spans)
    # What has no place of its own, such as a wrong number of conversations, is in all of them.
    around = [tree for tree in trees if _holds(tree, ids)] if ids else trees
    lines += ["", "the spans were:" if len(around) == len(trees) else "the spans around were:", draw(around[:_MOST])]
    if len(around) > _MOST:
        lines.append(f"... and {len(around) - _MOST} more trees")
    raise AssertionError("\n".join(lines))


def _holds(tree: Node, ids: Set[str]) -> bool:
    return tree.span.span_id in ids or any(_holds(child, ids) for child in tree.children)
