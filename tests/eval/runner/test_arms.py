"""Every default of an arm is made explicit, and what moves the stream has a placebo that shadows it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from eval.grid import KNOWN
from eval.runner.arms import RunArm
from eval.runner.errors import SpecError
from eval.runner.prepare import Prepared
from steering.controllers.prompt import INSTRUCTIONS

Ready = Callable[..., Prepared]


def names(prepared: Prepared) -> list[str]:
    return [arm.name for arm in prepared.arms]


def test_names_are_readable_and_say_what_sets_an_arm_apart(make_ready: Ready) -> None:
    found = make_ready(
        arms=[
            {"controller": "prompt", "instruction": "positive sentiment"},
            {"controller": "slab", "upper": 0.1, "layers": {"from": 0.25}},
            {"controller": "slab", "lower": 0.5, "metric": "whitened", "max_dose": 0.2},
            {"controller": "additive", "coefficient": 2, "layers": "1, 3"},
            {"name": "mine", "controller": "ablate"},
        ]
    )
    assert names(found) == [
        "none",
        "prompt (positive sentiment)",
        "slab p<=0.1 layers 1-3", "random as slab p<=0.1 layers 1-3",
        "slab p>=0.5 whitened dose<=0.2", "random as slab p>=0.5 whitened dose<=0.2",
        "additive mean c=2 layers 1, 3", "random as additive mean c=2 layers 1, 3",
        "mine", "random as mine",
    ]  # fmt: skip


def test_a_placebo_takes_the_steps_of_its_arm_in_random_directions_of_each_rows_own(make_ready: Ready, lm) -> None:
    found = make_ready(arms=[{"controller": "slab", "upper": 0.1}, {"controller": "additive", "coefficient": 2}])
    probe = found.writer._store.get("toxicity")  # type: ignore[attr-defined]
    for arm, sham in ((found.arms[1], found.arms[2]), (found.arms[3], found.arms[4])):
        assert sham.placebo_of == arm.name
        plan, shadow = arm.plan({probe.id: probe}, seed=7), sham.plan({probe.id: probe}, seed=7)
        assert plan is not None
        assert shadow is not None
        (rule,), (random) = plan.constraints, shadow.constraints[0]
        assert (random.controller, random.shadow, random.seed) == ("random", rule.controller, 7)
        for field in ("bounds", "settings", "strength", "metric", "layers", "prompt", "generation", "max_dose"):
            assert getattr(rule, field) == getattr(random, field)


def test_the_placebo_is_left_out_only_on_request_and_that_is_recorded(make_ready: Ready) -> None:
    found = make_ready(arms=[{"controller": "slab", "upper": 0.1, "placebo": False}])
    assert names(found) == ["none", "slab p<=0.1"]
    assert "the placebo of 'slab p<=0.1' was left out on request" in found.left_out[0]
    assert "no arm instructs the model in its prompt" in found.left_out[1]


def test_of_every_grid_only_the_first_arm_gets_a_placebo_when_that_is_asked_for(make_ready: Ready) -> None:
    arms = [{"controller": "slab", "upper": [0.1, 0.2, 0.3]}, {"controller": "additive", "coefficient": [0.5, 1.0]}]
    found = make_ready(arms=arms, placebos="first")
    assert [arm.placebo_of for arm in found.arms if arm.placebo_of] == ["slab p<=0.1", "additive mean c=0.5"]
    said = "the placebo of 'slab p<=0.2', 'slab p<=0.3' and 'additive mean c=1' was left out on request"
    assert any(said in note for note in found.left_out)
    assert not any(arm.placebo_of for arm in make_ready(arms=arms, placebos="none").arms)
    assert sum(arm.placebo_of is not None for arm in make_ready(arms=arms).arms) == 5
    with pytest.raises(SpecError, match="placebos"):
        make_ready(arms=arms, placebos="some")


def test_what_a_spec_leaves_open_is_the_probes_default(make_ready: Ready) -> None:
    (held,) = make_ready(arms=["slab"]).arms[1].constraints
    assert (held.probe, held.lower, held.upper, held.space) == ("toxicity@1", None, 0.1, "probability")
    assert (held.metric, held.layers, held.prompt, held.generation) == ("euclidean", (0, 1, 2, 3), "last", (0, None))


def test_an_instruction_is_one_of_the_house_or_the_users_own(make_ready: Ready) -> None:
    found = make_ready(arms=[{"controller": "prompt", "instruction": ["write Spanish", "Rhyme, please."]}])
    assert [arm.instruction for arm in found.arms[1:]] == [INSTRUCTIONS["write Spanish"], "Rhyme, please."]
    assert found.arms[0] == RunArm("none")
    assert found.left_out == []


def test_every_controller_can_be_an_arm(make_ready: Ready) -> None:
    inside = {"slab": {"upper": 0.2}, "capping": {"upper": 75, "space": "percentile"}}
    steered = [name for name in KNOWN if name not in ("none", "prompt", "state-offset")]
    found = make_ready(arms=[{"controller": name} | inside.get(name, {}) for name in steered])
    assert len(found.arms) == 1 + 2 * len(steered)


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        ({"controller": "slab", "probe": "kindness"}, "there is no probe 'kindness'; loaded are: toxicity@1"),
        ({"controller": "slab", "layers": [9]}, "layers '[9]' names layer 9, and toxicity@1 has layers 0-3"),
        ({"controller": "slab", "layers": "some"}, "expected 'default', 'all' or a range such as '8-29'"),
        ({"controller": "slab", "upper": 1.5}, "arm 'slab p<=1.5': upper is 1.5, but a probability lies in [0, 1]"),
        ({"controller": "slab", "lower": 0.9, "upper": 0.1}, "lower 0.9 is above upper 0.1"),
        ({"controller": "additive", "upper": 0.1}, "arm 'additive': the controller holds no bounds"),
        ({"controller": "ablate", "coefficient": 2}, "controller 'ablate' has no coefficient; leave it out"),
        ({"controller": "state-offset"}, "arm 'state-offset c=1': probe toxicity@1 carries no 'state' statistics"),
    ],
)
def test_an_arm_that_cannot_be_run_is_refused_by_name_before_anything_is_written(
    make_ready: Ready, arm: dict[str, object], message: str
) -> None:
    with pytest.raises(SpecError) as refused:
        make_ready(arms=[arm])
    assert str(refused.value).startswith(f"arm '{arm['controller']}")
    assert message in str(refused.value)


def test_two_arms_of_one_name_are_refused(make_ready: Ready) -> None:
    with pytest.raises(SpecError, match=r"two arms are called 'slab p<=0\.1'"):
        make_ready(arms=[{"controller": "slab", "upper": [0.1, 0.1]}])


def test_several_probes_are_held_together_by_one_arm(
    make_ready: Ready, make_probe, lm, tmp_path, do_run, rows_of
) -> None:
    from steering import save_probe

    save_probe(make_probe(lm, name="sentiment", seed=5), tmp_path / "probes")
    both = [{"probe": "toxicity", "upper": 0.4}, {"probe": "sentiment", "lower": 0.3}]
    do_run(make_ready(arms=[{"constraints": both}]), tmp_path / "out")
    rows = rows_of(tmp_path / "out")
    name = "slab toxicity p<=0.4 and slab sentiment p>=0.3"
    assert {row["arm"] for row in rows} == {"none", name, f"random as {name}"}
