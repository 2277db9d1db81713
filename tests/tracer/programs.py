"""Random programs of span calls, run on two tracers, and everything that can be seen of the spans afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider, sampling
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags, TraceState

from genai_async._tracer import Provider

LATEST = 10**6  # times given by a program are smaller; those taken from the clock are larger
RESOURCE = Resource({"service.name": "differential"})


class SequentialIds(IdGenerator):
    """Ids that count up; `first` may be 0, which is no valid id."""

    def __init__(self, first: int, *, is_random: bool) -> None:
        self._span_ids = itertools.count(first)
        self._trace_ids = itertools.count(first, step=3)
        self._is_random = is_random

    def generate_span_id(self) -> int:
        return next(self._span_ids)

    def generate_trace_id(self) -> int:
        return next(self._trace_ids)

    def is_trace_id_random(self) -> bool:
        return self._is_random


class RecordOnly(sampling.Sampler):
    """Records without sampling, with an attribute and a trace state of its own."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> sampling.SamplingResult:
        seen = {"sampler.name": name, "sampler.links": len(links or ()), **(attributes or {})}
        return sampling.SamplingResult(sampling.Decision.RECORD_ONLY, seen, TraceState([("vendor", "x")]))

    def get_description(self) -> str:
        return "RecordOnly"


class Text:
    """A value that is no attribute value but knows its text."""

    def __str__(self) -> str:
        return "some text"


class Name(str):
    __slots__ = ()


SAMPLERS = [
    sampling.ALWAYS_ON,
    sampling.ALWAYS_OFF,
    sampling.DEFAULT_ON,
    sampling.DEFAULT_OFF,
    sampling.ParentBased(sampling.ALWAYS_ON),
    sampling.TraceIdRatioBased(0.5),
    sampling.AlwaysRecordSampler(sampling.ALWAYS_OFF),
    RecordOnly(),
]

