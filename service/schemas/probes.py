"""What the routes of probes and policies take and give."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from service.schemas.generation import SteeringSummary
from service.schemas.openai import Message
from service.schemas.steering import Steering, SteeringField
from service.validation import Strict, either, refusal

Text = Annotated[
    str | Annotated[list[int], Field(min_length=1)], either("a string, or a list of token ids that is not empty")
]


class ScoreRequest(Strict):
    """A text to be read by one probe. Nothing is generated."""

    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)] | None = None
    """In place of a prompt: a conversation, up to where the answer begins."""
    completion: Text | None = None
    """What follows the prompt: its first token has offset 0. As a string it is tokenised by itself."""
    steering: Steering = None
    """Under which constraints the text is read: an object, or the name of a policy. Null: none, also where the server
    has a default policy, since nothing is written here."""

    @model_validator(mode="after")
    def _one_of_prompt_and_messages(self) -> ScoreRequest:
        if (self.prompt is None) == (self.messages is None):
            found = "prompt and messages are both given" if self.prompt is not None else "prompt is missing"
            raise refusal("one_of", f"{found}; expected one of them: a text, or a conversation", at="prompt")
        return self


class ScoredToken(BaseModel):
    """One token of the text."""

    offset: int
    """-1 is the last prompt token, 0 the first of the completion."""
    token_id: int
    token: str


Table = list[list[float | None]]


class ScoreResponse(BaseModel):
    """What a probe reads at every token and layer: calibrated probabilities, null where it was never calibrated."""

    probe: str
    layers: list[int]
    tokens: list[ScoredToken]
    pre: Table
    """One list per token, one probability per layer: ahead of that layer's edit, on the stream that carries those of
    earlier layers."""
    post: Table
    """The same of what was stored; equal to `pre` without steering."""
    steering: SteeringSummary | None = None
    """What the constraints did on the way."""


class PolicyRequest(Strict):
    """A policy to be kept under the name in the path."""

    about: Annotated[str, Field(max_length=2000)] = ""
    """For people."""
    steering: SteeringField
    """As in a request. Probes without a version are pinned to the highest there is."""


class PolicyBody(BaseModel):
    """A kept policy."""

    object: Literal["steering.policy"] = "steering.policy"
    name: str
    about: str
    steering: dict[str, Any]
    """What was put, every probe with its version."""
    probes: list[str]
    certificate: dict[str, Any] | None
    """Of `tiller certify`, for this very policy; null when there is none."""
    default: bool
    """Whether requests without `steering` are answered by it."""
    problem: str | None
    """Why it cannot be carried out here; requests that come to it are refused with 409 meanwhile."""
    created: float
    """Seconds since 1970."""
    updated: float


class PolicyList(BaseModel):
    """All policies, by name."""

    object: Literal["list"] = "list"
    data: list[PolicyBody]


class Deleted(BaseModel):
    """What is no longer here."""

    object: Literal["steering.probe.deleted", "steering.policy.deleted"]
    id: str
    deleted: Literal[True] = True


class ReloadBody(BaseModel):
    """What serves now, and what reading it again has changed."""

    object: Literal["steering.reload"] = "steering.reload"
    probes: list[str]
    policies: list[str]
    added: list[str]
    removed: list[str]
