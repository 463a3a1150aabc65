"""The OpenAI surface: completions and chat completions, streamed or not, checked with the real client."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import JSONResponse

from service import logprobs
from service.answering import Choice, answer, usage
from service.chat import chat_prompt
from service.orders import Order, order_of, prompt_names
from service.resident import Loaded
from service.routes.examples import CHAT, COMPLETION
from service.routes.models import check_model
from service.routes.replies import CHATTED, COMPLETED
from service.routes.state import TheResident, TheSettings
from service.schemas.openai import ChatRequest, CompletionRequest
from service.schemas.openai_replies import ChatReply, CompletionReply
from service.streaming import chunks
from service.streaming.stream import EventStream, stream

router = APIRouter(prefix="/v1", tags=["openai"])


@router.post("/completions", response_model=CompletionReply, responses=COMPLETED)
async def completions(
    body: Annotated[CompletionRequest, Body(openapi_examples=COMPLETION)],
    http: Request,
    resident: TheResident,
    settings: TheSettings,
) -> JSONResponse | EventStream:
    """Continue a prompt, or several; choices carry `seed` and `steering` besides the usual fields.

    With `echo` the text begins with the prompt; `max_tokens: 0` then only scores it, and draws nothing.
    """
    loaded = resident.get()
    check_model(body.model, loaded)
    order = order_of(
        body,
        body.prompts,
        names=prompt_names(body.prompt, len(body.prompts)),
        loaded=loaded,
        settings=settings,
        max_tokens=body.max_tokens,
        default=16,
        logprobs=body.logprobs,
        echo=bool(body.echo),
    )
    frame = _frame("cmpl", "text_completion", loaded)
    if body.stream:
        streamed = chunks.Completions(loaded.tokens, echo=order.echo)
        return await stream(order, http, resident, frame=frame, shape=streamed, with_usage=body.with_usage)
    choices = await answer(order, http, resident)

    def shape(choice: Choice) -> dict[str, Any]:
        prompt = loaded.tokens.shown(choice.prompt) if order.echo else None
        return {
            "text": (prompt or "") + choice.completion.text,
            "logprobs": logprobs.completion(choice, loaded.tokens, prompt=prompt),
        }

    return await asyncio.to_thread(_reply, frame, order, choices, shape)


@router.post("/chat/completions", response_model=ChatReply, responses=CHATTED)
async def chat_completions(
    body: Annotated[ChatRequest, Body(openapi_examples=CHAT)],
    http: Request,
    resident: TheResident,
    settings: TheSettings,
) -> JSONResponse | EventStream:
    """Answer the last message of a conversation through the model's chat template."""
    loaded = resident.get()
    check_model(body.model, loaded)
    limit, param = body.limit
    prompt = await resident.aside(partial(chat_prompt, loaded.engine.lm, body.messages), rows=1)
    order = order_of(
        body,
        [prompt],
        names=["messages"],
        loaded=loaded,
        settings=settings,
        max_tokens=limit,
        param=param,
        default=128,
        logprobs=body.alternatives,
    )
    if body.stream:
        frame = _frame("chatcmpl", "chat.completion.chunk", loaded)
        streamed = partial(chunks.chat, tokens=loaded.tokens)
        return await stream(order, http, resident, frame=frame, shape=streamed, with_usage=body.with_usage)
    frame = _frame("chatcmpl", "chat.completion", loaded)
    choices = await answer(order, http, resident)

    def shape(choice: Choice) -> dict[str, Any]:
        return {
            "message": {"role": "assistant", "content": choice.completion.text, "refusal": None},
            "logprobs": logprobs.chat(choice, loaded.tokens),
        }

    return await asyncio.to_thread(_reply, frame, order, choices, shape)


def _frame(prefix: str, kind: str, loaded: Loaded) -> dict[str, Any]:
    """What stands around the choices."""
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": loaded.engine.lm.name,
    }


def _reply(
    frame: dict[str, Any], order: Order, choices: list[Choice], shape: Callable[[Choice], dict[str, Any]]
) -> JSONResponse:
    document = frame | {
        "choices": [
            {
                "index": choice.index,
                **shape(choice),
                "finish_reason": choice.completion.finish_reason,
                "seed": choice.seed,
                "baseline": choice.baseline,
                "steering": choice.steering,
            }
            for choice in choices
        ],
        "usage": usage(choices, order).model_dump(),
    }
    return JSONResponse(document)
