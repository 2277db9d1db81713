"""A chat service: answers stream as server-sent events, and a tool is called on the way.

uvicorn chat_service:app
curl -N localhost:8000/chat -H 'x-session-id: c-1' --json '{"question": "Where is 7?"}'
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

import genai_async as ga
from genai_async.asgi import SessionMiddleware
from genai_async.fastapi import CurrentSession, CurrentTurn


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with ga.tracing(service_name="chat"):
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, turn="request", agent_name="parcels", model="small", exclude=["/health"])


class Question(BaseModel):
    question: str


@ga.tool
async def track(number: int) -> str:
    """Find out where a parcel is."""
    await asyncio.sleep(0.01)
    return f"Parcel {number} is in Osaka."


async def model(prompt: str) -> AsyncIterator[str]:
    """Stands for a provider's client."""
    for word in prompt.split():
        await asyncio.sleep(0.01)
        yield word + " "


async def answer(turn: ga.Turn, question: str) -> AsyncIterator[str]:
    turn.user(question)
    numbers = re.findall(r"\d+", question)
    found = [await track(int(digits)) for digits in numbers]
    async with ga.start_llm(provider_name="own", input_messages=[question, *found]) as llm:
        async for text in llm.stream(model(" ".join(found) or "Which parcel?")):
            llm.output(text)
            yield f"data: {json.dumps(text)}\n\n"


@ga.tool
async def remember(question: str) -> None:
    """Runs when the answer has been sent: in the conversation, linked to the turn."""
    await asyncio.sleep(0.01)


@app.post("/chat")
async def chat(asked: Question, turn: CurrentTurn, later: BackgroundTasks) -> StreamingResponse:
    later.add_task(remember, asked.question)
    return StreamingResponse(answer(turn, asked.question), media_type="text/event-stream", background=later)


@app.get("/whoami")
def whoami(session: CurrentSession) -> str:
    return session.session_id


@app.get("/health")
async def health() -> None: ...
