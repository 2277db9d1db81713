"""The parameters of a decorated function: which arguments of its calls are recorded, and under which name."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from types import ModuleType, UnionType
from typing import Annotated, Any, Final, ForwardRef, Union, cast, get_args, get_origin

# What agent frameworks put in a tool's parameter besides the model's arguments: connections, settings and keys of the
# program, and nothing that the model said. Known by their names, as a framework cannot be imported to ask.
_CONTEXTS: Final = frozenset({"RunContext", "RunContextWrapper", "RunnableConfig", "ToolRuntime"})
# Names that others have, too. Google's `ToolContext` is another name of its `Context`.
_CONTEXTS_OF: Final = {
    "Context": ("fastmcp", "google", "mcp"),
    "Runtime": ("langchain", "langgraph"),
    "ToolContext": ("agents", "google", "strands"),
}
# Where it cannot be found whose they are, these are taken for a framework's.
_LIKELY: Final = frozenset({"Runtime", "ToolContext"})
_AROUND: Final = frozenset({"", "Annotated", "None", "Optional", "Union"})


class Arguments:
    """A function's parameters, to name the arguments of its calls."""

    __slots__ = ("_extra", "_hidden", "_keywords", "_message", "_method", "_names", "_variadic")

    def __init__(self, func: Callable[..., Any], hide: Collection[str], message: str | None = None) -> None:
        if inspect.isgeneratorfunction(func) or isinstance(func, type | staticmethod | classmethod):
            raise TypeError("expected a coroutine function, a plain function or an async generator function")
        try:
            parameters = list(inspect.signature(func).parameters.values())
        except ValueError:
            raise TypeError(f"{function_name(func)} does not say what it takes: wrap it in a function") from None
        if message is not None and message not in {parameter.name for parameter in parameters}:
            raise TypeError(f"{function_name(func)} has no parameter {message!r}")
        self._names = [p.name for p in parameters if p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}]
        self._keywords = {p.name for p in parameters if p.kind in {p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}}
        self._variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._extra = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self._hidden = {hide} if isinstance(hide, str) else set(hide)
        unknown = self._hidden - {parameter.name for parameter in parameters}
        if unknown and self._extra is None:
            # Of a name that is written wrong everything would be recorded.
            raise TypeError(f"{function_name(func)} has no parameter {min(unknown, key=str)!r} to hide")
        if self._names[:1] in (["self"], ["cls"]):
            self._hidden.add(self._names[0])
        self._hidden |= {parameter.name for parameter in parameters if _is_context(parameter.annotation, func)}
        self._method = _method_name(func)
        self._message = message

    def by_name(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments that were passed; a call that doesn't fit the function is its own affair."""
        named = dict(zip(self._names, args, strict=False))
        if self._method is not None and args and _is_method_of(args[0], *self._method):
            named.pop(self._names[0], None)
        if self._variadic is not None and len(args) > len(self._names):
            named[self._variadic] = args[len(self._names) :]
        extra: dict[str, Any] = {}
        for name, value in kwargs.items():
            (named if name in self._keywords else extra)[name] = value
        if self._extra is not None and (self._extra in self._hidden or not extra.keys().isdisjoint(named)):
            # One of them has the name of a positional parameter: they stand apart, so that both are said.
            extra = {self._extra: {name: value for name, value in extra.items() if name not in self._hidden}}
        named.update(extra)
        return {name: value for name, value in named.items() if name not in self._hidden}

    def question(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What an agent is asked."""
        named = self.by_name(args, kwargs)
        if self._message is not None:
            return named.get(self._message)
        return next(iter(named.values())) if len(named) == 1 else named or None


def _method_name(func: Callable[..., Any]) -> tuple[str, str] | None:
    """The class that a function was written in and its name there; None outside of classes, and for a bound method."""
    if inspect.ismethod(inspect.unwrap(func, stop=inspect.ismethod)):
        return None
    owner, _, name = str(getattr(func, "__qualname__", "")).rpartition(".")
    return (owner, name) if owner and not owner.endswith("<locals>") else None


def _is_method_of(value: Any, owner: str, name: str) -> bool:
    """Whether this is the object, or the class, that the method is called on, whatever the method calls it."""
    for kind in (*type(value).__mro__, *(value.__mro__ if issubclass(type(value), type) else ())):
        if kind.__qualname__ == owner:
            return not isinstance(vars(kind).get(name), staticmethod)
    return False


def _is_context(annotation: object, func: Callable[..., Any]) -> bool:
    """Whether a parameter is where a framework puts its own context."""
    try:
        inmost = inspect.unwrap(inner_function(func))
        names: Mapping[str, object] = getattr(inmost, "__globals__", {})
        return any(
            name in _CONTEXTS
            or (module is None and name in _LIKELY)
            or (module or "").partition(".")[0] in _CONTEXTS_OF.get(name, ())
            for module, name in _classes_in(annotation, names)
        )
    except Exception:  # an annotation can be any object
        return False


def _classes_in(annotation: object, names: Mapping[str, object]) -> Iterator[tuple[str | None, str]]:
    """Module and name of each class that an annotation allows and of those above it, as far as they are known."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        yield from _classes_said(annotation, names)
        return
    origin = get_origin(annotation)
    if origin in {Union, UnionType, Annotated}:
        for part in get_args(annotation)[: 1 if origin is Annotated else None]:
            yield from _classes_in(part, names)
        return
    kind = annotation if origin is None else origin
    for one in kind.__mro__ if isinstance(kind, type) else ():
        yield one.__module__, one.__qualname__.rpartition(".")[2]


def _classes_said(annotation: str, names: Mapping[str, object]) -> Iterator[tuple[str | None, str]]:
    """What an annotation says that is a string: each class in it, as the function's module knows it."""
    for said in re.split(r"[^\w.]+", annotation):
        module, _, name = said.rpartition(".")
        if name in _AROUND:
            continue
        yield module, name
        first, *rest = said.split(".")
        found = names.get(first)
        for part in rest:
            found = vars(found).get(part) if isinstance(found, ModuleType) else None
        if isinstance(found, str) or found is None:
            yield None, name
        else:
            yield from _classes_in(found, names)


def function_name(func: Callable[..., Any]) -> str:
    """A function's name; that of its class, where it has none."""
    func = inner_function(func)
    return cast(str, getattr(func, "__name__", None) or type(func).__name__)


def inner_function(func: Callable[..., Any]) -> Callable[..., Any]:
    """The function in a `functools.partial`, which has no name and a docstring about partials."""
    while isinstance(func, functools.partial):
        func = cast("functools.partial[Any]", func).func
    return func
