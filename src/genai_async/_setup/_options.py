"""The options of a set-up: what they may be, and what is made of them and of the environment."""

# No annotations from the future here: the options' types would be compiled one by one.
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, cast

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Sampler

from .. import _env
from .._conversation._content import Gate, Redact, checked_redactor
from .._conversation._faults import Faults
from .._conversation._texts import MAX_CONTENT_BYTES
from .._errors import ConfigurationError
from ..export import ExportConfig, ExportOptions
from ..export._config import DeliveryOptions
from ..export._config import check as check_delivery
from ._providers import limit_of

_logger = logging.getLogger("genai_async")

_CAPTURE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_ON_SPANS: Final = frozenset({"SPAN_ONLY", "SPAN_AND_EVENT"})
_NOT_ON_SPANS: Final = frozenset({"NO_CONTENT", "EVENT_ONLY"})
_KNOWN_EXPORTERS: Final = frozenset({"otlp", "otlp/stdout", "console", "none"})
# What a provider that is there already decides by itself.
_PROVIDERS_OWN: Final = frozenset({"service_name", "resource", "sampler", "id_generator"})
# Any of these says that our own exporter is wanted, also beside a provider that has exporters of its own.
_EXPORT_WISHES: Final = ("endpoint", "transport", "spool")
# What an exporter to the standard output has use for, too.
_ANY_EXPORTERS: Final = ("max_queue_bytes", "shutdown_timeout", "on_drop")


class TracingOptions(DeliveryOptions, total=False):
    """The options of `tracing()` and `configure()`; None, like absence, is the `OTEL_*` variable or the default."""

    service_name: str | None
    resource: Resource | Mapping[str, Any] | None
    sampler: Sampler | None
    id_generator: IdGenerator | None
    capture_content: bool | None
    redact: Redact | None
    redact_others: bool | None
    tracer_provider: trace.TracerProvider | None
    record_cancellation_as_error: bool | None


def check(given: Mapping[str, Any]) -> None:
    """Refuse options that there are not, and values of another kind."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "service_name": str,
        "resource": (Resource, Mapping),
        "sampler": Sampler,
        "id_generator": IdGenerator,
        "capture_content": bool,
        "redact_others": bool,
        "record_cancellation_as_error": bool,
        "tracer_provider": trace.TracerProvider,
    }
    for name, value in given.items():
        if name not in TracingOptions.__annotations__:
            raise ConfigurationError(f"{name}: no such option")
        kind = kinds.get(name)
        if kind is not None and not isinstance(value, kind):
            raise ConfigurationError(f"{name}: cannot be a {type(value).__name__}")


def is_disabled() -> bool:
    """Whether the environment turns everything off."""
    return _env.flag("OTEL_SDK_DISABLED")


def gate_of(given: Mapping[str, Any], faults: Faults, foreign: trace.TracerProvider | None) -> Gate:
    """The content gate, with a size that the provider's spans leave whole."""
    redact = checked_redactor(given.get("redact"))
    # A longer JSON text would be cut by the span itself, in the middle.
    try:
        own = SpanLimits().max_span_attribute_length
    except ValueError as exc:
        raise ConfigurationError(str(exc)) from exc
    limit_bytes = min([limit for limit in (own, limit_of(foreign)) if limit is not None], default=MAX_CONTENT_BYTES)
    limit_bytes = min(limit_bytes, MAX_CONTENT_BYTES)
    capture = given.get("capture_content")
    return Gate(_capture_from_environment() if capture is None else capture, redact, limit_bytes, faults)


def warn_of_unused(given: Mapping[str, Any]) -> None:
    """Say which options have no say beside a provider that is there already."""
    if unused := given.keys() & _PROVIDERS_OWN:
        _logger.warning("a TracerProvider is there already and makes the spans: %s not used", ", ".join(sorted(unused)))
    is_exporting = any(name in given for name in _EXPORT_WISHES)
    if not is_exporting and (unused := given.keys() & ExportOptions.__annotations__.keys()):
        names = ", ".join(sorted(unused))
        _logger.warning("a TracerProvider is there already and sends the spans: %s not used without `endpoint`", names)


def _capture_from_environment() -> bool:
    value = (_env.text(_CAPTURE) or "SPAN_ONLY").upper()
    if value not in _ON_SPANS | _NOT_ON_SPANS:
        _logger.warning("%s is none of %s: no content is captured", _CAPTURE, sorted(_ON_SPANS | _NOT_ON_SPANS))
    return value in _ON_SPANS


def export_config_of(given: Mapping[str, Any], *, is_joining: bool) -> ExportConfig | None:
    """How our exporter is to send; None where nothing is to be sent, or a provider that is joined sends."""
    if not is_joining:
        for name in _named_exporters() - _KNOWN_EXPORTERS:
            _logger.warning("OTEL_TRACES_EXPORTER names %r, which is not known here", name)
    options = {name: value for name, value in given.items() if name in ExportConfig.__struct_fields__}
    wished = any(name in given for name in _EXPORT_WISHES)
    if is_disabled() or not (wished or (not is_joining and "otlp" in _named_exporters())):
        # The environment's are for others, or for nobody: whoever turns tracing off may do so because of them.
        check_delivery(options)
        return None
    config = ExportConfig.resolve(**cast(Any, options))
    if _env.text("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL") == "grpc":
        _logger.warning("OTEL_EXPORTER_OTLP_PROTOCOL is grpc, but spans leave as http/json")
    return config


def _named_exporters() -> set[str]:
    return {name.strip() for name in (_env.text("OTEL_TRACES_EXPORTER") or "otlp").split(",")}


def stdout_configs_of(given: Mapping[str, Any]) -> list[Callable[[], ExportConfig]]:
    """What tells how exporters are to write to the standard output, as far as the environment wants that."""
    names = _named_exporters() & {"console", "otlp/stdout"}
    options = {name: given[name] for name in _ANY_EXPORTERS if name in given}
    return [] if is_disabled() else [partial(_stdout_config, name, options) for name in sorted(names)]


def _stdout_config(name: str, options: Mapping[str, Any]) -> ExportConfig:
    from ..export._stdout import lines, output, pages

    return output(pages if name == "console" else lines, options)
