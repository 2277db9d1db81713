"""The built-in redactor: what it finds, what it leaves, and how long it takes."""

from __future__ import annotations

from typing import Any

import pytest
from tests.pace import paces

import genai_async as ga

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
        "password=\\\\",
        "bearer ",
        "-----BEGIN PRIVATE KEY-----",
        "password=",
        "'",
    ],
)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """Ten times the text takes about ten times as long, whatever is repeated in it."""

    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        return paces(lambda: ga.redact_secrets(text))

    small, large = seconds(20_000), seconds(200_000)
    assert large < 40 * small + 20


CARD = 4111111111111111


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"password": "a b", "user": "kim"}, {"password": "[secret]", "user": "kim"}),
        (
            {"db": {"DB_PASSWORD": "x", "dbPassword": "y"}},
            {"db": {"DB_PASSWORD": "[secret]", "dbPassword": "[secret]"}},
        ),
        ({"apiKeys": ["one", "two"], "n": 2}, {"apiKeys": ["[secret]", "[secret]"], "n": 2}),
        ({"Authorization": "Basic YTpi", "Accept": "*/*"}, {"Authorization": "[secret]", "Accept": "*/*"}),
        ({"access_token": b"abc", "password": ""}, {"access_token": "[secret]", "password": ""}),
        ({"password_hint": "the cat", "passwords_tried": 3}, {"password_hint": "the cat", "passwords_tried": 3}),
        ({"card": CARD, "order": CARD + 1, "count": 7}, {"card": "[card]", "order": CARD + 1, "count": 7}),
        ([CARD, 1.5, True, None, -CARD], ["[card]", 1.5, True, None, "-[card]"]),
        ('{"client_secret": "shh"}', {"client_secret": "[secret]"}),
    ],
)
def test_names_and_numbers_are_read(arguments: Any, expected: Any) -> None:
    """A value whose name says that it is a secret goes whole, and a card's number is one as an integer, too."""
    with traced(redact=ga.redact_secrets) as spans:
        ga.start_tool("t", arguments=arguments).end()
    assert spans.json("gen_ai.tool.call.arguments") == expected


def test_names_of_attributes_are_read() -> None:
    """An attribute is redacted by its name and as a number, too; the conventions' own counts stay."""
    own = {"app.password": "short", "app.card": CARD, "app.count": 7, "app.tokens": ["a"]}
    with traced(redact=ga.redact_secrets) as spans:
        with ga.start_llm("m", provider_name="p", attributes=own) as llm:
            llm.record(seed=CARD, usage=ga.Usage(input_tokens=CARD))
    found = spans.last().attributes
    assert (found["app.password"], found["app.card"], found["app.count"]) == ("[secret]", "[card]", 7)
    assert found["app.tokens"] == ["a"]
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
        ga.start_tool("Kim", arguments=arguments).end()
    assert spans.json("gen_ai.tool.call.arguments") == {"password": "[secret]", "pin": "", "who": ["Kim"], "nobody": 12}
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
