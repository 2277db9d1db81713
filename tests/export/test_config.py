from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from genai_async._errors import ConfigurationError
from genai_async.export import ExportConfig, RetryPolicy
from genai_async.export._trouble import printable


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "HEADERS", "TIMEOUT", "COMPRESSION", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_TRACES_{name}", raising=False)


@pytest.mark.parametrize(
    ("given", "posted"),
    [
        (None, "http://localhost:4318/v1/traces"),
        ("https://host", "https://host/v1/traces"),
        ("https://host/", "https://host/v1/traces"),
        ("https://host/base/", "https://host/base/v1/traces"),
        ("https://host/v1/traces", "https://host/v1/traces"),
        ("https://host/v1/traces/", "https://host/v1/traces"),
        ("https://host:1/b?k=v", "https://host:1/b/v1/traces?k=v"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/traces"),
    ],
)
def test_base_endpoints(given: str | None, posted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A base URL, passed or in the environment, gets the path of traces unless it has it."""
    assert ExportConfig.resolve(endpoint=given).endpoint == posted
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", given or "")
    assert ExportConfig.resolve().endpoint == posted


def test_precedence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passed options come before variables of traces, those before general ones, those before defaults."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "GZIP")
    assert (ExportConfig.resolve().timeout, ExportConfig.resolve().compression) == (3.0, "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://exact")
    assert ExportConfig.resolve().endpoint == "http://exact/"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://exact/as/is?x")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "2.5")
    assert ExportConfig.resolve().endpoint == "http://exact/as/is?x"
    assert ExportConfig.resolve().timeout == 2.5
    assert ExportConfig.resolve(endpoint="http://mine", timeout=1).endpoint == "http://mine/v1/traces"
    assert ExportConfig.resolve(timeout=1).timeout == 1


def test_batches_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The delay is in milliseconds there; what is no number is ignored."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "250")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    found = ExportConfig.resolve()
    assert (found.schedule_delay, found.max_batch_spans, found.timeout) == (0.25, 7, 10.0)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "-1"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "nan"),
        ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "inf"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "deflate"),
        ("OTEL_BSP_SCHEDULE_DELAY", "-5"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "0"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1.5"),
    ],
)
def test_what_the_environment_cannot_mean(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A number out of range or a word that is not known is told and ignored there, as the specification has it."""
    expected = ExportConfig.resolve()
    monkeypatch.setenv(variable, value)
    assert ExportConfig.resolve() == expected
    assert caplog.text.count(variable) == 1


def test_headers_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are a list of pairs, percent-encoded; passed headers take their place."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Key = a%20b=c , ,other=1")
    assert ExportConfig.resolve().headers == {"x-key": "a b=c", "other": "1"}
    assert ExportConfig.resolve(headers={"y": "2"}).headers == {"y": "2"}


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are named by option or variable and must be there; a key is of no use without its certificate."""
    file = tmp_path / "ca.pem"
    file.write_text("x")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(file))
    assert ExportConfig.resolve().certificate == str(file)
    with pytest.raises(ConfigurationError, match="client_key: needs"):
        ExportConfig.resolve(client_key=str(file))
    with pytest.raises(ConfigurationError, match="certificate: no such file"):
        ExportConfig.resolve(certificate=str(tmp_path / "none"))


@pytest.mark.parametrize("text", ["-----BEGIN ENCRYPTED PRIVATE KEY-----", "Proc-Type: 4,ENCRYPTED"])
@pytest.mark.parametrize("key", [None, "key.pem"])
def test_a_key_with_a_passphrase(text: str, key: str | None, tmp_path: Path) -> None:
    """Nobody can be asked for it, so it is refused at once, in a file of its own or with the certificate."""
    for name in ("key.pem", "both.pem"):
        (tmp_path / name).write_text(text if name == (key or "both.pem") else "x")
    with pytest.raises(ConfigurationError, match="client_key: is encrypted"):
        ExportConfig.resolve(
            client_certificate=str(tmp_path / "both.pem"), client_key=None if key is None else str(tmp_path / key)
        )


@pytest.mark.parametrize(
    "url",
    [
        "localhost:4318",
        "ftp://host",
        "http://",
        "http:///path",
        "http://ho st",
        "http://h\nost",
        "http://h:x",
        "http://999.1.1.1",
        "http://[v1.a]",
        "http://\u2028h",
        "http://h/\ud800",
        "http://h/" + "x" * 70_000,
        "",
        5,
    ],
)
def test_bad_endpoints(url: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that cannot be posted to is refused at once, and the text does not repeat it."""
    with pytest.raises(ConfigurationError, match="endpoint:") as caught:
        ExportConfig.resolve(endpoint=url)
    assert not isinstance(url, str) or not url or url not in str(caught.value).replace("http://", "", 1)
    with pytest.raises(ConfigurationError):
        ExportConfig(endpoint=url)


_hosts = st.one_of(
    st.text(max_size=20),
    st.from_regex(r"[0-9.:]{1,15}", fullmatch=True),
    st.from_regex(r"\[[0-9a-fv:.%]{0,20}\]", fullmatch=True),
    st.from_regex(r"[a-z.:@\[\]-]{1,20}", fullmatch=True),
)


@given(_hosts, st.text(max_size=10))
@example("ex\u00e4mple.test:1", "")
@example("[::1%25eth0]", "?x")
def test_good_endpoints(host: str, path: str) -> None:
    """What is not refused here can be sent to."""
    try:
        config = ExportConfig.resolve(endpoint=f"http://{host}/{path}").with_credentials()
    except ConfigurationError:
        return
    httpx.URL(config.endpoint)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("timeout", 0),
        ("timeout", -1),
        ("timeout", math.inf),
        ("timeout", math.nan),
        ("timeout", "1"),
        ("timeout", True),
        ("schedule_delay", -0.1),
        ("shutdown_timeout", -1),
        ("max_queue_bytes", 0),
        ("max_batch_bytes", 1.5),
        ("max_batch_spans", True),
        ("max_requests", 0),
        ("max_spool_bytes", 0),
        ("max_spool_age", 0),
        ("compression", "deflate"),
        ("compression", []),
        ("compression", {}),
        ("spool", 5),
        ("spool", ""),
        ("spool", "a\0b"),
        ("spool", "a\ud800b"),
        ("spool", b"a"),
        ("on_drop", 5),
        ("retry", 5),
        ("transport", 3),
        ("headers", ["x"]),
        ("headers", {"x y": "1"}),
        ("headers", {1: "1"}),
        ("headers", {"x": "secret\r\nInjected: 1"}),
        ("headers", {"x": "secret\u20ac"}),
        ("headers", {"x": "secret "}),
        ("headers", {"x": "\tsecret"}),
        ("headers", {"x": 1}),
        ("headers", {"Content-Type": "text/plain"}),
        ("no_such_option", 1),
    ],
)
def test_bad_options(option: str, value: Any) -> None:
    """Each wrong value is refused with the option's name and without the value of a header."""
    with pytest.raises(ConfigurationError, match=f"^{option}:") as caught:
        ExportConfig.resolve(**{option: value})
    assert "secret" not in str(caught.value)


