"""What a route has understood of a request, in the engine's words, once it is known to respect this server's limits."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from service.errors import INVALID, ApiError
from service.holdings.policies import chosen
from service.resident import Loaded
from service.schemas.generation import GenerationFields
from service.schemas.steering import SteeringField
from service.settings import Settings
from steering.engine import Priority
from steering.sampling import Sampling
from steering.store import ProbeStore

Prompt = str | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Order:
    """`n` continuations of each prompt, the i-th with seed + i."""

    prompts: Sequence[Prompt]
    names: Sequence[str]
    """What the caller called each prompt, for errors."""
    sampling: Sampling
    steering: SteeringField | None
    policy: str | None
    """The policy `steering` comes from, if it does"""
    probes: ProbeStore
    """Those there were when it was understood: what is changed meanwhile does not touch it"""
    n: int
    priority: Priority
    seconds: float
    """Until it is too late."""
    logprobs: int | None = None
    """Likeliest tokens to tell beside each; None for no log-probabilities."""
    echo: bool = False
    """The prompt belongs to the answer, with its log-probabilities."""
    score_only: bool = False
    """The one token the engine cannot do without is no part of the answer."""

    @property
    def rows(self) -> int:
        """Continuations, unsteered twins not counted."""
        return len(self.prompts) * self.n

    @property
    def copies(self) -> int:
        """2 when every continuation has an unsteered twin, else 1."""
        return 2 if self.steering is not None and self.steering.baseline else 1

    @property
    def most_written(self) -> int:
        """Tokens all rows, twins included, may write together."""
        return self.rows * self.copies * self.sampling.max_tokens

    @property
    def queued(self) -> int:
        """Rows it puts into the queue, twins included."""
        return self.rows * self.copies


def order_of(
    body: GenerationFields,
    prompts: Sequence[Prompt],
    *,
    names: Sequence[str],
    loaded: Loaded,
    settings: Settings,
    max_tokens: int | None,
    default: int,
    param: str = "max_tokens",
    logprobs: int | None = None,
    echo: bool = False,
) -> Order:
    """The order of a request; its seed is drawn if it gave none. `max_tokens` was called `param`, `default` if None.

    0 of them only score the prompts. Raises ApiError over one of the server's limits, and what `chosen` raises.
    """
    _check_limits(body, rows=len(prompts) * body.n, max_tokens=max_tokens, param=param, settings=settings)
    steering, policy = chosen(body.steering, loaded.policies, settings)
    new = min(default, settings.max_new_tokens) if max_tokens is None else max_tokens
    return Order(
        prompts=prompts,
        names=names,
        sampling=_sampling(body, max_tokens=max(new, 1)),
        steering=steering,
        policy=policy,
        probes=loaded.probes,
        n=body.n,
        priority=body.priority,
        seconds=settings.deadline_seconds if body.timeout is None else body.timeout,
        logprobs=logprobs,
        echo=echo,
        score_only=new == 0,
    )


def prompt_names(prompt: object, count: int) -> list[str]:
    """What the caller called each of `count` prompts: `prompt`, or `prompt.0` and so on in a list of them."""
    alone = isinstance(prompt, str) or (isinstance(prompt, list) and isinstance(prompt[0], int))
    return ["prompt"] if alone else [f"prompt.{index}" for index in range(count)]


def _check_limits(body: GenerationFields, *, rows: int, max_tokens: int | None, param: str, settings: Settings) -> None:
    if max_tokens is not None and max_tokens > settings.max_new_tokens:
        raise ApiError(
            INVALID,
            f"{param} is {max_tokens}, but this server gives at most {settings.max_new_tokens} new tokens; lower it, "
            "or start the server with a larger --max-new-tokens",
            param=param,
        )
    if body.timeout is not None and body.timeout > settings.deadline_seconds:
        raise ApiError(
            INVALID,
            f"timeout is {body.timeout:g}, but this server gives a request at most {settings.deadline_seconds:g} "
            "seconds; lower it, or start the server with larger --deadline-seconds",
            param="timeout",
        )
    if rows > settings.max_prompts:
        raise ApiError(
            INVALID,
            f"{rows // body.n} prompt(s) times n {body.n} is over the {settings.max_prompts} continuations one "
            "request may ask for; split it, or start the server with a larger --max-prompts",
            param="n" if body.n > 1 else "prompt",
        )


def _sampling(body: GenerationFields, *, max_tokens: int) -> Sampling:
    return Sampling(
        max_tokens=max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.biases,
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        stop=body.stops,
        stop_ids=tuple(body.stop_token_ids or ()),
    )
