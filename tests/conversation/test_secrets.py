"""The built-in redactor: what it finds, what it leaves, and how long it takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.pace import paces

import genai_async as ga
from genai_async._conversation import _secrets

from .support import traced

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\n-----END RSA PRIVATE KEY-----"
PGP = "-----BEGIN PGP PRIVATE KEY BLOCK-----\nlQOYBF\n-----END PGP PRIVATE KEY BLOCK-----"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("call me: a.b+c@mail.example.org, please", "call me: [e-mail], please"),
        ("use sk-proj-abcdefghijklmnop1234 here", "use [key] here"),
        ("ghp_" + "a" * 36, "[key]"),
        ("AKIAABCDEFGHIJKLMNOP", "[key]"),
        (f"token {JWT}.", "token [key]."),
        ("Authorization: Bearer abcdef0123456789", "Authorization: Bearer [token]"),
        ('{"password": "hunter2secret", "a": 1}', '{"password": "[secret]", "a": 1}'),
        ("api_key=abcdef123456&x=1", "api_key=[secret]&x=1"),
        ('{"password":"abc","a":""}', '{"password":"[secret]","a":""}'),
        ('{"password": "", "a": "b"}', '{"password": "", "a": "b"}'),
        ("{'authorization': 'Basic dXNlcjpwYXNzd29yZA=='}", "{'authorization': 'Basic [token]'}"),
        ("Basic YTpi", "Basic [token]"),
        ('{"password": "hunter22\\"tail", "b": 1}', '{"password": "[secret]", "b": 1}'),
        ('{\\"password\\": \\"hunter22\\\\\\"tail\\", 1}', '{\\"password\\": \\"[secret]\\", 1}'),
        ("{'password': \"it's me\"}", "{'password': \"[secret]\"}"),
        (f"my key:\n{PEM}\nend", "my key:\n[private key]\nend"),
        ("cut -----BEGIN PRIVATE KEY-----\nMIIE", "cut [private key]"),
        ("card 4111 1111 1111 1111 ok", "card [card] ok"),
        ("card 4111-1111-1111-1111", "card [card]"),
        ("4111 1111 1111 1111 12/27 123", "[card] 12/27 123"),
        ("card 4111111111111111 123", "card [card] 123"),
        ("order 5 4000 4111 1111 1111 1111", "order 5 4000 [card]"),
        ("ref-4111111111111111.", "ref-[card]."),
        ("3782 822463 10005, 2223003122003222", "[card], [card]"),
        ("MISTRAL_API_KEY=abcdefghijklmnop", "MISTRAL_API_KEY=[secret]"),
        ("DB_PASSWORD=hunter2hunter2 dbPassword: hunter3hunter3", "DB_PASSWORD=[secret] dbPassword: [secret]"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG+bPxRfiCY", "aws_secret_access_key = [secret]"),
        (r'"{\"password\": \"correct horse\", \"a\": 1}"', r'"{\"password\": \"[secret]\", \"a\": 1}"'),
        (PGP, "[private key]"),
        ("bearer\ntoken1234567890", "bearer\n[token]"),
        ("Bearer " + "a" * 20_000, "Bearer [token]"),
        (f"{JWT[:40]}{'a' * 20_000}{JWT[40:]}!", "[key]!"),
        ("josé@example.com", "[e-mail]"),
        ("postgres://u:hunter2@db/x", "postgres://u:[secret]@db/x"),
        ("redis://:pa55@h:6379, http://a:p@ss@h/", "redis://:[secret]@h:6379, http://a:[secret]@h/"),
        ("mongodb+srv://admin:P4ss@c.net/", "mongodb+srv://admin:[secret]@c.net/"),
    ],
)
def test_secrets_are_replaced(text: str, expected: str) -> None:
    """Each kind of secret is replaced by a word that says what it was, and nothing beside it."""
    assert ga.redact_secrets(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "order 4111111111111112",
        "call 0049 30 1234567",
        "at 1700000000007 ms",
        "0.4111111111111111",
        "a@b",
        "bearer of news",
        "bearer authentication/authorization is used",
        "2026-11-22 21:18:43",
        "sk-short",
        "basic understanding of the password: it is no secret",
        "basic JavaScript, Basic PostgreSQL, basic 2024-01-01 and basic self-introduction-2",
        '["password:", "it\'s"]',
        '{"a":"password: ","b":"it"}',
        'curl -d "password=" -d "user=bob"',
        "4 " * 20,
        "http://host:8080/a@b and https://user@host/",
        "",
    ],
)
def test_other_text_stays(text: str) -> None:
    """What only resembles a secret is left as it is."""
    assert ga.redact_secrets(text) == text


@pytest.mark.parametrize(
    "piece",
    [
        "a",
        "1",
        "1 ",
        "a@",
        "a.",
        "@a.",
        "sk-",
        "eyJaaaaaaaa.",
        "-eyJ",
        "4 ",
        "4111 ",
        "password='",
        'password":"',
        'password":"\\"',
        "basic ",
        "basic YTpi",
        "411 ",
        "password=\\\\",
        "bearer ",
        "-----BEGIN PRIVATE KEY-----",
        "password=",
        "'",
        "://",
        "://a:",
        "://:" + "@a" * 200,
    ],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """Ten times the text takes about ten times as long, whatever is repeated in it."""

    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        return paces(lambda: ga.redact_secrets(text))

    small, large = seconds(20_000), seconds(200_000)
    assert large < 40 * small + 20


# What secrets begin with, consist of and stand beside, and letters that `re` takes for others.
PIECES = [
    *("sk-", "ghp_", "github_pat_", "glpat-", "xoxb-", "AKIA", "ASIA", "AIza", "hf_", "npm_", "pypi-", "SG.", "eyJ"),
    *("sk_live_", "pk_test_", "bearer ", "Bearer\t", "BASIC ", "basic", "YTpi", "password", "dbPassword", "PASSWD"),
    *("passphrase", "api_key", "apiKey", "access-token", "refreshtoken", "secret", "secret_access_key", "clientsecret"),
    *("private_key", "token", "key", "4111111111111111", "4111 1111 1111 1111", "4 1 1 1 ", "0.", "x@example.org"),
    *("http://", "://u:p@h.de", "user:pw@host", "a.b+c%d@mail.co.uk", "abcdefghijklmnop", "ABCDEFGH1234", "x" * 64),
    *(
        " ",
        "\n",
        '"',
        "'",
        "\\",
        ":",
        "=",
        "/",
        "@",
        ".",
        "-",
        "_",
        "a",
        "Z",
        "é",
        "\u017f",
        "\u212a",
        "\u0130",
        "\u0131",
    ),
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
@settings(max_examples=2_000)
def test_no_secret_is_passed_over(text: str) -> None:
    """Where secrets may begin is found for all of them: the whole pattern, tried everywhere, finds no more."""
    assert ga.redact_secrets(text) == re.sub(_secrets._SECRETS, _secrets._replacement, text)


def test_plain_words_are_passed_over_fast() -> None:
    """A megabyte of prose takes some milliseconds, and so do the texts and names of a hundred large tools."""
    prose = "These are plain words of a usual message, with a number 42 and a word or two.\n" * 13_000
    assert paces(lambda: ga.redact_secrets(prose)) < 40
    names = [f"parameter_{number}" for number in range(1_000)]
    assert paces(lambda: [ga.redact_secrets.named(name, name) for name in names * 20]) < 40


def test_what_had_a_secret_in_it_is_not_remembered() -> None:
    """Small texts and names are remembered to be looked at once: a few, and none that had anything to hide."""
    assert ga.redact_secrets.named("to a@example.org", "from b@example.org") == "from [e-mail]"
    assert ga.redact_secrets.named("password", "hunter2") == "[secret]"
    for number in range(10_000):
        ga.redact_secrets.named(f"name {number}", "x" * 100)
    for remembered in (_secrets._harmless_names, _secrets._harmless_texts):
        assert 0 < len(remembered) <= 2048
        assert not any("@" in text or "hunter2" in text or len(text) > 64 for text in remembered)


CARD = 4111111111111111


class Key(Enum):
    """Keys that are members."""

    PASSWORD = "password"


class Number(int, Enum):
    """A number whose text is its name."""

    CARD = CARD


@dataclass
class Login:
    """A value of somebody's own."""

    user: str
    password: str


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"password": "a b", "user": "kim"}, {"password": "[secret]", "user": "kim"}),
        (
            {"db": {"DB_PASSWORD": "x", "dbPassword": "y"}},
            {"db": {"DB_PASSWORD": "[secret]", "dbPassword": "[secret]"}},
        ),
        ({"apiKeys": ["one", "two"], "n": 2}, {"apiKeys": "[secret]", "n": 2}),
        ({"password": {"old": "x1"}, "secrets": [{"v": 1}]}, {"password": "[secret]", "secrets": "[secret]"}),
        ({"password": 1234, "pwd": 1.5}, {"password": "[secret]", "pwd": "[secret]"}),
        ({"has_password": True, "secret": None}, {"has_password": True, "secret": None}),
        ({"Authorization": "Basic YTpi", "Accept": "*/*"}, {"Authorization": "[secret]", "Accept": "*/*"}),
        ({"access_token": b"abc", "password": ""}, {"access_token": "[secret]", "password": ""}),
        ({Key.PASSWORD: "x"}, {"password": "[secret]"}),
        ([(b"authorization", b"x"), (b"host", b"h")], [["authorization", "[secret]"], ["host", "h"]]),
        ([["password", "x"], ["a", "b", "c"]], [["password", "[secret]"], ["a", "b", "c"]]),
        (Login("kim", "x"), {"user": "kim", "password": "[secret]"}),
        ({"password_hint": "the cat", "passwords_tried": 3}, {"password_hint": "the cat", "passwords_tried": 3}),
        ({"card": CARD, "order": CARD + 1, "count": 7}, {"card": "[card]", "order": CARD + 1, "count": 7}),
        ({"card": float(CARD), "n": Number.CARD, "x": 1e300}, {"card": "[card]", "n": "[card]", "x": 1e300}),
        ([CARD, 1.5, True, None, -CARD, 10**400], ["[card]", 1.5, True, None, "-[card]", str(10**400)]),
        ('{"client_secret": "shh"}', {"client_secret": "[secret]"}),
        (' \n {"client_secret": "shh"}', {"client_secret": "[secret]"}),
    ],
)
def test_names_and_numbers_are_read(arguments: Any, expected: Any) -> None:
    """What stands under the name of a secret goes whole, and a card's number is one as a number, too."""
    with traced(redact=ga.redact_secrets) as spans:
        ga.start_tool("t", arguments=arguments).end()
    assert spans.json("gen_ai.tool.call.arguments") == expected


