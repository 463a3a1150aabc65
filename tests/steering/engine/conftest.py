"""Engines driven by hand, plans of every kind, and the judge: what a request gets alone in the plain loop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from steering import Bounds, Completion, Constraint, Engine, LanguageModel, Plan, Request, Sampling, generate
from steering.controllers.base import Settings
from steering.recurrent import recurrent_layers

WAIT = 30
"""Seconds after which a test fails instead of hanging."""
FLOAT32 = 1e-4
"""By how much log-probabilities and means may differ for the order in which products are summed."""


class ByHand(Engine):
    """An engine whose turns are taken by the test, in its own thread, until it is released or closed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._released = threading.Event()
        super().__init__(*args, **options)

    def _run(self) -> None:
        self._released.wait()
        super()._run()

    def turn(self, times: int = 1) -> None:
        """Take so many turns."""
        for _ in range(times):
            assert self.running or self.waiting, "a turn without work waits for some"
            assert self._turn()

    def finish(self, *, most: int = 5000) -> None:
        """Take turns until nothing runs or waits."""
        for _ in range(most):
            if not self.running and not self.waiting:
                return
            self.turn()
        raise AssertionError(f"still busy after {most} turns")

    def release(self) -> None:
        """Let the engine's own thread go on."""
        self._released.set()

    def close(self) -> None:
        self.release()
        super().close()


