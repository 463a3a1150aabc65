"""Arms name a controller with its settings, and their placebo shadows exactly that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from eval.arms import Arm, quality_arms, with_placebos
from eval.grid import KNOWN, controller_arms, usable
from steering import Bounds, LanguageModel, Probe
from steering.controllers.base import Settings
from steering.controllers.prompt import INSTRUCTIONS, instructed
from steering.controllers.table import CONTROLLER_NAMES
from steering.errors import InvalidRequest, UnsupportedSteering

NO_PLACEBO = {"none", "prompt", "state-offset"}


@pytest.fixture(scope="module")
def fitted(lm: LanguageModel, make_fitted: Callable[..., Probe]) -> Probe:
    return make_fitted(lm)


def turned(probe: Probe, **bounds: float | None) -> Probe:
    """The same probe with other default bounds."""
    default = probe.manifest.default.model_copy(update=bounds)
    return replace(probe, manifest=probe.manifest.model_copy(update={"default": default}))


def test_every_controller_of_the_house_has_an_arm(fitted: Probe) -> None:
    found = {arm.controller for arm in controller_arms(fitted)}
    assert found == {*CONTROLLER_NAMES, "none", "prompt"} - {"random"} == set(KNOWN)


def test_no_two_arms_share_a_name_or_a_file(fitted: Probe) -> None:
    every = with_placebos(controller_arms(fitted))
    assert len({arm.name for arm in every}) == len({arm.file_name for arm in every}) == len(every)


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        (Arm("slab", Bounds(upper=0.1)), "slab p<=0.1"),
        (Arm("slab", Bounds(upper=0.1), placebo=True), "random p<=0.1"),
        (Arm("capping", Bounds(lower=25, space="percentile")), "capping >=p25"),
        (Arm("additive", settings=Settings(coefficient=2)), "additive mean c=2"),
        (Arm("transport", strength=0.5, placebo=True), "random as transport strength 0.5"),
        (Arm("prompt", instruction="avoid toxicity"), "prompt (avoid toxicity)"),
    ],
)
def test_a_name_says_the_controller_and_what_sets_it_apart(arm: Arm, name: str) -> None:
    assert arm.name == name


def test_arms_of_the_quality_table_are_kept_where_they_were() -> None:
    assert [arm.file_name for arm in quality_arms([0.001])] == ["none.jsonl", "slab-0.001.jsonl", "random-0.001.jsonl"]


def test_the_placebo_shadows_its_rule_with_the_same_settings(fitted: Probe) -> None:
    for arm in controller_arms(fitted):
        assert (arm.sham is None) == (arm.controller in NO_PLACEBO)
        if arm.sham is None:
            continue
        assert arm.sham.sham is None
        own, sham = arm.plan(fitted, seed=5), arm.sham.plan(fitted, seed=5)
        assert own is not None
        assert sham is not None
        (rule,), (placebo,) = own.constraints, sham.constraints
        assert (placebo.controller, placebo.shadow, placebo.seed) == ("random", arm.controller, 5)
        for field in ("bounds", "settings", "strength", "metric", "layers", "prompt", "generation", "max_dose"):
            assert getattr(rule, field) == getattr(placebo, field)


def test_only_the_prompt_arm_changes_the_prompt(lm: LanguageModel, fitted: Probe) -> None:
    for arm in controller_arms(fitted):
        given = arm.prompt("To the sea", lm.tokenizer)
        if arm.controller == "prompt":
            assert given == instructed("To the sea", INSTRUCTIONS["avoid toxicity"], tokenizer=lm.tokenizer)
            assert INSTRUCTIONS["avoid toxicity"] in lm.tokenizer.decode(given).partition("To the sea")[0]
            assert arm.plan(fitted, seed=0) is None
        else:
            assert given == "To the sea"


def test_bounds_go_to_the_side_the_probe_steers_toward(fitted: Probe) -> None:
    down = [arm.bounds for arm in controller_arms(fitted) if arm.bounds]
    up = [arm.bounds for arm in controller_arms(turned(fitted, lower=0.9, upper=None)) if arm.bounds]
    assert [bounds.upper for bounds in down] == [0.1, 0.01, 0.1, 0.01, 75.0]
    assert [bounds.lower for bounds in up] == [0.9, 0.99, 0.9, 0.99, 25.0]
    assert all(bounds.lower is None for bounds in down)
    assert all(bounds.upper is None for bounds in up)


def test_a_band_has_no_side_and_is_refused(fitted: Probe) -> None:
    with pytest.raises(UnsupportedSteering, match="band"):
        controller_arms(turned(fitted, lower=0.1, upper=0.9))


def test_a_probe_with_all_statistics_runs_all_but_what_its_model_lacks(lm: LanguageModel, fitted: Probe) -> None:
    arms = controller_arms(fitted)
    kept, skipped = usable(arms, fitted, lm)
    assert [arm.controller for arm in arms if arm not in kept] == ["state-offset"]
    assert [left.arm for left in skipped] == ["state-offset c=1"]
    assert "'state' statistics" in skipped[0].reason


def test_without_statistics_the_rest_is_skipped_and_each_reason_names_what_is_missing(
    lm: LanguageModel, probe: Probe
) -> None:
    arms = controller_arms(probe)
    kept, skipped = usable(arms, probe, lm)
    assert {arm.controller for arm in kept} == {"none", "prompt", "slab", "capping"}
    assert all(arm.metric == "euclidean" for arm in kept)
    assert [arm.name for arm in arms if arm not in kept] == [left.arm for left in skipped]
    groups = {left.arm.split()[0]: left.reason for left in skipped}
    for controller, group in (("transport", "transport"), ("setpoint", "mean"), ("lqr", "lqr"), ("erase", "erase")):
        assert f"no '{group}' statistics" in groups[controller]


def test_only_keeps_the_named_controllers_and_the_unsteered_text(fitted: Probe) -> None:
    found = {arm.controller for arm in controller_arms(fitted, only=["slab", "prompt"])}
    assert found == {"none", "slab", "prompt"}
    with pytest.raises(InvalidRequest, match="'salb' is no controller"):
        controller_arms(fitted, only=["salb"])
