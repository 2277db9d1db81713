"""Many conversations at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from ._agent import Agent
from ._folder import Folder
from ._policy import Policy
from ._witness import Witness

_AT_ONCE = 50


async def converse(path: Path, conversations: int, seed: int, on_end: Callable[[], object]) -> list[Witness]:
    """Hold so many conversations, some tens at a time, and return who watched them.

    The first one has a tool that fails, the second a user who leaves.
    """
    folder = await anyio.to_thread.run_sync(Folder.survey, path)
    agents = [_agent(folder, seed, number) for number in range(conversations)]
    limiter = anyio.CapacityLimiter(_AT_ONCE)

    async def hold(conversation: Callable[[], Awaitable[None]]) -> None:
        async with limiter:
            await conversation()
        on_end()

    async with anyio.create_task_group() as group:
        for number, agent in enumerate(agents):
            kinds = (agent.converse_and_fail, agent.converse_and_cancel)
            group.start_soon(hold, kinds[number] if number < len(kinds) else agent.converse)
    return [agent.witness for agent in agents]


def _agent(folder: Folder, seed: int, number: int) -> Agent:
    return Agent(folder, Policy(folder, f"{seed}/{number}"), Witness(f"demo-{seed}-{number:04}"))