NAMES_OF_SECRETS = [
    "password",
    "Password",
    "PASSWORD",
    "password1",
    "passwords",
    "password_confirmation",
    "new_password",
    "DBPassword",
    "SMTPPassword",
    "db.password",
    "passwd",
    "pwd",
    "passphrase",
    "secret",
    "secrets",
    "JWTSecret",
    "oauth2Secret",
    "client_secret",
    "client-secret",
    "SECRET_KEY",
    "SECRET_KEY_BASE",
    "AWSSecretKey",
    "aws_secret_access_key",
    "api_key",
    "apiKey",
    "API_KEY_1",
    "api.key",
    "x-api-key",
    "private.key",
    "signing_key",
    "access_token",
    "access.token",
    "accessToken",
    "HF_TOKEN",
    "id_token",
    "csrf_token",
    "refreshToken",
    "session_token",
    "Authorization",
    "proxy-authorization",
    "http.request.header.authorization",
    "Cookie",
    "Set-Cookie",
]
OTHER_NAMES = [
    "token",
    "tokens",
    "max_tokens",
    "token_count",
    "eos_token",
    "next_page_token",
    "secretary",
    "secretion",
    "author",
    "public_key",
    "key",
    "keyword",
    "primary_key",
    "access_key_id",
    "password_hint",
    "passwords_tried",
    "passport",
    "prior_authorization",
    "authorized",
    "cookies_baked",
    "cookie_recipe",
    "monkey",
]


