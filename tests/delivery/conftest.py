"""Three event loops that run the exporter themselves, and a thread that runs it beside one of them."""

from __future__ import annotations

from typing import Any

import pytest

from .hosts import Host, LoopHost, ThreadedHost

_SETTINGS: dict[str, tuple[tuple[str, dict[str, Any]], type[Host]]] = {
    "asyncio": (("asyncio", {"debug": True}), LoopHost),
    "uvloop": (("asyncio", {"use_uvloop": True}), LoopHost),
    "trio": (("trio", {}), LoopHost),
    "thread": (("asyncio", {}), ThreadedHost),
}


@pytest.fixture(params=_SETTINGS)
def setting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def anyio_backend(setting: str) -> Any:
    return _SETTINGS[setting][0]


@pytest.fixture
def host(setting: str) -> Host:
    """Who runs the exporter."""
    return _SETTINGS[setting][1]()
