"""Thousands of random programs under `GENAI_ASYNC_STRESS=1`, fewer of them otherwise, against what their text says."""

from __future__ import annotations

import gc
import logging
import os
import random
from collections.abc import Iterable

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from .programs import Program
from .rig import CONVERSATION, Rig, subject

IS_STRESS = os.environ.get("GENAI_ASYNC_STRESS") == "1"
PROGRAMS = int(os.environ.get("GENAI_ASYNC_PROGRAMS", "4000" if IS_STRESS else "150"))
FIRST = int(os.environ.get("GENAI_ASYNC_FIRST_PROGRAM", str(random.randrange(10**6)) if IS_STRESS else "0"))


@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
@pytest.mark.timeout(60 + PROGRAMS)
@pytest.mark.anyio
async def test_random_programs(rig: Rig) -> None:
    """No random program gets one id, parent or link wrong, leaves a span open, or a scope or handle behind."""
    for seed in range(FIRST, FIRST + PROGRAMS):
        try:
            with anyio.fail_after(30):
                kept = await _run(seed, rig)
        except BaseException as exc:
            exc.add_note(f"in program {seed}")
            raise
        for _ in range(20):
            gc.collect()
            if not list(kept):
                break
            # A worker thread lets go of what it ran a moment after it has said so; the next thing it does waits for it.
            await anyio.to_thread.run_sync(gc.collect)
        assert not list(kept), f"program {seed} leaves handles behind"
    rig.expected_logs = len(rig.logs)


async def _run(seed: int, rig: Rig) -> Iterable[object]:
    program = Program(seed, rig.tracer)
    await program.run()
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
    assert program.wrong == []
    _judge(program, rig)
    return program.kept


def _judge(program: Program, rig: Rig) -> None:
    recorder = rig.recorder
    names = {span.get_span_context().span_id: subject(span) for span in recorder.started}
    assert sorted(names.values()) == sorted(program.started)
    wrong: list[str] = []
    for span in recorder.started:
        expected = program.started[subject(span)]
        found = (
            (span.attributes or {}).get(CONVERSATION),
            span.parent and names[span.parent.span_id],
            [names[link.context.span_id] for link in span.links],
        )
        id_, parent = expected.session and expected.session.id, expected.parent and expected.parent.name
        if found != (id_, parent, found[2] if expected.links is None else expected.links):
            wrong.append(f"{expected.name}: {found}, not {(id_, parent, expected.links)}")
    assert not wrong
    rig.check_spans()
    assert [record.getMessage() for record in rig.logs if record.levelno >= logging.ERROR] == []
    assert rig.unraisable == []
    recorder.started.clear()
    recorder.ended.clear()
