"""Attributes that were looked at already."""

from __future__ import annotations

from genai_async._plain import Plain
from genai_async._tracer._values import clean_attributes


def test_plain_attributes_are_cut_all_the_same() -> None:
    """Where texts have a limit, each is looked at; without one they come out as a dict of the span's own."""
    plain = Plain(text="long", more=("a", "b"), count=1)
    kept, dropped = clean_attributes(plain, None)
    assert type(kept) is dict
    assert (kept, dropped) == (dict(plain), 0)
    assert clean_attributes(plain, 2) == ({"text": "lo", "more": ("a", "b"), "count": 1}, 0)
