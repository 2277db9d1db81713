"""What to do with a batch that is too large: split it, or trim its only span."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from ._buffer import Batch
from ._trim import trim

__all__ = ["smaller"]


def smaller(batch: Batch) -> list[Batch]:
    """A batch that was too large as two halves, or its only span with its longest texts cut; empty if neither helps."""
    if len(batch.spans) > 1:
        # Half of the bytes on each side, so that one huge span is alone after few requests.
        sizes = list(accumulate(len(data) for _, data in batch.spans))
        middle = min(max(bisect_left(sizes, sizes[-1] / 2), 1), len(batch.spans) - 1)
        return [batch.part(0, batch.spans[:middle]), batch.part(middle, batch.spans[middle:])]
    group, data = batch.spans[0]
    trimmed = trim(data, len(data) // 2)
    return [] if trimmed is None else [batch.part(0, [(group, trimmed)])]
