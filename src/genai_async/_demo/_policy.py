"""A scripted policy in the model's place: the same seed asks the same questions."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio

from .._conversation._messages import ToolCallPart, Usage
from ._folder import Folder

MODEL = "scripted-1"
PROVIDER = "demo"

_QUESTIONS = (
    "What is in this folder?",
    "Where is the largest file, and what does it hold?",
    "Which files speak of an error?",
    "How long are the files here?",
    "What would a newcomer read first?",
)
_ANSWER = "The folder holds mostly short files and a few long ones that import each other and say so at the top."
_PATTERNS = ("error", "import", "todo|fixme", "class |def ", "license")


@dataclass(slots=True)
class Policy:
    """Decides what to ask, which tools to use, and what to say."""

    folder: Folder
    seed: str
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311  # a script, no secret

    def questions(self) -> list[str]:
        """What the user will ask, two or three questions."""
        return self.random.sample(_QUESTIONS, self.random.choice((2, 2, 3)))

    def file(self) -> str:
        """One of the files, or a name that no file has."""
        return self.random.choice((*self.folder.files[:100], "missing.txt"))

    def tool_calls(self) -> list[ToolCallPart]:
        """The three tools to use next."""
        wanted = (
            ("grep", {"pattern": self.random.choice(_PATTERNS)}),
            ("count", {"file": self.file()}),
            ("query", {"sql": "SELECT suffix, count(*), sum(bytes) FROM files GROUP BY suffix ORDER BY 3 DESC"}),
        )
        return [ToolCallPart(name, id=self.call_id(), arguments=arguments) for name, arguments in wanted]

    def call_id(self) -> str:
        """The id of a tool call, as a model would give it."""
        return f"call_{self.random.getrandbits(32):08x}"

    async def answer(self) -> AsyncIterator[str]:
        """The answer, word by word."""
        for word in self.random.sample(_ANSWER.split(), 8):
            await anyio.sleep(self.random.uniform(0, 0.004))
            yield f"{word} "

    def usage(self, prompt: str, answer: str) -> Usage:
        """What a model would charge: about a token for four characters."""
        return Usage(input_tokens=1 + len(prompt) // 4, output_tokens=1 + len(answer) // 4)
