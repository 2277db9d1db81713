"""Spans without a network: what a block of code traced, as plain values and as a tree."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler
from opentelemetry.semconv.attributes.exception_attributes import EXCEPTION_STACKTRACE
from opentelemetry.trace import TracerProvider

from .._conversation._semconv import CONVERSATION_ID, RESPONSE_TIME_TO_FIRST_CHUNK
from .._setup import Tracing, capturing
from .._tracer import Provider
from ._deterministic import SequentialIds, TickingClock
from ._memory import Memory
from ._record import SpanRecord
from ._tree import Node, draw, forest

if TYPE_CHECKING:
    from .._conversation._content import Redact

__all__ = ["Capture", "capture"]

_MADE_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
# What Python says of an object that says nothing of itself.
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_OTHER_IN_EVERY_RUN = frozenset({EXCEPTION_STACKTRACE, RESPONSE_TIME_TO_FIRST_CHUNK})


def capture(
    *,
    capture_content: bool | None = None,
    redact: Redact | None = None,
    record_cancellation_as_error: bool | None = None,
    sampler: Sampler = ALWAYS_ON,
    id_generator: IdGenerator | None = None,
    clock: Callable[[], int] | None = None,
    real_time: bool = False,
) -> Capture:
    """Set tracing up for the time of a `with` or `async with` block and keep its spans in memory.

    A set-up that the program makes inside (`tracing()`, `configure()`) sends nothing: its spans are kept here, too.

    ```python
    with capture() as captured:
        await handle_request()
    assert_isolated(captured)
    assert str(captured) == ...
    ```

    Args:
        capture_content: as in `tracing()`.
        redact: as in `tracing()`.
        record_cancellation_as_error: as in `tracing()`.
        sampler: which spans are recorded; all, if not given.
        id_generator: makes the ids; a `SequentialIds`, if not given.
        clock: gives each span's start and end, in nanoseconds; a `TickingClock`, if not given.
        real_time: takes the spans' own times instead, as for `log_turn` and whatever is given its times.

    Raises:
        ConfigurationError: an option cannot work.
    """
    options = {
        "capture_content": capture_content,
        "redact": redact,
        "record_cancellation_as_error": record_cancellation_as_error,
    }
    memory = Memory(None if real_time else clock or TickingClock())
    provider = Provider(resource=Resource.get_empty(), sampler=sampler, id_generator=id_generator or SequentialIds())
    provider.add_span_processor(memory)
    return Capture(provider, memory, options)


class Capture:
    """What was traced within a block; made by `capture()`."""

    def __init__(self, provider: Provider, memory: Memory, options: Mapping[str, Any]) -> None:
        self._provider = provider
        self._memory = memory
        self._options = options
        self._tracing: Tracing | None = None

    @property
    def provider(self) -> TracerProvider:
        """The provider that spans are made with, for instrumentations that take one."""
        return self._provider

    @property
    def faults(self) -> Mapping[str, int]:
        """Values that could not be recorded, counted by kind."""
        return {} if self._tracing is None else self._tracing.faults

    @property
    def spans(self) -> list[SpanRecord]:
        """The spans that have ended, in the order in which they started."""
        return self._memory.spans

    @property
    def open(self) -> list[str]:
        """The names of the spans that have started and not ended."""
        return self._memory.open

    def one(self, name: str) -> SpanRecord:
        """The only span with this name.

        Raises:
            AssertionError: there is none, or more than one; the text shows what there is.
        """
        found = [span for span in self.spans if span.name == name]
        if len(found) != 1:
            raise AssertionError(f"{len(found)} spans are called {name!r}; the spans were:\n{self}")
        return found[0]

    def clear(self) -> None:
        """Forget the spans that have ended so far."""
        self._memory.clear()

    def snapshot(self) -> list[dict[str, Any]]:
        """The trees as nested dicts that are the same in every run: without ids, times, links, stacks, empty fields.

        Conversation ids that were made up (and not given) become `conversation-1`, `conversation-2`, ..., and objects
        that are shown by where they are in memory lose their address.
        """
        names = _Names()
        return [_outline(node, names) for node in forest(self.spans)]

    def __str__(self) -> str:
        return draw(forest(self.spans))

    def __enter__(self) -> Self:
        self._tracing = capturing(tracer_provider=self._provider, **cast(Any, self._options))
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._tracing is not None:
            self._tracing.shutdown()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(exc_type, exc, traceback)


class _Names:
    """Stable names for made-up conversation ids, in the order of their first appearance."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._numbers = count(1)

    def of(self, conversation_id: str) -> str:
        if not _MADE_ID.fullmatch(conversation_id):
            return conversation_id
        if conversation_id not in self._names:
            self._names[conversation_id] = f"conversation-{next(self._numbers)}"
        return self._names[conversation_id]


def _outline(node: Node, names: _Names) -> dict[str, Any]:
    span = node.span
    attributes = _steady(span.attributes)
    if isinstance(found := attributes.get(CONVERSATION_ID), str):
        attributes[CONVERSATION_ID] = names.of(found)
    status = "" if span.status == "UNSET" else span.status
    fields = {
        "name": _steady(span.name),
        "kind": span.kind,
        "status": _steady(f"{status}: {span.status_message}") if span.status_message else status,
        "attributes": attributes,
        "events": [{"name": event.name, "attributes": _steady(event.attributes)} for event in span.events],
        "children": [_outline(child, names) for child in node.children],
    }
    return {name: value for name, value in fields.items() if value}


def _steady(value: Any) -> Any:
    """A plain value without what differs from run to run."""
    if isinstance(value, str):
        return _ADDRESS.sub(" at 0x...", value)
    if isinstance(value, list):
        return [_steady(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _steady(item) for key, item in items if key not in _OTHER_IN_EVERY_RUN}
    return value
