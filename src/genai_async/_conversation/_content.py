"""The one gate that every text which can hold content goes through: off, redacted, size-capped, in that order.

What comes out is JSON text that is always valid: a text that is cut carries a marker with what it lost, roles and
order stay. Content stands on spans as JSON text because that is what today's backends read; the conventions ask for
structured values only where every SDK and backend on the way supports them.
"""

from __future__ import annotations

import inspect
import string
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias, cast

import msgspec

from .._errors import ConfigurationError
from .._loop import is_in_loop
from ._copying import Copier
from ._cutting import shrink
from ._encoding import Reader, encoded_small, encoded_within, own_method
from ._faults import Faults
from ._semconv import IDENTIFIERS
from ._texts import (
    FAILED,
    MAX_CONTENT_BYTES,
    OVERLAP,
    TEXT_BYTES,
    Replace,
    changed,
    changed_number,
    hidden,
    length_note,
    name_of,
    shorten,
    utf8,
)

Redact: TypeAlias = Callable[[str], str | None]

PAUSED: Final = "[content dropped: the redactor is slow]"
UNREAD: Final = frozenset({FAILED, PAUSED})
"""What stands for a text that no redactor has read."""
_NOTHING: Final = UNREAD | {None, ""}

# A redactor runs on the caller's thread. What it takes for a text beyond this is time that an event loop stands still.
SLOW_CALL: Final = 0.1
SLOW_CHARACTER: Final = 2e-6
# So many seconds of that are put up with, and a tenth of the time that passes is given back. One text costs a part at
# most: it takes several to tell a redactor that blocks from a machine that stood still for a while.
PATIENCE: Final = 1.0
_MOST_AT_ONCE: Final = 0.35 * PATIENCE
_GIVEN_BACK: Final = 0.1
# Media that are no text say nothing to a redactor; this much of them does show whether it would have them at all.
_SAMPLE: Final = 4096
_GLANCE: Final = 64  # tells words from base64
_NOTES: Final = (" bytes, truncated]", " characters, truncated]")
_BASE64: Final = (string.ascii_letters + string.digits + "+/").encode()
_LONGEST_HEAD: Final = 256  # of a `data:` URL
_VARIETY: Final = 48  # so many of its 64 characters stand in a sample of any media; words and paths have fewer


class _Patience:
    """How long a redactor may still hold up event loops; where that is used up it is not asked for some seconds."""

    __slots__ = ("_left", "_since", "_until")

    def __init__(self) -> None:
        self._left = PATIENCE
        self._since = 0.0
        self._until = 0.0

    @property
    def is_out(self) -> bool:
        """Whether the redactor would hold up the loop that runs here once too often."""
        return self._until > 0 and time.perf_counter() < self._until and is_in_loop()

    def spend(self, began: float, ended: float, allowed: float) -> None:
        """Note from when to when an event loop stood still, and how long was all right."""
        refilled = min(PATIENCE, self._left + (began - self._since) * _GIVEN_BACK)
        self._left, self._since = refilled - min(ended - began - allowed, _MOST_AT_ONCE), ended
        if self._left <= 0:
            self._until = ended + (PATIENCE - self._left) / _GIVEN_BACK


