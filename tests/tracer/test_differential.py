from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from opentelemetry import context
from opentelemetry.sdk.trace import TracerProvider

from genai_async._tracer import Provider

from .programs import Op, Run, Setting, programs, settings_of


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(setting=settings_of, program=programs)
def test_every_program_of_calls_gives_what_the_sdk_gives(setting: Setting, program: list[Op]) -> None:
    """Answers, what processors see and the spans afterwards are those of the SDK, for any calls in any order."""
    before = context.get_current()
    theirs, ours = Run(setting.provider(TracerProvider)), Run(setting.provider(Provider))
    theirs.play(program)
    ours.play(program)
    assert ours.everything() == theirs.everything()
    assert context.get_current() is before
