"""`tool`, `subagent` and `turn` as decorators: what a function is called with and returns, recorded as a span."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from types import AsyncGeneratorType, CoroutineType
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from .._loop import failure_of
from ._ambient import current_session, start_subagent, start_tool
from ._arguments import Arguments, function_name, inner_function
from ._handle import SpanHandle
from ._isolated import Ambience, stepwise
from ._messages import Message, TextPart
from ._recording import NOT_ERRORS
from ._session import Session
from ._spans import SubAgent, Tool, Turn
from ._watched import Watched, note

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Handle = TypeVar("_Handle", bound=SpanHandle)
_Agent = TypeVar("_Agent", SubAgent, Turn)


class Decorator(Protocol):
    """What a decorator with options is: it gives a function back with the same signature."""

    def __call__(self, func: Callable[_P, _R], /) -> Callable[_P, _R]:
        """Trace the function."""
        ...


@overload
def tool(func: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    tool_type: str | None = "function",
    hide: Collection[str] = (),
    not_errors: tuple[type[BaseException], ...] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Decorator: ...
def tool(
    func: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    tool_type: str | None = "function",
    hide: Collection[str] = (),
    not_errors: tuple[type[BaseException], ...] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Record each call of a function as a tool run, under what is current; bare or with options.

        @ga.tool
        async def track(id: int) -> str: ...

        @ga.tool(name="search", hide=["api_key"])
        def search(query: str, api_key: str) -> list[str]: ...

    Takes coroutine functions, plain functions and async generator functions. The arguments are recorded by name,
    without a method's own object, and the result, or all that a generator yields. What the function raises goes on. The
    span of a plain function that returns a coroutine, a future or an async generator ends with that.

    Args:
        func: The function; absent where options are given.
        name: The tool's name; the function's, if None.
        description: What the tool does; the first line of the function's docstring, if None.
        tool_type: As for `Turn.start_tool`.
        hide: Names of parameters that are not recorded; that of `**options` hides all that lands there.
            What is annotated as a framework's context (`RunContext`, `ToolRuntime`, `RunnableConfig`, ...) never is.
        not_errors: Exceptions that steer the program, as one that asks a person: they end the span without an error.
        attributes: Attributes of your own.

    Raises:
        TypeError: It is no such function, has no parameter named in `hide`, or `not_errors` is no tuple of exception
            classes. Put the decorator below `staticmethod` and `classmethod`.
    """

    def decorate(func: Callable[..., Any]) -> Any:
        steering = _exceptions(not_errors)
        said = Arguments(func, hide)
        label = name or function_name(func)
        text = description if description is not None else _summary_of(func)

        def start() -> Tool:
            return start_tool(label, description=text, tool_type=tool_type, attributes=attributes)

        return _traced(func, start, functools.partial(_record_arguments, said), _record_result, steering)

    return decorate if func is None else decorate(_checked(func))


