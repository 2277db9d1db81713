"""What turns and sub-agents share, and which agent a span belongs to."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar, cast

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind

from . import _fields as f
from . import _semconv as sc
from ._children import TaskOwner
from ._clock import Time
from ._content import Gate
from ._faults import is_omitted
from ._fields import to_usage
from ._handle import SpanHandle
from ._messages import Message, Usage
from ._runtime import Runtime

if TYPE_CHECKING:
    from ._session import Session

_Kind = TypeVar("_Kind", bound=SpanHandle)

# What is kept for the end beside content: a list that is made when the first call ends.
_CALLS: Final = "calls"
_MOST_ASKED: Final = 3_000  # messages; where there are more, the older half goes


class Agent(SpanHandle, TaskOwner):
    """What turns and sub-agents share: they own tasks, and their usage is the sum of the model calls under them."""

    __slots__ = ("_name", "model")
    _growing: ClassVar[str] = sc.INPUT_MESSAGES
    _owns_tasks: ClassVar[bool] = True

    def __init__(
        self,
        runtime: Runtime | None,
        session: Session | None,
        parent: SpanHandle | None,
        base: Context | None,
        gate: Gate,
    ) -> None:
        self._name: str | None = None
        self.model: str | None = None
        super().__init__(runtime, session, parent, base, gate)

    async def __aenter__(self) -> Self:
        self.__enter__()
        self._note_host(sys._getframe(1))
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        block = self._block()
        if block is None or block.children is None:
            self.__exit__(exc_type, exc, traceback)
            return
        try:
            await self._join(exc)
        except BaseException as joined:
            exc = joined
            raise
        finally:
            self.__exit__(None, exc, None)
            del exc  # or the exception holds this frame, and this the exception

    def end(self, *, error: BaseException | str | None = None, end_time: Time | None = None) -> None:
        """End the span; a second call does nothing. Tasks that were started here run on to their end.

        Args:
            error: What the work failed with, as for `record_error`.
            end_time: When it ended; now, if None.
        """
        super().end(error=error, end_time=end_time)
        for block in self._scopes or ():
            if block.children is not None:
                block.children.close()

    def user(self, text: str) -> Self:
        """Add a user's message to what the agent was asked."""
        if not self._may_record("a message"):
            return self
        asked: Sequence[Message] = self._waiting.get(sc.INPUT_MESSAGES, ())
        if type(text) is str and 0 < len(asked) < _MOST_ASKED:
            if type(asked) is not list:
                asked = self._waiting[sc.INPUT_MESSAGES] = list(asked)
            # What is there is not checked and copied for each message anew.
            cast("list[Message]", asked).append(Message.user(text))
        else:
            self._put("input_messages", [*asked, Message.user(text)])
        return self

    def _tally(self, usage: Usage | None, finish_reasons: tuple[str, ...] | None) -> None:
        if not self.is_ended:  # nobody would ever read them
            self._waiting.setdefault(_CALLS, []).append((usage, finish_reasons))

    def _ambient_parts(self) -> tuple[Session | None, SpanHandle, Span | None]:
        return self._session, self, self._standing_span()

    def _start_agent(
        self,
        name: str | None,
        model: str | None,
        description: str | None,
        *,
        own: Mapping[str, Any] | None,
        start_time: Time | None,
        kind: SpanKind = SpanKind.INTERNAL,
        service: Iterable[tuple[str, Any]] = (),
        link: Span | None = None,
    ) -> None:
        self._name = given_text(name)
        self.model = given_text(model)
        known = ((sc.AGENT_NAME, name), (sc.REQUEST_MODEL, model), (sc.AGENT_DESCRIPTION, description), *service)
        self._start(sc.INVOKE_AGENT, sc.AGENT_NAME, known, own=own, kind=kind, start_time=start_time, link=link)

    def _put_unknown(self, name: str, value: Any) -> None:
        if name == "usage":
            self._put_checked_usage(value)
        else:
            super()._put_unknown(name, value)

    def _put_checked_usage(self, value: Any) -> None:
        try:
            usage = to_usage(value)
        except Exception as exc:
            if not is_omitted(value):
                self._drop(f"{type(self).__name__}.usage", exc)
        else:
            self._put_usage(usage, totals_only=True)

    def _complete(self, attributes: dict[str, Any]) -> None:
        calls: list[tuple[Usage | None, tuple[str, ...] | None]] | None = self._waiting.pop(_CALLS, None)
        if calls is None:
            return
        for key, name in ((sc.USAGE_INPUT_TOKENS, "input_tokens"), (sc.USAGE_OUTPUT_TOKENS, "output_tokens")):
            counts = [getattr(usage, name) for usage, _ in calls if usage is not None]
            known = [value for value in counts if issubclass(type(value), int) and value is not True and value >= 0]
            if known and key not in attributes:
                attributes[key] = sum(known)
        reasons = [given for _, given in calls if given is not None]
        if reasons and sc.RESPONSE_FINISH_REASONS not in attributes:
            attributes[sc.RESPONSE_FINISH_REASONS] = reasons[-1]


def nearest(handle: SpanHandle | None, kind: type[_Kind]) -> _Kind | None:
    """The nearest handle of this kind, from this one upwards."""
    while handle is not None and not isinstance(handle, kind):
        handle = handle._parent
    return handle


def agent_of(handle: SpanHandle) -> Agent | None:
    """The agent that a call is made by: the nearest one above it."""
    parent = handle._parent
    return parent if isinstance(parent, Agent) else nearest(parent, Agent)


def given_text(value: object) -> str | None:
    """The text that was given; None where it is empty, or no text."""
    if type(value) is str:
        return value or None
    try:
        return f.text(value) or None
    except Exception:
        return None
