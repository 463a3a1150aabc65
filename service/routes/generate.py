"""`POST /generate`: the plain endpoint."""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from service import logprobs
from service.answering import Choice, answer, usage
from service.orders import Order, order_of, prompt_names
from service.resident import Loaded
from service.routes.examples import GENERATE
from service.routes.replies import GENERATED
from service.routes.state import TheResident, TheSettings
from service.schemas.generation import GenerateChoice, GenerateRequest, GenerateResponse, SteeringSummary
from service.streaming import chunks
from service.streaming.stream import EventStream, stream

router = APIRouter(tags=["generation"])


@router.post("/generate", response_model=GenerateResponse, responses=GENERATED)
async def generate(
    body: Annotated[GenerateRequest, Body(openapi_examples=GENERATE)],
    http: Request,
    resident: TheResident,
    settings: TheSettings,
) -> GenerateResponse | EventStream:
    """Continue a prompt, or several, steered or not, streamed or not."""
    loaded = resident.get()
    order = order_of(
        body,
        body.prompts,
        names=prompt_names(body.prompt, len(body.prompts)),
        loaded=loaded,
        settings=settings,
        max_tokens=body.max_tokens,
        default=64,
        logprobs=body.logprobs,
    )
    frame = {"id": f"gen-{uuid.uuid4().hex}", "model": loaded.engine.lm.name}
    if body.stream:
        shape = partial(chunks.plain, tokens=loaded.tokens)
        return await stream(order, http, resident, frame=frame, shape=shape, with_usage=body.with_usage)
    choices = await answer(order, http, resident)
    return await asyncio.to_thread(_reply, frame, loaded, order, choices)


def _reply(frame: dict[str, Any], loaded: Loaded, order: Order, choices: list[Choice]) -> GenerateResponse:
    return GenerateResponse(
        **frame,
        choices=[
            GenerateChoice(
                index=choice.index,
                text=choice.completion.text,
                token_ids=choice.completion.token_ids,
                finish_reason="stop" if choice.completion.finish_reason == "stop" else "length",
                seed=choice.seed,
                baseline=choice.baseline,
                logprobs=logprobs.plain(choice, loaded.tokens),
                steering=None if choice.steering is None else SteeringSummary(**choice.steering),
            )
            for choice in choices
        ],
        usage=usage(choices, order),
    )