@pytest.fixture
def by_hand() -> Iterator[Callable[..., ByHand]]:
    """`by_hand(lm, slots=4)`: an engine whose `turn` the test calls; closed at the end."""
    made: list[ByHand] = []

    def make(lm: LanguageModel, **options: Any) -> ByHand:
        made.append(ByHand(lm, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.stop()
        engine.close()


def same(request: Request, ours: Completion, alone: Completion, *, tolerance: float = FLOAT32) -> None:
    """Assert that two completions of one request are the same, numbers up to a tolerance."""
    assert (ours.token_ids, ours.text) == (alone.token_ids, alone.text)
    assert (ours.finish_reason, ours.prompt_tokens) == (alone.finish_reason, alone.prompt_tokens)
    for mine, theirs in ((ours.logprobs, alone.logprobs), (ours.prompt_logprobs, alone.prompt_logprobs)):
        assert (mine is None) == (theirs is None)
        for one, other in zip(mine or (), theirs or (), strict=True):
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                assert one.token_id == other.token_id
                assert one.logprob == pytest.approx(other.logprob, abs=tolerance)
                assert [much for _, much in one.top] == pytest.approx([much for _, much in other.top], abs=tolerance)
    assert (ours.steering is None) == (alone.steering is None) == (request.plan is None)
    if ours.steering is not None and alone.steering is not None:
        same_report(ours.steering, alone.steering)


def same_report(ours: Any, alone: Any) -> None:
    """Assert that two reports count the same, and measure nearly the same."""
    for name in ("applied", "layers", "warnings", "finish"):
        assert getattr(ours, name) == getattr(alone, name)
    assert list(ours.probes) == list(alone.probes)
    for probe, theirs in alone.probes.items():
        for field in fields(theirs):
            mine, other = getattr(ours.probes[probe], field.name), getattr(theirs, field.name)
            if isinstance(other, float):
                assert mine == pytest.approx(other, abs=FLOAT32, nan_ok=True), (probe, field.name)
            else:
                assert mine == other, (probe, field.name)
    assert (ours.tokens is None) == (alone.tokens is None)
    for mine, other in zip(ours.tokens or (), alone.tokens or (), strict=True):
        assert mine["offset"] == other["offset"]
        assert list(mine["probes"]) == list(other["probes"])
        for pair, theirs in zip(mine["probes"].values(), other["probes"].values(), strict=True):
            assert pair == pytest.approx(theirs, abs=FLOAT32)


@pytest.fixture(scope="session")
def as_alone() -> Callable[..., None]:
    """`as_alone(lm, requests, answers)`: every answer is the one `generate` gives to its request alone."""
    known: dict[Request, Completion] = {}

    def check(lm: LanguageModel, requests: Sequence[Request], answers: Sequence[Completion]) -> None:
        for request, ours in zip(requests, answers, strict=True):
            if request not in known:
                (known[request],) = generate(lm, [request])
            same(request, ours, known[request])

    return check


@pytest.fixture(scope="session")
def many_plans(make_fitted: Callable[..., Any]) -> Callable[[LanguageModel], Mapping[str, Plan | None]]:
    """`many_plans(lm)`: 32 plans by name, of every kind of rule and token policy; one is None."""

    def make(lm: LanguageModel) -> Mapping[str, Plan | None]:
        one, two, three, four, five = (make_fitted(lm, seed=seed, name=f"concept{seed}") for seed in range(5))
        low, high = Constraint(one, Bounds(upper=0.3)), Constraint(two, Bounds(lower=0.6))
        sham = replace(low, controller="random")
        pushed = Constraint(one, controller="additive", settings=Settings(coefficient=0.3))
        plans: dict[str, Plan | None] = {
            "none": None,
            "slab": Plan((low,)),
            "tight slab": Plan((replace(low, bounds=Bounds(upper=0.02)),)),
            "lower slab": Plan((high,)),
            "two-sided slab": Plan((replace(low, bounds=Bounds(lower=0.35, upper=0.4)),)),
            "one layer": Plan((replace(low, layers=(2,)),)),
            "whitened": Plan((replace(low, metric="whitened"),)),
            "capping": Plan((Constraint(one, Bounds(upper=30, space="percentile"), controller="capping"),)),
            "joint": Plan((low, high)),
            "joint whitened": Plan((replace(low, metric="whitened"), replace(high, metric="whitened"))),
            "joint of five": Plan((*map(_loose, (one, two, three, four, five)),)),
            "five apart": Plan((
                *(_loose(probe, layers=(layer,)) for layer, probe in enumerate((one, two, three))),
                replace(_loose(four), layers=(3,), prompt="all"),
                replace(_loose(five), layers=(3,), prompt="all"),
            )),
            "contradiction": Plan((low, replace(high, probe=_twin(one), layers=(1,))), on_infeasible="least_squares"),
            "disjoint": Plan((replace(low, layers=(0, 1)), replace(high, layers=(2, 3)))),
            "disjoint windows": Plan((replace(low, layers=(1,)), replace(high, layers=(2,), generation=(2, 5)))),
            "monitor": Plan((low,), mode="monitor"),
            "monitor joint": Plan((low, high), mode="monitor"),
            "placebo": Plan((sham,)),
            "placebo joint": Plan((sham, replace(high, controller="random", seed=4))),
            "placebo of a push": Plan((replace(pushed, controller="random", shadow="additive"),)),
            "additive": Plan((pushed,)),
            "ablate": Plan((Constraint(one, controller="ablate"),)),
            "setpoint": Plan((Constraint(one, controller="setpoint", settings=Settings(gains=(0.5, 0.2, 0.1))),)),
            "affine": Plan((Constraint(one, controller="affine"),)),
            "rule beside slab": Plan((replace(pushed, layers=(0, 1)), replace(high, layers=(2, 3)))),
            "half strength": Plan((replace(low, strength=0.5),)),
            "small dose": Plan((replace(low, max_dose=0.05),)),
            "whole prompt": Plan((replace(low, prompt="all"),)),
            "first prompt token": Plan((replace(low, prompt="first", generation=(0, 0)),)),
            "generated only": Plan((replace(low, prompt="none"),)),
            "window": Plan((replace(low, generation=(2, 5)),)),
            "joint over the prompt": Plan((replace(low, prompt="all"), replace(high, prompt="first"))),
        }  # fmt: skip
        assert len(plans) == 32
        return plans

    return make


def _loose(probe: Any, *, layers: tuple[int, ...] | None = None) -> Constraint:
    return Constraint(probe, Bounds(upper=0.5), layers=layers)


def _twin(probe: Any) -> Any:
    """The same read-outs under another name, so that their bounds can contradict one another."""
    return replace(probe, manifest=probe.manifest.model_copy(update={"name": "twin"}))


@pytest.fixture(scope="session")
def offset_plan(make_probe: Callable[..., Any]) -> Callable[..., Plan]:
    """`offset_plan(lm)`: an offset of the recurrent states of layers 0 and 2, beside a slab at 1 and 3."""

    def make(lm: LanguageModel) -> Plan:
        shapes, generator = recurrent_layers(lm.model, [0, 2]), torch.Generator().manual_seed(0)
        bare = make_probe(lm)
        layers = {
            layer: replace(read, fitted={"state.offset": torch.randn(shapes[layer], generator=generator)})
            if layer in shapes
            else read
            for layer, read in bare.layers.items()
        }
        offset = Constraint(replace(bare, layers=layers), controller="state-offset", layers=(0, 2), prompt="none")
        return Plan((offset, Constraint(make_probe(lm, name="beside"), Bounds(upper=0.2), layers=(1, 3))))

    return make


@pytest.fixture(scope="session")
def running() -> Callable[..., Any]:
    """`with running(engine): ...` fails rather than hangs; answers(...) of futures within the time."""

    @contextmanager
    def make(lm: LanguageModel, **options: Any) -> Iterator[Callable[[Sequence[Request]], list[Completion]]]:
        with Engine(lm, **options) as engine:

            def answers(requests: Sequence[Request]) -> list[Completion]:
                return [future.result(WAIT) for future in [engine.submit(request) for request in requests]]

            yield answers

    return make


@pytest.fixture(scope="session")
def rows() -> Callable[..., list[Request]]:
    """`rows(plans)`: one request per plan, with prompts from 6 to 40 tokens and from 4 to 11 new ones; greedy."""

    def make(plans: Sequence[Plan | None], **changes: Any) -> list[Request]:
        return [
            Request(
                f"row {at} {'mixed ' * (at * 5 % 6)}",
                Sampling(**{"max_tokens": 4 + at * 5 % 8, "temperature": 0, "ignore_eos": True, "seed": at} | changes),
                plan,
                token_scores=plan is not None and at % 4 == 0,
                logprobs=2 if at % 3 == 0 else None,
                echo=at % 6 == 0,
            )
            for at, plan in enumerate(plans)
        ]  # fmt: skip

    return make