class Gate:
    """Decides what of a text may be recorded; each session has one, made when its first span starts.

    Args:
        capture: Whether content is recorded at all.
        redact: Called with each text; returns what may be recorded, or None to drop it. If it has a method `named`,
            that is called with the name and the text of what stands in a mapping. A redactor that raises, returns
            something else or holds up the event loop loses the text, never the privacy.
        limit_bytes: The size in UTF-8 that one attribute may have.
    """

    __slots__ = ("_faults", "_named", "_patience", "capture", "limit_bytes", "redact", "untouched_length")

    def __init__(
        self,
        capture: bool,
        redact: Redact | None = None,
        limit_bytes: int = MAX_CONTENT_BYTES,
        faults: Faults | None = None,
    ) -> None:
        self.capture: bool = capture
        self.redact: Redact | None = redact
        self._named: Callable[[str, str], str | None] | None = own_method(redact, "named")
        self.limit_bytes: int = limit_bytes
        # A character has four bytes at most.
        self.untouched_length: int = limit_bytes // 4 if redact is None else -1
        """Up to this length a text is recorded as it is, and `attribute` need not be asked."""
        self._faults = faults or Faults()
        # Shared by all the gates of a set-up: a slow redactor is slow in every session.
        self._patience = _Patience()

    def overridden(self, capture: bool | None) -> Gate:
        """This gate with another answer to whether content is captured; itself, if None."""
        if capture is None or capture is self.capture:
            return self
        if type(capture) is not bool:
            # Whoever meant "no" must not be taken for a yes.
            self._faults.drop("capture_content", f"it cannot be a {type(capture).__name__}: no content is captured")
            return self.overridden(False)
        other = Gate(capture, self.redact, self.limit_bytes, self._faults)
        other._patience = self._patience
        return other

    def json(self, value: object, *, is_message: bool = True) -> str | None:
        """JSON text of a value that can hold content, or None if it may not be recorded.

        `is_message` says that the value has a shape of the conventions, whose own words (roles, types) must stay
        for the text to be valid; in any other value every key and every string can be content.
        """
        if not self.capture:
            return None
        try:
            return self._json(value, is_message)
        except Exception as exc:  # whatever a caller's object does when it is read, it must not reach the caller
            self._faults.drop("content that cannot be written as JSON", type(exc).__name__)
            return None

    def _json(self, value: object, is_message: bool) -> str | None:
        encoded: bytes | bytearray | None = None
        reader: Reader | None = None
        if self.redact is not None:
            copier = self._copier()
            value = copier.copy(value, is_message, is_outermost=True)
            if not copier.has_cut:
                encoded = encoded_within(value, self.limit_bytes)
        elif not isinstance(value, str) or len(value) <= self.limit_bytes:
            try:
                encoded = encoded_small(value, self.limit_bytes)
                if encoded is None:
                    reader = Reader()
                    encoded = encoded_within(value, self.limit_bytes, reader=reader)
            except (UnicodeEncodeError, OverflowError, TypeError, ValueError):
                encoded = None  # what is not quite JSON, such as a lone surrogate, becomes so in a copy
        encoded = encoded or shrink(value, self.limit_bytes, is_message=is_message, reader=reader)
        if encoded is None:
            self._faults.drop("content that no limit leaves room for", f"{self.limit_bytes} bytes hold no JSON")
            return None
        return encoded.decode()

    def text(self, value: str) -> str | None:
        """A text that can hold content and is no JSON, such as an exception's message."""
        if not self.capture:
            return None
        return self._cut(value)

    def attribute(self, value: Any, name: str | None = None) -> Any:
        """A value that the caller sets as an attribute by hand: redacted, whether content is captured or not.

        None for a text of which the redactor leaves nothing.
        """
        name = None if name is None or self._named is None else name_of(name)
        if isinstance(value, str):
            return self._cut(value, name)
        found: float | str | None = None if name is None else hidden(value, self._redacted, name)
        if found is None and isinstance(value, int | float) and self.redact is not None:
            found = changed_number(value, self._redacted)
        if found is not None:
            return found if found != "" else None
        if value is None or isinstance(value, int | float) or self._is_one_word(value):
            return value
        copier = self._copier()
        if self.redact is not None:
            # Whatever the span would turn into text must be text here.
            value = copier.copy(value, is_message=False, name=name)
        reader = Reader()
        try:
            if not copier.has_cut and encoded_within(value, self.limit_bytes, reader=reader) is not None:
                return value
        except (TypeError, ValueError, OverflowError):
            pass  # what is not quite JSON becomes so when it is cut
        cut = shrink(value, self.limit_bytes, is_message=False, reader=reader)
        return None if cut is None else msgspec.json.decode(cut)

    def identifier(self, value: Any) -> Any:
        """A name or an id, or a list of such: a redactor may put another in its place, but not take it away.

        It is no content, and backends could not tell without it what the span is.
        """
        if self.redact is not None and isinstance(value, str):
            kept = None if self._patience.is_out else self._cut(value)
            return shorten(utf8(value), self.limit_bytes) if kept in _NOTHING else kept
        if self.redact is not None and self._is_of_words(value):
            return [self.identifier(item) for item in value]
        return self.attribute(value)

    def pair(self, key: str, value: Any) -> tuple[str | None, Any]:
        """An attribute that the caller sets by hand, or somebody else has set: its key and value, None where it is."""
        if key in IDENTIFIERS:
            return key, self.identifier(value)
        name = self.attribute(key)
        # Keys that are dropped would all be one.
        return (None, None) if name in _NOTHING else (name, self.attribute(value, key))

    def _is_one_word(self, value: Any) -> bool:
        # A reason why the model finished, most of all.
        if type(value) is not list:
            return False
        items = cast("list[Any]", value)
        return len(items) == 1 and type(items[0]) is str and len(items[0]) <= self.untouched_length

    def _is_of_words(self, value: Any) -> bool:
        if type(value) not in {list, tuple}:
            return False
        items = cast("list[Any]", value)
        return {*map(type, items)} == {str} and sum(map(len, items)) * 4 <= self.limit_bytes

    def _copier(self) -> Copier:
        on_text = _Reader(self._redacted, self.limit_bytes)
        return Copier(text_length=self.limit_bytes, on_text=on_text, reads_names=self._named is not None)

    def _cut(self, text: str, name: str | None = None) -> str | None:
        limit = self.limit_bytes
        if self.redact is None:
            return shorten(text, limit)
        found = shorten(changed(text, self._redacted, limit, name), limit)
        return found if found or not text else None

    def _redacted(self, text: str, name: str | None = None) -> str:
        if self._patience.is_out:
            reason = "it held up the event loop again and again, and is not asked for some seconds"
            self._faults.drop("content after a slow redactor", reason)
            return PAUSED
        if len(text) > _SAMPLE and _is_coded(text):
            sample = text[:_SAMPLE]
            if self._asked(sample, name) == sample:
                return text
        return self._asked(text, name)

    def _asked(self, text: str, name: str | None) -> str:
        redact, named = self.redact, self._named
        if redact is None:
            return FAILED
        started = time.perf_counter()
        try:
            result = redact(utf8(text)) if name is None or named is None else named(name, utf8(text))
        except Exception as exc:
            self._faults.drop("text that the redactor failed on", type(exc).__name__)
            return FAILED
        finally:
            ended, allowed = time.perf_counter(), SLOW_CALL + SLOW_CHARACTER * len(text)
            if ended - started > allowed and is_in_loop():
                self._patience.spend(started, ended, allowed)
        if isinstance(result, str):
            return result
        if result is None:
            return ""
        self._faults.drop("text that the redactor failed on", f"it returned {type(result).__name__}")
        if inspect.iscoroutine(result):
            result.close()  # or Python says that nobody awaited it
        return FAILED


