"""What cannot be recorded costs itself, and all of it is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from genai_async._conversation._faults import FieldError, PartError, each, whole


def _part(item: Any) -> Any:
    if item == "partly":
        raise PartError("part", ["one", "another"])
    if item == "wrong":
        raise FieldError("wrong")
    if item == "odd":
        raise LookupError("s3cret")
    return item


def test_a_bad_item_costs_itself() -> None:
    """Of an item that can be kept in part that is kept, and of all the others it is told why not."""
    kept, reasons = each(_part, ["a", "partly", "wrong", "odd", "b"])
    assert kept == ["a", "part", "b"]
    assert reasons == ["one", "another", "wrong", "LookupError"]


def test_an_iterator_that_fails_costs_what_it_has_not_given() -> None:
    """What came before is kept, and the failure is a reason, without what it says."""

    def items() -> Iterator[str]:
        yield "a"
        raise LookupError("s3cret")

    assert each(_part, items()) == (["a"], ["LookupError"])
    assert each(_part, 5) == ([], ["TypeError"])  # type: ignore[arg-type]


def test_what_is_made_of_the_rest() -> None:
    """All that was given, some of it, or nothing of it: told apart by what is raised."""
    assert whole("all", ["a"], []) == "all"
    with pytest.raises(PartError) as found:
        whole("some", ["a"], ["wrong", "odd"])
    assert (found.value.kept, found.value.reasons, str(found.value)) == ("some", ["wrong", "odd"], "wrong")
    with pytest.raises(FieldError, match="wrong") as none:
        whole("none", [], ["wrong"])
    assert type(none.value) is FieldError
