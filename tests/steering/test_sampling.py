"""Each sampler against Transformers' own warpers; the same seed, the same tokens, whatever shares the batch."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from steering import Sampling
from steering.errors import InvalidRequest
from steering.sampling import Sampler

SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"top_k": 1},
    {"top_k": 5},
    {"top_p": 0.5},
    {"top_p": 0.9, "temperature": 1.7},
    {"top_p": 0.7, "top_k": 6, "temperature": 0.8},
]


def logits(vocab=40):
    return 2 * torch.randn(vocab, generator=torch.Generator().manual_seed(3))


def warped(scores, *, temperature=1.0, top_k=0, top_p=1.0):
    """Probabilities as Transformers' warpers leave them. Both cuts act on the same distribution, so order is ours:

    top_p is measured on the distribution before top_k, and the two supports are intersected.
    """
    hot = TemperatureLogitsWarper(temperature)(None, scores[None])
    kept = torch.ones_like(hot, dtype=torch.bool)
    if top_k:
        kept &= TopKLogitsWarper(top_k)(None, hot).isfinite()
    if top_p < 1:
        kept &= TopPLogitsWarper(top_p)(None, hot).isfinite()
    return hot.double().where(kept, -math.inf).softmax(-1)[0]


def draws(scores, count, **settings):
    """`count` tokens of one row: its generator moves on from step to step."""
    sampler = Sampler([Sampling(seed=11, **settings)])
    return torch.cat([sampler(scores[None]) for _ in range(count)])


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_frequencies_follow_the_warped_distribution_and_never_leave_its_support(settings):
    scores, count = logits(), 4000
    expected = warped(scores, **settings)
    found = torch.bincount(draws(scores, count, **settings), minlength=len(scores)).double()
    assert bool((found[expected == 0] == 0).all())
    common = expected * count >= 5
    if int(common.sum()) < 2:
        assert found[common].sum() > 0.9 * count
        return
    observed = [*found[common].tolist(), float(found[~common].sum())]
    theory = [*(expected[common] * count).tolist(), float(expected[~common].sum()) * count]
    if theory[-1] < 1e-9:
        observed, theory = observed[:-1], theory[:-1]
    assert chisquare(observed, theory, sum_check=False).pvalue > 1e-3


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_point_of_the_unit_interval_gives_the_token_of_the_inverse_distribution(settings, monkeypatch):
    """Exact, not statistical: the uniform draw is replaced by a grid."""
    scores = logits()
    expected = warped(scores, **settings)
    edges = expected.cumsum(0)
    for point in torch.linspace(0.001, 0.999, 97, dtype=torch.float64):
        if (edges - point).abs().min() < 1e-6:
            continue  # on an edge float32 and float64 may differ
        monkeypatch.setattr(torch, "rand", lambda *shape, point=point, **settings: point)
        token = Sampler([Sampling(**settings)])(scores[None])
        assert token.item() == int((edges < point).sum())


def test_near_ties_that_change_places_do_not_change_the_draw():
    """Another batch shape moves logits by a few 1e-6; the order of the vocabulary does not move with them."""
    scores = torch.zeros(50)
    shaken = scores + 3e-6 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    assert draws(scores, 100).tolist() == draws(shaken, 100).tolist()


def test_temperature_zero_is_the_likeliest_token_and_the_first_of_equals():
    scores = torch.tensor([[0.0, 3.0, 3.0, -1.0], [5.0, 1.0, 2.0, 5.0]])
    sampler = Sampler([Sampling(temperature=0), Sampling(temperature=0)])
    assert sampler(scores).tolist() == [1, 0]
    assert Sampler([Sampling(temperature=0), Sampling(top_k=1)])(scores).tolist() == [1, 0]


def test_a_nucleus_of_almost_nothing_still_holds_the_likeliest_token():
    assert set(draws(logits(), 50, top_p=1e-12).tolist()) == {int(logits().argmax())}


def test_tokens_of_no_probability_are_never_drawn():
    scores = torch.full((30,), -math.inf)
    scores[[4, 9]] = 0.0
    assert set(draws(scores, 200).tolist()) == {4, 9}


def test_the_same_seed_gives_the_same_tokens_whatever_shares_the_batch():
    scores = logits()
    alone = draws(scores, 30).tolist()
    rows = [Sampling(seed=5), Sampling(temperature=0), Sampling(seed=11), Sampling(seed=6, top_p=0.4)]
    sampler = Sampler(rows)
    together = torch.stack([sampler(torch.stack([-scores, scores, scores, 3 * scores])) for _ in range(30)])
    assert together[:, 2].tolist() == alone
    other = Sampler([Sampling(seed=12)])
    assert torch.cat([other(scores[None]) for _ in range(30)]).tolist() != alone


def test_nan_logits_are_an_error_that_names_the_way_out():
    with pytest.raises(InvalidRequest, match="float32"):
        Sampler([Sampling()])(torch.tensor([[0.0, math.nan]]))


@pytest.mark.parametrize(
    ("param", "value"),
    [
        ("max_tokens", 0),
        ("max_tokens", -1),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("top_p", math.nan),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", ("",)),
        ("stop", ("ok", "")),
    ],
)
def test_a_value_out_of_range_is_refused_and_named(param, value):
    with pytest.raises(InvalidRequest, match=param) as refused:
        Sampling(**{param: value})
    assert refused.value.param == param


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_every_seed_in_range_works(seed):
    assert 0 <= int(Sampler([Sampling(seed=seed)])(logits()[None])) < 40


@pytest.mark.parametrize("temperature", [1e-300, 1e-40, 1e-9])
def test_a_temperature_next_to_nothing_is_as_good_as_greedy(temperature):
    assert set(draws(logits(), 20, temperature=temperature).tolist()) == {int(logits().argmax())}