class _Reader:
    """Shows a redactor the texts of one value: no more of them, together, than may be kept."""

    __slots__ = ("_redacted", "_room", "_short_room")

    def __init__(self, redacted: Replace, room: int) -> None:
        self._redacted = redacted
        self._room = room
        self._short_room = MAX_CONTENT_BYTES

    def __call__(self, text: str, name: str | None) -> str:
        size = len(text)
        if size <= TEXT_BYTES or _is_coded(text):
            return self._redacted(text, name)
        if size <= OVERLAP:
            if self._short_room <= 0:
                return length_note(text)
            self._short_room -= size
            return self._redacted(text, name)
        room, self._room = self._room, max(self._room - size, 0)
        if size <= room + OVERLAP:
            return self._redacted(text, name)
        # Never half of what would be replaced, as everywhere where a text is cut.
        found = self._redacted(text[: room + OVERLAP], name)[:-OVERLAP] if room else ""
        return found + length_note(text)


def _is_coded(text: str) -> bool:
    """Whether this is a long run of base64 and nothing else, maybe after the head of a `data:` URL; it may be cut."""
    if len(text) <= _SAMPLE or text[_SAMPLE : _SAMPLE + _GLANCE].encode("utf-8", "replace").strip(b"=").translate(
        None, _BASE64
    ):
        return False
    coded, mark, note = text.rpartition("…")
    coded = coded if mark and note.lstrip("[0123456789") in _NOTES else text
    if coded.startswith("data:"):
        coded = coded[coded.find(",", 0, _LONGEST_HEAD) + 1 :]
    is_varied = len(set(coded[:_SAMPLE])) > _VARIETY
    return is_varied and coded.isascii() and not coded.rstrip("=").encode().translate(None, _BASE64)


CLOSED: Final = Gate(capture=False)
"""The gate of handles that record nothing."""


def checked_redactor(redact: object) -> Redact | None:
    """The redactor of a set-up, or a clear error if it cannot be one.

    Raises:
        ConfigurationError: It is no callable, or a coroutine function, which a span's end could not wait for.
    """
    if redact is None:
        return None
    call = getattr(redact, "__call__", None)  # noqa: B004 - an object may be called through a coroutine method
    try:
        is_plain = not any(map(inspect.iscoroutinefunction, (redact, call, own_method(redact, "named"))))
    except Exception as exc:
        raise ConfigurationError(f"redact: its method `named` cannot be read: {type(exc).__name__}") from exc
    if not callable(redact) or not is_plain:
        raise ConfigurationError("redact must be a plain function from a text to a text (or None to drop it)")
    return cast(Redact, redact)
