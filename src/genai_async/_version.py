"""The version, in the one place that the build reads, too."""

from __future__ import annotations

from typing import Final

VERSION: Final = "0.1.0"
