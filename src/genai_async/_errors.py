"""The errors that explicit calls raise; nothing here is ever raised on the hot path.

GenAIAsyncError
├── ConfigurationError (ValueError)   an option of a set-up cannot work
└── ClosedError (RuntimeError)        the set-up was closed before the call
"""

from __future__ import annotations

__all__ = ["ClosedError", "ConfigurationError", "GenAIAsyncError"]


class GenAIAsyncError(Exception):
    """Base of every error that this library raises on purpose."""


class ConfigurationError(GenAIAsyncError, ValueError):
    """An option given to `tracing()` or `configure()`, or an `OTEL_*` variable, cannot work."""


class ClosedError(GenAIAsyncError, RuntimeError):
    """The `Tracing` or exporter that was asked to do something has been closed."""