def test_nothing_secret_is_shown() -> None:
    """Neither headers nor user, password and query of the endpoint are in the repr."""
    config = ExportConfig.resolve(endpoint="https://me:hush@host/base?key=sesame", headers={"x-key": "swordfish"})
    text = repr(config)
    for secret in ("me:", "hush", "sesame", "swordfish"):
        assert secret not in text
    assert "https://host/base/v1/traces" in text
    assert "x-key" in text
    assert {"hush", "sesame", "swordfish"} <= config.secrets


def test_secrets_in_every_form() -> None:
    """What a collector might repeat is known: words of headers, credentials apart, together, quoted and encoded."""
    config = ExportConfig.resolve(
        endpoint="https://us%40er:p%2Fw@host:1/?sesame", headers={"x-key": "Token sword/fish", "x-scope": "a b"}
    )
    expected = {"sesame", "us%40er", "us@er", "p%2Fw", "p/w", "us@er:p/w", "dXNAZXI6cC93", "sword/fish", "sword%2Ffish"}
    assert expected <= config.secrets
    assert "a" not in config.secrets
    given = ExportConfig.resolve(headers={"authorization": "Basic dXNAZXI6cC93", "proxy-authorization": "basic ?"})
    assert {"us@er", "p/w", "us@er:p/w", "dXNAZXI6cC93"} <= given.secrets


@pytest.mark.parametrize("before", [0, 100, 3990, 3999, 4000, 5000])
def test_no_text_is_cut_inside_a_secret(before: int) -> None:
    """Neither the cut of what is shown nor that of what is read leaves half a secret."""
    keys = ["swordfish" * 10, "swordfish", "sesame"]
    for padding in ("-" * before, keys[0] * (before // 90) + "-" * (before % 90)):
        shown = printable(padding + keys[0] + " " + "x" * 10_000, keys)
        assert "sw" not in shown
        assert len(shown) <= 203


def test_credentials_become_a_header() -> None:
    """User and password of the URL are sent as basic authentication, unless there is such a header."""
    config = ExportConfig.resolve(endpoint="https://us%40er:pw@host:1").with_credentials()
    assert config.endpoint == "https://host:1/v1/traces"
    assert config.headers == {"Authorization": "Basic dXNAZXI6cHc="}
    assert ExportConfig.resolve(endpoint="https://host").with_credentials().headers == {}


@pytest.mark.parametrize(
    "options",
    [
        {"initial": 0},
        {"initial": 5, "maximum": 1},
        {"maximum": math.inf},
        {"multiplier": 0.5},
        {"jitter": 2},
        {"multiplier": math.nan},
    ],
)
def test_bad_policies(options: dict[str, float]) -> None:
    """A policy that would never wait, or for ever, is refused."""
    with pytest.raises(ConfigurationError, match=r"^retry:"):
        RetryPolicy(**options)
