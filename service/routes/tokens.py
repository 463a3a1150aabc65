"""`POST /tokenize` and `POST /detokenize`, in vLLM's shapes: what the model reads of a text, and what it stands for."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field, model_validator

from service.chat import chat_prompt
from service.errors import INVALID, ApiError
from service.resident import Loaded
from service.routes.examples import DETOKENIZE, TOKENIZE
from service.routes.models import check_model
from service.routes.replies import DETOKENIZED, TOKENIZED
from service.routes.state import TheLoaded, TheResident
from service.schemas.openai import Message
from service.validation import Strict, printable, refusal

router = APIRouter(tags=["tokens"])


class TokenizeRequest(Strict):
    """A text, or a conversation through the model's chat template."""

    model: str | None = None
    """The served model (`GET /v1/models`); may be left out."""
    prompt: str | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    """In place of `prompt`."""
    add_special_tokens: bool | None = None
    """Such as the one that begins a text. Null: true for a prompt, as it is read by `/v1/completions`; false for
    messages, whose template writes its own."""
    add_generation_prompt: bool = True
    """Of messages: go on to where the assistant's answer begins."""

    @model_validator(mode="after")
    def _one_of_both(self) -> TokenizeRequest:
        if (self.prompt is None) == (self.messages is None):
            found = "neither prompt nor messages is" if self.prompt is None else "both prompt and messages are"
            raise refusal("one_of_both", f"{found} given; give one of them", at="prompt")
        return self


class TokenizeResponse(BaseModel):
    """Token ids."""

    tokens: list[int]
    count: int
    max_model_len: int
    """Tokens a request may hold here, prompt and continuation."""


class DetokenizeRequest(Strict):
    """Token ids."""

    model: str | None = None
    """The served model (`GET /v1/models`); may be left out."""
    tokens: list[int]


class DetokenizeResponse(BaseModel):
    """Their text, special tokens included."""

    prompt: str


@router.post("/tokenize", responses=TOKENIZED)
async def tokenize(
    body: Annotated[TokenizeRequest, Body(openapi_examples=TOKENIZE)], loaded: TheLoaded, resident: TheResident
) -> TokenizeResponse:
    """The tokens a prompt, or a conversation, is read as."""
    check_model(body.model, loaded)
    tokens = await resident.aside(partial(_encode, body, loaded))
    return TokenizeResponse(tokens=list(tokens), count=len(tokens), max_model_len=loaded.engine.row_tokens)


@router.post("/detokenize", responses=DETOKENIZED)
async def detokenize(
    body: Annotated[DetokenizeRequest, Body(openapi_examples=DETOKENIZE)], loaded: TheLoaded, resident: TheResident
) -> DetokenizeResponse:
    """The text of some tokens."""
    check_model(body.model, loaded)
    size = loaded.engine.lm.vocabulary
    for at, token in enumerate(body.tokens):
        if not 0 <= token < size:
            raise ApiError(
                INVALID, f"there is no token {token}; expected ids from 0 to {size - 1}", param=f"tokens.{at}"
            )
    return DetokenizeResponse(prompt=await resident.aside(partial(loaded.tokens.shown, body.tokens)))


def _encode(body: TokenizeRequest, loaded: Loaded) -> tuple[int, ...]:
    lm = loaded.engine.lm
    if body.messages is not None:
        special = bool(body.add_special_tokens)
        return chat_prompt(lm, body.messages, add_special_tokens=special, answer=body.add_generation_prompt)
    prompt = body.prompt or ""
    if printable(prompt) != prompt:
        raise ApiError(INVALID, "the prompt holds a lone surrogate; send valid UTF-8", param="prompt")
    special = body.add_special_tokens is not False
    return tuple(lm.tokenizer(prompt, add_special_tokens=special)["input_ids"])
