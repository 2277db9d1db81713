"""The turn that everybody traces, without any library."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeAlias

AGENT, MODEL, PROVIDER, TOOL = "support-bot", "gpt-4o", "openai", "track_parcel"
MESSAGE_BYTES = 600
INPUT_TOKENS, OUTPUT_TOKENS = 152, 148
SPANS_PER_TURN = 3

_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What is said in one turn: ids and texts differ from turn to turn, as they do in life."""

    question: str
    answer: str
    response_id: str
    call_id: str
    arguments: dict[str, int]
    result: dict[str, str]

    message_bytes: ClassVar[int] = MESSAGE_BYTES

    @classmethod
    def next(cls) -> Exchange:
        """The next turn's."""
        number = next(_numbers)
        return cls(
            question=f"Where is parcel {number}? ".ljust(cls.message_bytes, "q"),
            answer=f"Parcel {number} is in Osaka. ".ljust(cls.message_bytes, "a"),
            response_id=f"chatcmpl-{number:012d}",
            call_id=f"call_{number:012d}",
            arguments={"parcel": number},
            result={"city": "Osaka"},
        )


Turn: TypeAlias = Callable[[float], Awaitable[None]]


class Peer(Protocol):
    """A tracing library, set up to deliver to an endpoint."""

    async def open(self, url: str) -> None:
        """Set up; `url` is the sink's base URL for this peer."""

    def conversation(self, conversation_id: str) -> AbstractContextManager[Turn]:
        """Open a conversation; what comes out traces one turn of it, with a model that takes `latency` seconds."""
        ...

    async def flush(self) -> None:
        """Return when everything is delivered."""

    async def close(self) -> None:
        """End the set-up."""


async def work(latency: float) -> None:
    """What a model or a tool takes."""
    await asyncio.sleep(latency)
