"""What a program needs of a tracing library; each library does it the way its documentation says."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeAlias, TypeVar

from opentelemetry.sdk.trace import TracerProvider

Result = TypeVar("Result")
Chunks: TypeAlias = AsyncGenerator[int, None]
Body: TypeAlias = Callable[[], Chunks]


class Handle(Protocol):
    """A turn, a model call or a tool; as a block it is current inside."""

    def __enter__(self) -> Handle: ...
    def __exit__(self, *exc: Any) -> bool | None: ...

    def start(self) -> Handle:
        """Start it by hand; it becomes current only where the library has no other way."""
        ...

    def end(self) -> None:
        """End what was started by hand."""
        ...

    def llm(self, name: str) -> Handle:
        """A model call under it."""
        ...

    def tool(self, name: str) -> Handle:
        """A tool run under it."""
        ...


class Session(Protocol):
    """A conversation; as a block it is current inside."""

    def __enter__(self) -> Session: ...
    def __exit__(self, *exc: Any) -> bool | None: ...

    def turn(self, name: str) -> Handle:
        """A turn of it."""
        ...


class Library(Protocol):
    """One tracing library."""

    packages: tuple[str, ...]
    """The distributions whose versions the report names."""
    id_attribute: str
    """Where the library writes the conversation's id."""
    without_id: tuple[str, ...]
    """How the names of spans begin on which it writes no id by design."""
    provider: TracerProvider

    def session(self, conversation_id: str) -> Session: ...

    def llm(self, name: str) -> Handle:
        """A model call under what is current."""
        ...

    def tool(self, name: str) -> Handle:
        """A tool run under what is current."""
        ...

    def stream(self, turn: Handle | None, name: str, chunks: Chunks) -> Chunks:
        """A model call under a turn or what is current, that lasts as long as its chunks are read."""
        ...

    def streamed_turn(self, conversation_id: str, name: str, body: Body) -> Chunks:
        """A turn, in a conversation of its own, around a generator whose items it passes on."""
        ...

    def adopt(self, turn: Handle) -> AbstractContextManager[Any]:
        """What must stand around the use of a handle in a task that inherited nothing."""
        ...

    async def in_thread(self, work: Callable[[], Result]) -> Result:
        """Run a function on a thread pool with `run_in_executor`."""
        ...
