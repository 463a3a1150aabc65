"""`POST /generate`: the plain endpoint."""

from __future__ import annotations

import uuid
from typing import Annotated

from fastapi import APIRouter, Body, Request

from service.answering import Order, answer, prompt_names, sampling_of, usage
from service.routes.examples import GENERATE
from service.routes.state import TheResident, TheSettings
from service.schemas import GenerateChoice, GenerateRequest, GenerateResponse, SteeringSummary

router = APIRouter(tags=["generation"])


@router.post("/generate")
async def generate(
    body: Annotated[GenerateRequest, Body(openapi_examples=GENERATE)],
    http: Request,
    resident: TheResident,
    settings: TheSettings,
) -> GenerateResponse:
    """Continue a prompt, or several, steered or not."""
    loaded = resident.get()
    order = Order(
        prompts=body.prompts,
        sampling=sampling_of(body, max_tokens=body.max_tokens, default=64, settings=settings),
        steering=body.steering,
        n=body.n,
        names=prompt_names(body.prompt, len(body.prompts)),
    )
    choices = await answer(order, http, resident, settings)
    return GenerateResponse(
        id=f"gen-{uuid.uuid4().hex}",
        model=loaded.engine.lm.name,
        choices=[
            GenerateChoice(
                index=choice.index,
                text=choice.completion.text,
                token_ids=choice.completion.token_ids,
                finish_reason="stop" if choice.completion.finish_reason == "stop" else "length",
                seed=choice.seed,
                baseline=choice.baseline,
                steering=None if choice.steering is None else SteeringSummary(**choice.steering),
            )
            for choice in choices
        ],
        usage=usage(choices, order),
    )
