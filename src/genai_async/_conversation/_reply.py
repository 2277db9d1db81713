"""What a whole reply of a model says of its call: those of the OpenAI and Anthropic clients, objects or dicts.

Replies are known by their shape, so that those of other clients which speak the same API are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from ._encoding import own_method
from ._faults import FieldError
from ._outcome import class_name

# How the Responses API says that a reply has ended. It has no word for why, where the model was done.
_STATUSES: Final = {"completed": "stop", "failed": "error", "cancelled": "error", "incomplete": "incomplete"}


def reply_fields(reply: object) -> dict[str, Any]:
    """The fields of a call that its reply tells.

    Raises:
        FieldError: It is no reply of a known shape.
    """
    choices, output, told = look(reply, "choices"), look(reply, "output"), look(reply, "response_metadata")
    found = {"response_id": look(reply, "id"), "response_model": look(reply, "model"), "usage": look(reply, "usage")}
    if isinstance(choices, list):
        found |= _chosen(cast("list[object]", choices))
    elif isinstance(output, list):
        found |= _responded(reply, cast("list[object]", output))
    elif look(reply, "role") == "assistant" and look(reply, "content") is not None:
        found |= {"output_messages": [reply], "finish_reasons": _words(look(reply, "stop_reason"))}
    elif isinstance(told, Mapping):
        found = _of_langchain(reply, cast("Mapping[str, Any]", told))
    else:
        raise FieldError(f"not a model's reply: {class_name(type(reply))}")
    return {name: value for name, value in found.items() if value is not None and value != []}


def look(value: object, name: str) -> Any:
    """What a dict or a client's object has under a name; None where there is nothing, or it is no such thing."""
    kind = type(value)
    if hasattr(kind, "model_extra"):
        # Pydantic's own look-up takes microseconds for what is not there, and that is asked for each chunk of a stream.
        known: dict[str, Any] = vars(value)
        more: dict[str, Any] | None = cast(Any, value).model_extra
        return known.get(name) if name in known or more is None else more.get(name)
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value).get(name)
    return getattr(value, name, None) if own_method(value, "model_dump") else None


def _chosen(choices: list[object]) -> dict[str, Any]:
    """Chat completions, and the older ones of plain text."""
    messages = [look(choice, "message") or look(choice, "text") for choice in choices]
    reasons = [look(choice, "finish_reason") for choice in choices]
    if any(isinstance(reason, str) for reason in reasons):
        # They tell by their places which choice they belong to.
        reasons = [reason if isinstance(reason, str) else "error" for reason in reasons]
    return {
        "output_messages": [message for message in messages if message is not None],
        "finish_reasons": _words(*reasons),
    }


def _responded(reply: object, output: list[object]) -> dict[str, Any]:
    """The Responses API: its items are one answer."""
    parts: list[object] = []
    for item in output:
        content = look(item, "content") if look(item, "type") == "message" else None
        parts += cast("list[object]", content) if isinstance(content, list) else [item]
    why = look(look(reply, "incomplete_details"), "reason") or _STATUSES.get(str(look(reply, "status")))
    message = {"role": "assistant", "content": parts}
    return {"output_messages": [message] if parts else [], "finish_reasons": _words(why)}


def _of_langchain(reply: object, told: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "output_messages": [reply],
        "usage": look(reply, "usage_metadata"),
        "response_id": told.get("id"),
        "response_model": told.get("model_name") or told.get("model"),
        "finish_reasons": _words(told.get("finish_reason") or told.get("stop_reason")),
    }


def _words(*given: object) -> list[str]:
    return [word for word in given if isinstance(word, str)]
