"""What every application here does, whatever its framework: model calls, tools and streams under what is current."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import genai_async as ga


async def answer(number: str) -> str:
    """Call a model and a tool, and give the id of the conversation that the code finds itself in."""
    async with ga.start_llm("m", provider_name="p") as llm:
        await asyncio.sleep(0)
        async with ga.start_tool("look", arguments={"number": number}):
            await asyncio.sleep(0)
        llm.output(number)
    session = ga.current_session()
    assert session is not None
    return session.session_id


def answer_in_thread(number: str) -> str:
    """The same from a plain function."""
    with ga.start_tool("look", arguments={"number": number}):
        session = ga.current_session()
    assert session is not None
    return session.session_id


async def pieces(number: str) -> AsyncIterator[str]:
    """A streamed answer of five server-sent events."""
    async with ga.start_llm("m", provider_name="p") as llm:
        for index in range(5):
            await asyncio.sleep(0)
            llm.output(number)
            yield f"data: {number} {index}\n\n"


async def endless(number: str) -> AsyncIterator[str]:
    """A stream that says one thing and then waits for ever."""
    async with ga.start_llm("m", provider_name="p"):
        yield f"data: {number}\n\n"
        await asyncio.Event().wait()


async def broken(number: str) -> AsyncIterator[str]:
    """A stream that fails after its first piece."""
    yield f"data: {number}\n\n"
    await asyncio.sleep(0)
    raise LookupError(number)


async def later(number: str) -> None:
    """What a background task does."""
    await asyncio.sleep(0)
    async with ga.start_tool("later", arguments={"number": number}):
        await asyncio.sleep(0)


async def late_failure(number: str) -> None:
    """A background task that fails."""
    async with ga.start_tool("later", arguments={"number": number}):
        raise LookupError(number)
