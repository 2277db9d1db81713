"""The fixture `spans`: what a test traced. Import it into a test module or `conftest.py` to have it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ._capture import Capture, capture


@pytest.fixture(name="spans")
def spans() -> Iterator[Capture]:
    """Everything that is traced during the test, on whatever event loop."""
    with capture() as captured:
        yield captured