@pytest.mark.parametrize("name", [*NAMES_OF_SECRETS, "API Key", "Access Token", "password ", "Authorization:"])
def test_names_of_secrets(name: str) -> None:
    """However a secret's name is spelt, nothing of what stands under it is left."""
    assert ga.redact_secrets.named(name, "x") == "[secret]"


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_names_of_others(name: str) -> None:
    """What only looks like such a name keeps its text."""
    assert ga.redact_secrets.named(name, "a text") == "a text"


@pytest.mark.parametrize(
    "name",
    [
        "userpassword",
        "dbpassword",
        "openaiapikey",
        "private_key_pem",
        "password_hash",
        "passwords[0]",
        "pass_phrase",
        "credentials",
        "GITHUB_TOKEN",
        "set_cookie",
        "cookies",
        "session_cookie",
        "HTTP_AUTHORIZATION",
        "HTTP_COOKIE",
        "proxy_authorization",
        "headers['Authorization']",
        "http.request.header.set_cookie",
    ],
)
def test_names_as_programs_write_them(name: str) -> None:
    """Glued together, as variables of an environment, or with what takes an item out."""
    assert ga.redact_secrets.named(name, "x") == "[secret]"


@pytest.mark.parametrize(("label", "value"), [("name", "value"), ("key", "value"), ("Key", "Value")])
def test_pairs_that_are_mappings(label: str, value: str) -> None:
    """Environments, tags and headers are listed as pairs of a name and a value."""
    given = [{label: "DB_PASSWORD", value: "plain"}, {value: {"a": 1}, label: "pwd"}, {label: "CITY", value: "Osaka"}]
    with traced(redact=ga.redact_secrets) as spans:
        ga.start_tool("t", arguments={"env": given, "one": {label: 7, value: "kept"}}).end()
    assert spans.json("gen_ai.tool.call.arguments") == {
        "env": [
            {label: "DB_PASSWORD", value: "[secret]"},
            {value: "[secret]", label: "pwd"},
            {label: "CITY", value: "Osaka"},
        ],
        "one": {label: 7, value: "kept"},
    }


