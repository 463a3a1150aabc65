"""A server that misbehaves as it is told: the page's own files, and scripted answers to everything else.

Only for what a sound server does not do on request: to be full, to be loading, to break off in the middle.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from service.routes import pages

PROBE = {
    "id": "calm@1", "name": "calm", "version": 1, "concept": "calm", "positive_is": "calm",
    "labels": {"0": "restless", "1": "calm"}, "layers": [0, 1], "calibrated": True, "causal": None,
    "default": {"layers": [1], "lower": 0.9, "upper": None, "space": "probability", "metric": "euclidean"},
}  # fmt: skip

Script = Callable[[Request, dict[str, Any]], Response | AsyncIterator[str]]


def refusal(status: int, code: str, message: str, *, param: str | None = None, **headers: str) -> JSONResponse:
    """An error of the one shape."""
    error = {"message": message, "type": "x", "param": param, "code": code}
    return JSONResponse(
        {"error": error}, status, headers={name.replace("_", "-"): value for name, value in headers.items()}
    )


def event(document: dict[str, Any] | str) -> str:
    """One server-sent event."""
    return f"data: {document if isinstance(document, str) else json.dumps(document)}\n\n"


def words(*texts: str, before: float = 0.4, after: float = 0.9) -> Iterator[str]:
    """A chunk for each text, with its reading."""
    for at, text in enumerate(texts):
        tokens = [{"offset": at - 1, "probes": {"calm@1": [before, after]}, "doses": {"calm@1": 0.1}, "violated": []}]
        choice = {"index": 0, "text": text, "token_ids": [at], "finish_reason": None, "steering": {"tokens": tokens}}
        yield event({"choices": [choice]})


def end(*, tokens: int = 2, violations: int = 0, warnings: tuple[str, ...] = ()) -> Iterator[str]:
    """The last chunk, and the end of the stream."""
    report = {
        "max_pre": 0.4, "max_post": 0.9, "min_pre": 0.4, "min_post": 0.9, "tokens": tokens, "edited": tokens,
        "capped": 0, "infeasible": 0, "violations": violations, "mean_dose": 0.1, "max_dose": 0.1, "promised": True,
    }  # fmt: skip
    steering = {"applied": True, "probes": {"calm@1": report}, "layers": [1], "warnings": list(warnings)}
    yield event({"choices": [{"index": 0, "text": "", "token_ids": [], "finish_reason": "stop", "steering": steering}]})
    yield event("[DONE]")


async def whole(*parts: Iterator[str]) -> AsyncIterator[str]:
    """One stream out of its parts."""
    for part in parts:
        for chunk in part:
            yield chunk


async def hanging(*texts: str) -> AsyncIterator[str]:
    """A stream that never ends."""
    for chunk in words(*texts):
        yield chunk
    await asyncio.sleep(60)


class Double:
    """The app, what it was sent, and what it answers: `answer` for a text, `ready` for a readiness."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.app.include_router(pages.router)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.answer: Script = lambda request, body: whole(words(" one", " two"), end())
        self.ready: Callable[[], Response] = lambda: JSONResponse({"model": "double"})

        @self.app.get("/ready")
        async def ready() -> Response:
            return self.ready()

        @self.app.get("/v1/steering/probes")
        async def probes() -> dict[str, Any]:
            return {"data": [PROBE]}

        @self.app.post("/v1/completions")
        async def completions(request: Request) -> Response:
            body = await request.json()
            self.asked.append(body)
            self.keys.append(request.headers.get("authorization"))
            found = self.answer(request, body)
            return found if isinstance(found, Response) else StreamingResponse(found, media_type="text/event-stream")
