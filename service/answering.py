"""From an order to its choices: rows are admitted together, awaited together, and checked before they leave.

A request that asked for steering gets a choice with the proof that it was applied, or an error; never unsteered text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from service.errors import CLIENT_GONE, INVALID, ApiError, describe, not_applied
from service.orders import Order, Prompt
from service.resident import Loaded, Resident
from service.schemas import MAX_SEED, Usage
from steering.errors import InvalidRequest
from steering.plan import Plan
from steering.requests import Completion, Request, encode

MAX_REPORTED = 1 << 18
"""Log-probabilities one answer may hold, rivals included: some 10 MB as JSON."""

Result = TypeVar("Result")

log = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, eq=False)
class Choice:
    """One continuation, ready to be shaped by a route."""

    index: int
    seed: int
    prompt: Prompt
    prompt_ids: tuple[int, ...]
    completion: Completion
    baseline: bool
    steering: dict[str, Any] | None
    """The report as plain values; None without a plan, or when `report` is 'none'."""


async def answer(order: Order, http: HttpRequest, resident: Resident) -> list[Choice]:
    """Run `order` and return its choices: all steered ones first, then their unsteered twins if asked for.

    When the client leaves, its rows are taken back, those that run between two steps. Raises ApiError or TillerError.
    """
    rows, futures = await resident.aside(partial(_admit, order, resident.get()))
    completions = await unless_disconnected(futures, http)
    return [
        _choice(index, row, completion, order)
        for index, (row, completion) in enumerate(zip(rows, completions, strict=True))
    ]


def usage(choices: Sequence[Choice], order: Order) -> Usage:
    """Tokens of a reply; a prompt that was continued several times counts once."""
    read = sum(choice.completion.prompt_tokens for choice in choices[: order.rows : order.n])
    written = sum(len(choice.completion.token_ids) for choice in choices)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def _admit(order: Order, loaded: Loaded) -> tuple[list[Request], list[Future[Completion]]]:
    """Check everything, then queue all rows or none. Runs in the admission thread."""
    steering = order.steering
    plan = None if steering is None else steering.to_plan(order.probes, lm=loaded.engine.lm, seed=order.sampling.seed)
    for warning in () if plan is None else plan.warnings:
        log.warning(warning)
    prompts = [_encoded(order, index, loaded) for index in range(len(order.prompts))]
    _check_reported(prompts, order)
    futures: list[Future[Completion]] = []
    try:
        rows = _rows(prompts, plan, order)
        for row in rows:
            futures.append(loaded.engine.submit(row, priority=order.priority, seconds=order.seconds))
    except InvalidRequest as error:  # prompts and settings have been checked: what is left is the plan
        _take_back(futures)
        raise describe(error, within="steering") from None
    except BaseException:
        _take_back(futures)
        raise
    return rows, futures


def _encoded(order: Order, index: int, loaded: Loaded) -> tuple[int, ...]:
    """A prompt's tokens, known to fit together with the settings of its order."""
    try:
        prompt = tuple(encode(loaded.engine.lm, order.prompts[index], max_tokens=order.sampling.max_tokens))
        loaded.engine.check(Request(prompt, order.sampling))
    except InvalidRequest as error:
        refused = describe(error)
        called = {"logit_bias": "logit_bias", "stop_ids": "stop_token_ids"}
        raise ApiError(refused.kind, refused.message, param=called.get(error.param or "", order.names[index])) from None
    return prompt


def _check_reported(prompts: Sequence[tuple[int, ...]], order: Order) -> None:
    if order.logprobs is None:
        return
    read = sum(map(len, prompts)) * order.n if order.echo else 0
    tokens = (read + order.rows * order.sampling.max_tokens) * _copies(order)
    if tokens * (1 + order.logprobs) > MAX_REPORTED:
        raise ApiError(
            INVALID,
            f"up to {tokens} tokens with {order.logprobs} likeliest ones beside each are more than the {MAX_REPORTED} "
            "log-probabilities of one answer; ask for fewer beside each, or split the request",
            param="logprobs",
        )


def _copies(order: Order) -> int:
    return 2 if order.steering is not None and order.steering.baseline else 1


def _rows(prompts: Sequence[tuple[int, ...]], plan: Plan | None, order: Order) -> list[Request]:
    sampling, wanted = order.sampling, order.logprobs
    rows = [
        Request(
            prompt,
            replace(sampling, seed=(sampling.seed + i) % (MAX_SEED + 1)),
            plan,
            token_scores=order.steering is not None and order.steering.report == "tokens",
            logprobs=wanted,
            echo=order.echo and wanted is not None,
        )
        for prompt in prompts
        for i in range(order.n)
    ]
    twins = [replace(row, plan=None, token_scores=False) for row in rows] if _copies(order) == 2 else []
    return rows + twins


async def unless_disconnected(futures: Sequence[Future[Result]], http: HttpRequest) -> list[Result]:
    """The results of all; when the client leaves first, the futures are cancelled and ApiError 499 is raised."""

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
    baseline = index >= order.rows
    if order.steering is not None and order.steering.mode != "off" and not baseline:
        _demand_applied(row.plan, completion)
    if order.score_only:
        completion = _scored(completion)
    quiet = order.steering is None or order.steering.report == "none"
    report = None if quiet or completion.steering is None else {"policy": order.policy, **completion.steering.to_json()}
    assert not isinstance(row.prompt, str), "rows are queued as token ids"
    asked = order.prompts[index % order.rows // order.n]
    return Choice(index, row.sampling.seed, asked, row.prompt, completion, baseline, report)


def _scored(completion: Completion) -> Completion:
    """What is known of the prompt, without the token that was drawn behind it."""
    report = completion.steering
    return replace(
        completion,
        text="",
        token_ids=[],
        finish_reason="length",
        logprobs=None if completion.logprobs is None else [],
        steering=None if report is None else replace(report, finish="length"),
    )


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


def _take_back(futures: Sequence[Future[Result]]) -> None:
    for future in futures:
        future.cancel()