def test_tool_definitions_stay_whole() -> None:
    """A parameter that is named like a secret is described, not told."""
    schema = {"type": "object", "properties": {"password": {"type": "string", "description": "Ask for it."}}}
    with traced(redact=ga.redact_secrets) as spans:
        tools = [{"type": "function", "function": {"name": "login", "parameters": schema}}]
        ga.start_llm("m", provider_name="p", tool_definitions=tools).end()
    assert spans.json("gen_ai.tool.definitions")[0]["parameters"] == schema
    odd = {"type": "odd", "parameters": {"password": "x"}}
    with traced(redact=ga.redact_secrets) as spans:
        ga.start_llm("m", provider_name="p", input_messages=[{"role": "user", "content": [odd]}]).end()
    (message,) = spans.json("gen_ai.input.messages")
    assert message["parts"] == [{"type": "odd", "parameters": {"password": "[secret]"}}]


def test_a_redactor_that_cannot_be_read_is_refused() -> None:
    """Whatever goes wrong where the set-up looks at it is said there."""

    class Meta(type):
        def __getattr__(cls, name: str) -> Any:
            raise RuntimeError(name)

    class Odd(metaclass=Meta):
        def __call__(self, text: str) -> str:
            return text

    with pytest.raises(ga.ConfigurationError, match="redact"), traced(redact=Odd()):
        pass