@overload
def subagent(func: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def subagent(
    *,
    name: str | None = None,
    model: str | None = None,
    description: str | None = None,
    message: str | None = None,
    hide: Collection[str] = (),
    not_errors: tuple[type[BaseException], ...] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Decorator: ...
def subagent(
    func: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    model: str | None = None,
    description: str | None = None,
    message: str | None = None,
    hide: Collection[str] = (),
    not_errors: tuple[type[BaseException], ...] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Record each call of a function as another agent's run, under what is current; bare or with options.

        @ga.subagent(name="researcher", model="gpt-4o", message="topic")
        async def research(topic: str, depth: int = 2) -> str: ...

    What the agent is asked is one argument, or all of them by name as JSON; what it answers is the result, or the text
    that a generator yields. Takes what `tool` takes.

    Args:
        func: The function; absent where options are given.
        name: The agent's name; the function's, if None.
        model: The model that the agent uses.
        description: What the agent is there for; the first line of the function's docstring, if None.
        message: The parameter that holds what the agent is asked. None takes all of them, or the only one as it is.
        hide: Names of parameters that are not recorded; that of `**options` hides all that lands there.
            What is annotated as a framework's context (`RunContext`, `ToolRuntime`, `RunnableConfig`, ...) never is.
        not_errors: Exceptions that steer the program, as one that asks a person: they end the span without an error.
        attributes: Attributes of your own.

    Raises:
        TypeError: It is no such function, has no parameter named `message` or in `hide`, or `not_errors` is no tuple of
            classes.
    """

    def decorate(func: Callable[..., Any]) -> Any:
        steering = _exceptions(not_errors)
        said = Arguments(func, hide, message)
        label = name or function_name(func)
        text = description if description is not None else _summary_of(func)

        def start() -> SubAgent:
            return start_subagent(label, model=model, agent_description=text, attributes=attributes)

        return _traced(func, start, functools.partial(_record_question, said), _record_answer, steering)

    return decorate if func is None else decorate(_checked(func))


@overload
def turn(func: Callable[_P, _R], /) -> Callable[_P, _R]: ...
@overload
def turn(
    *,
    name: str | None = None,
    model: str | None = None,
    message: str | None = None,
    hide: Collection[str] = (),
    not_errors: tuple[type[BaseException], ...] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Decorator: ...
def turn(
    func: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    model: str | None = None,
    message: str | None = None,
    hide: Collection[str] = (),
    not_errors: tuple[type[BaseException], ...] = (),
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Record each call of a function as a turn of the current session; bare or with options.

        @ga.turn(message="question")
        async def answer(question: str, history: list[str]) -> str: ...

    Outside of any session each call is a conversation of its own. Questions and answers are recorded as by `subagent`;
    inside, `current_turn()` is this turn. Takes what `tool` takes.

    Args:
        func: The function; absent where options are given.
        name: The agent that answers; the session's, or else the function's name, if None.
        model: The model that it uses; the session's, if None.
        message: The parameter that holds what the user says. None takes all of them, or the only one as it is.
        hide: Names of parameters that are not recorded; that of `**options` hides all that lands there.
            What is annotated as a framework's context (`RunContext`, `ToolRuntime`, `RunnableConfig`, ...) never is.
        not_errors: Exceptions that steer the program, as one that asks a person: they end the span without an error.
        attributes: Attributes of your own.

    Raises:
        TypeError: It is no such function, has no parameter named `message` or in `hide`, or `not_errors` is no tuple of
            classes.
    """

    def decorate(func: Callable[..., Any]) -> Any:
        steering = _exceptions(not_errors)
        said = Arguments(func, hide, message)
        label = function_name(func)

        def start() -> Turn:
            session = current_session() or Session()
            agent = name or session.agent_name or label
            return session.start_turn(agent_name=agent, model=model, attributes=attributes)

        return _traced(func, start, functools.partial(_record_question, said), _record_answer, steering)

    return decorate if func is None else decorate(_checked(func))


def _checked(func: object) -> Callable[..., Any]:
    if isinstance(func, str):
        raise TypeError(f"options are given by name: name={func!r}")
    return cast("Callable[..., Any]", func)


def _exceptions(classes: object) -> tuple[type[BaseException], ...]:
    """Classes of exceptions; an error at once for anything else, as a call's exception is no time for it."""
    given = cast("tuple[Any, ...]", classes)
    if type(classes) is not tuple or not all(isinstance(one, type) and issubclass(one, BaseException) for one in given):
        raise TypeError("not_errors must be a tuple of exception classes")
    return given


def _traced(
    func: Callable[..., Any],
    start: Callable[[], _Handle],
    ask: Callable[[_Handle, tuple[Any, ...], dict[str, Any]], object],
    finish: Callable[[_Handle, Any], object],
    not_errors: tuple[type[BaseException], ...],
) -> Callable[..., Any]:
    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Handle:
        handle = start()
        if not_errors and handle.is_recording:
            handle._waiting[NOT_ERRORS] = not_errors
        note(handle, ask, args, kwargs)
        return handle

    if inspect.isasyncgenfunction(func):

        @functools.wraps(func)
        def generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            watched = Watched(func(*args, **kwargs), functools.partial(begin, args, kwargs), finish)
            return stepwise(cast("AsyncGenerator[Any, Any]", watched), Ambience().within)

        return generator
    if inspect.iscoroutinefunction(func):

        @functools.wraps(func)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            async with begin(args, kwargs) as handle:
                result = await func(*args, **kwargs)
                note(handle, finish, result)
            return result

        return coroutine

    @functools.wraps(func)
    def plain(*args: Any, **kwargs: Any) -> Any:
        handle = begin(args, kwargs).__enter__()
        try:
            result = func(*args, **kwargs)
        except BaseException as exc:
            handle.__exit__(type(exc), exc, exc.__traceback__)
            raise
        handle._leave()
        return _settled(handle, result, finish)

    return plain


def _settled(handle: _Handle, result: Any, finish: Callable[[_Handle, Any], object]) -> Any:
    """What a plain function returned; where that is work that is still to be done, the span ends with the work."""
    kind = type(cast(object, result))
    if kind is CoroutineType:
        return _awaited(handle, result, finish)
    if kind is AsyncGeneratorType:
        return stepwise(cast("AsyncGenerator[Any, Any]", Watched(result, lambda: handle, finish)), Ambience().within)
    # A task or future, which its caller may cancel and look at, stays what it is.
    on_done = getattr(kind, "add_done_callback", None)
    if callable(on_done):
        with suppress(Exception):
            on_done(result, functools.partial(_end_with, handle, finish))
            return result
    elif not issubclass(kind, Awaitable):
        note(handle, finish, result)
    handle.end()
    return result


async def _awaited(handle: _Handle, work: Coroutine[Any, Any, Any], finish: Callable[[_Handle, Any], object]) -> Any:
    async with handle:
        result = await work
        note(handle, finish, result)
    return result


def _end_with(handle: _Handle, finish: Callable[[_Handle, Any], object], future: Any) -> None:
    error = failure_of(future)
    if error is not None:
        handle.end(error=error)
        return
    try:
        result = future.result()
    except BaseException as exc:  # the future's, and its caller's to handle: here it is only looked at
        handle.end(error=exc)
    else:
        note(handle, finish, result)
        handle.end()


def _record_arguments(said: Arguments, handle: Tool, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    handle.record(arguments=said.by_name(args, kwargs))


def _record_result(handle: Tool, result: Any) -> None:
    handle.result = result


def _record_question(said: Arguments, handle: _Agent, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    question = said.question(args, kwargs)
    if question is not None:
        handle.record(input_messages=_messages(handle, question, "user"))


def _record_answer(handle: SubAgent | Turn, answer: Any) -> None:
    if answer is not None:
        handle.record(output_messages=_messages(handle, answer, "assistant"))


def _messages(handle: SpanHandle, value: Any, role: str) -> Any:
    """Messages as they are, anything else as the text of one."""
    if issubclass(type(value), list) and value and all(map(_is_message, value)):
        return value
    if _is_message(value):
        return [value]
    is_text = issubclass(type(value), str)
    text = value if is_text else handle._gate.json(cast(object, value), is_message=False)
    return [Message(role, (TextPart(text or ""),))]


def _is_message(value: Any) -> bool:
    return issubclass(type(value), Message) or (issubclass(type(value), dict) and "role" in value)


def _summary_of(func: Callable[..., Any]) -> str | None:
    text = inspect.getdoc(inner_function(func))
    return text.partition("\n")[0].strip() or None if text else None
