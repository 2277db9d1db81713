"""A small agent that answers questions about a folder, traced the way that one would trace a real one."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

import anyio
from anyio import to_thread

from .._conversation._ambient import start_subagent, start_tool
from .._conversation._messages import Message, ToolCallPart
from .._conversation._session import Session
from .._conversation._spans import SubAgent, Turn
from ._folder import Folder
from ._policy import MODEL, PROVIDER, Policy
from ._witness import Witness

AGENT = "librarian"


@dataclass(frozen=True, slots=True)
class Agent:
    """One conversation's agent: what it may look at, what decides for it, and who watches it."""

    folder: Folder
    policy: Policy
    witness: Witness

    def session(self) -> Session:
        """The conversation, under the id that its witness expects."""
        return Session(session_id=self.witness.conversation_id, agent_name=AGENT, model=MODEL)

    async def converse(self) -> None:
        """Answer the user's questions, all at once: turns of a session need not wait for each other."""
        async with self.session() as session:
            for question in self.policy.questions():
                session.start_soon(self.answer, session, question)

    async def converse_and_fail(self) -> None:
        """Use a tool that fails, tell the user, and go on."""
        async with self.session() as session:
            try:
                async with self.witness.sees(session.start_turn("What does the table 'nowhere' hold?")) as turn:
                    await self.use(turn, ToolCallPart("query", arguments={"sql": "SELECT * FROM nowhere"}))
            except sqlite3.OperationalError:
                await self.answer(session, "What else is there, then?")
            await self.answer(session, "And what should I read?")

    async def converse_and_cancel(self) -> None:
        """Lose the user in the middle of an answer, and answer again when they are back."""
        async with self.session() as session:
            with anyio.CancelScope() as patience:
                async with self.witness.sees(session.start_turn("Tell me everything.")) as turn:
                    await self.say(turn, "everything", patience)
            for question in self.policy.questions():
                await self.answer(session, question)

    async def answer(self, session: Session, question: str) -> None:
        """One turn: plan, use tools and other agents at once, answer."""
        async with self.witness.sees(session.start_turn(question)) as turn:
            turn.start_soon(self.remember, turn, question)
            calls = await self.plan(turn, question)
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(self.use, turn, call)
                group.start_soon(self.research, turn, question)
                group.start_soon(self.analyse, turn)
            reply = await self.say(turn, question)
            turn.record(output_messages=[Message.assistant(reply)])

    async def plan(self, turn: Turn, question: str) -> list[ToolCallPart]:
        """Ask the model which tools to use; it looks at the folder while it thinks."""
        request = turn.start_llm(
            MODEL, provider_name=PROVIDER, input_messages=[Message.user(question)], temperature=0.2
        )
        async with self.witness.sees(request, turn) as llm:
            with self.witness.sees(start_tool("list_files", arguments={}), llm) as tool:
                tool.result = await to_thread.run_sync(self.folder.list_files)
            calls = self.policy.tool_calls()
            llm.record(
                output_messages=[Message.assistant("Let me look.", tool_calls=calls)],
                usage=self.policy.usage(question, str(calls)),
                finish_reasons=["tool_calls"],
            )
        return calls

    async def use(self, turn: Turn, call: ToolCallPart) -> None:
        """Run the tool that the model asked for in a worker thread; a file that cannot be read is an answer, too."""
        started = start_tool(call.name, arguments=call.arguments, call_id=call.id)
        async with self.witness.sees(started, turn) as tool:
            try:
                tool.result = await to_thread.run_sync(lambda: getattr(self.folder, call.name)(**call.arguments))
            except OSError as error:
                tool.record_error(error)

    async def research(self, turn: Turn, question: str) -> None:
        """Let another agent read two files, each in a thread of its own."""
        async with self.witness.sees(start_subagent("researcher", model=MODEL), turn) as agent:
            async with anyio.create_task_group() as group:
                for file in (self.policy.file(), self.policy.file()):
                    group.start_soon(to_thread.run_sync, self.read, agent, file)
            await self.say(agent, question)

    def read(self, agent: SubAgent, file: str) -> None:
        """Read a file. This is a plain thread, and the agent's handle works here as everywhere."""
        with self.witness.sees(agent.start_tool("read", arguments={"file": file}), agent) as tool:
            try:
                tool.result = self.folder.read(file)[:200]
            except OSError as error:
                tool.record_error(error)

    async def analyse(self, turn: Turn) -> None:
        """Let another agent ask the database, without saying a word about parents."""
        async with self.witness.sees(start_subagent("analyst", model=MODEL), turn) as agent:
            sql = "SELECT path, bytes FROM files ORDER BY bytes DESC LIMIT 3"
            with self.witness.sees(start_tool("query", arguments={"sql": sql}), agent) as tool:
                tool.result = await to_thread.run_sync(self.folder.query, sql)
            await self.say(agent, sql)

    async def say(self, agent: Turn | SubAgent, prompt: str, patience: anyio.CancelScope | None = None) -> str:
        """Stream the model's answer; a user without patience goes away after its first word."""
        request = agent.start_llm(MODEL, provider_name=PROVIDER, input_messages=[Message.user(prompt)])
        async with self.witness.sees(request, agent) as llm:
            reply = ""
            async for word in llm.stream(self.policy.answer()):
                llm.output(word)
                reply += word
                if patience is not None:
                    patience.cancel()
            llm.record(usage=self.policy.usage(prompt, reply), finish_reasons=["stop"])
        return reply

    async def remember(self, turn: Turn, question: str) -> None:
        """Take a note in the background; the turn ends after it."""
        with self.witness.sees(start_tool("remember", arguments={"note": question}), turn) as tool:
            await anyio.sleep(0.001)
            tool.result = "noted"
