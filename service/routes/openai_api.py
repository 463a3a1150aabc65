"""The OpenAI surface: models, completions and chat completions, checked with the real client. Not yet streamed."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any

from fastapi import APIRouter, Body, Request

from service.answering import Choice, Order, answer, prompt_names, sampling_of, usage
from service.chat import chat_prompt
from service.errors import MODEL_NOT_FOUND, ApiError
from service.openai_schemas import ChatRequest, CompletionRequest
from service.resident import Loaded
from service.routes.examples import CHAT, COMPLETION
from service.routes.state import TheLoaded, TheResident, TheSettings
from service.validation import shown

router = APIRouter(prefix="/v1", tags=["openai"])


@router.get("/models")
async def models(loaded: TheLoaded) -> dict[str, Any]:
    """The one model this server has."""
    return {"object": "list", "data": [_model(loaded)]}


@router.get("/models/{model_id:path}")
async def model(model_id: str, loaded: TheLoaded) -> dict[str, Any]:
    """One model by name."""
    _check_model(model_id, loaded)
    return _model(loaded)


@router.post("/completions")
async def completions(
    body: Annotated[CompletionRequest, Body(openapi_examples=COMPLETION)],
    http: Request,
    resident: TheResident,
    settings: TheSettings,
) -> dict[str, Any]:
    """Continue a prompt, or several; choices carry `seed` and `steering` besides the usual fields."""
    loaded = resident.get()
    _check_model(body.model, loaded)
    order = Order(
        prompts=body.prompts,
        sampling=sampling_of(body, max_tokens=body.max_tokens, default=16, settings=settings),
        steering=body.steering,
        n=body.n,
        names=prompt_names(body.prompt, len(body.prompts)),
    )
    choices = await answer(order, http, resident, settings)
    return _reply("cmpl", "text_completion", loaded, order, choices, [{"text": c.completion.text} for c in choices])


@router.post("/chat/completions")
async def chat_completions(
    body: Annotated[ChatRequest, Body(openapi_examples=CHAT)],
    http: Request,
    resident: TheResident,
    settings: TheSettings,
) -> dict[str, Any]:
    """Answer the last message of a conversation through the model's chat template."""
    loaded = resident.get()
    _check_model(body.model, loaded)
    limit, param = body.limit
    order = Order(
        prompts=[chat_prompt(loaded.engine.lm, body.messages)],
        sampling=sampling_of(body, max_tokens=limit, param=param, default=128, settings=settings),
        steering=body.steering,
        n=body.n,
        names=["messages"],
    )
    choices = await answer(order, http, resident, settings)
    contents = [{"message": {"role": "assistant", "content": c.completion.text, "refusal": None}} for c in choices]
    return _reply("chatcmpl", "chat.completion", loaded, order, choices, contents)


def _reply(
    prefix: str, kind: str, loaded: Loaded, order: Order, choices: list[Choice], contents: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": loaded.engine.lm.name,
        "choices": [
            {
                "index": choice.index,
                **content,
                "logprobs": None,
                "finish_reason": choice.completion.finish_reason,
                "seed": choice.seed,
                "baseline": choice.baseline,
                "steering": choice.steering,
            }
            for choice, content in zip(choices, contents, strict=True)
        ],
        "usage": usage(choices, order).model_dump(),
    }


def _model(loaded: Loaded) -> dict[str, Any]:
    return {"id": loaded.engine.lm.name, "object": "model", "created": 0, "owned_by": "tiller"}


def _check_model(name: str | None, loaded: Loaded) -> None:
    here = loaded.engine.lm.name
    if name is not None and name != here:
        raise ApiError(
            MODEL_NOT_FOUND,
            f"model {shown(name)} is not served here; this server has '{here}' (GET /v1/models)",
            param="model",
        )
