from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from genai_async import Session, Turn

from .support import Traced, traced


@pytest.fixture(autouse=True)
def without_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set-ups in this folder send nothing, unless a test says so."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")


@pytest.fixture
def spans(without_exporter: None) -> Iterator[Traced]:
    """What was traced under a plain set-up."""
    with traced() as found:
        yield found


@pytest.fixture
def session(spans: Traced) -> Session:
    """A session of a plain set-up."""
    return Session(session_id="c-1", agent_name="bot", model="gpt-4o")


@pytest.fixture
def turn(session: Session) -> Turn:
    """An open turn of it."""
    return session.start_turn()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What the library logs."""
    caplog.set_level(logging.DEBUG, logger="genai_async")
    return caplog
