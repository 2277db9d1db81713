"""Spans of the OpenTelemetry SDK's kind that cost a few microseconds; knows nothing of GenAI or of export."""

from __future__ import annotations

from ._delegate import Delegate
from ._provider import Provider

__all__ = ["Delegate", "Provider"]
