"""From what people say (probability, logit, percentile) to logits of one layer, and which bounds are no bounds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from steering import Bounds, Constraint, Plan
from steering.bounds import logit_to_probability, probability_to_logit
from steering.errors import InvalidBounds, UnsupportedSteering

inner = st.floats(1e-9, 1 - 1e-9)
slopes, shifts = st.floats(0.05, 20), st.floats(-10, 10)


@given(inner, slopes, shifts)
def test_the_calibrated_read_out_at_the_bound_is_the_probability(p, scale, shift):
    logit = probability_to_logit(p, calibration=(scale, shift))
    assert expit(scale * logit + shift) == pytest.approx(p, rel=1e-9, abs=1e-12)
    assert logit_to_probability(logit, calibration=(scale, shift)) == pytest.approx(p, rel=1e-9, abs=1e-12)


def test_the_sign_trap_a_small_probability_is_a_negative_logit():
    """log(1/p - 1), seen in print, is the bound of the opposite polarity."""
    assert probability_to_logit(0.1) == pytest.approx(math.log(0.1 / 0.9)) == pytest.approx(-math.log(1 / 0.1 - 1))
    assert probability_to_logit(0.1) < probability_to_logit(0.5) == 0.0 < probability_to_logit(0.9)
    assert Bounds(upper=0.1).to_logit(calibration=(1.0, 0.0)) == (-math.inf, pytest.approx(-2.1972, abs=1e-4))


@given(inner, inner, slopes, shifts)
def test_a_higher_probability_is_never_a_lower_logit(one, other, scale, shift):
    low, high = sorted((one, other))
    calibration = (scale, shift)
    assert probability_to_logit(low, calibration=calibration) <= probability_to_logit(high, calibration=calibration)


def test_certainty_is_infinite_and_a_free_side_is_too():
    assert Bounds(lower=0.0, upper=1.0).to_logit(calibration=(2.0, 1.0)) == (-math.inf, math.inf)
    assert Bounds(lower=0.5).to_logit(calibration=(1.0, 0.0)) == (0.0, math.inf)
    assert Bounds(lower=-2.0, upper=3.0, space="logit").to_logit(calibration=(9.0, 9.0)) == (-2.0, 3.0)


def test_extreme_logits_neither_overflow_nor_lose_their_sign():
    assert logit_to_probability(-1e6) == 0.0
    assert logit_to_probability(1e6) == 1.0
    assert 0 < logit_to_probability(-700) < 1e-300
    assert math.isnan(logit_to_probability(math.nan))


@given(st.floats(0, 100))
def test_a_percentile_is_read_off_normal_text_with_linear_interpolation(percentile):
    quantiles = torch.sort(torch.randn(101, generator=torch.Generator().manual_seed(0))).values
    bounds = Bounds(upper=percentile, space="percentile")
    _, high = bounds.to_logit(calibration=(5.0, 5.0), quantiles=quantiles)
    expected = torch.quantile(quantiles.double(), percentile / 100)
    assert high == pytest.approx(float(expected), abs=1e-6)


def test_a_percentile_needs_quantiles():
    with pytest.raises(UnsupportedSteering, match="no quantiles"):
        Bounds(upper=95, space="percentile").to_logit(calibration=(1.0, 0.0))


@pytest.mark.parametrize(
    ("lower", "upper", "space", "says"),
    [
        (0.9, 0.1, "probability", "swap them"),
        (None, 1.5, "probability", r"\[0, 1\]"),
        (-0.1, None, "probability", r"\[0, 1\]"),
        (None, math.nan, "probability", "upper is nan"),
        (math.nan, None, "logit", "lower is nan"),
        (None, 101.0, "percentile", r"\[0, 100\]"),
        (None, math.inf, "probability", r"\[0, 1\]"),
        (None, None, "probability", "at least one"),
    ],
)
def test_what_is_no_region_is_refused_with_the_reason(lower, upper, space, says):
    with pytest.raises(InvalidBounds, match=says) as refused:
        Bounds(lower=lower, upper=upper, space=space)
    assert refused.value.param in ("lower", "upper")


@pytest.mark.parametrize(("bounds", "param"), [(Bounds(upper=0.0), "upper"), (Bounds(lower=1.0), "lower")])
def test_a_certainty_no_finite_residual_has_is_refused_at_the_plan(probe, bounds, param):
    with pytest.raises(InvalidBounds, match="certainty") as refused:
        Constraint(probe, bounds)
    assert refused.value.param == param


def test_bounds_that_bind_nowhere_change_nothing(lm, probe):
    from steering import Request, Sampling, generate

    plan = Plan((Constraint(probe, Bounds(lower=0.0, upper=1.0), prompt="all"),))
    (done,) = generate(lm, [Request("abc", Sampling(max_tokens=4, temperature=0), plan)])
    report = done.steering.probes[probe.id]
    assert (report.edited, report.violations) == (0, 0)
