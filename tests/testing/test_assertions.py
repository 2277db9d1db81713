from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
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
    def __init__(self, *open_: str, spans: Iterable[SpanRecord] = (), **accepted: int) -> None:
        self.open = list(open_)
        self.spans = list(spans)
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
        assert_isolated(Books(spans=[*FAMILY, *wrong]), conversations=1)
    text, _, tree = str(caught.value).partition("\n\n")
    assert words in text
    assert wrong[0].name in tree
    assert ("turn\n├─ chat" in tree) is ("orphan" not in tree)


SERVER = span(10, "GET /", None, None, kind="SERVER", trace=2)
SEND = span(11, "GET / http send", 10, "a", trace=2)


@pytest.mark.parametrize("kind", ["SERVER", "CONSUMER"])
def test_what_began_before_the_id_was_known_is_left_aside(kind: str) -> None:
    """A server's or consumer's span needs no id, and those under it answer for their own."""
    received = span(10, "receive", None, None, kind=kind, trace=2)
    for spans in ([*FAMILY, received, SEND], [*FAMILY, SEND]):
        assert_isolated(spans, conversations=1)
    assert_isolated(Books(spans=[*FAMILY, received, SEND]), conversations=1)
    with pytest.raises(AssertionError, match="no spans"):
        assert_isolated([received])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (span(12, "lost", 10, None, trace=2), "'lost' .* has no conversation id"),
        (span(12, "lost", 10, None, trace=2, kind="CLIENT"), "'lost' .* has no conversation id"),
        (span(12, "alien", 10, "b", trace=2), "holds 2 conversations: a, b"),
        (span(12, "alien", 11, "b", trace=2), "'alien' .* is in conversation 'b'"),
        (span(12, "inner", 11, "b", trace=2, kind="SERVER"), "'inner' .* is in conversation 'b'"),
    ],
)
def test_conversations_mixed_under_a_servers_span_are_told(wrong: SpanRecord, words: str) -> None:
    """Nothing else is let off for a server's span."""
    for spans in ([SERVER, SEND, wrong], [SEND, wrong]):
        with pytest.raises(AssertionError, match=words):
            assert_isolated(spans)


def test_an_error_does_not_list_thousands() -> None:
    """The first troubles are shown with the trees that they stand in, and how many there are."""
    lost = [span(100 + number, "lost", None, None, trace=100 + number) for number in range(600)]
    with pytest.raises(AssertionError) as caught:
        assert_isolated([*FAMILY, *lost])
    lines = str(caught.value).splitlines()
    assert lines[20:23] == ["... and 580 more: 600 in all", "", "the spans around were:"]
    assert lines[23:] == ["lost"] * 20
    with pytest.raises(AssertionError) as caught:
        assert_isolated(
            [span(number, "turn", None, f"c{number:03}", trace=number) for number in range(600)], conversations=1
        )
    lines = str(caught.value).splitlines()
    assert len(lines) == 24
    assert lines[0].startswith("there are 600 conversations, not 1: ['c000', 'c001', ")
    assert lines[0].endswith("'c019', ...]")
    assert lines[-1] == "... and 580 more trees"
    with pytest.raises(AssertionError, match=r"30 spans have not ended: (turn, ){20}\.\.\.$"):
        assert_ended(Books(*["turn"] * 30))


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
    [
        "a\nb",
        "a\n  b",
        "- a",
        "├─ a",
        "  a",
        "a ",
        "",
        " ",
        "+1",
        "`a`",
        "a\u2028b",
        "'- a'",
        "a - b",
        "a\\nb",
        "é",
        "\x1b[2J",
    ],
)
def test_any_name_can_be_read_from_a_drawn_tree(name: str) -> None:
    """A tree as it is drawn is the tree, whatever its spans are called."""
    spans = [span(1, name), span(2, name, 1), span(3, "tool", 2, status="ERROR", status_message=name), span(4, name, 1)]
    drawn = draw(forest(spans))
    assert len(drawn.splitlines()) == 4
    assert_tree(spans, drawn)
    assert_tree(spans, "\n\n".join([f"    {line}" for line in drawn.splitlines()]))


def test_no_name_steers_the_terminal() -> None:
    """A tree shows what controls a terminal as text."""
    with pytest.raises(AssertionError) as caught:
        assert_tree([span(1, "\x1b[2J")], "other")
    assert "\x1b" not in str(caught.value)


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
