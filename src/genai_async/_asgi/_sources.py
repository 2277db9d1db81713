"""Where the conversation's id comes from: a function from a connection's scope to the id, or None."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, TypeAlias, cast
from urllib.parse import unquote_plus

from .._conversation._semconv import CONVERSATION_ID
from .._errors import ConfigurationError
from ._types import Scope

Source: TypeAlias = Callable[[Scope], str | Awaitable[str | None] | None]

# What is longer isn't searched, be it in one header or many: servers that let it pass leave the cost of it to us.
_MAX_SEARCHED_BYTES: Final = 64 * 1024
# Of patterns, one for each name that is looked for; a function may make up names.
_MOST_KEPT: Final = 64
# How a query writes what it does not write as itself, beside its bytes in hex.
_IN_QUERIES: Final = {" ": "[+ ]", "+": "%2[bB]", "%": "%(?![0-9A-Fa-f]{2})"}
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


def header_values(scope: Scope, name: bytes) -> Iterator[bytes]:
    """The values of all headers of this (lower-case) name."""
    for key, value in scope["headers"]:
        if key == name:
            yield value


@dataclass(frozen=True, slots=True)
class Header:
    """The id stands in a request header; `SessionMiddleware` takes a plain string for this.

    Raises:
        ConfigurationError: The name is none that a header can have.
    """

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)

    def __call__(self, scope: Scope) -> str | None:
        """The first header of this name."""
        name = self.name.lower().encode()
        for key, value in scope["headers"]:
            if key == name:
                return cast(bytes, value).decode("latin-1").strip(" \t")
        return None


@dataclass(frozen=True, slots=True)
class Cookie:
    """The id stands in a cookie. The application sets the cookie: only it knows how far it may reach.

    Raises:
        ConfigurationError: The name is none that a cookie can have.
    """

    name: str

    def __post_init__(self) -> None:
        _check_name(self.name)

    def __call__(self, scope: Scope) -> str | None:
        """The first cookie of this name, without quotes."""
        found = _member(scope, b"cookie", self.name, ";")
        return None if found is None else found.strip('"')


@dataclass(frozen=True, slots=True)
class Query:
    """The id is a parameter of the query string: `/chat?session=...`."""

    name: str

    def __call__(self, scope: Scope) -> str | None:
        """The first parameter of this name, decoded."""
        query = cast(bytes, scope.get("query_string", b""))
        if len(query) > _MAX_SEARCHED_BYTES:
            return None
        found = _parameter(self.name).search("&" + query.decode("latin-1"))
        return None if found is None else unquote_plus(found[1] or "")


class Path:
    """The id is a part of the path.

        Path("/chats/{session_id}")     # also for what lies below; `*` stands for any one part
        Path("session_id")              # the framework's own parameter, where the middleware sits behind its router

    Args:
        template: The path with the id in braces, below where the application is mounted; or the name of the router's
            parameter.

    Raises:
        ConfigurationError: There is a slash but not exactly one part in braces.
    """

    __slots__ = ("_pattern", "template")

    def __init__(self, template: str) -> None:
        self.template: str = template
        self._pattern: re.Pattern[str] | None = None
        if "/" in template:
            if len(re.findall(r"\{\w+\}", template)) != 1:
                raise ConfigurationError(f"session_id: {template!r} needs exactly one {{part}} in braces")
            parts = [_part(part) for part in template.strip("/").split("/")]
            self._pattern = re.compile("/" + "/".join(parts) + "(?:/|$)")

    def __call__(self, scope: Scope) -> str | None:
        """What the template finds in the path, or the router's parameter."""
        if self._pattern is not None:
            found = self._pattern.match(local_path(scope))
            return found[1] if found else None
        parameters: dict[str, Any] = scope.get("path_params") or {}
        known = parameters.get(self.template)
        return None if known is None else str(known)

    def __repr__(self) -> str:
        return f"Path({self.template!r})"


@dataclass(frozen=True, slots=True)
class Baggage:
    """The id is an entry of the `baggage` header (W3C Baggage), as another service sends it on."""

    key: str = CONVERSATION_ID

    def __call__(self, scope: Scope) -> str | None:
        """The entry's value, decoded, without its properties."""
        found = _member(scope, b"baggage", self.key, ",")
        return None if found is None else unquote_plus(found.partition(";")[0].replace("+", "%2B").strip())


def to_source(given: str | Source) -> Source:
    """The source that a middleware was given.

    Raises:
        ConfigurationError: It is neither a header's name nor callable.
    """
    if isinstance(given, str):
        return Header(given)
    if not callable(given):
        raise ConfigurationError(f"session_id: expected a header's name or a source, not {type(given).__name__}")
    return given


def local_path(scope: Scope) -> str:
    """The path below where the application is mounted."""
    path, root = cast(str, scope["path"]), cast(str, scope.get("root_path") or "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _member(scope: Scope, header: bytes, name: str, separator: str) -> str | None:
    room = _MAX_SEARCHED_BYTES
    for value in header_values(scope, header):
        if len(value) <= room:
            room -= len(value)
            found = _member_named(name, separator).search(separator + value.decode("latin-1"))
            if found is not None:
                return found[1].strip()
    return None


@lru_cache(_MOST_KEPT)
def _member_named(name: str, separator: str) -> re.Pattern[str]:
    return re.compile(rf"{separator}\s*{re.escape(name)}\s*=([^{separator}]*)")


@lru_cache(_MOST_KEPT)
def _parameter(name: str) -> re.Pattern[str]:
    """Finds a parameter in a query: decoding each name to compare it takes twenty times as long."""
    written = "".join([f"(?:{_IN_QUERIES.get(letter) or re.escape(letter)}|{_percent(letter)})" for letter in name])
    return re.compile(rf"&{written}(?:=([^&]*))?(?=&|\Z)")


def _percent(letter: str) -> str:
    return "(?i:" + "".join([f"%{byte:02x}" for byte in letter.encode()]) + ")"


def _part(part: str) -> str:
    if part == "*":
        return "[^/]+"
    before, brace, rest = part.partition("{")
    return re.escape(before) + ("([^/]+)" + re.escape(rest.partition("}")[2]) if brace else "")


def _check_name(name: Any) -> None:
    if not isinstance(name, str) or not _TOKEN.fullmatch(name):
        raise ConfigurationError(f"session_id: {name!r} cannot be the name of a header or cookie")
