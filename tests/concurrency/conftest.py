from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Iterator

import pytest

import genai_async as ga

from .rig import Rig


class _Keeps(logging.Handler):
    def __init__(self, rig: Rig) -> None:
        super().__init__(logging.INFO)
        self.rig = rig

    def emit(self, record: logging.LogRecord) -> None:
        # In debug mode asyncio says so when the machine was slow.
        if not (record.name == "asyncio" and record.getMessage().startswith("Executing ")):
            self.rig.logs.append(record)


@pytest.fixture(scope="module", autouse=True)
def _small_heap() -> Iterator[None]:
    """Take what was there before out of the many collections."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """A set-up that keeps its spans; whatever is logged or cannot be raised anywhere is kept, too."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    gc.collect()
    rig = Rig(ga.configure(shutdown_timeout=1))
    monkeypatch.setattr(sys, "unraisablehook", rig.unraisable.append)
    handler = _Keeps(rig)
    logging.getLogger().addHandler(handler)
    yield rig
    gc.collect()
    logging.getLogger().removeHandler(handler)
    rig.tracing.shutdown(1)
    rig.check_silence()
