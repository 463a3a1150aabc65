"""From an order to its choices: rows are admitted together, awaited together, and checked before they leave.

A request that asked for steering gets a choice with the proof that it was applied, or an error; never unsteered text.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request as HttpRequest

from service.errors import CLIENT_GONE, INVALID, ApiError, describe, not_applied
from service.operations import visits
from service.orders import Order, Prompt
from service.protection.ledger import Account, account_of
from service.resident import Loaded, Resident
from service.schemas.generation import MAX_SEED, Usage
from steering.engine import Listener
from steering.errors import InvalidRequest
from steering.plan import Plan
from steering.requests import Completion, Request, encode

MAX_REPORTED = 1 << 18
"""Log-probabilities one answer may hold, rivals included: some 10 MB as JSON."""

Result = TypeVar("Result")

log = logging.getLogger("tiller")


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

    @classmethod
    def of(
        cls, index: int, row: Request, completion: Completion, order: Order, *, report: dict[str, Any] | None
    ) -> Choice:
        """The choice of the row with this number in `order`."""
        assert not isinstance(row.prompt, str), "rows are queued as token ids"
        asked = order.prompts[index % order.rows // order.n]
        return cls(index, row.sampling.seed, asked, row.prompt, completion, index >= order.rows, report)


async def answer(order: Order, http: HttpRequest, resident: Resident) -> list[Choice]:
    """Run `order` and return its choices: all steered ones first, then their unsteered twins if asked for.

    When the client leaves, its rows are taken back, those that run between two steps. Raises ApiError or TillerError.
    """
    rows, futures = await resident.aside(partial(admit, order, resident.get(), account_of(http)), rows=order.queued)
    try:
        completions = await unless_disconnected(asyncio.gather(*map(asyncio.wrap_future, futures)), http)
    finally:
        take_back(futures)
    return [
        choice_of(index, row, completion, order)
        for index, (row, completion) in enumerate(zip(rows, completions, strict=True))
    ]


def usage(choices: Sequence[Choice], order: Order) -> Usage:
    """Tokens of a reply; a prompt that was continued several times counts once."""
    read = sum(choice.completion.prompt_tokens for choice in choices[: order.rows : order.n])
    written = sum(len(choice.completion.token_ids) for choice in choices)
    return Usage(prompt_tokens=read, completion_tokens=written, total_tokens=read + written)


def admit(
    order: Order,
    loaded: Loaded,
    account: Account,
    listener: Callable[[int], Listener | None] = lambda row: None,
) -> tuple[list[Request], list[Future[Completion]]]:
    """Check everything, then queue all rows or none, each with its listener, on `account`. In the admission thread."""
    steering = order.steering
    plan = None if steering is None else steering.to_plan(order.probes, lm=loaded.engine.lm, seed=order.sampling.seed)
    for warning in () if plan is None else plan.warnings:
        log.warning(warning)
    prompts = [_encoded(order, index, loaded) for index in range(len(order.prompts))]
    _check_reported(prompts, order)
    read = sum(map(len, prompts))
    account.reserve(read + order.most_written)
    futures: list[Future[Completion]] = []
    try:
        rows = _rows(prompts, plan, order)
        for at, row in enumerate(rows):
            told = listener(at) if order.score_only else account.counted(listener(at))
            futures.append(loaded.engine.submit(row, priority=order.priority, seconds=order.seconds, listener=told))
    except InvalidRequest as error:  # prompts and settings have been checked: what is left is the plan
        take_back(futures)
        raise describe(error, within="steering") from None
    except BaseException:
        take_back(futures)
        raise
    account.charge(read)
    constraints = [] if plan is None else plan.constraints
    visits.admitted(
        futures,
        probes=[constraint.probe.id for constraint in constraints],
        mode="none" if steering is None else steering.mode,
        prompts=order.prompts,
    )
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
    tokens = read * order.copies + order.most_written
    if tokens * (1 + order.logprobs) > MAX_REPORTED:
        raise ApiError(
            INVALID,
            f"up to {tokens} tokens with {order.logprobs} likeliest ones beside each are more than the {MAX_REPORTED} "
            "log-probabilities of one answer; ask for fewer beside each, or split the request",
            param="logprobs",
        )


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
    twins = [replace(row, plan=None, token_scores=False) for row in rows] if order.copies == 2 else []
    return rows + twins


async def unless_disconnected(work: Awaitable[Result], http: HttpRequest) -> Result:
    """What `work` comes to. Raises ApiError, and gives it up, when the client leaves before."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        first: set[asyncio.Future[Any]] = {working, leaving}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(CLIENT_GONE, "the client left before its answer was ready")
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


def choice_of(index: int, row: Request, completion: Completion, order: Order) -> Choice:
    """A row that has ended, as its choice. Raises ApiError 500 when it was to be steered and that is not proved."""
    baseline = index >= order.rows
    if order.steering is not None and order.steering.mode != "off" and not baseline:
        _demand_applied(row.plan, completion)
    if order.score_only:
        completion = _scored(completion)
    quiet = order.steering is None or order.steering.report == "none"
    report = None if quiet or completion.steering is None else {"policy": order.policy, **completion.steering.to_json()}
    return Choice.of(index, row, completion, order, report=report)


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


def take_back(futures: Sequence[Future[Completion]]) -> None:
    """Give up the rows that still run; the others do not notice."""
    for future in futures:
        future.cancel()
