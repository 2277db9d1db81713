from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from genai_async.testing import Collector

SCHEMAS = Path(__file__).parents[3] / "shared" / "semconv"
CONTENT = {
    "gen_ai.input.messages": "gen-ai-input-messages",
    "gen_ai.output.messages": "gen-ai-output-messages",
    "gen_ai.system_instructions": "gen-ai-system-instructions",
    "gen_ai.tool.definitions": "gen-ai-tool-definitions",
}


def schema(name: str) -> Any:
    """A schema of the conventions, in which a message's `finish_reason` has become optional since."""
    found = json.loads((SCHEMAS / f"{name}.json").read_text())
    for definition in found.get("$defs", {}).values():
        if "finish_reason" in definition.get("required", ()):
            definition["required"].remove("finish_reason")
    return found


@pytest.mark.skipif(not SCHEMAS.exists(), reason="the conventions' schemas are not beside the project")
def test_what_the_demo_says_fits_the_conventions(tmp_path: Path) -> None:
    """Each content attribute that the demo's agents send is accepted by its schema."""
    (tmp_path / "a.txt").write_text("an error\nand a second line\n")
    with Collector() as collector:
        command = [sys.executable, "-m", "genai_async", "demo", "--conversations", "5", "--path", str(tmp_path)]
        subprocess.run([*command, "--endpoint", collector.endpoint], capture_output=True, timeout=50, check=True)
        spans = collector.spans
    seen: set[str] = set()
    for span in spans:
        for key, name in CONTENT.items():
            if key in span.attributes:
                seen.add(key)
                jsonschema.validate(json.loads(span.attributes[key]), schema(name))
    assert {"gen_ai.input.messages", "gen_ai.output.messages"} <= seen
