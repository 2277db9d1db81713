"""An environment for each peer, made once: their dependencies exclude each other, and ours must not help theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

_EXPORTER = "opentelemetry-exporter-otlp-proto-http"
REQUIREMENTS = {
    "opentelemetry_sdk": ("opentelemetry-sdk", _EXPORTER),
    "opentelemetry_util_genai": ("opentelemetry-util-genai==1.3b0", _EXPORTER),
    "langfuse": ("langfuse>=5",),
    "weave": ("weave==0.54.*", _EXPORTER),
}


def cache() -> Path:
    """Where the environments are: `GENAI_ASYNC_BENCH_CACHE`, or the user's cache folder."""
    given = os.environ.get("GENAI_ASYNC_BENCH_CACHE")
    return Path(given) if given else Path.home() / ".cache" / "genai-async-bench"


def python_for(peer: str) -> str:
    """The interpreter that runs a peer; installs the peer the first time.

    Raises:
        subprocess.CalledProcessError: It cannot be installed.
    """
    if peer not in REQUIREMENTS:
        return sys.executable
    folder = cache() / f"{peer}-{sys.version_info.major}.{sys.version_info.minor}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "installed.txt"
    wanted = "\n".join(REQUIREMENTS[peer])
    if not done.exists() or done.read_text() != wanted:
        venv.create(folder, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *REQUIREMENTS[peer]], check=True, stdout=sys.stderr)
        done.write_text(wanted)
    return str(python)
