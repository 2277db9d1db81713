"""The process of one library: `python -m benchmarks._patterns NAME` prints its verdicts as one line of JSON.

Runs in the library's own environment, so it imports nothing but the standard library, OpenTelemetry and the library.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from ._library import Library
from ._programs import PROGRAMS, Program, Tree, settle

_PATIENCE = 5.0


class Recorder(SpanProcessor):
    """Keeps what starts and what ends."""

    def __init__(self) -> None:
        self.started: list[Span] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class Noise(logging.Handler):
    """Keeps what is said at WARNING or above, and what is raised where nobody catches it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self.raised: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def unraisable(self, event: Any) -> None:
        self.raised.append(f"unraisable: {event.exc_value!r}")

    def in_loop(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.raised.append(f"loop: {context['message']} {context.get('exception')!r}")

    @contextmanager
    def heard(self) -> Iterator[None]:
        sys.unraisablehook = self.unraisable
        logging.getLogger().addHandler(self)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(self)
            sys.unraisablehook = sys.__unraisablehook__


class Judge:
    """One program's run with one library."""

    def __init__(self, library: Library, recorder: Recorder) -> None:
        self._library, self._recorder, self._noise = library, recorder, Noise()
        self.faults: dict[str, list[str]] = {}

    def fault(self, code: str, text: str) -> None:
        self.faults.setdefault(code, []).append(text)

    async def run(self, program: Program) -> None:
        """Run it, and find every fault."""
        asyncio.get_running_loop().set_exception_handler(self._noise.in_loop)
        self._recorder.started.clear()
        self._recorder.ended.clear()
        before = get_current()
        expected: Tree = {}
        with self._noise.heard():
            try:
                async with asyncio.timeout(_PATIENCE):
                    expected = await program(self._library)
            except Exception as exc:
                self.fault("error", f"raised {exc!r}")
            await settle()
        if get_current() != before:
            self.fault("context", f"left behind: {get_current()}")
        self._judge_spans(expected)
        for code, texts in (("log", self._noise.said), ("error", self._noise.raised)):
            for text in texts:
                self.fault(code, text)
        self._probe()

    def _judge_spans(self, expected: Tree) -> None:
        started, ended = list(self._recorder.started), list(self._recorder.ended)
        names = {_id(span): _subject(span) for span in started}
        ends = [_id(span) for span in ended]
        for span in started:
            count = ends.count(_id(span))
            if count != 1:
                self.fault("open", f"{span.name} ended {count} times")
        if not expected:
            return
        found = sorted(names.values())
        if found != sorted(expected):
            self.fault("spans", f"{found}, not {sorted(expected)}")
        for span in started:
            if (subject := _subject(span)) in expected:
                self._judge_span(span, names, *expected[subject])

    def _judge_span(self, span: Span, names: dict[int, str], wanted: str, parents: tuple[str | None, ...]) -> None:
        given = (span.attributes or {}).get(self._library.id_attribute)
        excused = given is None and span.name.startswith(self._library.without_id or ("\0",))
        if given != wanted and not excused:
            self.fault("id", f"{span.name} has {given!r}, not {wanted!r}")
        parent = None if span.parent is None else names.get(span.parent.span_id, "a span from before")
        if parent not in parents:
            self.fault("parent", f"{span.name} is under {parent!r}, not {' or '.join(map(repr, parents))}")

    def _probe(self) -> None:
        """What is started now belongs to nobody."""
        with self._library.tool("probe"):
            pass
        span = self._recorder.ended[-1]
        given = (span.attributes or {}).get(self._library.id_attribute)
        if given is not None or span.parent is not None:
            self.fault("context", f"a span started afterwards has the id {given!r} and the parent {span.parent}")


def _id(span: ReadableSpan) -> int:
    return span.get_span_context().span_id


def _subject(span: ReadableSpan) -> str:
    return span.name.rpartition(" ")[2]


def main(name: str) -> None:
    """Run every program with one library."""
    library: Library = importlib.import_module(f"{__package__}.{name}").Library()
    recorder = Recorder()
    library.provider.add_span_processor(recorder)
    verdicts: dict[str, dict[str, list[str]]] = {}
    for title, program in PROGRAMS.items():
        judge = Judge(library, recorder)
        asyncio.run(judge.run(program))
        verdicts[title] = judge.faults
    about = {"python": sys.version.split()[0], "versions": _versions(library.packages)}
    print(json.dumps({**about, "verdicts": verdicts}), flush=True)
    os._exit(0)  # nothing is to be sent, and nobody waits for what would try


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # it runs from its sources
            found[package] = "unreleased"
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
