"""Riccati gains against the quadratic programme they solve and scipy's Riccati equation; Jacobians against autograd."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_are

from probes.errors import FitError
from probes.fitting.lqr import fit_lqr, mean_block_jacobians, riccati_gains
from steering import wrap
from steering.errors import InvalidRequest

TEXTS = ["seven sails", "a ridge", "the long quiet tide and the reef"]


def dynamics(seed, *, count=4, width=3):
    return list(np.random.default_rng(seed).standard_normal((count, width, width)))


def best_edits(jacobians, read, *, q, r):
    """u_0, u_1, ... by least squares over all edits at once, given the stream `read` before the first of them."""
    width, count = len(read), len(jacobians) + 1
    effect = np.zeros((count * width, count * width))  # edits -> states, both stacked
    free = np.zeros(count * width)
    for k in range(count):
        rows = slice(k * width, (k + 1) * width)
        free[rows] = reduce(lambda state, jacobian: jacobian @ state, jacobians[:k], read)
        for j in range(k + 1):
            passed = reduce(lambda state, jacobian: jacobian @ state, jacobians[j:k], np.eye(width))
            effect[rows, j * width : (j + 1) * width] = passed
    matrix = np.concatenate([np.sqrt(q) * effect, np.sqrt(r) * np.eye(count * width)])
    wanted = np.concatenate([-np.sqrt(q) * free, np.zeros(count * width)])
    return np.linalg.lstsq(matrix, wanted, rcond=None)[0].reshape(count, width)


@pytest.mark.parametrize(("q", "r"), [(1.0, 1.0), (5.0, 0.5), (0.1, 2.0)])
@pytest.mark.parametrize("seed", [0, 1])
def test_feedback_with_the_gains_makes_the_edits_that_are_best_all_told(seed, q, r):
    jacobians = dynamics(seed)
    state = np.random.default_rng(seed + 100).standard_normal(3)
    judge = best_edits(jacobians, state, q=q, r=r)
    for k, gain in enumerate(riccati_gains(jacobians, q=q, r=r, hidden_size=3)):
        read = state if k == 0 else jacobians[k - 1] @ state
        edit = -gain @ read
        np.testing.assert_allclose(edit, judge[k], atol=1e-9)
        state = read + edit


def test_many_equal_layers_converge_to_the_algebraic_riccati_equation():
    (jacobian,) = dynamics(2, count=1, width=5)
    q, r = 2.0, 0.7
    cost = solve_discrete_are(jacobian, np.eye(5), q * np.eye(5), r * np.eye(5))
    first = riccati_gains([jacobian] * 200, q=q, r=r, hidden_size=5)[0]
    np.testing.assert_allclose(first, np.linalg.solve(r * np.eye(5) + cost, cost), atol=1e-8)


def test_gains_are_symmetric_below_one_and_depend_on_the_ratio_of_the_costs_alone():
    jacobians = dynamics(3)
    gains = riccati_gains(jacobians, q=2.0, r=0.5, hidden_size=3)
    for gain, scaled in zip(gains, riccati_gains(jacobians, q=8.0, r=2.0, hidden_size=3), strict=True):
        np.testing.assert_allclose(gain, gain.T, atol=1e-10)
        assert 0.0 < np.linalg.eigvalsh(gain).min() <= np.linalg.eigvalsh(gain).max() < 1.0
        np.testing.assert_allclose(gain, scaled, atol=1e-10)


def test_by_hand_one_number_over_two_layers():
    first, last = riccati_gains([np.array([[2.0]])], q=1.0, r=1.0, hidden_size=1)
    assert last[0, 0] == pytest.approx(1 / 2)  # P = 1
    assert first[0, 0] == pytest.approx(3 / 4)  # P = 1 + 2 * (1 - 1/2) * 2 = 3


@pytest.mark.parametrize(("q", "r"), [(-1.0, 1.0), (1.0, 0.0), (1.0, float("nan"))])
def test_costs_that_bound_nothing_are_refused(q, r):
    with pytest.raises(FitError, match="the cost of state must not be negative"):
        riccati_gains([], q=q, r=r, hidden_size=2)


def test_jacobians_beyond_all_bounds_are_refused():
    with pytest.raises(FitError, match="grow beyond all bounds"):
        riccati_gains([np.full((2, 2), 1e300)], q=1.0, r=1.0, hidden_size=2)


def class_means(layers, width=3, seed=5):
    random = np.random.default_rng(seed)
    names = ("mean.negative", "mean.positive")
    return {layer: {name: random.standard_normal(width).astype(np.float32) for name in names} for layer in layers}


def test_a_stored_gain_is_the_matrix_times_the_unit_difference_of_means_and_skipped_blocks_are_multiplied():
    a, b, c = dynamics(6, count=3)
    means = class_means([2, 4, 5])
    found = fit_lqr(means, {3: a, 4: b, 5: c}, toward="negative", q=3.0, r=0.5)
    gains = riccati_gains([b @ a, c], q=3.0, r=0.5, hidden_size=3)
    for layer, gain in zip([2, 4, 5], gains, strict=True):
        apart = means[layer]["mean.negative"].astype(float) - means[layer]["mean.positive"]
        assert found[layer].keys() == {"lqr.gain"}
        assert found[layer]["lqr.gain"].dtype == np.float32
        np.testing.assert_allclose(found[layer]["lqr.gain"], gain @ apart / np.linalg.norm(apart), rtol=1e-5)


def test_a_block_without_jacobian_and_equal_means_are_refused():
    with pytest.raises(FitError, match=r"Jacobians of blocks \[4\] are missing"):
        fit_lqr(class_means([3, 5]), {5: np.eye(3)}, toward="positive")
    same = {1: {"mean.negative": np.ones(3, np.float32), "mean.positive": np.ones(3, np.float32)}}
    with pytest.raises(FitError, match="difference of class means at layer 1 is zero"):
        fit_lqr(same, {}, toward="positive")


def whole_pass_jacobian(lm, text, block):
    """The same from one full pass without a cache: the block called again as a function of its last input."""
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    module = lm.model.model.layers[block]
    seen = {}
    handle = module.register_forward_pre_hook(
        lambda m, args, kwargs: seen.update(args=args, kwargs=kwargs), with_kwargs=True
    )
    with torch.no_grad():
        lm.model(input_ids=ids, use_cache=False)
    handle.remove()
    resid, *rest = seen["args"]

    def last(token):
        out = module(torch.cat([resid[:, :-1], token[None, None]], dim=1), *rest, **seen["kwargs"])
        return (out[0] if isinstance(out, tuple) else out)[0, -1]

    return torch.autograd.functional.jacobian(last, resid[0, -1]).double().numpy()


def test_block_jacobians_are_those_of_one_full_pass_averaged_over_texts(lm):
    found = mean_block_jacobians(lm, TEXTS, [0, 2, 3], rows=10)  # 32 rows in batches that do not divide them
    assert sorted(found) == [1, 2, 3]
    for block, jacobian in found.items():
        judge = np.mean([whole_pass_jacobian(lm, text, block) for text in TEXTS], axis=0)
        np.testing.assert_allclose(jacobian, judge, atol=2e-5)
        assert np.abs(judge - np.eye(32)).max() > 0.1


def test_a_small_change_of_the_stream_becomes_what_the_jacobian_says_also_in_state_space_models(mamba_lm):
    ids = torch.tensor([mamba_lm.tokenizer(TEXTS[0])["input_ids"]])
    found = mean_block_jacobians(mamba_lm, TEXTS[:1], [1, 2])
    blocks = mamba_lm.model.backbone.layers
    step = 1e-2 * torch.randn(32, generator=torch.Generator().manual_seed(0))
    outputs = []
    for sign in (1.0, -1.0):

        def nudge(module, args, output, sign=sign):
            return torch.cat([output[:, :-1], output[:, -1:] + sign * step], dim=1)

        def keep(module, args, output):
            outputs.append(output[0, -1].double().numpy())

        handles = [blocks[1].register_forward_hook(nudge), blocks[2].register_forward_hook(keep)]
        with torch.no_grad():
            mamba_lm.model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
    np.testing.assert_allclose((outputs[0] - outputs[1]) / 2, found[2] @ step.double().numpy(), atol=2e-4)


def test_nothing_is_left_on_the_model_or_of_the_gradient_mode(lm):
    before = [len(block._forward_hooks) + len(block._forward_pre_hooks) for block in lm.model.model.layers]
    told, modes = [], []
    handle = lm.model.model.layers[3].register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    mean_block_jacobians(lm, TEXTS[:2], [0, 1], advance=told.append)
    handle.remove()
    assert not any(modes)  # blocks that nothing is asked of build no graph
    assert [len(block._forward_hooks) + len(block._forward_pre_hooks) for block in lm.model.model.layers] == before
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in lm.model.parameters())
    assert told == [1, 1]


def test_what_jacobians_cannot_be_taken_of_is_refused(lm):
    with pytest.raises(FitError, match="no texts"):
        mean_block_jacobians(lm, [], [0, 1])
    with pytest.raises(FitError, match="text 1 has 1 tokens"):
        mean_block_jacobians(lm, ["ab", "a"], [0, 1])
    with pytest.raises(InvalidRequest, match="layer 9 does not exist"):
        mean_block_jacobians(lm, TEXTS, [0, 9])
    coarse = wrap(type(lm.model)(lm.model.config).to(torch.bfloat16), lm.tokenizer, model_id="coarse")
    with pytest.raises(FitError, match=r"torch\.bfloat16, too coarse"):
        mean_block_jacobians(coarse, TEXTS, [0, 1])
