"""A redactor for what should never leave a program: keys, tokens, e-mail addresses, card numbers.

It runs on the caller's thread over text that anybody may have written, so it must stay linear on the worst of it:
every repetition is bounded or possessive, a match can begin only where a word does, and no pattern may look for an end
that might not come (a private key without its last line is cut to the text's end).
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final

_WORD: Final = r"(?<![A-Za-z0-9_])"

_API_KEYS: Final = "|".join(
    (
        r"sk-[A-Za-z0-9_-]{16,256}+",  # OpenAI, Anthropic, OpenRouter
        r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{8,128}+",  # Stripe
        r"gh[opsur]_[A-Za-z0-9]{30,255}+",  # GitHub
        r"github_pat_[A-Za-z0-9_]{22,255}+",
        r"glpat-[A-Za-z0-9_-]{16,64}+",  # GitLab
        r"xox[abeprs]-[A-Za-z0-9-]{10,250}+",  # Slack
        r"(?:AKIA|ASIA)[A-Z0-9]{16}+",  # AWS
        r"AIza[A-Za-z0-9_-]{35}+",  # Google
        r"hf_[A-Za-z0-9]{30,64}+",  # Hugging Face
        r"npm_[A-Za-z0-9]{36}+",
        r"pypi-[A-Za-z0-9_-]{50,500}+",
        r"SG\.[A-Za-z0-9_-]{16,32}+\.[A-Za-z0-9_-]{16,64}+",  # SendGrid
        r"eyJ[A-Za-z0-9_-]{8,4096}+\.[A-Za-z0-9_-]{8,8192}+\.[A-Za-z0-9_-]{8,2048}+",  # JSON web tokens
    )
)
_NAMED: Final = r"(?:api[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret|secret|password|passwd)"

_SECRETS: Final = (
    rf"(?P<bearer>(?i:{_WORD}bearer)[ \t]{{1,8}}+[A-Za-z0-9._~+/=-]{{8,8192}}+)"
    rf"|(?P<key>{_WORD}(?:{_API_KEYS}))"
    rf"|(?P<named>(?i:{_WORD}{_NAMED})[\"']?[ \t]{{0,4}}+[=:][ \t]{{0,4}}+[\"']?)[^\s\"',;&]{{6,512}}+"
    r"|(?P<email>(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}+@[A-Za-z0-9-]{1,63}+(?:\.[A-Za-z0-9-]{1,63}+){1,8}+)"
    r"|(?P<card>(?<![\d.-])\d(?:[ -]?\d){12,18}+(?!\d))"
)

_KEY_BEGINS: Final = r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----"
_KEY_ENDS: Final = r"-----END [A-Z ]{0,32}PRIVATE KEY-----"


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # When first used: it takes milliseconds, which an import should not.
    return re.compile(pattern)


def redact_secrets(text: str) -> str:
    """Replace what looks like a secret by a word that says what it was: `[key]`, `[token]`, `[e-mail]`, `[card]`.

    Finds the usual providers' API keys, bearer and web tokens, private keys, values named like passwords, e-mail
    addresses, and card numbers whose check digit is right. Takes time in proportion to the text, whatever is in it.

        ga.tracing(redact=ga.redact_secrets)
    """
    if "-----BEGIN" in text:
        text = _without_private_keys(text)
    return _compiled(_SECRETS).sub(_replacement, text)


def _replacement(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "card":
        return "[card]" if _has_check_digit(match[0]) else match[0]
    if kind == "named":
        return f"{match['named']}[secret]"
    return {"bearer": "Bearer [token]", "key": "[key]", "email": "[e-mail]"}[str(kind)]


def _has_check_digit(number: str) -> bool:
    """Whether the number can be a card's (ISO/IEC 7812-1, annex B: the Luhn formula)."""
    digits = [int(character) for character in reversed(number) if character.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0 and any(digits)


def _without_private_keys(text: str) -> str:
    pieces: list[str] = []
    position = 0
    while (begin := _compiled(_KEY_BEGINS).search(text, position)) is not None:
        pieces += (text[position : begin.start()], "[private key]")
        end = _compiled(_KEY_ENDS).search(text, begin.end())
        if end is None:
            return "".join(pieces)
        position = end.end()
    return "".join((*pieces, text[position:]))
