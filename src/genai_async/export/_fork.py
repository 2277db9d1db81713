"""What a fork must wait for: a child cannot import, nor set up TLS, while a thread of its parent was just doing so.

The locks of that stay locked in the child, where their thread does not exist.
"""

from __future__ import annotations

import os
import threading

__all__ = ["importing"]

importing = threading.RLock()
"""Held while a thread of ours imports or sets up TLS; no fork happens meanwhile."""

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=importing.acquire, after_in_parent=importing.release, after_in_child=importing.release)