def test_long_names_take_no_time() -> None:
    """A name of megabytes is read once for all that stands under it, and only its end."""
    for key in ("é" * 2_000_000, "a" * 2_000_000, "_" * 2_000_000 + "password"):
        with traced(redact=ga.redact_secrets) as spans:
            pace = paces(
                lambda key=key: ga.start_tool("t", arguments={key: ["x"] * 4000}, attributes={key: ["x"] * 9}).end()
            )
        assert pace < 3000, key[-8:]
    assert "x" not in spans.json("gen_ai.tool.call.arguments").values()


def test_names_of_attributes_are_read() -> None:
    """An attribute is redacted by its name and as a number, too; the conventions' own counts stay."""
    own = {"app.password": "short", "app.card": CARD, "app.count": 7, "app.tokens": ["a"], "app.pwd": ["a", 1]}
    own |= {"app.secret": 12, "app.secrets": True}
    with traced(redact=ga.redact_secrets) as spans:
        with ga.start_llm("m", provider_name="p", attributes=own) as llm:
            llm.record(seed=CARD, usage=ga.Usage(input_tokens=CARD))
    found = spans.last().attributes
    assert (found["app.password"], found["app.card"], found["app.count"]) == ("[secret]", "[card]", 7)
    assert (found["app.tokens"], found["app.pwd"]) == (["a"], "[secret]")
    assert (found["app.secret"], found["app.secrets"]) == ("[secret]", True)
    assert found["gen_ai.request.seed"] == found["gen_ai.usage.input_tokens"] == CARD


class Mine:
    """A redactor of somebody's own that builds on the built-in one."""

    def __call__(self, text: str) -> str:
        return ga.redact_secrets(text).replace("Kim", "[name]")

    def named(self, name: str, text: str) -> str | None:
        return None if name == "pin" else ga.redact_secrets.named(name, text)


def test_a_redactor_may_see_names() -> None:
    """One with a method `named` is told the name of what has one; a plain function sees texts only."""
    seen: list[str] = []
    arguments = {"password": "x", "pin": "1234", "who": ["Kim"], "nobody": 12}
    with traced(redact=Mine()) as spans:
        ga.start_tool("Kim", arguments={**arguments, "nested": {"pin": 1234}}, attributes={"pin": 1234}).end()
    found = spans.json("gen_ai.tool.call.arguments")
    assert found == {"password": "[secret]", "pin": "", "who": ["Kim"], "nobody": 12, "nested": {"pin": ""}}
    assert "pin" not in spans.last().attributes
    assert spans.last().name == "execute_tool [name]"
    with traced(redact=lambda text: seen.append(text) or text) as spans:
        ga.start_tool("t", arguments=arguments).end()
    assert {"password", "x", "pin", "1234", "Kim"} <= set(seen)
    assert "12" not in seen


def test_a_redactor_of_names_must_be_plain() -> None:
    """A coroutine function could not be waited for."""

    class Wrong(Mine):
        async def named(self, name: str, text: str) -> str:  # type: ignore[override]
            return text

    with pytest.raises(ga.ConfigurationError, match="redact"), traced(redact=Wrong()):
        pass


def test_names_in_a_table_are_read_once() -> None:
    """A redactor is asked about a name in each row of a table once for the whole of it."""
    seen: list[str] = []

    class Redactor:
        def __call__(self, text: str) -> str:
            seen.append(text)
            return text

        def named(self, name: str, text: str) -> str:
            seen.append(f"{name}: {text}")
            return "***" if name == "pin" else text

    table = [{"pin": number, "count": number, "said": "text"} for number in range(100)]
    with traced(redact=Redactor()) as spans:
        ga.start_tool("t").record(result=table).end()
    assert spans.json("gen_ai.tool.call.result") == [{**row, "pin": "***"} for row in table]
    assert [seen.count(text) for text in ("pin", "count", "said", "pin: x", "count: x")] == [1] * 5
    assert seen.count("said: text") == 100
