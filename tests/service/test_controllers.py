"""Every controller over HTTP: named in a request, carried out, and reported without a promise it does not make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from steering import Bounds, Constraint, LanguageModel, Plan, Probe, Request, Sampling, generate
from steering.controllers.base import Settings
from steering.controllers.table import CONTROLLERS

Serve = Callable[..., Any]
ASK = {"prompt": "To the sea", "max_tokens": 6, "temperature": 0}
FIELDS: dict[str, dict[str, Any]] = {
    "additive": {"coefficient": 2, "source": "contrast"},
    "setpoint": {"coefficient": 1.5, "gains": [0.5, 0.1, 0]},
    "reading-vector": {"coefficient": 2.5, "piecewise": True},
}


@pytest.fixture(scope="module")
def probe(lm: LanguageModel, make_fitted: Callable[..., Probe]) -> Probe:
    return make_fitted(lm)


@pytest.fixture(scope="module")
def fitted(lm: LanguageModel, probe: Probe, serve: Serve) -> Iterator[httpx.Client]:
    with serve(lm, [probe]) as client:
        yield client


def answer(client: httpx.Client, **constraint: Any) -> dict[str, Any]:
    reply = client.post("/generate", json=ASK | {"steering": {"constraints": [{"probe": "toxicity", **constraint}]}})
    assert reply.status_code == 200, reply.text
    choice: dict[str, Any] = reply.json()["choices"][0]
    return choice


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_a_controller_answers_as_it_does_in_the_library(
    fitted: httpx.Client, lm: LanguageModel, probe: Probe, name: str
) -> None:
    fields = FIELDS.get(name, {})
    choice = answer(fitted, controller=name, strength=0.8, **fields)
    settings = Settings(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    plan = Plan((Constraint(probe, controller=name, strength=0.8, settings=settings),))  # type: ignore[arg-type]
    (expected,) = generate(lm, [Request(ASK["prompt"], Sampling(max_tokens=6, temperature=0), plan)])
    assert choice["token_ids"] == expected.token_ids
    report = choice["steering"]["probes"]["toxicity@1"]
    assert report["promised"] is False
    assert report["mean_dose"] == pytest.approx(expected.steering.probes["toxicity@1"].mean_dose)
    placebo = answer(fitted, controller="random", shadow=name, strength=0.8, **fields)["steering"]["probes"][
        "toxicity@1"
    ]
    assert placebo["edited"] == report["edited"] > 0


def test_a_whitened_bound_is_promised_like_any_other(fitted: httpx.Client, lm: LanguageModel, probe: Probe) -> None:
    choice = answer(fitted, metric="whitened", upper=0.1)
    report = choice["steering"]["probes"]["toxicity@1"]
    assert (report["promised"], report["violations"]) == (True, 0)
    assert report["max_post"] <= 0.1 < report["max_pre"]
    plan = Plan((Constraint(probe, Bounds(upper=0.1), metric="whitened"),))
    (expected,) = generate(lm, [Request(ASK["prompt"], Sampling(max_tokens=6, temperature=0), plan)])
    assert choice["token_ids"] == expected.token_ids
    assert report["mean_dose"] == pytest.approx(expected.steering.probes["toxicity@1"].mean_dose)
    assert report["mean_dose"] != pytest.approx(
        answer(fitted, upper=0.1)["steering"]["probes"]["toxicity@1"]["mean_dose"], rel=0.01
    )
