"""A redactor for what should never leave a program: keys, tokens, e-mail addresses, card numbers.

It runs on the caller's thread over text that anybody may have written, so it must stay linear on the worst of it: every
repetition is possessive, one without a bound is the last of its pattern or can begin only where its run of characters
does, and no pattern may look for an end that might not come (a private key without its last line is cut to the text's
end). The longest of secrets goes whole, as a tail that stays is a secret, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from heapq import merge
from typing import Final

from ._texts import from_base64

_WORD: Final = r"(?<![A-Za-z0-9_])"

_API_KEYS: Final = "|".join(
    (
        r"sk-[A-Za-z0-9_-]{16,}+",  # OpenAI, Anthropic, OpenRouter
        r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{8,}+",  # Stripe
        r"gh[opsur]_[A-Za-z0-9]{30,}+",  # GitHub
        r"github_pat_[A-Za-z0-9_]{22,}+",
        r"glpat-[A-Za-z0-9_-]{16,}+",  # GitLab
        r"xox[abeprs]-[A-Za-z0-9-]{10,}+",  # Slack
        r"(?:AKIA|ASIA)[A-Z0-9]{16,}+",  # AWS
        r"AIza[A-Za-z0-9_-]{35,}+",  # Google
        r"hf_[A-Za-z0-9]{30,}+",  # Hugging Face
        r"npm_[A-Za-z0-9]{36,}+",
        r"pypi-[A-Za-z0-9_-]{50,}+",
        r"SG\.[A-Za-z0-9_-]{16,32}+\.[A-Za-z0-9_-]{16,}+",  # SendGrid
        r"(?<!-)eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+",  # JSON web tokens
    )
)
# Words follow "bearer" in plain language; a token has a digit, cases mixed or no end.
_OPAQUE: Final = r"(?=[A-Za-z._~+/=-]*(?:[0-9]|(?<=[a-z])[A-Z])|[A-Za-z]{32})"
# In the middle of a longer name, too: DB_PASSWORD, dbPassword.
_NAME_BEGINS: Final = r"(?:(?<![A-Za-z0-9])|(?<=[a-z])(?=[A-Z]))"
_NAMED: Final = (
    r"(?:api[_-]?key|(?:access|auth|refresh|session)[_-]?token|secret(?:[_-]?(?:access[_-]?)?key)?"
    r"|(?:access|private)[_-]?key|client[_-]?secret|password|passwd|passphrase)"
)
# A name by itself says more than one in a text: parts of any kind (api.key, API Key), words in front without a gap
# (DBPassword), a few behind (password_2). A plain `token` is none: models' answers are full of them.
_TELLING: Final = (
    r"(?:(?i:password|passwd|passphrase|apikey)"
    r"|(?:(?<![A-Za-z0-9])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z0-9])(?=[A-Z][a-z]))"
    r"(?i:(?:api|access|private|secret|signing|encryption)[_.\s-]?key|pass[_.\s-]phrase|pwd|credential"
    r"|(?:access|auth|api|bearer|bot|csrf|hf|id|oauth|refresh|secret|security|session|xsrf)[_.\s-]?token"
    r"|(?:client[_.\s-]?)?secret(?:[_.\s-]?(?:access|value|key)){0,2})"
    r"|(?<=[A-Z0-9]_)TOKEN)(?i:s)?"
    r"(?:[_.\s\[-]?(?i:[0-9]{1,4}|again|base|confirm|confirmation|current|hash|new|old|pem|repeat|value))?\W{0,4}\Z"
    r"|(?<![\w-])(?i:(?:https?[_-])?(?:proxy[_-])?authorization|(?:https?[_-])?(?:(?:set|session)[_-])?cookies?)\W{0,4}\Z"
)
_LONGEST_NAME: Final = 64
# One of these is in every such name.
_TELLING_WORDS: Final = ("pass", "key", "token", "secret", "pwd", "credent", "author", "cook")
# JSON within JSON has its quotes escaped, once for each level.
_ESCAPED: Final = r"\\{0,8}+"
# Up to the quote that closes the value: one with as many backslashes as the one that opened it.
_QUOTED: Final = r"(?:(?!(?<!\\)(?P=quote))[^\n])"
_GROUP: Final = r"[0-9]++(?![A-Za-z]|\.[0-9])"

_SECRETS: Final = (
    rf"(?=[Bb])(?P<bearer>{_WORD}(?i:bearer)\s{{1,8}}+){_OPAQUE}[A-Za-z0-9._~+/=-]{{8,}}+"
    rf"|(?=[AESeghknprsx])(?P<key>{_WORD}(?:{_API_KEYS}))"
    rf"|(?=[AaCcPpRrSs])(?P<named>{_NAME_BEGINS}(?i:{_NAMED})(?P<told>{_ESCAPED}[\"'])?+"
    rf"\s{{0,4}}+[=:]{{1,2}}+>?\s{{0,4}}+(?P<quote>{_ESCAPED}[\"'])?)"
    rf"(?(quote)(?(told){_QUOTED}++|{_QUOTED}{{6,}}+)|[^\s\"',;&]{{6,}}+)"
    rf"|(?=[Bb])(?P<basic>{_WORD}(?i:basic)\s{{1,8}}+)(?P<pair>[A-Za-z0-9+/]{{4,}}+={{0,2}})"
    # The password in an address (RFC 3986, 3.2.1), up to the last @ before the host.
    r"|(?=/)(?P<user>(?<=:)//[^\s:/?#@\"'<>]{0,128}+:)[^\s/?#\"'<>@]{1,256}+(?:@[^\s/?#\"'<>@]{1,256}+(?=@)){0,4}+(?=@)"
    r"|(?P<email>(?<![\w.%+-])[\w.%+-]{1,64}+@[\w-]{1,63}+(?:\.[\w-]{1,63}+){1,8}+)"
    rf"|(?=[0-9])(?P<numbers>(?<![A-Za-z0-9])(?<![0-9]\.)(?=[0-9](?:[ -]?[0-9]){{12}}){_GROUP}(?:[ -]{_GROUP})*+)"
)

# Trying all that at each character of a text would take longer than anything else that is done with it. So it is tried
# only where one of these shows that a secret may begin, there or so many characters before. Each begins with one of a
# few characters, or is looked for only where a word is in the text: `re` and `str` pass over the rest fast.
_SCHEME_WORDS: Final = ("bearer", "bas")
_SCHEMES: Final = r"[Bb](?i:earer|asic)\s"
_NAME_WORDS: Final = ("key", "token", "secret", "passw", "passphrase")
_NAME_ENDS: Final = (
    r"[KkCcWwPp\u212a](?i:(?<=[istehn_-].)ey|(?<=to.)en|(?<=se.)ret|(?<=s.)(?:or?d|d|hrase))"  # U+212A is a `k`, too
    rf"(?:{_ESCAPED}[\"'])?+\s{{0,4}}+[=:]"
)
_NAME_REACH: Final = len("secret_access_")
_NAME_BEGIN: Final = r"[AaCcPpRrSs](?:(?<![A-Za-z0-9].)|(?<=[a-z][A-Z]))"
_HOSTS: Final = r"@[\w-]{1,63}+\."
_MAILBOX_REACH: Final = 64
_MAILBOX: Final = r"(?<![\w.%+-])[\w.%+-]{1,64}+@"
_KEYS_OR_NUMBERS: Final = (
    r"[-_.AJ0-9](?:(?<=[0-9])(?=[0-9 -]{12})(?<![A-Za-z0-9].)(?<![0-9]\..)((?=(?:[ -]?[0-9]){12}))"
    r"|(?=[A-Za-z0-9_-]{8})(?:(?<=A)(?<![A-Za-z0-9_].)((?=[KS]IA|Iza))|(?<=sk-|[srp]k_|hf_|SG\.|eyJ)(?<![A-Za-z0-9_]...)()"
    r"|(?<=gh[opsur]_|npm_)(?<![A-Za-z0-9_]....)()|(?<=xox[abeprs]-|pypi-)(?<![A-Za-z0-9_].....)()"
    r"|(?<=glpat-)(?<![A-Za-z0-9_]......)()|(?<=github_)(?<![A-Za-z0-9_].......)()))"
)
# How far behind its beginning is what each of those groups stands behind.
_REACHES: Final = (0, 0, 0, 2, 3, 4, 5, 6)

_KEY_BEGINS: Final = r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
_KEY_ENDS: Final = r"-----END [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----"

# What cards begin with (ISO/IEC 7812-1): 3 to 6 by industry, and Mastercard's second range.
_ISSUERS: Final = r"[3-6]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"
_CARD_DIGITS: Final = range(13, 20)
_MAX_GROUPS: Final = 6
_DOUBLED: Final = bytes.maketrans(b"0123456789", b"0246813579")

# Names, the texts of tool definitions and small values come again and again. Nothing that has a secret in it is kept.
_MOST_REMEMBERED: Final = 2_048
_LONGEST_REMEMBERED: Final = 64
_harmless_texts: set[str] = set()
_harmless_names: set[str] = set()


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    # When first used: it takes milliseconds, which an import should not.
    return re.compile(pattern)


class SecretRedactor:
    """What `redact_secrets` is: a function of a text, and another one of a text that has a name."""

    __slots__ = ()

    def __call__(self, text: str) -> str:
        """The text without what looks like a secret."""
        if text in _harmless_texts:
            return text
        kept = _without_private_keys(text) if "-----BEGIN" in text else text
        pieces: list[str] = []
        position = 0
        for begin in _begins(kept):
            match = _compiled(_SECRETS).match(kept, begin) if begin >= position else None
            if match is not None:
                pieces += (kept[position:begin], _replacement(match))
                position = match.end()
        kept = "".join((*pieces, kept[position:])) if pieces else kept
        if kept == text:
            _remember(text, _harmless_texts)
        return kept

    def named(self, name: str, text: str) -> str:
        """The text without what looks like a secret, and nothing of it if its name says that it is one."""
        name = name[-_LONGEST_NAME:]
        if text and name not in _harmless_names:
            if _is_telling(name):
                return "[secret]"
            if self(name) == name:
                _remember(name, _harmless_names)
        return self(text)

    def __repr__(self) -> str:
        return "redact_secrets"


redact_secrets: Final = SecretRedactor()
"""Replaces what looks like a secret by a word that says what it was: `[key]`, `[token]`, `[e-mail]`, `[card]`.

    ga.tracing(redact=ga.redact_secrets)

