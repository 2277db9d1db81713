"""Real servers on 127.0.0.1, each with its event loop in a thread of this process."""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypercorn.asyncio
import hypercorn.config
import uvicorn

SERVERS = ("uvicorn", "hypercorn")


@contextmanager
def serve(app: Any, server: str = "uvicorn") -> Iterator[str]:
    """Serve an application and give its address; the server is told to stop and waited for at the end."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    address = f"127.0.0.1:{listening.getsockname()[1]}"
    with {"uvicorn": _uvicorn, "hypercorn": _hypercorn}[server](app, listening):
        yield address


@contextmanager
def _uvicorn(app: Any, listening: socket.socket) -> Iterator[None]:
    config = uvicorn.Config(
        app, log_config=None, access_log=False, ws="websockets-sansio", timeout_graceful_shutdown=5, lifespan="auto"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        listening.close()
        assert not thread.is_alive()


@contextmanager
def _hypercorn(app: Any, listening: socket.socket) -> Iterator[None]:
    config = hypercorn.config.Config()
    config.bind = [f"fd://{listening.detach()}"]
    config.errorlog = logging.getLogger("hypercorn.error")
    config.graceful_timeout = 1
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()
    serving: Any = hypercorn.asyncio.serve(app, config, shutdown_trigger=stop.wait, mode="asgi")  # type: ignore[arg-type]
    thread = threading.Thread(target=_run, args=(loop, serving))
    thread.start()
    try:
        yield
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


def _run(loop: asyncio.AbstractEventLoop, serving: Any) -> None:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(serving)
