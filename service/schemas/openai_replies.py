"""What the OpenAI routes give, for the document of the API: OpenAI's fields and seed, baseline, steering.

Streams send the same in parts; a chunk of a chat has `delta` in place of `message`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

from service.schemas.generation import SteeringSummary, Usage


class CompletionLogprobs(BaseModel):
    """Four lists of one length: the tokens of an echoed prompt, of whose first nothing is known, and the new ones."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class OpenAIChoice(BaseModel):
    """What the choices of both routes share."""

    index: int
    finish_reason: Literal["stop", "length"]
    seed: int
    baseline: bool
    """True for an unsteered twin"""
    steering: SteeringSummary | None


class CompletionChoice(OpenAIChoice):
    """One continuation."""

    text: str
    logprobs: CompletionLogprobs | None


class CompletionReply(BaseModel):
    """The reply of `POST /v1/completions`."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class ChatChance(BaseModel):
    """A token and how likely it was; -9999 where the probability is 0."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(ChatChance):
    """A token of the text, and its rivals."""

    top_logprobs: list[ChatChance]


class ChatLogprobs(BaseModel):
    """One entry per new token."""

    content: list[ChatToken]
    refusal: None


class ChatMessage(BaseModel):
    """What was answered."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(OpenAIChoice):
    """One answer."""

    message: ChatMessage
    logprobs: ChatLogprobs | None


class ChatReply(BaseModel):
    """The reply of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "tiller"


class ModelList(BaseModel):
    """The one model of a server, as a list."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
