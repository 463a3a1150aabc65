"""What a state offset refuses, and that a refusal leaves cache and model as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steering import Probe
from steering.controllers.base import Settings
from steering.controllers.state_offset import StateEdit, StateOffset, held
from steering.errors import InvalidRequest, SteeringNotApplied, UnsupportedSteering
from steering.recurrent import recurrent_layers
from steering.stepping import Stepper, left_pad

pytestmark = pytest.mark.usefixtures("no_gradients")

HYBRIDS = ["bamba", "jamba"]  # their layers 1 and 3 are pure attention
PROMPTS = [[7, 30, 2, 99, 254, 11, 30, 64, 5, 200], [9, 1], [5, 200, 17, 3, 11]]
ALL, ON = torch.arange(3), torch.ones(3)


def rising(lm, layers=(0, 2)):
    return StateOffset(
        {layer: torch.full(shape, 1.0 + layer) for layer, shape in recurrent_layers(lm.model, layers).items()}
    )


def start(lm):
    stepper = Stepper(lm.model)
    stepper.prefill(*left_pad(PROMPTS, pad_token_id=256, device=lm.device))
    return stepper


def state_at(stepper, layer):
    return stepper.cache.layers[layer].recurrent_states[0]


def all_states(cache, row):
    held_ = [getattr(layer, name, {}) for layer in cache.layers for name in ("conv_states", "recurrent_states")]
    return [state[row].clone() for by_index in held_ for state in by_index.values() if state is not None]


def test_of_reads_the_group_of_the_chosen_layers_and_names_what_is_missing(zoo, make_probe):
    lm = zoo("mamba2")
    plain = make_probe(lm)
    fitted = rising(lm, (0, 1, 2)).offsets
    layers = {
        layer: replace(probe, fitted={"state.offset": fitted[layer]} if layer in fitted else {})
        for layer, probe in plain.layers.items()
    }
    probe = Probe(manifest=plain.manifest, layers=layers)
    offset = StateOffset.of(probe, (0, 2), Settings(coefficient=-0.5))
    assert offset.coefficient == -0.5
    assert offset.offsets.keys() == {0, 2}
    assert all(torch.equal(offset.offsets[layer], fitted[layer]) for layer in (0, 2))
    offset.check(lm.model)
    with pytest.raises(UnsupportedSteering, match="no 'state' statistics at layer 3"):
        StateOffset.of(probe, (0, 3), Settings())


def test_a_model_without_recurrent_state_is_refused_before_and_in_a_step(lm):
    offset = StateOffset({1: torch.ones(64, 8)})
    with pytest.raises(UnsupportedSteering, match=r"'llama' has no recurrent state at any layer.*state-space model"):
        offset.check(lm.model)
    cache = start(lm).cache
    with pytest.raises(UnsupportedSteering, match=r"layer 1 keeps no recurrent state, the cache has DynamicLayer"):
        offset.apply(cache, rows=ALL, on=ON)


@pytest.mark.parametrize("model_type", HYBRIDS)
def test_an_attention_layer_of_a_hybrid_is_refused_and_the_layers_with_a_state_are_named(zoo, model_type):
    lm, offset = zoo(model_type), StateOffset({1: torch.ones(64, 8)})
    with pytest.raises(UnsupportedSteering, match=r"layer 1 of .* has no recurrent state; layers with one: \[0, 2\]"):
        offset.check(lm.model)
    stepper = start(lm)
    with (
        pytest.raises(UnsupportedSteering, match="layer 1 keeps no recurrent state"),
        held(lm.model, stepper.cache, [StateEdit(offset, ALL, ON)]),
    ):
        pytest.fail("the step must not begin")


def test_a_wrong_shape_is_refused_and_leaves_every_layer_as_it_was(remembering):
    shape = recurrent_layers(remembering.model)[0]
    good = rising(remembering).offsets
    wrong = StateOffset({0: good[0], 2: good[2][:, :-1]})
    message = rf"layer 2 has shape \({shape[0]}, {shape[1] - 1}\).*{shape[0]}, {shape[1]}\).*fit it again"
    with pytest.raises(UnsupportedSteering, match=message):
        wrong.check(remembering.model)
    stepper, plain = start(remembering), start(remembering)
    with pytest.raises(UnsupportedSteering, match=message):
        wrong.apply(stepper.cache, rows=ALL, on=ON)
    edits = [StateEdit(rising(remembering), ALL, ON), StateEdit(wrong, ALL, ON)]
    with pytest.raises(UnsupportedSteering, match=message), held(remembering.model, stepper.cache, edits):
        pytest.fail("the step must not begin")
    for row in range(3):
        assert all(map(torch.equal, all_states(stepper.cache, row), all_states(plain.cache, row)))


def test_a_layer_that_is_not_there_and_an_unread_prompt_are_refused(remembering):
    stepper = start(remembering)
    for layer in (-1, -2, 4):
        offset = StateOffset({layer: torch.ones(64, 8)})
        with pytest.raises(UnsupportedSteering, match=f"layer {layer} keeps no recurrent state"):
            offset.apply(stepper.cache, rows=ALL, on=ON)
        with pytest.raises(InvalidRequest, match=f"layer {layer} does not exist"):
            offset.check(remembering.model)
    with pytest.raises(InvalidRequest, match="read the prompt first"):
        rising(remembering).apply(Stepper(remembering.model).cache, rows=ALL, on=ON)


def test_a_step_that_was_not_taken_is_an_error_and_the_state_is_put_back(remembering):
    stepper, plain, edit = start(remembering), start(remembering), StateEdit(rising(remembering), ALL, ON)
    with pytest.raises(SteeringNotApplied, match=r"layers \[0, 2\]"), held(remembering.model, stepper.cache, [edit]):
        pass
    with pytest.raises(ZeroDivisionError), held(remembering.model, stepper.cache, [edit]):
        1 / 0  # noqa: B018
    hooks = [hook for module in remembering.model.modules() for hook in module._forward_hooks.values()]
    assert [hook for hook in hooks if hook.__module__.startswith("steering")] == []
    assert torch.equal(stepper.step(ALL), plain.step(ALL))


def test_the_shape_told_of_the_model_is_that_of_its_cache(zoo, remembering_type):
    stepper, shapes = start(zoo(remembering_type)), recurrent_layers(zoo(remembering_type).model)
    with_state = [at for at, layer in enumerate(stepper.cache.layers) if getattr(layer, "recurrent_states", None)]
    assert list(shapes) == with_state
    for layer, shape in shapes.items():
        assert tuple(state_at(stepper, layer)[0].flatten(0, -2).shape) == shape
