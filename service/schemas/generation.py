"""What `POST /generate` takes and gives, and the parts it shares with the OpenAI routes."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, model_validator

from service.schemas.steering import Number, Steering
from service.validation import Strict, either, refusal, shown
from steering.engine import Priority
from steering.requests import MAX_LOGPROBS
from steering.sampling import MAX_BIAS, MAX_PENALTY

MAX_STOPS = 16
MAX_STOP_IDS = 256
MAX_SEED = 2**63 - 1

TextPrompt = Annotated[
    str | Annotated[list[str], Field(min_length=1)], either("a string, or a list of strings that is not empty")
]
Stop = Annotated[
    str | Annotated[list[Annotated[str, Field(max_length=256)]], Field(max_length=MAX_STOPS)] | None,
    either(f"a string, or a list of at most {MAX_STOPS} strings of at most 256 characters"),
]
Alternatives = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)]
"""Likeliest tokens to be told beside each token."""
Penalty = Annotated[Number, Field(ge=-MAX_PENALTY, le=MAX_PENALTY)]


def _token_ids(bias: dict[str, float]) -> dict[str, float]:
    for key in bias:
        if not re.fullmatch("0|[1-9][0-9]{0,9}", key):
            raise refusal(
                "token_id", f"logit_bias holds the key {shown(key)}; expected token ids as strings, such as '1734'"
            )
    return bias


class SamplingFields(Strict):
    """How to decode; the same words on every route."""

    temperature: Annotated[Number, Field(ge=0)] = 1.0
    """0 is greedy."""
    top_p: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Nucleus: the smallest set of tokens whose probability reaches this, among those top_k left."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Only the k likeliest tokens; 0 keeps all."""
    min_p: Annotated[Number, Field(ge=0, le=1)] = 0.0
    """Only tokens at least this many times as probable as the likeliest; 0 keeps all."""
    repetition_penalty: Annotated[Number, Field(gt=0)] = 1.0
    """Divides the positive logits, and multiplies the negative ones, of tokens in the prompt or the new text."""
    presence_penalty: Penalty | None = None
    """Subtracted from the logit of every token that stands in the new text; 0 when null."""
    frequency_penalty: Penalty | None = None
    """Subtracted as often as the token stands in the new text; 0 when null."""
    logit_bias: (
        Annotated[dict[str, Annotated[Number, Field(ge=-MAX_BIAS, le=MAX_BIAS)]], AfterValidator(_token_ids)] | None
    ) = None
    """Added to the logits of these token ids: `{"1734": -100}` bans that token in practice."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] | None = None
    """The same request with the same seed gives the same text. Null draws one; every choice says which it had."""
    stop: Stop = None
    """The text ends before the first of these."""
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=MAX_STOP_IDS)] | None = None
    """And before the first of these tokens, which is still among the `token_ids`."""

    @property
    def biases(self) -> dict[int, float]:
        """`logit_bias` by token id."""
        return {int(token): bias for token, bias in (self.logit_bias or {}).items()}

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings as a tuple."""
        return () if self.stop is None else (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


def _no_obfuscation(wanted: bool) -> bool:
    if wanted:
        raise refusal(
            "unsupported", "include_obfuscation is true: this server has it only as false or null; leave it out"
        )
    return wanted


class StreamOptions(Strict):
    """What a stream tells besides its text."""

    include_usage: bool | None = None
    """One more chunk before the end, without choices, whose `usage` counts the tokens of the request."""
    include_obfuscation: Annotated[bool, AfterValidator(_no_obfuscation)] | None = None
    """OpenAI's padding of chunks, which this server does not have."""


class GenerationFields(SamplingFields):
    """What every generation route takes besides its prompt and length."""

    n: Annotated[int, Field(ge=1)] = 1
    """Continuations per prompt; the i-th is drawn with seed + i."""
    steering: Steering = None
    priority: Priority = "live"
    """`background` starts only while nothing `live` waits: for evaluation beside traffic."""
    timeout: Annotated[Number, Field(gt=0)] | None = None
    """Seconds the answer may take, waiting included; after them the reply is 504. Null: the server's limit."""
    stream: bool | None = None
    """Answer by server-sent events while the text is written: one per token of each choice, at last `data: [DONE]`."""
    stream_options: StreamOptions | None = None
    """Needs `stream: true`."""

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> GenerationFields:
        if self.stream_options is not None and not self.stream:
            raise refusal(
                "needs_stream",
                "stream_options were given and a stream was not asked for; set stream: true, or leave them out",
                at="stream_options",
            )
        return self

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with a count of its tokens."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class GenerateRequest(GenerationFields):
    """Continue one prompt or several."""

    prompt: TextPrompt
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """New tokens at most; 64 when null."""
    logprobs: Alternatives | None = None
    """Report how likely each new token was, beside this many likeliest ones; null reports nothing."""

    @property
    def prompts(self) -> list[str]:
        """The prompts one by one."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


class ProbeSummary(BaseModel):
    """What one probe read and did over all its layers and covered tokens; probabilities are calibrated."""

    max_pre: float | None
    max_post: float | None
    min_pre: float | None
    min_post: float | None
    tokens: int
    edited: int
    capped: int
    infeasible: int
    violations: int
    mean_dose: float
    max_dose: float
    promised: bool


class SteeringSummary(BaseModel):
    """What steering did to a choice."""

    policy: str | None = None
    """The policy that was applied, where one was asked for or is the server's default."""
    applied: bool
    probes: dict[str, ProbeSummary]
    layers: list[int]
    warnings: list[str]
    """Said of the probes: that one is marked `causal: false`, since steering it did not beat its placebo."""
    finish: str
    tokens: list[dict[str, Any]] | None = None


class TokenChance(BaseModel):
    """How likely the model, as it was steered, found a token: before temperature, penalties and bias."""

    token_id: int
    token: str
    """What the token stands for by itself; what is no complete UTF-8 is replaced."""
    bytes: list[int]
    """The same exactly."""
    logprob: float
    """Natural logarithm; -9999 where the probability is 0."""


class NewToken(TokenChance):
    """A token of the text, and its rivals."""

    top: list[TokenChance]
    """The likeliest, falling; as many as were asked for."""


class Usage(BaseModel):
    """Tokens read (each prompt once) and written (all choices)."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateChoice(BaseModel):
    """One continuation."""

    index: int
    """Unsteered twins come after all others, in the same order."""
    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    seed: int
    baseline: bool = False
    """True for an unsteered twin."""
    logprobs: list[NewToken] | None = None
    """One for each of `token_ids`, when asked for."""
    steering: SteeringSummary | None = None


class GenerateResponse(BaseModel):
    """The reply of `POST /generate`."""

    id: str
    model: str
    choices: list[GenerateChoice]
    usage: Usage
