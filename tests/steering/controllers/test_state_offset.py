"""The offset of a recurrent state, on every architecture that has one.

Prompts are read as they are; tokens are fixed in advance, so that an edited and an unedited run read the same. States
are looked at where Transformers keeps them, without the functions under test.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from steering.controllers.state_offset import StateEdit, StateOffset, held
from steering.hooks import capture
from steering.recurrent import recurrent_layers
from steering.stepping import Stepper, left_pad

pytestmark = pytest.mark.usefixtures("no_gradients")

SLOW = ["falcon_mamba", "mamba", "mamba2"]  # freshly initialised decay, of some coordinates near 1
LAYERS = (0, 2)  # recurrent in every model of the zoo
PROMPTS = [[7, 30, 2, 99, 254, 11, 30, 64, 5, 200], [9, 1], [5, 200, 17, 3, 11]]
NEW = [17, 3, 88, 88, 120, 6, 41, 9]
ALL, ON = torch.arange(3), torch.ones(3)
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}


def state_at(stepper, layer):
    return stepper.cache.layers[layer].recurrent_states[0]


def all_states(cache, row):
    held_ = [getattr(layer, name, {}) for layer in cache.layers for name in ("conv_states", "recurrent_states")]
    return [state[row].clone() for by_index in held_ for state in by_index.values() if state is not None]


def start(lm, prompts=PROMPTS):
    stepper = Stepper(lm.model)
    stepper.prefill(*left_pad(prompts, pad_token_id=256, device=lm.device))
    return stepper


def random_offset(lm, *, layers=LAYERS, seed=0, coefficient=1.0, size=0.5):
    generator = torch.Generator().manual_seed(seed)
    shapes = recurrent_layers(lm.model, layers)
    return StateOffset(
        {layer: size * torch.randn(shape, generator=generator) for layer, shape in shapes.items()}, coefficient
    )


def repeated(token, rows):
    return torch.full((rows,), token)


def steps(lm, stepper, tokens, edits=()):
    """Logits after each token, (new, batch, vocab)."""
    logits = []
    for token in tokens:
        with held(lm.model, stepper.cache, edits):
            logits.append(stepper.step(repeated(token, state_at(stepper, 0).shape[0])))
    return torch.stack(logits)


# --- one edit -------------------------------------------------------------------------------------------------------


def test_apply_adds_the_offset_to_the_named_rows_and_layers_and_touches_nothing_else(remembering):
    before, after = start(remembering), start(remembering)
    offset = random_offset(remembering, layers=(2,), coefficient=-1.5)
    offset.apply(after.cache, rows=torch.tensor([2, 0]), on=torch.tensor([True, False]))
    moved = state_at(before, 2)[2] - 1.5 * offset.offsets[2].view_as(state_at(before, 2)[2])
    assert torch.equal(state_at(after, 2)[2], moved)
    state_at(after, 2)[2] = state_at(before, 2)[2]
    for row in range(3):
        for left, right in zip(all_states(after.cache, row), all_states(before.cache, row), strict=True):
            assert torch.equal(left, right)


def test_on_may_be_a_factor_per_row(remembering):
    before, after = start(remembering), start(remembering)
    offset = random_offset(remembering)
    offset.apply(after.cache, rows=ALL, on=torch.tensor([0.0, 0.25, 2.0]))
    for layer in LAYERS:
        for row, factor in enumerate((0.0, 0.25, 2.0)):
            expected = state_at(before, layer)[row].flatten(0, -2) + factor * offset.offsets[layer]
            assert torch.equal(state_at(after, layer)[row].flatten(0, -2), expected)


def test_apply_edits_the_tensor_the_model_reads_and_no_copy_of_the_cache(remembering):
    stepper = start(remembering)
    branch, address = copy.deepcopy(stepper.cache), state_at(stepper, 0).data_ptr()
    random_offset(remembering, size=5.0).apply(stepper.cache, rows=ALL, on=ON)
    untouched = start(remembering).cache
    assert state_at(stepper, 0).data_ptr() == address
    for row in range(3):
        for left, right in zip(all_states(branch, row), all_states(untouched, row), strict=True):
            assert torch.equal(left, right)
    assert not torch.allclose(stepper.step(repeated(17, 3)), start(remembering).step(repeated(17, 3)), atol=1e-2)


def test_the_dtype_of_the_state_is_kept_and_the_sum_is_rounded_once(zoo, remembering_type):
    lm = zoo(remembering_type, dtype=torch.bfloat16)
    before, after = start(lm), start(lm)
    offset = random_offset(lm, coefficient=1.7)
    offset.apply(after.cache, rows=ALL, on=ON)
    for layer in LAYERS:
        state = state_at(before, layer)
        expected = state.float() + (1.7 * offset.offsets[layer]).view(state.shape[1:])
        assert state_at(after, layer).dtype == state.dtype
        assert torch.equal(state_at(after, layer), expected.to(state.dtype))
    with held(lm.model, after.cache, [StateEdit(offset, ALL, ON)]):
        assert bool(torch.isfinite(after.step(repeated(17, 3))).all())


# --- held at every step ---------------------------------------------------------------------------------------------


def plain_loop(lm, prompt, tokens, offset):
    """Judge without hooks: at every step the state of layer l is taken from a whole run in which only the layers below
    l have their offset, since what layer l reads depends on those alone. Logits (new, vocab) and the last cache."""
    layers, cache, logits = sorted(offset.offsets), start(lm, [prompt]), []
    for token in tokens:
        arms = []
        for count in range(len(layers) + 1):
            arm = copy.deepcopy(cache)
            for layer in layers[:count]:
                state = state_at(arm, layer)
                state += offset.coefficient * offset.offsets[layer].reshape(state.shape[1:])
            arms.append((arm, arm.step(torch.tensor([token]))))
        cache, last = arms[-1]
        logits.append(last[0])
        for layer, (arm, _) in zip(layers, arms, strict=False):
            state_at(cache, layer).copy_(state_at(arm, layer))
    return torch.stack(logits), cache.cache


def test_held_is_the_plain_loop_that_runs_every_layer_with_and_without_its_offset(remembering):
    offset, stepper = random_offset(remembering, coefficient=0.8), start(remembering, PROMPTS[:1])
    logits = steps(remembering, stepper, NEW, [StateEdit(offset, torch.tensor([0]), torch.ones(1))])
    expected, cache = plain_loop(remembering, PROMPTS[0], NEW, offset)
    torch.testing.assert_close(logits[:, 0], expected, **TOLERANCE)
    torch.testing.assert_close(all_states(stepper.cache, 0), all_states(cache, 0), **TOLERANCE)
    unsteered = steps(remembering, start(remembering, PROMPTS[:1]), NEW)
    assert not torch.allclose(logits, unsteered, atol=1e-1)


def recurrence(mixer, inputs, offset, *, first):
    """One Mamba layer by hand, float64: y_t = C_t (A_t (h_{t-1} + c h') + B_t x_t) + D x_t from token `first` on, and
    h_t itself without the offset. `inputs` (seq, hidden_size) -> (seq, hidden_size), and the last h."""
    weights = {name: value.double() for name, value in mixer.named_parameters()}
    inner, size = weights["A_log"].shape
    x, gate = (inputs.double() @ weights["in_proj.weight"].T).split(inner, dim=-1)
    kernel = weights["conv1d.weight"].squeeze(1)
    padded = torch.cat([torch.zeros(kernel.shape[1] - 1, inner, dtype=torch.float64), x])
    h, decay, outputs = torch.zeros(inner, size, dtype=torch.float64), -weights["A_log"].exp(), []
    for t in range(len(inputs)):
        u = functional.silu((padded[t : t + kernel.shape[1]].T * kernel).sum(dim=1) + weights["conv1d.bias"])
        rank = mixer.time_step_rank
        dt, b, c = (weights["x_proj.weight"] @ u).split([rank, size, size])
        dt = functional.softplus(weights["dt_proj.weight"] @ dt + weights["dt_proj.bias"])[:, None]
        read = (dt * decay).exp() * (h + (offset if t >= first else 0)) + dt * b * u[:, None]
        h = (dt * decay).exp() * h + dt * b * u[:, None]
        outputs.append(weights["out_proj.weight"] @ ((read @ c + weights["D"] * u) * functional.silu(gate[t])))
    return torch.stack(outputs), h


def test_a_held_mamba_layer_is_its_recurrence_written_by_hand(zoo):
    lm, prompt, layer = zoo("mamba"), PROMPTS[0], 2
    mixer, seen = lm.model.backbone.layers[layer].mixer, []
    watch = mixer.register_forward_hook(lambda module, args, output: seen.append((args[0][0], output[0])))
    try:
        offset, stepper = random_offset(lm, layers=(layer,), coefficient=2.0), start(lm, [prompt])
        steps(lm, stepper, NEW, [StateEdit(offset, torch.tensor([0]), torch.ones(1))])
    finally:
        watch.remove()
    assert len(seen) == 1 + len(NEW), "the second run of a mixer is no call of it"
    inputs, outputs = (torch.cat(parts) for parts in zip(*seen, strict=True))
    expected, state = recurrence(mixer, inputs, 2.0 * offset.offsets[layer].double(), first=len(prompt))
    torch.testing.assert_close(outputs.double(), expected, **TOLERANCE)
    torch.testing.assert_close(state_at(stepper, layer)[0].double(), state, **TOLERANCE)


def test_rows_that_are_not_named_or_not_on_are_bit_exact(remembering):
    """But for a mixture of experts (Jamba): its rows share matrix products, so each depends on the rest in rounding."""
    experts = remembering.model.config.model_type == "jamba"

    def same(left, right):
        return torch.allclose(left, right, rtol=1e-5, atol=1e-5) if experts else torch.equal(left, right)

    plain, steered = start(remembering), start(remembering)
    edit = StateEdit(random_offset(remembering), torch.tensor([1, 2]), torch.tensor([True, False]))
    expected, logits = steps(remembering, plain, NEW), steps(remembering, steered, NEW, [edit])
    for row in (0, 2):
        assert same(logits[:, row], expected[:, row])
        assert all(map(same, all_states(steered.cache, row), all_states(plain.cache, row)))
    assert not torch.allclose(logits[0, 1], expected[0, 1], atol=1e-2)


def test_a_zero_offset_and_no_edit_are_bit_exact(remembering):
    zero = random_offset(remembering, size=0.0)
    nothing = replace(random_offset(remembering), coefficient=0.0)
    plain = start(remembering)
    expected = torch.stack([plain.step(repeated(token, 3)) for token in NEW])
    for edits in ([], [StateEdit(zero, ALL, ON)], [StateEdit(nothing, ALL, ON)]):
        stepper = start(remembering)
        assert torch.equal(steps(remembering, stepper, NEW, edits), expected)
        for row in range(3):
            assert all(map(torch.equal, all_states(stepper.cache, row), all_states(plain.cache, row)))


def test_edits_of_different_rows_are_what_they_are_alone_and_of_the_same_row_add_up(remembering):
    one, two = (random_offset(remembering, seed=seed) for seed in (1, 2))
    low, high = random_offset(remembering, seed=3, layers=(0,)), random_offset(remembering, seed=4, layers=(2,))
    rows = [torch.tensor([row]) for row in range(3)]
    on = torch.ones(1)
    edits = [
        StateEdit(low, rows[1], on),
        StateEdit(one, rows[0], on),
        StateEdit(two, rows[0], on),
        StateEdit(high, rows[2], on),
    ]
    together = steps(remembering, start(remembering), NEW, edits)
    both = StateOffset({layer: one.offsets[layer] + two.offsets[layer] for layer in LAYERS})
    for row, offset in enumerate((both, low, high)):
        alone = steps(remembering, start(remembering), NEW, [StateEdit(offset, rows[row], on)])
        torch.testing.assert_close(together[:, row], alone[:, row], **TOLERANCE)


def test_when_the_offset_ends_nothing_of_it_is_left_in_the_layer(remembering):
    """The first edited layer reads what an unedited run gives it, so its state is that of the unedited run, exactly."""
    plain, steered = start(remembering), start(remembering)
    edit = StateEdit(random_offset(remembering, layers=(0,), size=5.0), ALL, ON)
    steps(remembering, plain, NEW)
    steps(remembering, steered, NEW, [edit])
    assert torch.equal(state_at(steered, 0), state_at(plain, 0))
    assert not torch.allclose(state_at(steered, 2), state_at(plain, 2), atol=1e-2), "deeper layers remember"


# --- decay ----------------------------------------------------------------------------------------------------------


def effects(lm, tokens):
    """Of an edit before the first step, an edit before every step, and a held offset, each (steps,): the change of the
    stream after layer 0, and of its recurrent state in units of the offset. Four copies of a prompt, one left alone."""
    offset, stepper = random_offset(lm, layers=(0,), size=0.05), start(lm, PROMPTS[:1] * 4)
    streams, states = [], []
    for step, token in enumerate(tokens):
        offset.apply(stepper.cache, rows=torch.tensor([1, 2]), on=torch.tensor([step == 0, True]))
        edits = [StateEdit(offset, torch.tensor([3]), torch.ones(1))]
        with capture(lm.model, [0]) as resid, held(lm.model, stepper.cache, edits):
            stepper.step(repeated(token, 4))
        streams.append((resid[0][1:] - resid[0][:1]).flatten(1).norm(dim=1))
        state = state_at(stepper, 0).flatten(1)
        states.append((state[1:] - state[:1]).norm(dim=1) / offset.offsets[0].norm())
    return torch.stack(streams, dim=1), torch.stack(states, dim=1)


def test_a_single_edit_decays_while_a_held_one_stays(remembering):
    """The same token always: once the convolution sees nothing else, only the edit changes from step to step."""
    (single, _, stays), (state, _, kept) = effects(remembering, [17] * 192)
    assert single[0] == pytest.approx(float(stays[0]), rel=1e-3)
    assert bool((state.diff() <= 1e-6).all()), "a state forgets at every step"
    assert state[-1] < 0.6 * state[0]
    assert single[-1] < 0.6 * single[8]
    assert bool((single[8:].diff() <= 1e-4).all())
    assert bool(((stays[8:] - stays[8]).abs() < 0.2 * stays[8]).all())
    assert stays[-1] > 0.5 * stays[0]
    assert bool((kept < 1e-5).all())


def test_a_held_offset_outlasts_a_single_one_on_changing_tokens(remembering):
    (single, _, stays), _ = effects(remembering, [(31 * step + 7) % 256 for step in range(192)])
    share = single / stays  # of the same token, so that what the token itself does cancels
    assert share[0] == pytest.approx(1, abs=1e-3)
    assert share[-32:].mean() < 0.7
    assert stays[-32:].mean() > 0.5 * stays[:32].mean()


@pytest.mark.parametrize("model_type", SLOW)
def test_adding_before_every_step_piles_up_which_is_why_steering_holds_instead(zoo, model_type):
    _, (_, each, _) = effects(zoo(model_type), NEW * 8)
    assert each[7] > 4
    assert each[-1] > 15
