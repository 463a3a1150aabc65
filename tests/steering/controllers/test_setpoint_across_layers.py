"""S-PID over three layers, worked out by hand, and what its terms do."""

from __future__ import annotations

import pytest
import torch

from steering.controllers.base import Settings
from steering.controllers.directions import PerLayer
from steering.controllers.setpoint import Setpoint

LAYERS = (0, 1, 3)
V = torch.tensor([0.6, 0.8])


def controller(gains, *, targets=(10.0, 10.0, 10.0)):
    values = {layer: torch.tensor(target) for layer, target in zip(LAYERS, targets, strict=True)}
    return Setpoint(PerLayer(dict.fromkeys(LAYERS, V)), PerLayer(values), gains)


def test_three_layers_by_hand():
    """v . x is 5, 8, 12 and beta 10, 10, 14, so e = 5, 2, 2, sums 5, 7, 9 and differences none, -3, 0.

    Kp = 1, Ki = 0.1, Kd = 0.5:  5 + 0.5 + 0 = 5.5,  2 + 0.7 - 1.5 = 1.2,  2 + 0.9 + 0 = 2.9, each times v.
    """
    rule, carry = controller((1.0, 0.1, 0.5), targets=(10.0, 10.0, 14.0)), {}
    residuals = [torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 10.0]]]), torch.tensor([[[20.0, 0.0]]])]
    for layer, resid, command in zip(LAYERS, residuals, (5.5, 1.2, 2.9), strict=True):
        torch.testing.assert_close(rule.delta(resid, layer=layer, carry=carry), command * V.view(1, 1, 2))


@pytest.mark.parametrize(("gains", "commands"), [((1.0, 0.0, 0.0), [5, 2, -2]), ((0.0, 1.0, 0.0), [5, 7, 5])])
def test_a_single_gain_shows_its_own_term(gains, commands):
    rule, carry = controller(gains), {}
    for layer, read, command in zip(LAYERS, (5.0, 8.0, 12.0), commands, strict=True):
        found = rule.delta(read * V.view(1, 1, 2), layer=layer, carry=carry)
        torch.testing.assert_close(found, command * V.view(1, 1, 2))


def test_the_derivative_is_silent_at_the_first_layer_and_then_the_change_of_the_error():
    rule, carry = controller((0.0, 0.0, 1.0)), {}
    for layer, read, command in zip(LAYERS, (5.0, 8.0, 12.0), (0.0, -3.0, -4.0), strict=True):
        found = rule.delta(read * V.view(1, 1, 2), layer=layer, carry=carry)
        torch.testing.assert_close(found, command * V.view(1, 1, 2))


def test_every_forward_pass_begins_with_no_memory():
    rule, resid = controller((1.0, 1.0, 1.0)), torch.ones(1, 1, 2)
    first = [rule.delta(resid, layer=layer, carry=carry) for carry in [{}] for layer in LAYERS]
    second = [rule.delta(resid, layer=layer, carry=carry) for carry in [{}] for layer in LAYERS]
    assert all(torch.equal(*both) for both in zip(first, second, strict=True))


def test_full_proportional_gain_lands_on_the_setpoint_from_both_sides(carrying, resid):
    probe = carrying(only=("mean",))
    rule = Setpoint.of(probe, [1], Settings(coefficient=-0.2))
    after = resid + rule.delta(resid, layer=1, carry={})
    means = probe.group("mean", 1)
    v = (means["positive"] - means["negative"]) / (means["positive"] - means["negative"]).norm()
    torch.testing.assert_close(after @ v, (-0.2 * v @ means["positive"]).expand(2, 5), rtol=1e-5, atol=1e-5)
    assert bool((resid @ v > after @ v).any())
    assert bool((resid @ v < after @ v).any())