texts = st.sampled_from(["", "a", "bb", "ccc", "long text", "日本"])
keys = st.one_of(texts, st.sampled_from(["k1", "k2", Name("k3"), 1, 0, None, True, b"x", 1.5, Text()]))
scalars = st.one_of(
    texts,
    st.booleans(),
    st.integers(),
    st.floats(),
    st.binary(max_size=3),
    st.none(),
    st.sampled_from([Name("name"), SpanKind.CLIENT, Text(), object(), {1}, 1j, range(3), bytearray(b"x")]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.lists(inner, max_size=3).map(tuple), st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=5,
)
mappings = st.one_of(st.none(), st.dictionaries(texts, scalars, max_size=6), st.dictionaries(keys, values, max_size=4))
times = st.integers(1, LATEST - 1)
limits = st.sampled_from([None, SpanLimits.UNSET, 0, 1, 2, 5])
names = st.sampled_from(["chat", "execute_tool", ""])
contexts = st.builds(
    SpanContext,
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([TraceFlags(value) for value in range(4)]),
    st.sampled_from([None, TraceState([("a", "b")])]),
)
link_specs = st.tuples(st.one_of(st.none(), contexts), mappings)
statuses = st.one_of(
    st.tuples(st.sampled_from(StatusCode), st.one_of(st.none(), texts)),
    st.tuples(st.builds(Status, st.sampled_from(StatusCode), st.one_of(st.none(), texts)), st.one_of(st.none(), texts)),
    st.just(("no status", None)),
)


@dataclass
class Op:
    """One call on the span with this number (counted from the newest), or a block around other calls."""

    name: str
    span: int
    args: tuple[Any, ...] = ()
    inner: list[Op] = field(default_factory=list)


def _op(name: str, *args: st.SearchStrategy[Any]) -> st.SearchStrategy[Op]:
    return st.builds(Op, st.just(name), st.integers(0, 3), st.tuples(*args))


start_args = (
    names,
    st.one_of(st.none(), st.just("parent"), contexts),
    st.sampled_from(SpanKind),
    mappings,
    st.one_of(st.none(), st.lists(st.one_of(st.none(), link_specs), max_size=3)),
    st.one_of(st.none(), times),
    st.booleans(),
    st.booleans(),
)
calls = st.one_of(
    _op("start", *start_args),
    _op("set_attribute", keys, values),
    _op("set_attribute", texts, scalars),
    _op("set_attributes", mappings.map(lambda mapping: mapping or {})),
    _op("add_event", names, mappings, st.one_of(st.none(), times)),
    _op("add_link", contexts, mappings),
    _op("update_name", names),
    _op("set_status", statuses),
    _op("record_exception", texts, mappings, times, st.booleans()),
    _op("end", st.one_of(st.none(), times)),
    _op("is_recording"),
    _op("start_again"),
)


def _block(inner: st.SearchStrategy[Op]) -> st.SearchStrategy[Op]:
    return st.builds(
        Op,
        st.sampled_from(["with", "use", "start_as_current"]),
        st.integers(0, 3),
        st.tuples(
            names, st.booleans(), st.booleans(), st.booleans(), st.sampled_from([None, ValueError, KeyboardInterrupt])
        ),
        st.lists(inner, max_size=4),
    )


programs = st.lists(st.recursive(calls, _block, max_leaves=8), max_size=14)


@dataclass
class Setting:
    """What both providers are made with."""

    sampler: sampling.Sampler
    limits: tuple[int | None, ...]
    first_id: int
    is_random: bool

    def provider(self, kind: type[TracerProvider]) -> TracerProvider:
        """A provider of this kind."""
        options: dict[str, Any] = {
            "resource": RESOURCE,
            "sampler": self.sampler,
            "id_generator": SequentialIds(self.first_id, is_random=self.is_random),
            "span_limits": SpanLimits(*self.limits),
        }
        if kind is TracerProvider:
            return TracerProvider(shutdown_on_exit=False, **options)
        return Provider(**options)


settings_of = st.builds(
    Setting,
    st.sampled_from(SAMPLERS),
    st.one_of(st.just((None,) * 8), st.tuples(*[limits] * 8)),
    st.integers(0, 3),
    st.booleans(),
)


class Witness(SpanProcessor):
    """Writes down what a processor sees at each of its calls."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Context | None = None) -> None:
        span.set_attribute("on_start", True)
        self.seen.append(("start", parent_context is None, view(span)))

    def _on_ending(self, span: Any) -> None:
        span.set_attribute("late", True)
        self.seen.append(("ending", span.is_recording(), view(span)))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)
        self.seen.append(("end", isinstance(span, ReadableSpan), view(span)))


class Run:
    """One program on one provider."""

    def __init__(self, provider: TracerProvider) -> None:
        self.witness = Witness()
        provider.add_span_processor(self.witness)
        self._tracer = provider.get_tracer("scope", "1.0", "https://example.org/schema", {"scope.key": "value"})
        self.spans: list[Any] = []
        self.answers: list[Any] = []

    def play(self, ops: Sequence[Op]) -> None:
        """Run the calls; only what a `with` block is left with may come out."""
        for op in ops:
            if op.name == "start":
                self._start(*op.args, parent=op.span)
            elif op.name == "start_as_current":
                self._around(op, None)
            elif self.spans:
                span = self.spans[-1 - op.span % len(self.spans)]
                if op.name in ("with", "use"):
                    self._around(op, span)
                else:
                    self._call(op.name, span, op.args)

    def _start(
        self, name: str, context: Any, kind: SpanKind, attributes: Any, links: Any, start: Any, *rest: Any, parent: int
    ) -> None:
        if isinstance(context, SpanContext):
            context = trace.set_span_in_context(trace.NonRecordingSpan(context), Context())
        elif context == "parent":
            context = trace.set_span_in_context(self.spans[-1 - parent % len(self.spans)]) if self.spans else Context()
        made = None if links is None else [None if link is None else Link(*link) for link in links]
        self.spans.append(self._tracer.start_span(name, context, kind, attributes, made, start, *rest))

    def _call(self, name: str, span: Any, args: tuple[Any, ...]) -> None:
        if name == "record_exception":
            text, attributes, timestamp, escaped = args
            args = (_raised(text), attributes, timestamp, escaped)
        elif name == "set_status":
            args = args[0]
        elif name == "start_again":
            name = "start" if hasattr(span, "start") else "is_recording"
        self.answers.append(getattr(span, name)(*args))

    def _around(self, op: Op, span: Any) -> None:
        name, end_on_exit, record, status, error = op.args
        block: Any = span
        if op.name == "use":
            block = trace.use_span(span, end_on_exit, record, status)
        elif op.name == "start_as_current":
            block = self._tracer.start_as_current_span(
                name, record_exception=record, set_status_on_exception=status, end_on_exit=end_on_exit
            )
        try:
            with block as entered:
                if span is None:
                    self.spans.append(entered)
                self.answers.append(trace.get_current_span() is entered)
                self.play(op.inner)
                if error is not None:
                    raise error("left")
        except (ValueError, KeyboardInterrupt) as exc:
            self.answers.append(repr(exc))

    def everything(self) -> list[Any]:
        """All that was answered, all that processors saw, and all spans as they are now."""
        return [
            self.answers,
            self.witness.seen,
            [view(span) for span in self.spans],
            [view(span) for span in self.witness.ended],
        ]


def _raised(text: str) -> ValueError:
    try:
        raise ValueError(text)
    except ValueError as exc:
        return exc


def plain(value: Any) -> Any:
    """A value that compares by type and content (NaN included)."""
    if isinstance(value, Mapping):
        return [(plain(key), plain(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return type(value).__name__, [plain(item) for item in value]
    return type(value).__name__, repr(value)


def _time(value: int | None) -> Any:
    return "now" if value is not None and value >= LATEST else value


def _context(context: SpanContext | None) -> Any:
    return None if context is None else (*context[:4], dict(context.trace_state), context.is_valid, type(context))


def view(span: Any) -> Any:
    """Everything that a span's public properties tell."""
    if not isinstance(span, ReadableSpan):
        return "not recording", _context(span.get_span_context()), span.is_recording()
    seen = {
        "name": span.name,
        "context": _context(span.context),
        "same context": _context(span.get_span_context()),
        "parent": _context(span.parent),
        "kind": span.kind,
        "start_time": _time(span.start_time),
        "end_time": _time(span.end_time),
        "status": (span.status.status_code, span.status.description),
        "attributes": (type(span.attributes), plain(span.attributes), span.dropped_attributes),
        "events": [
            (event.name, _time(event.timestamp), plain(event.attributes), event.dropped_attributes)
            for event in span.events
        ],
        "links": [(_context(link.context), plain(link.attributes), link.dropped_attributes) for link in span.links],
        "dropped": (span.dropped_events, span.dropped_links, type(span.events), type(span.links)),
        "resource": span.resource,
        "scope": span.instrumentation_scope,
    }
    times = [span.start_time, span.end_time, *(event.timestamp for event in span.events)]
    if all(time is None or time < LATEST for time in times):
        seen["json"] = json_of(span)
    return seen


def json_of(span: ReadableSpan) -> str:
    """The span's JSON, or why there is none: bytes have no JSON form."""
    try:
        return span.to_json()
    except TypeError as exc:
        return str(exc)
