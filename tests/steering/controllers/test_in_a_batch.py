"""Controllers inside a batch: what a row gets is what its formula says, and neighbours are not felt.

The judge is a plain Transformers loop of one row without a cache, with hooks of its own that call the formula.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steering import Bounds, Constraint, Engine, Plan, Request, Sampling, capture, generate, steer
from steering.architectures import residual_blocks
from steering.controllers.base import Settings
from steering.controllers.random import random_direction
from steering.controllers.state_offset import StateEdit, StateOffset, held
from steering.controllers.table import BOUNDED, CONTROLLERS, USES
from steering.errors import InvalidBounds, InvalidRequest, UnsupportedSteering
from steering.recurrent import recurrent_layers
from steering.rows import RowSteering
from steering.stepping import Stepper, left_pad

PROMPT, NEW = (7, 30, 2, 99, 254, 11), 6
SAMPLING = Sampling(max_tokens=NEW, temperature=0, ignore_eos=True)
SETTINGS = {
    "additive": Settings(coefficient=2.0, source="contrast"),
    "reading-vector": Settings(coefficient=1.5, piecewise=True),
    "setpoint": Settings(coefficient=1.2, gains=(0.5, 0.2, 0.1)),
    "lqr": Settings(coefficient=1.3),
    "ablate": Settings(source="weight"),
}
RULES = sorted(CONTROLLERS)


def constraint(probe, name, **changes):
    bounds = Bounds(upper=-1.0, space="logit") if name in BOUNDED else None
    return Constraint(probe, bounds, controller=name, settings=SETTINGS.get(name, Settings()), **changes)


def plain_loop(lm, probe, name, *, strength=1.0, max_dose=None):
    """Greedy tokens, steering the last prompt token and all generated ones, every layer, one full pass per token."""
    rule = CONTROLLERS[name].of(probe, sorted(probe.layers), SETTINGS.get(name, Settings()))
    ids = list(PROMPT)
    for _ in range(NEW):
        carry = {}

        def hook(layer, carry):
            def edit(module, args, output):
                delta = strength * rule.delta(output, layer=layer, carry=carry)
                if max_dose is not None:
                    dose = delta.norm(dim=-1, keepdim=True) / output.norm(dim=-1, keepdim=True)
                    delta = delta * (max_dose / dose).clamp_max(1)
                delta[:, : len(PROMPT) - 1] = 0
                return output + delta

            return edit

        blocks = residual_blocks(lm.model)
        handles = [block.register_forward_hook(hook(layer, carry)) for layer, block in enumerate(blocks)]
        with torch.no_grad():
            logits = lm.model(torch.tensor([ids])).logits[0, -1]
        for handle in handles:
            handle.remove()
        ids.append(int(logits.argmax()))
    return ids[len(PROMPT) :]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("changes", [{}, {"strength": 0.4}, {"max_dose": 0.1}], ids=str)
def test_a_row_is_written_as_the_formula_says(lm, make_fitted, name, changes):
    probe = make_fitted(lm)
    plan = Plan((constraint(probe, name, **changes),))
    (done,) = generate(lm, [Request(PROMPT, SAMPLING, plan)])
    assert done.token_ids == plain_loop(lm, probe, name, **changes)
    report = done.steering.probes[probe.id]
    assert report.edited == report.tokens == NEW
    assert report.mean_dose > 0
    assert not report.promised
    assert report.violations == 0
    if "max_dose" in changes:
        assert report.max_dose <= 0.1 * (1 + 1e-4)


def test_rules_move_the_text_at_all(lm, make_fitted):
    probe = make_fitted(lm)
    (plain,) = generate(lm, [Request(PROMPT, SAMPLING)])
    same = {name for name in RULES if plain_loop(lm, probe, name) == plain.token_ids}
    assert same <= {"lqr"}  # whose gain is a half along a direction this text hardly reads


def test_a_row_is_the_same_alone_and_among_every_other_controller(lm, make_fitted):
    probes = [make_fitted(lm), make_fitted(lm, seed=1, name="other")]
    plans = [Plan((constraint(probe, name),)) for name in (*RULES, *sorted(BOUNDED - {"capping"})) for probe in probes]
    plans += [Plan((constraint(probes[0], name, strength=0.5),)) for name in RULES]
    plans += [
        Plan((replace(constraint(probe, name, layers=layers), controller="random", shadow=name),))
        for name in ("slab", "additive", "setpoint")
        for probe, layers in zip(probes, [(0, 1, 2, 3), (2,)], strict=True)
    ]
    plans += [
        Plan(
            tuple(
                constraint(probe, "slab", metric="whitened", layers=at)
                for probe, at in zip(probes, [(0, 1), (1, 3)], strict=True)
            )
        )
    ]
    requests = [Request((*PROMPT, *range(row % 3)), SAMPLING, plan) for row, plan in enumerate([*plans, None])]
    together = generate(lm, requests)
    for request, beside in zip(requests, together, strict=True):
        (alone,) = generate(lm, [request])
        assert alone.token_ids == beside.token_ids
        if request.plan is not None:
            one, other = (done.steering.probes[request.plan.constraints[0].probe.id] for done in (alone, beside))
            assert (one.tokens, one.edited) == (other.tokens, other.edited)
            assert one.mean_dose == pytest.approx(other.mean_dose, rel=1e-4)


@pytest.mark.parametrize("name", [*RULES, "slab"])
def test_the_placebo_steps_as_far_as_the_rule_it_shadows_at_every_layer(lm, make_fitted, name):
    """Without a model, so that the rule's stream and the placebo's differ by their own steps alone."""
    probe = make_fitted(lm)
    shown = constraint(probe, name)
    placebo = Constraint(probe, shown.bounds, controller="random", shadow=name, seed=3, settings=shown.settings)
    steering = RowSteering(
        [Plan((shown,)), Plan((placebo,))], hidden_size=lm.info.hidden_size, device=lm.device, dtype=torch.float32
    )
    steering.begin(torch.arange(40).expand(2, -1))
    torch.manual_seed(0)
    stream = (3 * torch.randn(1, 40, lm.info.hidden_size)).expand(2, -1, -1).clone()
    for layer, rule in sorted(steering.controllers().items()):
        after = rule(stream)
        step = after.double() - stream.double()
        own, sham = step.norm(dim=-1)
        assert own.max() > 0
        torch.testing.assert_close(sham, own, rtol=1e-4, atol=5e-5)
        unit = random_direction(lm.info.hidden_size, seed=3, layer=layer).double()
        torch.testing.assert_close((step[1] @ unit).abs(), sham, rtol=1e-4, atol=5e-5)
        stream = after
    steering.collect()


def test_the_first_prompt_token_is_the_first_of_its_own_row_under_padding(lm, make_fitted):
    probe = make_fitted(lm)
    plan = Plan((constraint(probe, "additive", prompt="first", generation=(0, 0)),))
    prompts = [PROMPT[:3], PROMPT]
    lengths = [len(prompt) for prompt in prompts]
    steering = RowSteering(
        [plan, plan], hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype, prompt_tokens=lengths
    )
    offsets = torch.stack([torch.arange(-len(PROMPT), 0)] * 2)
    offsets[0, :3] = -(2**31)
    steering.begin(offsets)
    stream = torch.randn(2, len(PROMPT), lm.info.hidden_size)
    moved = steering.controllers()[0](stream) != stream
    assert moved.any(dim=-1).tolist() == [[False] * 3 + [True] + [False] * 2, [True] + [False] * 5]
    (alone,) = generate(lm, [Request(prompts[0], SAMPLING, plan)])
    assert generate(lm, [Request(prompt, SAMPLING, plan) for prompt in prompts])[0].token_ids == alone.token_ids
    assert alone.steering.probes[probe.id].tokens == 1


def test_capping_is_the_one_sided_slab_at_a_percentile(lm, make_fitted):
    probe = make_fitted(lm)
    bounds = Bounds(upper=25, space="percentile")
    capped, slab = (Plan((Constraint(probe, bounds, controller=name),)) for name in ("capping", "slab"))
    one, other = generate(lm, [Request(PROMPT, SAMPLING, capped), Request(PROMPT, SAMPLING, slab)])
    assert one.token_ids == other.token_ids
    assert one.steering.probes[probe.id] == other.steering.probes[probe.id]
    assert one.steering.probes[probe.id].promised
    for wrong in (Bounds(upper=0.1), Bounds(lower=5, upper=25, space="percentile")):
        with pytest.raises(InvalidBounds, match="one threshold"):
            Constraint(probe, wrong, controller="capping")


def test_in_a_whitened_metric_the_bound_holds_as_well_by_another_change(lm, make_fitted):
    probes = [make_fitted(lm), make_fitted(lm, seed=1, name="other")]
    bounds = Bounds(upper=-0.5, space="logit")
    for some in (probes[:1], probes):
        plans = [Plan(tuple(Constraint(probe, bounds, metric=m) for probe in some)) for m in ("euclidean", "whitened")]
        streams = []
        for plan in plans:
            steering = RowSteering([plan], hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype)
            steering.begin(torch.tensor([[-2, -1]]))
            with steer(lm.model, steering.controllers()), capture(lm.model, [3]) as seen, torch.no_grad():
                lm.model(torch.tensor([[5, 6]]))
            steering.collect()
            assert all(report.violations == 0 for report in steering.report(0).probes.values())
            assert all(report.promised for report in steering.report(0).probes.values())
            streams.append(seen[3][0, -1])
            for probe in some:
                assert float(probe.at(3).logit(streams[-1])) <= -0.5
        assert not torch.allclose(*streams)


@pytest.mark.parametrize("name", [*RULES, "slab"])
def test_a_setting_the_formula_has_no_use_for_is_refused(lm, make_fitted, name):
    probe = make_fitted(lm)
    changed = {"coefficient": 2.0, "gains": (1.0, 1.0, 0.0), "source": "weight", "piecewise": True}
    bounds = Bounds(upper=0.5) if name == "slab" else None
    for setting, value in changed.items():
        settings = Settings(**{setting: value})
        if setting in USES.get(name, ()):
            Constraint(probe, bounds, controller=name, settings=settings)
            continue
        with pytest.raises(InvalidRequest, match=f"has no {setting}"):
            Constraint(probe, bounds, controller=name, settings=settings)


@pytest.mark.parametrize("name", sorted(set(RULES) - {"ablate"}))
def test_a_probe_without_the_statistics_is_refused_when_the_plan_is_made(probe, name):
    with pytest.raises(UnsupportedSteering, match="carries no"):
        Constraint(probe, controller=name)


def test_only_bounds_meet_at_a_layer(lm, make_fitted):
    one, other = make_fitted(lm), make_fitted(lm, seed=1, name="other")
    with pytest.raises(UnsupportedSteering, match="disjoint layers"):
        Plan((constraint(one, "additive"), constraint(other, "slab")))
    with pytest.raises(UnsupportedSteering, match="different metrics meet"):
        Plan((constraint(one, "slab"), constraint(other, "slab", metric="whitened")))
    apart = Plan((constraint(one, "additive", layers=(0, 1)), constraint(other, "slab", layers=(2, 3))))
    (done,) = generate(lm, [Request(PROMPT, SAMPLING, apart)])
    assert [done.steering.probes[probe.id].promised for probe in (one, other)] == [False, True]


def test_a_state_offset_acts_on_its_own_row_at_every_generated_token(mamba_lm, make_probe):
    shapes = recurrent_layers(mamba_lm.model)
    generator = torch.Generator().manual_seed(0)
    bare = make_probe(mamba_lm)
    offsets = {layer: 3 * torch.randn(shape, generator=generator) for layer, shape in shapes.items()}
    probe = replace(
        bare,
        layers={at: replace(read, fitted={"state.offset": offsets[at]}) for at, read in bare.layers.items()},
    )
    plan = Plan((Constraint(probe, controller="state-offset", layers=(1, 2), prompt="none"),))
    requests = [Request(PROMPT, SAMPLING, plan), Request(PROMPT[:4], SAMPLING), Request(PROMPT[1:], SAMPLING, plan)]
    together = generate(mamba_lm, requests)

    stepper = Stepper(mamba_lm.model)
    edit = StateEdit(StateOffset({layer: offsets[layer] for layer in (1, 2)}), torch.tensor([0]), torch.tensor([1.0]))
    with torch.inference_mode():
        logits = stepper.prefill(*left_pad([PROMPT], pad_token_id=0, device=mamba_lm.device))
        expected = [int(logits.argmax())]
        for _ in range(NEW - 1):
            with held(mamba_lm.model, stepper.cache, [edit]):
                logits = stepper.step(torch.tensor(expected[-1:]))
            expected.append(int(logits.argmax()))
    assert together[0].token_ids == expected
    plain = [generate(mamba_lm, [replace(request, plan=None)])[0].token_ids for request in requests]
    assert together[1].token_ids == plain[1]
    assert together[0].token_ids != plain[0]
    report = together[0].steering.probes[probe.id]
    assert (report.tokens, report.edited, report.mean_dose) == (NEW - 1, NEW - 1, 0.0)
    assert not report.promised


def test_a_state_offset_that_does_nothing_reports_nothing(mamba_lm, make_probe):
    bare = make_probe(mamba_lm)
    shapes = recurrent_layers(mamba_lm.model)
    layers = {at: replace(read, fitted={"state.offset": torch.ones(shapes[at])}) for at, read in bare.layers.items()}
    probe = replace(bare, layers=layers)
    still = Constraint(probe, controller="state-offset", prompt="none", settings=Settings(coefficient=0.0))
    moving = Constraint(probe, controller="state-offset", prompt="none")
    for plan in (Plan((still,)), Plan((moving,), mode="monitor")):
        (done,) = generate(mamba_lm, [Request(PROMPT, SAMPLING, plan)])
        report = done.steering.probes[probe.id]
        assert (report.tokens, report.edited) == (NEW - 1, 0)


@pytest.mark.parametrize("changed", [{"coefficient": 1e7}, {"gains": (0.0, -1e7, 0.0)}, {"coefficient": float("nan")}])
def test_a_coefficient_no_stream_could_bear_is_refused(lm, make_fitted, changed):
    with pytest.raises(InvalidRequest, match=f"{next(iter(changed))} is .*; expected at most 1e"):
        Constraint(make_fitted(lm), controller="setpoint", settings=Settings(**changed))


def test_an_axis_can_be_ablated_whatever_the_side_of_the_bounds(lm, make_fitted):
    probe = make_fitted(lm)
    band = replace(
        probe,
        manifest=probe.manifest.model_copy(
            update={"default": probe.manifest.default.model_copy(update={"lower": 0.05})}
        ),
    )
    for source in ("mean", "weight", "contrast"):
        Constraint(band, controller="ablate", settings=Settings(source=source))
    with pytest.raises(UnsupportedSteering, match="band"):
        Constraint(band, controller="additive")


def test_a_state_offset_on_a_model_without_states_is_refused_before_anything_is_written(lm, make_probe):
    bare = make_probe(lm)
    layers = {at: replace(read, fitted={"state.offset": torch.ones(4, 4)}) for at, read in bare.layers.items()}
    plan = Plan((Constraint(replace(bare, layers=layers), controller="state-offset", prompt="none"),))
    with pytest.raises(UnsupportedSteering, match="no recurrent state at any layer"):
        generate(lm, [Request(PROMPT, SAMPLING, plan)])
    with Engine(lm) as engine, pytest.raises(UnsupportedSteering, match="no recurrent state at any layer"):
        engine.submit(Request(PROMPT, SAMPLING, plan))


def test_a_state_offset_has_no_prompt_and_no_dose(make_probe, mamba_lm):
    probe = make_probe(mamba_lm)
    for wrong in ({"prompt": "last"}, {"prompt": "none", "max_dose": 0.1}):
        with pytest.raises(InvalidRequest, match="acts between generated tokens"):
            Constraint(probe, controller="state-offset", **wrong)


def test_rows_of_either_metric_do_not_feel_one_another(lm, make_fitted):
    probes = [make_fitted(lm), make_fitted(lm, seed=1, name="other")]
    bounds = Bounds(upper=-6.0, space="logit")
    plans = [Plan(tuple(Constraint(probe, bounds, metric=m) for probe in probes)) for m in ("euclidean", "whitened")]

    def stored(chosen):
        steering = RowSteering(chosen, hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype)
        steering.begin(torch.zeros(len(chosen), 1, dtype=torch.long))
        return steering.controllers()[2](resid[: len(chosen)])

    resid = torch.randn(1, 1, lm.info.hidden_size, generator=torch.Generator().manual_seed(0)).expand(3, -1, -1)
    resid = 3 * resid.contiguous()
    one, other, again = stored([plans[0], plans[1], plans[0]])
    assert torch.equal(one, stored(plans[:1])[0])
    assert torch.equal(other, stored(plans[1:])[0])
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=1e-3)
