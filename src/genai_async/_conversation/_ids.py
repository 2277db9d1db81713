"""Conversation ids."""

from __future__ import annotations

import random
import re
import time
from typing import Final, TypeGuard, cast
from uuid import UUID

from ._runtime import note

# Seeded from the system, apart from the module's own generator: a program's `random.seed()` cannot repeat ids.
_random: Final = random.SystemRandom()


def new_conversation_id() -> str:
    """A UUIDv7: ordered by its millisecond of creation, random in the rest (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    bits = _random.getrandbits(74)
    high, low = bits >> 62, bits & ((1 << 62) - 1)
    return str(UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low))


# Visible ASCII but for what ends a quoted string or begins a tag: it goes into headers, logs and pages.
_PLAIN_ID: Final = r"[!#-;=?-\[\]-~]{1,128}"


def is_plain_id(given: object) -> TypeGuard[str]:
    """Whether this may come from anybody as a conversation's id: up to 128 characters; backends cut longer ones."""
    return issubclass(type(given), str) and re.fullmatch(_PLAIN_ID, cast(str, given)) is not None


def id_from_outside(given: object) -> str | None:
    """The id that somebody outside gave; None without one, and for what is unusable, which is counted."""
    # Nothing is asked of what may be anything: a query's clause, an array or a proxy is neither true nor false.
    if given is None or (type(given) is str and not given):
        return None
    if is_plain_id(given):
        return str.__str__(given)
    note("an unusable session id", "a session id from outside is too long or has unusual characters")
    return None
