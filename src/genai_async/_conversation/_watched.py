"""An async generator in a span, and what it yields, kept until it ends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar, cast

from ._children import TaskOwner
from ._copying import Copier, holdable
from ._encoding import dumped, encoded_within
from ._faults import FieldError
from ._handle import SpanHandle
from ._isolated import first_step
from ._messages import Message
from ._texts import OVERLAP

_Handle = TypeVar("_Handle", bound=SpanHandle)

# What a generator yields is held until it ends: no more than this many items, and no more than an attribute holds.
_MAX_ITEMS: Final = 10_000
_SCALARS: Final = frozenset({bool, float, type(None)})
_NUMBER_BYTES: Final = 8
_USUAL_BYTES: Final = 256


class Watched(Generic[_Handle]):
    """An async generator in a span: begun with its first step, ended when it does."""

    __slots__ = ("_body", "_finish", "_handle", "_is_text", "_items", "_room", "_start")

    def __init__(
        self,
        body: AsyncGenerator[Any, Any],
        start: Callable[[], _Handle],
        finish: Callable[[_Handle, Any], object],
    ) -> None:
        self._body = body
        self._start = start
        self._finish = finish
        self._handle: _Handle | None = None
        self._items: list[Any] = []
        self._is_text = True
        self._room: int | None = None

    async def __anext__(self) -> Any:
        if self._handle is None:
            self._handle = self._start().__enter__()
            if isinstance(self._handle, TaskOwner) and self._handle._scopes:
                # Who runs the steps is the consumer, whom a failing task of the body must not interrupt.
                self._handle._scopes[-1].host = False
            return await self._step(first_step(self._body))
        return await self._step(self._body.__anext__())

    async def asend(self, value: Any) -> Any:
        return await self._step(self._body.asend(value))

    async def athrow(self, error: BaseException) -> Any:
        return await self._step(self._body.athrow(error))

    async def aclose(self) -> None:
        try:
            await self._body.aclose()
        except BaseException as exc:
            await self._end(exc)
            raise
        await self._end(GeneratorExit())

    async def _step(self, step: Any) -> Any:
        try:
            item = await step
        except StopAsyncIteration:
            await self._end(None)
            raise
        except BaseException as exc:
            await self._end(exc)
            raise
        if self._handle is not None:
            note(self._handle, self._keep, item)
        return item

    def _keep(self, handle: _Handle, item: Any) -> None:
        room = handle._gate.limit_bytes + OVERLAP if self._room is None else self._room
        if room <= 0 or len(self._items) == _MAX_ITEMS:
            raise FieldError("there is more than an attribute has room for")
        kept, size = _as_kept(item, room)
        self._room = room - size
        self._is_text = self._is_text and issubclass(type(item), str)
        self._items.append(kept)

    async def _end(self, error: BaseException | None) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            if self._items:
                note(handle, self._finish, "".join(self._items) if self._is_text else self._items)
            await handle.__aexit__(None, error, None)


def _as_kept(item: Any, room: int) -> tuple[Any, int]:
    """What is kept of an item, and about how long it is as JSON: the item itself may hold anything."""
    kind = type(cast(object, item))
    if kind in _SCALARS:
        return item, _NUMBER_BYTES
    if kind is int:
        return item, max(_NUMBER_BYTES, item.bit_length() // 3)
    if issubclass(kind, str):
        return item[:room], len(item)
    model = dumped(item, mode="json")
    plain = item if model is None else model
    with suppress(TypeError, ValueError, OverflowError):  # what is not quite JSON becomes so in a copy
        encoded = encoded_within(plain, room, _USUAL_BYTES)
        if encoded is not None:
            return item if issubclass(kind, Message) else holdable(plain), len(encoded)
    copied = Copier(structure_bytes=room, text_length=room).copy(plain, is_message=False)
    encoded = encoded_within(copied, room)
    return copied, room if encoded is None else len(encoded)


def note(handle: SpanHandle, record: Callable[..., object], *said: Any) -> None:
    """Record what a call is given or gives; whatever these values do when they are looked at, its caller sees nothing.

    What a value is, its type tells: proxies answer `__class__`, and any other name, with code of their own.
    """
    if keeps_content(handle):
        try:
            record(handle, *said)
        except Exception as exc:
            handle._drop("what a decorated function is given or gives", exc)


def keeps_content(handle: SpanHandle) -> bool:
    return handle.is_recording and handle._gate.capture
