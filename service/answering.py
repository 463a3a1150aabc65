"""From a parsed request to its choices: rows are admitted together, awaited together, and checked before they leave.

A request that asked for steering gets a choice with the proof that it was applied, or an error; never unsteered text.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from fastapi import Request as HttpRequest

from service.errors import CLIENT_GONE, INVALID, ApiError, describe, not_applied
from service.resident import Loaded, Resident
from service.schemas import MAX_SEED, SamplingFields, Usage
from service.settings import Settings
from service.steering_field import SteeringField
from steering.errors import InvalidRequest
from steering.plan import Plan
from steering.requests import Completion, Request, encode
from steering.sampling import Sampling

Prompt = str | tuple[int, ...]

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, eq=False)
class Order:
    """What a route has understood: `n` continuations of each prompt, the i-th with seed + i."""

    prompts: Sequence[Prompt]
    sampling: Sampling
    steering: SteeringField | None
    n: int = 1
    names: Sequence[str] = ("prompt",)
    """What the caller called each prompt, for errors."""


@dataclass(frozen=True, eq=False)
class Choice:
    """One continuation, ready to be shaped by a route."""

    index: int
    seed: int
    completion: Completion
    baseline: bool
    steering: dict[str, Any] | None
    """The report as plain values; None without a plan, or when `report` is 'none'."""


def sampling_of(
    fields: SamplingFields, *, max_tokens: int | None, default: int, settings: Settings, param: str = "max_tokens"
) -> Sampling:
    """The decoding settings of a request, its seed drawn if it gave none. Raises ApiError over the server's limit."""
    if max_tokens is not None and max_tokens > settings.max_new_tokens:
        raise ApiError(
            INVALID,
            f"{param} is {max_tokens}, but this server gives at most {settings.max_new_tokens} new tokens; lower it, "
            "or start the server with a larger --max-new-tokens",
            param=param,
        )
    return Sampling(
        max_tokens=min(default, settings.max_new_tokens) if max_tokens is None else max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        min_p=fields.min_p,
        repetition_penalty=fields.repetition_penalty,
        presence_penalty=fields.presence_penalty or 0.0,
        frequency_penalty=fields.frequency_penalty or 0.0,
        logit_bias=fields.biases,
        seed=secrets.randbelow(2**31) if fields.seed is None else fields.seed,
        stop=fields.stops,
        stop_ids=tuple(fields.stop_token_ids or ()),
    )


async def answer(order: Order, http: HttpRequest, resident: Resident, settings: Settings) -> list[Choice]:
    """Run `order` and return its choices: all steered ones first, then their unsteered twins if asked for.

    When the client leaves, rows that have not started are taken back. Raises ApiError or TillerError.
    """
    if len(order.prompts) * order.n > settings.max_prompts:
        raise ApiError(
            INVALID,
            f"{len(order.prompts)} prompts times n {order.n} is over the {settings.max_prompts} continuations one "
            "request may ask for; split it, or start the server with a larger --max-prompts",
            param="n" if order.n > 1 else "prompt",
        )
    loaded = resident.get()
    loop = asyncio.get_running_loop()
    rows, futures = await loop.run_in_executor(resident.admission, _admit, order, loaded)
    completions = await _unless_disconnected(futures, http)
    return [
        _choice(index, row, completion, order)
        for index, (row, completion) in enumerate(zip(rows, completions, strict=True))
    ]


def prompt_names(prompt: object, count: int) -> list[str]:
    """What the caller called each of `count` prompts: `prompt`, or `prompt.0` and so on in a list of them."""
    alone = isinstance(prompt, str) or (isinstance(prompt, list) and isinstance(prompt[0], int))
    return ["prompt"] if alone else [f"prompt.{index}" for index in range(count)]


