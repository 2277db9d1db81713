"""OTLP requests by hand, and a client that sends them."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from genai_async.testing import Collector

JSON = {"content-type": "application/json"}


def span_ids(*numbers: int) -> list[str]:
    return [f"{number:016x}" for number in numbers]


def body(*numbers: int) -> bytes:
    spans = [{"traceId": f"{1:032x}", "spanId": span_id, "name": "s"} for span_id in span_ids(*numbers)]
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}).encode()


@asynccontextmanager
async def client(collector: Collector, timeout: float = 5.0, **options: object) -> AsyncIterator[Client]:
    async with httpx.AsyncClient(base_url=collector.endpoint, timeout=timeout, **options) as http:
        yield Client(http)


class Client:
    def __init__(self, http: httpx.AsyncClient) -> None:
        self.http = http

    async def send(self, *numbers: int, packed: bool = False, path: str = "/v1/traces") -> httpx.Response:
        if packed:
            headers = {**JSON, "content-encoding": "gzip"}
            return await self.http.post(path, content=gzip.compress(body(*numbers)), headers=headers)
        return await self.http.post(path, content=body(*numbers), headers=JSON)
