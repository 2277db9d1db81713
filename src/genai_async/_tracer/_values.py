"""Attribute values as the SDK would keep them: a fast way for plain ones, the SDK's own way for the rest.

The SDK's rules (truncation, nested values, keys and values that become text) are not written down a second time here:
whatever is not plain goes through `BoundedAttributes`, which is where the SDK itself applies them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any, Final, TypeAlias, cast

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.util.types import AnyValue

from .._plain import Plain
from ._notice import once

Attributes: TypeAlias = dict[str, AnyValue]

FIXED: frozenset[type[Any]] = frozenset({bool, int, float, bytes, type(None)})  # no rule ever changes them
PLAIN: frozenset[type[Any]] = FIXED | {str}  # nor text, when there is no length limit
_GONE: Final = cast(AnyValue, object())


def clean_value(value: AnyValue, limit: int | None) -> AnyValue:
    """The value as the SDK would keep it; text longer than `limit` characters is cut."""
    if limit is None and isinstance(value, (list, tuple)):
        items = tuple(value)
        if PLAIN.issuperset(map(type, items)):
            return items
    if type(value) in FIXED or (isinstance(value, str) and (limit is None or len(value) <= limit)):
        return value
    return BoundedAttributes(None, {"value": value}, True, limit)["value"]


def clean_attributes(attributes: Mapping[Any, Any], limit: int | None) -> tuple[Attributes, int]:
    """A new dict with what the SDK would keep of `attributes`, and how many it would drop."""
    if type(attributes) is Plain and limit is None:
        return dict(attributes), 0
    try:
        given: dict[Any, Any] = dict(attributes)
    except Exception:
        once("attributes must be a mapping: they are dropped")
        return {}, 1
    free = PLAIN if limit is None else FIXED
    changed: Attributes | None = None
    try:
        for key, value in given.items():
            if type(key) is not str or not key:
                return _clean_each(given, limit)
            if type(value) not in free:
                changed = changed or {}
                changed[key] = clean_value(value, limit)
    except Exception:
        return _clean_each(given, limit)
    if changed is not None:
        given.update(changed)
    return given, 0


def bounded(attributes: Mapping[str, Any] | None, maximum: int | None, limit: int | None) -> BoundedAttributes:
    """The SDK's immutable attributes of an event or a link."""
    try:
        return BoundedAttributes(maximum, attributes, True, limit)
    except Exception:
        # One bad entry must not cost the others: clean them one by one.
        kept, dropped = clean_attributes(attributes or {}, limit)
        result = BoundedAttributes(maximum, kept, True, limit)
        result.dropped += dropped
        return result


def set_again(values: Attributes, key: str, value: AnyValue) -> None:
    """Set an attribute that is there already: it moves to the end.

    CPython changes threads at calls. Between these two lines stands none, so whoever ends the span in another thread
    finds the attribute; after a `pop` it would sometimes be gone.
    """
    try:  # noqa: SIM105  # a call
        del values[key]
    except KeyError:
        pass
    values[key] = value


def trim(attributes: Attributes, maximum: int, kept: Collection[str] = ()) -> int:
    """Drop the oldest attributes beyond `maximum`, those `kept` last, and say how many.

    Other threads may be at the same dict.
    """
    dropped = 0
    while (excess := len(attributes) - maximum) > 0:
        try:
            oldest = list(islice((key for key in attributes if key not in kept), excess))
            oldest = oldest or list(islice(attributes, excess))
        except RuntimeError:  # somebody else changed the dict in between
            continue
        dropped += sum([attributes.pop(key, _GONE) is not _GONE for key in oldest])
    if dropped:
        once("a span has more attributes than its limit: the oldest are dropped")
    return dropped


def _clean_each(given: dict[Any, Any], limit: int | None) -> tuple[Attributes, int]:
    kept: Attributes = {}
    for key, value in given.items():
        try:
            kept.update(BoundedAttributes(None, {key: value}, True, limit))
        except Exception:
            once("an attribute that cannot be turned into text is dropped")
    return kept, len(given) - len(kept)
