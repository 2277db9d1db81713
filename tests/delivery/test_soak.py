"""Short runs of the soak; `nox -s soak` is the long one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.soak import soak

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(150)]


_RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "memory": ("asyncio", {}),
    "little room": ("trio", {"queue_bytes": 100_000}),
    "spool": ("asyncio", {"spool": "spool"}),
}


@pytest.fixture(params=_RUNS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(kind: str) -> str:
    return _RUNS[kind][0]


async def test_nothing_vanishes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred conversations under random faults: every span is accepted or counted, the books hold all along."""
    monkeypatch.chdir(tmp_path)
    report = await soak(4, seed=len(kind), conversations=100, **_RUNS[kind][1])
    assert report.problems == []
    assert report.unexplained == 0
    assert report.produced > 500
    assert sum(report.faults.values()) > 3
    assert report.samples > 20
    assert (report.stats.dropped.get("queue_full", 0) > 0) is (kind == "little room")
    if kind == "spool":
        assert list((tmp_path / "spool").iterdir()) == []
