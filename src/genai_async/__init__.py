"""Tracing for async agents: sessions of turns with model calls, tools and sub-agents, as OpenTelemetry spans.

Example:
    async with ga.tracing(service_name="support"):
        async with ga.Session(agent_name="support-bot", model="gpt-4o") as session:
            async with session.start_turn("Where is my parcel?") as turn: ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ._conversation._ambient import (
    current_llm,
    current_session,
    current_turn,
    propagate,
    start_llm,
    start_subagent,
    start_tool,
    start_turn,
)
from ._conversation._children import ChildTask
from ._conversation._messages import (
    BlobPart,
    FilePart,
    GenericPart,
    Message,
    ReasoningPart,
    TextPart,
    ToolCallPart,
    ToolCallResponsePart,
    ToolDefinition,
    UriPart,
    Usage,
)
from ._conversation._session import Session
from ._conversation._spans import LLM, SubAgent, Tool, Turn
from ._conversation._stream import Stream, SyncStream
from ._errors import ClosedError, ConfigurationError, GenAIAsyncError
from ._setup import Tracing, configure, tracing
from ._version import VERSION as __version__  # noqa: N811
from .export import Drop, ExportStats, FlushResult

if TYPE_CHECKING:
    from ._conversation._decorators import subagent, tool, turn
    from ._conversation._isolated import isolated
    from ._conversation._log import (
        LoggedLLM,
        LoggedSubAgent,
        LoggedTool,
        LoggedTurn,
        LogResult,
        log_session,
        log_turn,
    )
    from ._conversation._sampler import ConversationSampler
    from ._conversation._secrets import redact_secrets

__all__ = [
    "LLM",
    "BlobPart",
    "ChildTask",
    "ClosedError",
    "ConfigurationError",
    "ConversationSampler",
    "Drop",
    "ExportStats",
    "FilePart",
    "FlushResult",
    "GenAIAsyncError",
    "GenericPart",
    "LogResult",
    "LoggedLLM",
    "LoggedSubAgent",
    "LoggedTool",
    "LoggedTurn",
    "Message",
    "ReasoningPart",
    "Session",
    "Stream",
    "SubAgent",
    "SyncStream",
    "TextPart",
    "Tool",
    "ToolCallPart",
    "ToolCallResponsePart",
    "ToolDefinition",
    "Tracing",
    "Turn",
    "UriPart",
    "Usage",
    "__version__",
    "configure",
    "current_llm",
    "current_session",
    "current_turn",
    "isolated",
    "log_session",
    "log_turn",
    "propagate",
    "redact_secrets",
    "start_llm",
    "start_subagent",
    "start_tool",
    "start_turn",
    "subagent",
    "tool",
    "tracing",
    "turn",
]

# Loaded when they are named: most programs use one or two of them.
_LOADED_LATE: Final = {
    "ConversationSampler": "._conversation._sampler",
    "LogResult": "._conversation._log",
    "LoggedLLM": "._conversation._log",
    "LoggedSubAgent": "._conversation._log",
    "LoggedTool": "._conversation._log",
    "LoggedTurn": "._conversation._log",
    "isolated": "._conversation._isolated",
    "log_session": "._conversation._log",
    "log_turn": "._conversation._log",
    "redact_secrets": "._conversation._secrets",
    "subagent": "._conversation._decorators",
    "tool": "._conversation._decorators",
    "turn": "._conversation._decorators",
}


def __getattr__(name: str) -> Any:
    if name not in _LOADED_LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_LOADED_LATE[name], __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
