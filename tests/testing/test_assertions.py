from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from genai_async._testing._tree import draw, forest
from genai_async.testing import (
    SpanRecord,
    assert_attributes,
    assert_delivered,
    assert_ended,
    assert_isolated,
    assert_no_errors,
    assert_tree,
)

ID = "gen_ai.conversation.id"


def span(
    number: int, name: str, parent: int | None = None, conversation: str | None = "a", **fields: Any
) -> SpanRecord:
    return SpanRecord(
        name=name,
        trace_id=f"{fields.pop('trace', 1):032x}",
        span_id=f"{number:016x}",
        parent_span_id=None if parent is None else f"{parent:016x}",
        start_ns=number,
        attributes={ID: conversation} if conversation else {},
        **fields,
    )


class Books:
    def __init__(self, *open_: str, **accepted: int) -> None:
        self.open = list(open_)
        self.accepted = Counter(accepted)


FAMILY = [span(1, "turn"), span(2, "chat", 1), span(3, "tool", 2), span(4, "tool", 1)]


def test_isolated_conversations_pass() -> None:
    """Spans with the id of their parent are isolated."""
    assert_isolated(FAMILY, conversations=1)
    assert_isolated([], conversations=0)
    with pytest.raises(AssertionError, match="no spans"):
        assert_isolated([])


def test_a_trace_of_another_process_may_be_continued() -> None:
    """Spans under a remote parent stand for themselves, and each conversation under its own."""
    first = [span(5, "turn", 77, is_parent_remote=True), span(6, "chat", 5)]
    other = span(7, "turn", 77, "b", is_parent_remote=True)
    assert_isolated([*first, other], conversations=2)
    with pytest.raises(AssertionError, match=r"'chat' .* is in conversation 'a', its parent 'turn' .* in 'b'"):
        assert_isolated([other, span(8, "chat", 7)])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ([span(5, "lost", 1, None)], "'lost' (0000000000000005) has no conversation id"),
        ([span(5, "alien", 1, "b")], "'alien' (0000000000000005) is in conversation 'b', its parent 'turn'"),
        ([span(5, "orphan", 77)], "'orphan' (0000000000000005) is under 000000000000004d, which is not among"),
        ([span(5, "root", None, "b")], f"trace {1:032x} holds 2 conversations: a, b"),
        ([span(5, "other", None, "b", trace=2)], "there are 2 conversations, not 1: ['a', 'b']"),
    ],
)  # fmt: skip
def test_mixed_conversations_are_told(wrong: list[SpanRecord], words: str) -> None:
    """Each way of being in the wrong place is said in words, with the tree."""
    with pytest.raises(AssertionError) as caught:
        assert_isolated([*FAMILY, *wrong], conversations=1)
    assert words in str(caught.value)
    assert "the spans were:\nturn\n├─ chat" in str(caught.value)


@pytest.mark.parametrize(
    "drawn",
    [
        "turn\n├─ chat\n│  └─ tool\n└─ tool",
        "turn\n  chat\n    tool\n  tool\n",
        """
        turn
            chat
                tool
            tool
        """,
    ],
)
def test_a_tree_may_be_drawn_or_indented(drawn: str) -> None:
    """Only the indentation of the expected tree counts."""
    assert_tree(FAMILY, drawn)


@pytest.mark.parametrize(
    "name",
    ["a\nb", "a\n  b", "- a", "├─ a", "  a", "a ", "", " ", "+1", "`a`", "a\u2028b", "'- a'", "a - b", "a\\nb", "é"],
)
def test_any_name_can_be_read_from_a_drawn_tree(name: str) -> None:
    """A tree as it is drawn is the tree, whatever its spans are called."""
    spans = [span(1, name), span(2, name, 1), span(3, "tool", 2, status="ERROR", status_message=name), span(4, name, 1)]
    drawn = draw(forest(spans))
    assert len(drawn.splitlines()) == 4
    assert_tree(spans, drawn)
    assert_tree(spans, "\n\n".join([f"    {line}" for line in drawn.splitlines()]))


def test_a_wrong_tree_is_shown_beside_the_right_one() -> None:
    """The error shows what was expected and what was found, line by line."""
    with pytest.raises(AssertionError) as caught:
        assert_tree(FAMILY, "turn\n  chat\n  tool")
    assert "- ├─ chat" not in str(caught.value)
    assert "+ │  └─ tool" in str(caught.value)


def test_siblings_may_stand_in_any_order() -> None:
    """Concurrent siblings compare without their order, but under their own parents."""
    assert_tree(FAMILY, "turn\n  tool\n  chat\n    tool", any_order=True)
    with pytest.raises(AssertionError):
        assert_tree(FAMILY, "turn\n  tool\n  chat\n    tool")
    with pytest.raises(AssertionError):
        assert_tree(FAMILY, "turn\n  chat\n  tool\n    tool", any_order=True)


def test_errors_are_named() -> None:
    """A failed span is found with its error type, its message, or at least the fact."""
    failed = [
        span(5, "a", status="ERROR", status_message="no file"),
        span(6, "b", status="ERROR"),
    ]
    assert_no_errors(FAMILY)
    with pytest.raises(AssertionError, match=r"(?s)'a' .* failed: a ! no file.*'b' .* failed: b ! error"):
        assert_no_errors([*FAMILY, *failed])


def test_open_spans_are_named() -> None:
    """What has not ended is listed."""
    assert_ended(Books())
    with pytest.raises(AssertionError, match="2 spans have not ended: turn, chat"):
        assert_ended(Books("turn", "chat"))


def test_attributes_that_differ_are_named() -> None:
    """Only the attributes that were asked for count; None stands for absence."""
    assert_attributes(FAMILY[0], {ID: "a", "other": None})
    with pytest.raises(AssertionError, match=r"'turn' .*: gen_ai.conversation.id is 'a', not 'b'; x is None, not 1"):
        assert_attributes(FAMILY[0], {ID: "b", "x": 1})


def test_losses_and_duplicates_are_counted() -> None:
    """What did not arrive is told always, what came twice when asked."""
    books = Books(a=1, b=2)
    assert_delivered(books, "ab")
    with pytest.raises(AssertionError, match="1 of 2 spans came more than once: b"):
        assert_delivered(books, "ab", once=True)
    with pytest.raises(AssertionError, match=r"7 of 7 spans were lost: c, d, e, f, g, \.\.\."):
        assert_delivered(books, "cdefghi")