Finds the usual providers' API keys, bearer, basic and web tokens, private keys, values named like passwords, passwords
in addresses (`postgres://user:password@host`), e-mail addresses, and card numbers whose check digit is right. Takes
time in proportion to the text, whatever is in it.

What stands under a name that ends like a secret's (`password`, `DB_PASSWORD`, `api.key`, `client_secret`,
`Authorization`), in a dict or as an attribute, is replaced as a whole, whatever it is but True, False and None. A
redactor of your own that builds on this one gets to see names if its class has a method `named` as well:

    class Redactor:
        def __call__(self, text): return without_names(ga.redact_secrets(text))
        def named(self, name, text): return without_names(ga.redact_secrets.named(name, text))
"""


def _remember(text: str, among: set[str]) -> None:
    if type(text) is not str or len(text) > _LONGEST_REMEMBERED:
        return
    if len(among) >= _MOST_REMEMBERED:
        among.clear()
    among.add(text)


def _is_telling(name: str) -> bool:
    return _has_one(_folded(name), _TELLING_WORDS) and _compiled(_TELLING).search(name) is not None


def _folded(text: str) -> str:
    # The slower one finds what else is the same word to `re`.
    return text.lower() if text.isascii() else text.casefold()


def _has_one(folded: str, words: tuple[str, ...]) -> bool:
    return any(map(folded.__contains__, words))


def _begins(text: str) -> Iterable[int]:
    """Where in a text a secret may begin, in order."""
    folded = _folded(text)
    found: list[int] = []
    if _has_one(folded, _SCHEME_WORDS):
        found += (scheme.start() for scheme in _compiled(_SCHEMES).finditer(text))
    if _has_one(folded, _NAME_WORDS):
        found += _before(text, _NAME_ENDS, _NAME_REACH, _NAME_BEGIN)
    if "@" in text:
        found += (scheme.start() + 1 for scheme in _compiled("://").finditer(text))
        found += _before(text, _HOSTS, _MAILBOX_REACH, _MAILBOX)
    # There may be as many of these as characters.
    others = (mark.start() - _REACHES[mark.lastindex or 0] for mark in _compiled(_KEYS_OR_NUMBERS).finditer(text))
    return merge(sorted(found), others) if found else others


def _before(text: str, mark: str, reach: int, begin: str) -> Iterator[int]:
    """Where something may begin that has this mark in it, so many characters behind its beginning at most."""
    find, first = _compiled(begin).finditer, 0
    for marked in _compiled(mark).finditer(text):
        place = marked.start()
        for found in find(text, max(first, place - reach), place + 1):
            yield found.start()
        first = place + 1


def _replacement(match: re.Match[str]) -> str:
    if (named := match["named"]) is not None:
        return f"{named}[secret]"
    if (user := match["user"]) is not None:
        return f"{user}[secret]"
    if (bearer := match["bearer"]) is not None:
        return f"{bearer}[token]"
    if (basic := match["basic"]) is not None:
        return f"{basic}[token]" if _is_credentials(match["pair"]) else match[0]
    if match["numbers"] is not None:
        return _without_cards(match[0])
    return "[key]" if match["key"] is not None else "[e-mail]"


def _is_credentials(coded: str) -> bool:
    """Whether this says a user and a password (RFC 7617), and is no word that comes after `basic`."""
    try:
        said = from_base64(coded + "=" * (-len(coded) % 4)).decode()
    except ValueError:
        return False
    return ":" in said and said.isprintable()


def _without_cards(numbers: str) -> str:
    """Groups of digits without those that are a card's number together; others may stand before and behind."""
    if _compiled("[0-9]{3}").search(numbers) is None:  # as many groups as a card's number has would be too short
        return numbers
    is_issuer = _compiled(_ISSUERS).match
    groups = [group.span() for group in _compiled("[0-9]+").finditer(numbers)]
    pieces: list[str] = []
    position = first = 0
    while first < len(groups):
        start, after = groups[first][0], first + 1
        if is_issuer(numbers, start):
            for last in range(min(first + _MAX_GROUPS, len(groups)), first, -1):
                end = groups[last - 1][1]
                if end - start >= _CARD_DIGITS.start and _is_card(numbers[start:end]):
                    pieces += (numbers[position:start], "[card]")
                    position, after = end, last
                    break
        first = after
    return "".join((*pieces, numbers[position:]))


def _is_card(number: str) -> bool:
    """Whether it can be a card's number (ISO/IEC 7812-1, annex B: the Luhn formula)."""
    digits = number.encode().translate(None, b" -")
    if len(digits) not in _CARD_DIGITS:
        return False
    total = sum(digits[-1::-2]) + sum(digits[-2::-2].translate(_DOUBLED)) - ord("0") * len(digits)
    return total % 10 == 0


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
