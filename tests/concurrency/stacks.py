"""Scopes of a random program that aren't left in the order in which they were entered."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Protocol

from .lexical import Conversation, Place, Started


class Starts(Protocol):
    """What makes sessions and spans at random."""

    def converse(self, rng: random.Random, place: Place) -> Conversation:
        """A session."""
        ...

    def start(self, place: Place, rng: random.Random, *, is_own: bool = False) -> Started:
        """A span; of ours, if asked for."""
        ...


class Stack:
    """Scopes that one task enters, and ends and leaves in any order."""

    def __init__(self, program: Starts, place: Place) -> None:
        self.program = program
        self.around = replace(place, seen=list(place.seen))
        self.entered: list[Conversation | Started] = []
        self.ended: list[Conversation | Started] = []
        self.is_shuffled = False
        self.is_used = False

    @property
    def place(self) -> Place:
        """Inside the innermost that is open."""
        place = self.around
        for entered in self.entered:
            if entered not in self.ended:
                place = place.within(entered)
        # A session remembers the span that was current when it was entered, whatever became of it.
        is_vague = self.is_shuffled and place is not self.around and place.span is None
        return replace(place, is_vague=True) if is_vague else place

    def enter(self, rng: random.Random, *, is_own: bool = False) -> None:
        if not is_own and rng.random() < 0.4:
            self.enter_this(self.program.converse(rng, self.place))
        else:
            self.enter_this(self.program.start(self.place, rng, is_own=True))

    def enter_this(self, entered: Conversation | Started) -> None:
        entered.handle.__enter__()
        self.entered.append(entered)

    def note_end_of(self, session: Conversation) -> None:
        """Note that a session has ended, and what was started in it."""
        for entered in self.entered:
            if entered is session or (isinstance(entered, Started) and entered.session is session):
                self.note_end(entered)

    def note_end(self, entered: Conversation | Started) -> None:
        self.ended.append(entered)
        self.is_shuffled = True
        if isinstance(entered, Started):
            entered.is_ended = True
        elif not any(entered is ended for ended in self.ended[:-1]):
            self.note_end_of(entered)

    def end_one(self, rng: random.Random) -> None:
        """End something by hand; it is still to be left."""
        entered = rng.choice(self.entered)
        entered.handle.end()
        self.note_end(entered)

    def leave_one(self, rng: random.Random) -> None:
        self.is_shuffled = True
        entered = self.entered.pop(rng.randrange(len(self.entered)))
        entered.handle.__exit__(None, None, None)
        # What somebody still stands in outlives a session that is left, other than one that is ended by hand.
        if isinstance(entered, Started):
            entered.is_ended = True

    def leave_all(self, rng: random.Random) -> None:
        while self.entered:
            self.leave_one(rng)