def usage(choices: Sequence[Choice], order: Order) -> Usage:
    """Tokens of a reply; a prompt that was continued several times counts once."""
    read = sum(choice.completion.prompt_tokens for choice in choices[: len(order.prompts) * order.n : order.n])
    written = sum(len(choice.completion.token_ids) for choice in choices)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _admit(order: Order, loaded: Loaded) -> tuple[list[Request], list[Future[Completion]]]:
    """Check everything, then queue all rows or none. Runs in the admission thread."""
    steering = order.steering
    plan = None if steering is None else steering.to_plan(loaded.probes, lm=loaded.engine.lm, seed=order.sampling.seed)
    for warning in () if plan is None else plan.warnings:
        log.warning(warning)
    _check_token_ids(order.sampling, loaded)
    prompts = [_encoded(order, index, loaded) for index in range(len(order.prompts))]
    scores = steering is not None and steering.report == "tokens"
    rows = [
        Request(prompt, replace(order.sampling, seed=(order.sampling.seed + i) % (MAX_SEED + 1)), plan, scores)
        for prompt in prompts
        for i in range(order.n)
    ]
    if steering is not None and steering.baseline:
        rows += [replace(row, plan=None, token_scores=False) for row in rows]
    futures: list[Future[Completion]] = []
    try:
        for row in rows:
            futures.append(loaded.engine.submit(row))
    except InvalidRequest as error:  # prompts and settings have been checked: what is left is the plan
        _take_back(futures)
        raise describe(error, within="steering") from None
    except BaseException:
        _take_back(futures)
        raise
    return rows, futures


def _check_token_ids(sampling: Sampling, loaded: Loaded) -> None:
    try:
        sampling.check_vocabulary(loaded.engine.lm.vocabulary)
    except InvalidRequest as error:
        raise ApiError(
            INVALID, str(error), param=error.param if error.param == "logit_bias" else "stop_token_ids"
        ) from None


def _encoded(order: Order, index: int, loaded: Loaded) -> tuple[int, ...]:
    try:
        return tuple(encode(loaded.engine.lm, order.prompts[index], max_tokens=order.sampling.max_tokens))
    except InvalidRequest as error:
        refused = describe(error)
        raise ApiError(refused.kind, refused.message, param=order.names[index]) from None


async def _unless_disconnected(futures: Sequence[Future[Completion]], http: HttpRequest) -> list[Completion]:
    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    answers = asyncio.gather(*(asyncio.wrap_future(future) for future in futures))
    leaving = asyncio.ensure_future(gone())
    try:
        first: set[asyncio.Future[Any]] = {answers, leaving}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not answers.done():
            raise ApiError(CLIENT_GONE, "the client left before its answer was ready")
        return list(answers.result())
    finally:
        leaving.cancel()
        answers.cancel()
        _take_back(futures)


def _choice(index: int, row: Request, completion: Completion, order: Order) -> Choice:
    baseline = order.steering is not None and order.steering.baseline and index >= len(order.prompts) * order.n
    if order.steering is not None and order.steering.mode != "off" and not baseline:
        _demand_applied(row.plan, completion)
    quiet = order.steering is None or order.steering.report == "none"
    report = None if quiet or completion.steering is None else completion.steering.to_json()
    return Choice(index, row.sampling.seed, completion, baseline, report)


def _demand_applied(plan: Plan | None, completion: Completion) -> None:
    """Raise ApiError 500 unless there was a plan and the completion carries the proof that it was carried out."""
    report = completion.steering
    proved = (
        plan is not None
        and report is not None
        and report.applied == (plan.mode == "enforce")
        and report.layers == plan.layers
        and all(
            constraint.probe.id in report.probes
            and (constraint.prompt == "none" or report.probes[constraint.probe.id].tokens > 0)
            for constraint in plan.constraints
        )
    )
    if not proved:
        log.error("a completion came back without the steering it was asked for; its text was withheld")
        raise not_applied()


def _take_back(futures: Sequence[Future[Completion]]) -> None:
    for future in futures:
        future.cancel()
