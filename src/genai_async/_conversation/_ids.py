"""Conversation ids."""

from __future__ import annotations

import random
import time
from typing import Final
from uuid import UUID

# Seeded from the system, apart from the module's own generator: a program's `random.seed()` cannot repeat ids.
_random: Final = random.SystemRandom()


def new_conversation_id() -> str:
    """A UUIDv7: ordered by its millisecond of creation, random in the rest (RFC 9562, section 5.7)."""
    milliseconds = time.time_ns() // 1_000_000
    bits = _random.getrandbits(74)
    high, low = bits >> 62, bits & ((1 << 62) - 1)
    return str(UUID(int=milliseconds << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low))


MAX_ID_LENGTH: Final = 128


def checked_id(given: object) -> str | None:
    """An id from outside, if it is one: 1 to 128 visible ASCII characters; backends drop or cut longer ones."""
    if not isinstance(given, str) or not 0 < len(given) <= MAX_ID_LENGTH:
        return None
    return given if given.isascii() and given.isprintable() and " " not in given else None
