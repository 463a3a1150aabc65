"""An imported read-out that nobody calibrated has no probabilities, and nothing can be got wrong about it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from steering import Bounds, Constraint, Plan, Request, Sampling, generate
from steering.controllers.base import Settings
from steering.errors import CorruptProbe, UnsupportedSteering
from steering.manifest import Default, Origin

ORIGIN = Origin(format="gguf", file="x.gguf", sha256="0" * 64, lost=["the bias"], bias=False)


@pytest.fixture
def uncalibrated(probe):
    default = Default(layers=[1, 2], lower=None, upper=0.0, space="logit", metric="euclidean")
    return replace(probe, manifest=probe.manifest.model_copy(update={"origin": ORIGIN, "default": default}))


def test_only_an_imported_probe_can_be_uncalibrated(probe, uncalibrated):
    assert probe.manifest.calibrated
    assert not uncalibrated.manifest.calibrated
    calibrated = ORIGIN.model_copy(update={"calibrated": True})
    assert uncalibrated.manifest.model_copy(update={"origin": calibrated}).calibrated


@pytest.mark.parametrize("bounds", [Bounds(upper=0.1), Bounds(upper=95.0, space="percentile")], ids=lambda b: b.space)
@pytest.mark.parametrize("controller", ["slab", "random"])
def test_bounds_in_probability_or_percentile_are_refused_with_the_way_out(uncalibrated, bounds, controller):
    with pytest.raises(UnsupportedSteering, match=r"never calibrated.*space 'logit'") as refused:
        Constraint(uncalibrated, bounds, controller=controller)
    assert refused.value.param == "space"


def test_capping_is_refused_too(uncalibrated):
    with pytest.raises(UnsupportedSteering, match="never calibrated"):
        Constraint(uncalibrated, Bounds(upper=95.0, space="percentile"), controller="capping")


def test_bounds_in_logits_and_directions_work(uncalibrated):
    assert Constraint(uncalibrated, Bounds(upper=0.0, space="logit")).interval(1) == (-math.inf, 0.0)
    Constraint(uncalibrated, controller="ablate", settings=Settings(source="weight"))
    Constraint(uncalibrated, controller="additive", settings=Settings(source="weight", coefficient=0.1))


def test_a_manifest_with_default_bounds_in_probability_cannot_be_made(uncalibrated):
    wrong = uncalibrated.manifest.default.model_copy(update={"upper": 0.1, "space": "probability"})
    with pytest.raises(CorruptProbe, match="never calibrated"):
        replace(uncalibrated, manifest=uncalibrated.manifest.model_copy(update={"default": wrong}))


def test_reports_tell_no_probabilities_of_it(lm, uncalibrated):
    plan = Plan((Constraint(uncalibrated, Bounds(upper=0.0, space="logit"), prompt="all"),))
    request = Request("a small boat", sampling=Sampling(max_tokens=3), plan=plan, token_scores=True)
    (choice,) = generate(lm, [request])
    read = choice.steering.probes[uncalibrated.id]
    assert read.tokens > 0
    assert all(math.isnan(value) for value in (read.max_pre, read.max_post, read.min_pre, read.min_post))
    assert choice.steering.to_json()["probes"][uncalibrated.id]["max_pre"] is None
    assert {tuple(token["probes"][uncalibrated.id]) for token in choice.steering.tokens} == {(None, None)}
