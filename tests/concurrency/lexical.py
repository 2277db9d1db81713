"""What a piece of a random program knows from where it stands in the program's text; nothing here asks the library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(eq=False)
class Conversation:
    """A session that the program has made."""

    handle: Any
    id: str
    continues: bool = False


@dataclass(eq=False)
class Started:
    """A span that the program has started, and what must be true of it."""

    name: str
    kind: str
    session: Conversation | None
    parent: Started | None
    links: list[str] | None
    """Names of the spans it is linked to; None where the design doesn't say."""
    handle: Any = None
    is_loose: bool = False
    """Whether anybody may end it at any time."""
    is_ended: bool = False


@dataclass
class Fuse:
    """Burns down by one at each await, then cuts the block short."""

    left: int
    burn: Callable[[], object]
    is_burnt: bool = False

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.is_burnt = True
            self.burn()


@dataclass(frozen=True)
class Place:
    """Where a piece of the program stands: the innermost scope around it that is open, and what it can reach."""

    session: Conversation | None = None
    span: Started | None = None
    """What an ambient span goes under."""
    current: Started | None = None
    """What OTel's own tracer sees: also spans outside of the session, and foreign ones."""
    stale: Started | None = None
    """What ambient spans are linked to when they are roots."""
    is_over: bool = False
    """Whether the scope that the running task was started in has ended since."""
    is_vague: bool = False
    """Whether it isn't said what was current."""
    is_sync: bool = False
    fuse: Fuse | None = None
    hosts: tuple[tuple[Any, Place], ...] = ()
    """The owners of tasks that are open here, and the places of those tasks."""
    seen: list[Started] = field(default_factory=list)
    sessions: tuple[Conversation, ...] = ()

    @property
    def is_unsure(self) -> bool:
        """Whether it isn't said what is current for OTel's own tracer."""
        return self.is_over or self.is_vague

    @property
    def may_nest(self) -> bool:
        """Whether it is said what a turn that continues a trace stands under.

        Inside of a session that was entered in a span, it hangs on whether somebody has ended the span meanwhile.
        """
        return not self.is_unsure and (self.span is not None or self.current is None)

    def within(self, entered: Conversation | Started) -> Place:
        """The place inside a session or a span that is entered here."""
        if isinstance(entered, Conversation):
            return replace(
                self,
                session=entered,
                span=None,
                stale=None,
                is_over=False,
                is_vague=self.is_vague or self.is_over or self.stale is not None,
                sessions=(*self.sessions, entered),
            )
        if entered.kind == "foreign":
            return replace(self, span=self.span and entered, current=entered)
        return replace(
            self, session=entered.session, span=entered, current=entered, stale=None, is_over=False, is_vague=False
        )

    def linked(self) -> Place:
        """The place of a part of the program that is only linked to this one."""
        return replace(self, span=None, current=None, stale=self.current or self.span or self.stale, is_over=False)

    def detached(self) -> Place:
        """The place of a part of the program that has nothing to do with this one."""
        return replace(self, session=None, span=None, current=None, stale=None, is_over=False, is_vague=False)

    def outlived(self, last: Started, around: Place) -> Place:
        """The place of a task that was started under `last`, here, when only what is `around` is still open."""
        under = around.span if around.session is self.session and last.session is self.session else None
        return replace(
            self,
            session=last.session,
            span=under,
            current=None,
            stale=None if under else last,
            is_over=True,
            is_vague=under is not None,
            hosts=around.hosts,
        )

    def beside(self) -> Started | None:
        """What an ambient model call goes under; None where the design doesn't say."""
        above = self.span
        if above is None or above.kind != "llm":
            return above
        above = above.parent
        while above is not None and (above.kind == "llm" or (above.is_ended and not above.is_loose)):
            above = None if above.kind == "turn" else above.parent
        return None if above is None or above.is_loose else above
