from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import httpx
import pytest

from genai_async.testing import Collector

from .servers import SERVERS, serve

pytestmark = pytest.mark.anyio

DOCS = Path(__file__).parents[2] / "docs"
SAMPLE = DOCS / "samples" / "chat_service.py"


@pytest.mark.parametrize("server", SERVERS)
async def test_chat_service(server: str, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The documented service streams its answers, and every conversation's spans reach the collector."""
    with Collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        app: Any = runpy.run_path(str(SAMPLE))["app"]
        with serve(app, server) as address:

            async def ask(number: int) -> str:
                headers = {"x-session-id": f"c-{number}"}
                question = {"question": f"Where is {number}?"}
                response = await client.post(f"http://{address}/chat", json=question, headers=headers)
                return response.text

            answers = await asyncio.gather(*map(ask, range(50)))
            assert (await client.get(f"http://{address}/whoami", headers={"x-session-id": "c"})).json() == "c"
        spans = collector.spans
    assert answers[7] == "".join([f'data: "{word} "\n\n' for word in ("Parcel", "7", "is", "in", "Osaka.")])
    for number in range(50):
        own = [span for span in spans if span.attributes.get("gen_ai.conversation.id") == f"c-{number}"]
        turns = [span for span in own if span.name == "invoke_agent parcels"]
        assert len(turns) == 1
        inside = {span.name for span in own if span.trace_id == turns[0].trace_id and "fastapi" not in span.scope}
        assert inside == {"invoke_agent parcels", "execute_tool track", "chat small"}
        assert [span.name for span in own if span.name == "execute_tool remember"] == ["execute_tool remember"]


async def test_page_shows_the_service() -> None:
    """The page on ASGI shows the service as it stands, and that in under 80 lines."""
    code = SAMPLE.read_text(encoding="utf-8")
    assert f"```python\n{code}```" in (DOCS / "asgi.md").read_text(encoding="utf-8")
    assert code.count("\n") < 80
