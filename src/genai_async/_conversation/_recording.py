"""What is recorded on a span, values and errors: checked, sent through the content gate, written at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from operator import is_
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

from msgspec.structs import astuple
from opentelemetry.trace import Span, Status, StatusCode

from .._plain import Plain
from . import _semconv as sc
from ._content import UNREAD, Gate
from ._copying import holdable
from ._faults import FieldError, PartError, is_omitted, reason_of
from ._fields import USAGE_KEYS, Field, count, text
from ._messages import Usage
from ._outcome import OTHER, Outcome, alone, message_of, outcome_of, raised_at, stack_of, type_name
from ._runtime import Runtime
from ._scope import ids_of
from ._texts import shorten

if TYPE_CHECKING:
    from ._handle import SpanHandle
    from ._session import Session

NOT_ERRORS: Final = "not errors"
"""Under this, a handle waits with the classes of exceptions that end it without an error."""
_PASSING: Final = "the exception on its way"
# What a span belongs to and is decides how backends group it.
_IDENTITY: Final = frozenset({sc.CONVERSATION_ID, sc.OPERATION})
_MAX_OWN: Final = 1_000  # of one mapping: each is looked at on the caller's thread
_LONGEST_NAME: Final = 64
_MOST_RECORDED: Final = 64
# No redactor and no limit has anything to say of these.
_FIXED: Final = frozenset({bool, int, float, type(None)})
_FIXED_OR_TEXT: Final = _FIXED | {str}


class Recording:
    """The part of a handle that takes values and errors. A kind of span says in `_fields` which values."""

    # The handle's own life fills these: one `__init__` costs less than two.
    __slots__ = (
        "_attributes",
        "_gate",
        "_outcome",
        "_parent",
        "_recorded",
        "_runtime",
        "_session",
        "_span",
        "_waiting",
        "is_ended",
    )

    _fields: ClassVar[Mapping[str, Field]]
    # The attribute that may be added to as long as the span is open.
    _growing: ClassVar[str] = ""

    _attributes: dict[str, Any] | None
    """What is written on the span at its end; None for a span that nobody will see."""
    _gate: Gate
    _outcome: Outcome | None
    """How it ended, without the exception itself and with its message as it may be shown."""
    _parent: SpanHandle | None
    _recorded: set[tuple[object, ...]]
    """What tells the exceptions recorded here and below; made for the first of them."""
    _runtime: Runtime | None
    _session: Session | None
    _span: Span
    _waiting: dict[str, Any]
    """What waits for the end: the content that may be added to, by its attribute, and what a kind keeps besides."""
    is_ended: bool
    """Whether the span has ended, by whomever."""

    def _checked_start(
        self, operation: str, known: Iterable[tuple[str, Any]], own: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        attributes: dict[str, Any] = Plain()
        attributes[sc.OPERATION] = operation
        session = self._session
        if session is not None:
            attributes[sc.CONVERSATION_ID] = session.session_id
            if session.attributes is not None:
                attributes = {**attributes, **self._shared(session)}
        untouched = self._gate.untouched_length
        for key, value in known:
            if value is None:
                continue
            if type(value) is str and (not value or len(value) <= untouched):
                if value:
                    attributes[key] = value
            else:
                self._add_known(key, value, attributes)
        if own is not None:
            attributes = {**attributes, **self._own(own)}
        return attributes

    def _shared(self, session: Session) -> dict[str, Any]:
        """The session's attributes as they may be recorded: checked for one span, and again where they have changed."""
        attributes = cast("dict[str, Any]", session.attributes)
        if not _is_dict(attributes) or len(attributes) > _MAX_OWN:
            return self._own(attributes)
        given = dict(attributes)
        if session.kept_attributes is not None:
            gate, before, found = session.kept_attributes
            if gate is self._gate and _is_same(before, given):
                return found
        found = self._own(given)
        # What was dropped is counted each time, a redactor may do better the next time, and a list may change.
        is_plain = _FIXED_OR_TEXT.issuperset(map(type, given.values()))
        if is_plain and len(found) == len(given) and UNREAD.isdisjoint(found.values()):
            session.kept_attributes = self._gate, given, found
        return found

    def _add_known(self, key: str, value: Any, attributes: dict[str, Any]) -> None:
        try:
            checked = count(value) if key == sc.SERVER_PORT else self._word(key, text(value))
        except Exception as exc:
            if not is_omitted(value):
                self._drop(key, exc)
            return
        if checked is not None and checked != "":
            attributes[key] = checked

    def _word(self, key: str, value: Any) -> Any:
        return self._gate.identifier(value) if key in sc.IDENTIFIERS else self._gate.attribute(value)

    def _own(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        try:
            if not hasattr(attributes, "items") and hasattr(attributes, "keys"):
                attributes = dict(attributes)
            pairs = (
                attributes.items() if hasattr(attributes, "items") else cast("Iterable[tuple[Any, Any]]", attributes)
            )
            given = dict(islice(pairs, _MAX_OWN + 1))
        except Exception as exc:
            if not is_omitted(attributes):
                self._drop("attributes that cannot be read", exc)
            return found
        if len(given) > _MAX_OWN:
            given.popitem()
            self._drop("an attribute too many", FieldError(f"a mapping has more than {_MAX_OWN}"))
        for key, value in given.items():
            try:
                self._add_own(key, value, found)
            except Exception as exc:
                self._drop("an attribute", exc)
        return found

    def _add_own(self, key: Any, value: Any, found: dict[str, Any]) -> None:
        if key in _IDENTITY:
            self._drop("an attribute of the library's own", FieldError(f"{key} is not the caller's to set"))
        elif not isinstance(key, str):
            raise FieldError(f"its key is a {type(key).__name__}")
        else:
            name, kept = self._gate.pair(key, value)
            if name is not None and (kept is not None or value is None):
                found[name] = kept if type(kept) is str or type(kept) in _FIXED else holdable(kept)

    @property
    def is_recording(self) -> bool:
        """Whether what is recorded now will be seen: the span is sampled and has not ended."""
        return self._attributes is not None and not self.is_ended

    def set_attributes(self, attributes: Mapping[str, Any]) -> Self:
        """Set attributes of your own on the span; strings go through the redactor."""
        if self._may_record("attributes"):
            try:
                self._span.set_attributes(self._own(attributes))
            except Exception as exc:
                self._drop("attributes that cannot be set", exc)
        return self

    def record_error(self, error: BaseException | str) -> Self:
        """Mark the span as failed and go on; the last error recorded decides its status.

        Args:
            error: The exception, or a word for `error.type` of which there are only a few (64 ASCII letters, digits
                and `_.:-` at most); any other text is a message, and content.
        """
        if self._may_record("an error"):
            self._note(error)
        return self

    def _may_record(self, what: str) -> bool:
        if self._attributes is None:
            return False
        if not self.is_ended:
            return True
        cast(Runtime, self._runtime).faults.drop(f"{what} recorded after the span's end", type(self).__name__)
        return False

    def _drop(self, kind: str, exc: Exception) -> None:
        cast(Runtime, self._runtime).faults.drop(kind, reason_of(exc))

    def _record(self, fields: Mapping[str, Any]) -> None:
        attributes = self._attributes
        if attributes is None or (self.is_ended and not self._may_record("fields")):
            return
        known, untouched = self._fields, self._gate.untouched_length
        for name, value in fields.items():
            if value is None:
                continue
            field = known.get(name)
            if field is None:
                self._put_unknown(name, value)
            elif field.is_plain and type(value) is str and len(value) <= untouched:
                attributes[field.key] = value
            else:
                self._put_checked(name, field, value)

    def _put(self, name: str, value: Any) -> None:
        self._put_checked(name, self._fields[name], value)

    def _put_checked(self, name: str, field: Field, value: Any) -> None:
        attributes, gate = self._attributes, self._gate
        if attributes is None or (field.is_content and not gate.capture):
            return
        try:
            try:
                checked = field.check(value)
            except PartError as exc:
                checked = exc.kept
                for reason in exc.reasons:
                    self._drop(f"{type(self).__name__}.{name}", FieldError(reason))
            if field.key == self._growing:
                self._waiting[field.key] = checked
                return
            kept: Any
            if field.is_content:
                kept = gate.json(checked, is_message=field.is_message)
            else:
                kept = checked if type(checked) in _FIXED else self._word(field.key, checked)
                kept = tuple(cast("list[Any]", kept)) if type(kept) is list else kept
        except Exception as exc:
            if not is_omitted(value):
                self._drop(f"{type(self).__name__}.{name}", exc)
            return
        if kept is not None:
            attributes[field.key] = kept
        elif checked is None and not field.is_content:
            attributes.pop(field.key, None)  # the conventions leave this value out: what was there is no longer so

    def _put_unknown(self, name: str, value: Any) -> None:
        # One kind for all names: they are the caller's, and there may be any number of them.
        is_word = isinstance(name, str) and len(name) <= _LONGEST_NAME and name.isidentifier()
        what = f"there is no {name!r}" if is_word else "there is none of its name"
        cast(Runtime, self._runtime).faults.drop(f"{type(self).__name__}: an unknown field", what)

    def _put_usage(self, usage: Usage, *, totals_only: bool) -> None:
        attributes = self._attributes
        if attributes is None:
            return
        for key, value in zip(USAGE_KEYS[:2] if totals_only else USAGE_KEYS, astuple(usage), strict=False):
            if value is None:
                continue
            if type(value) is int and value >= 0:
                attributes[key] = value
                continue
            try:
                attributes[key] = count(value)
            except Exception as exc:
                self._drop(key, exc)

    def _is_error(self, error: BaseException | str) -> bool:
        steering: tuple[type[BaseException], ...] = self._waiting.get(NOT_ERRORS, ())
        if not steering or not isinstance(error, BaseException):
            return True
        try:
            return not isinstance(alone(error), steering)
        except Exception:  # one that cannot be looked at
            return True

    def _note(self, error: BaseException | str) -> None:
        try:
            self._note_outcome(error)
        except Exception as exc:  # an exception can be any object, and say anything of itself
            self._drop("an error", exc)

    def _note_outcome(self, error: BaseException | str) -> None:
        if error is False:  # type: ignore[comparison-overlap]  # whoever says so means that there is none
            raise FieldError("expected an exception or a word, not bool")
        outcome = outcome_of(error)
        word = outcome.error_type
        if isinstance(error, str) and outcome.text is None:
            # What a redactor would change in it, or cannot be asked about, is content, unless it can be nothing but a
            # name of a kind of error.
            read = self._gate.identifier if word.replace("_", "").isalpha() and word.islower() else self._gate.attribute
            if read(word) != word:
                outcome = Outcome(OTHER, None, word)
        if outcome.is_withdrawn and not cast(Runtime, self._runtime).cancellation_is_error:
            self.note_cut()
            return
        # Without the exception, which would hold its frames, with all that stands in them, until the span ends.
        self._outcome = Outcome(outcome.error_type, None)
        message: str | None = None
        if outcome.exception is not None:
            message = self._message_of(outcome.exception)
        elif outcome.text is not None:
            message = self._gate.text(outcome.text)
        self._outcome = Outcome(outcome.error_type, None, message)
        if not isinstance(error, BaseException | str):
            raise FieldError(f"expected an exception or a word, not {type(error).__name__}")

    def _message_of(self, error: BaseException) -> str | None:
        """The exception's message as it may be shown; an event of the exception is added where it is new.

        It is new if neither this span nor one below has recorded it. Neither is a mark put on the exception, which
        others show and copy, nor is the exception kept, which would hold its frames. Its address alone is soon
        another's. What the gate has made of its message goes up with it: it can be long.
        """
        said = message_of(error)
        mark = (ids_of(self._span).trace_id, id(error), *raised_at(error), hash(said))
        if mark in getattr(self, "_recorded", ()):
            passing, message = self._waiting.get(_PASSING, (None, None))
            return message if passing == mark else self._gate.text(said)
        message = self._gate.text(said)
        handle: Recording | None = self
        while handle is not None:
            if len(getattr(handle, "_recorded", ())) == _MOST_RECORDED or not hasattr(handle, "_recorded"):
                handle._recorded = set()  # an exception is on its way for a moment only
            handle._recorded.add(mark)
            if not handle.is_ended:
                handle._waiting[_PASSING] = mark, message
            handle = handle._parent
        self._add_exception(error, message)
        return message

    def note_cut(self) -> None:
        """Note that what the span stands for was left before its end, and that this alone is no error."""

    def _add_exception(self, error: BaseException, message: str | None) -> None:
        kind, calls = type_name(error), self._gate.text(stack_of(error))
        stack = None if calls is None else shorten(f"{calls}\n{kind}: {message or ''}", self._gate.limit_bytes)
        event = {"exception.type": kind, "exception.message": message, "exception.stacktrace": stack}
        self._span.add_event("exception", {key: value for key, value in event.items() if value is not None})

    def _complete(self, attributes: dict[str, Any]) -> None:
        """Add what a kind of span knows only when it ends."""

    def _write(self, attributes: dict[str, Any]) -> None:
        grown = self._waiting.get(self._growing)
        if grown is not None:
            encoded = self._gate.json(grown)
            if encoded is not None:
                attributes[self._growing] = encoded
        if self._outcome is not None:
            self._write_outcome(self._outcome, attributes)
        if self._session is not None:
            # Once more and last: where a span has too many attributes, the oldest ones go.
            attributes[sc.CONVERSATION_ID] = self._session.session_id
        self._span.set_attributes(Plain(attributes))

    def _write_outcome(self, outcome: Outcome, attributes: dict[str, Any]) -> None:
        attributes[sc.ERROR_TYPE] = outcome.error_type
        self._span.set_status(Status(StatusCode.ERROR, outcome.text or None))


def _is_dict(value: object) -> bool:
    return type(value) is dict


def _is_same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether they hold the very same objects: what is equal may be of another type."""
    is_same = len(one) == len(other) and all(map(is_, one, other))
    return is_same and all(map(is_, one.values(), other.values()))
