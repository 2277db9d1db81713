"""The shortcuts past OpenTelemetry's own calls lead to the same places."""

from __future__ import annotations

import contextvars
import subprocess
import sys

from opentelemetry import context as otel
from opentelemetry.context import Context

from genai_async import _otel
from genai_async._tracer._values import clean_attributes

_OWN_RUNTIME = """
import threading
from opentelemetry import context as otel

class Own(otel.ContextVarsRuntimeContext):
    kept = threading.local()
    def attach(self, context):
        before, self.kept.context = self.get_current(), context
        return before
    def get_current(self):
        return getattr(self.kept, "context", otel.Context())
    def detach(self, token):
        self.kept.context = token

otel._RUNTIME_CONTEXT = Own()
import genai_async as ga
from genai_async import _otel
from genai_async.testing import capture
assert _otel.get_current is otel.get_current and _otel.attach is otel.attach
with capture() as captured, ga.Session(session_id="c"):
    with ga.start_turn() as turn, ga.start_tool("t") as tool:
        assert ga.current_turn() is turn
print([(span.name, span.attributes["gen_ai.conversation.id"]) for span in captured.spans])
"""


def test_the_current_context_is_opentelemetrys() -> None:
    """What one side attaches the other one sees, in a context of any kind."""

    def both() -> None:
        mine, theirs = Context({"a": 1}), Context({"b": 2})
        _otel.attach(mine)
        assert otel.get_current() is _otel.get_current() is mine
        otel.attach(theirs)
        assert otel.get_current() is _otel.get_current() is theirs

    before = otel.get_current()
    contextvars.copy_context().run(both)
    contextvars.Context().run(both)
    assert contextvars.Context().run(_otel.get_current) == {}
    assert otel.get_current() is before
    assert _otel.get_current is not otel.get_current


def test_a_runtime_context_of_somebodys_own() -> None:
    """One that keeps its Context elsewhere than in a context variable is asked as OpenTelemetry asks it."""
    done = subprocess.run([sys.executable, "-c", _OWN_RUNTIME], check=False, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == "[('invoke_agent', 'c'), ('execute_tool t', 'c')]\n"


def test_plain_attributes_are_cut_all_the_same() -> None:
    """Where texts have a limit, each is looked at; without one they come out as a dict of the span's own."""
    plain = _otel.Plain(text="long", more=("a", "b"), count=1)
    kept, dropped = clean_attributes(plain, None)
    assert type(kept) is dict
    assert (kept, dropped) == (dict(plain), 0)
    assert clean_attributes(plain, 2) == ({"text": "lo", "more": ("a", "b"), "count": 1}, 0)
