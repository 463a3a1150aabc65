"""The exact projection onto several slabs at once: the smallest change that satisfies all of them together.

    minimise  delta' M^-1 delta   subject to   low_k <= w_k . (resid + delta) + b_k <= high_k,   k = 1..K <= 16

With delta = sum_k lambda_k M w_k and G = W M W' this is a problem in K numbers whatever the hidden size, solved by
`steering.box_qp`. Applying the slabs one after another is not this: the second breaks the first when they pull apart.

Verified after the cast like the single slab: eight programmes per row, with the bounds drawn in by growing margins, and
the first whose *stored* value is inside every slab is kept. Whether the slabs intersect at all does not depend on the
residual, only on the weights and bounds, so `feasible_box` settles it once, before anything is generated.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from steering.box_qp import solve_box
from steering.slab import GROWTH, Projected, finite, rounding_step, widen, within

INFEASIBLE = 1e-5
"""Distance, relative to the bounds, by which slabs must miss each other to be called disjoint."""
SOFTNESS = 1e-10
"""Weights so nearly parallel that meeting needs multipliers above INFEASIBLE / SOFTNESS count as parallel."""
COMPROMISE = 1e-4
"""Softness of bounds that had to give way: they are missed by this share of the step, and multipliers stay small."""

_CANDIDATE_NUMBERS = 2**24
"""Numbers the candidates of one piece may hold."""
_TRAILING = {"weight": 2, "bias": 1, "low": 1, "high": 1, "lift": 2, "size": 1, "gram": 2, "soft": 1}
"""Axes of a field behind the row axes; 0 where it is not named."""


@dataclass(frozen=True, eq=False)
class JointSlabs:
    """K slabs per row, ready to apply; broadcasts against the rows. Float32 but for `gram`."""

    weight: Tensor
    """(..., K, hidden_size); zero for a constraint that is not there"""
    bias: Tensor
    """(..., K)"""
    low: Tensor
    """(..., K) logits, -inf when free"""
    high: Tensor
    """(..., K) logits, +inf when free"""
    lift: Tensor
    """(..., K, hidden_size): M w_k / sqrt(w_k' M w_k), the change per unit of multiplier"""
    size: Tensor
    """(..., K): sqrt(w_k' M w_k), logits per unit of the metric; 1 for a constraint that is not there"""
    gram: Tensor
    """(..., K, K) float64: G with a unit diagonal"""
    soft: Tensor
    """(..., K) bool: bounds that contradict others and have given way; approached, and not verified"""
    strength: Tensor
    """(...) share of delta that is applied; 0 only measures"""
    max_dose: Tensor
    """(...) largest allowed ||delta|| / ||resid||, +inf when free"""
    promised: Tensor
    """(...) bool: the bounds are promised to hold afterwards (unless capped)"""

    def map(self, change: Callable[[Tensor], Tensor]) -> JointSlabs:
        """The same slabs with `change` applied to every tensor."""
        return JointSlabs(**{name: change(value) for name, value in vars(self).items()})

    def narrow(self, start: int, length: int) -> JointSlabs:
        """The slabs of some entries of the last row axis; fields that broadcast over it stay whole."""

        def part(name: str, value: Tensor) -> Tensor:
            axis = value.ndim - _TRAILING.get(name, 0) - 1
            return value if axis < 0 or value.shape[axis] == 1 else value.narrow(axis, start, length)

        return JointSlabs(**{name: part(name, value) for name, value in vars(self).items()})

    def only(self, on: Tensor) -> JointSlabs:
        """The same slabs where `on` (..., K) is true, and free elsewhere."""
        return replace(self, low=torch.where(on, self.low, -math.inf), high=torch.where(on, self.high, math.inf))


def joint_slabs(
    weight: Tensor,
    bias: Tensor,
    low: Tensor,
    high: Tensor,
    *,
    lifted: Tensor | None = None,
    soft: Tensor | None = None,
    strength: Tensor | float = 1.0,
    max_dose: Tensor | float = math.inf,
    promised: Tensor | bool = True,
) -> JointSlabs:
    """K slabs, for all rows alike or with leading axes of their own; fields as in `JointSlabs`.

    `lifted` is M w_k, (..., K, hidden_size): w_k itself for the Euclidean metric, the default.
    """
    weight = weight.float()
    euclidean, lifted = lifted is None, weight if lifted is None else lifted.float()
    square = (weight.double() * lifted.double()).sum(dim=-1)
    size = torch.where(square > 0, square, 1.0).sqrt()
    lift = (lifted.double() / size.unsqueeze(-1)).float()
    # In a metric, lifts are long and multipliers cancel: G must be that of the rounded lifts, which are what moves.
    moves = lifted.double() / size.unsqueeze(-1) if euclidean else lift.double()
    gram = (weight.double() @ moves.mT) / size.unsqueeze(-1)
    gram = gram + torch.diag_embed((square == 0).double())
    soft = torch.zeros_like(square, dtype=torch.bool) if soft is None else soft
    gram = gram + torch.diag_embed(soft.double() * COMPROMISE)
    return JointSlabs(
        weight=weight,
        bias=bias.float(),
        low=low.float(),
        high=high.float(),
        lift=lift,
        size=size.float(),
        gram=gram,
        soft=soft,
        strength=torch.as_tensor(strength, dtype=torch.float32),
        max_dose=torch.as_tensor(max_dose, dtype=torch.float32),
        promised=torch.as_tensor(promised),
    )


def feasible_box(slabs: JointSlabs, *, reach: float = math.inf) -> tuple[Tensor, Tensor, Tensor]:
    """Bounds that can be met together, (..., K) low and high, and which constraints had to give, (..., K) bool.

    Slabs of independent weights always intersect, but when the weights are nearly parallel, perhaps very far away:
    where the nearest common point is further than `reach` from the origin, in the metric, they count as disjoint too.
    Where slabs are disjoint, each bound gives way by its share of the smallest sum of squared distances.
    """
    flat = slabs.gram.reshape(-1, *slabs.gram.shape[-2:])
    rows = (len(flat), flat.shape[-1])
    size = slabs.size.double().expand(*slabs.gram.shape[:-1]).reshape(rows)
    bias, low, high = (
        (value.double().expand(*slabs.gram.shape[:-1]).reshape(rows) / size)
        for value in (slabs.bias, slabs.low, slabs.high)
    )
    # Soft bounds: a slack of `softness` per unit of multiplier. Where the slabs meet it vanishes; where they do not, it
    # is the least-squares compromise.
    eye = torch.eye(rows[1], dtype=flat.dtype, device=flat.device)
    multiplier = solve_box(bias, flat + SOFTNESS * eye, low, high)[0].unsqueeze(-1)
    far = (multiplier.mT @ flat @ multiplier).squeeze(-1) > reach**2
    softness = torch.where(far, COMPROMISE, SOFTNESS)
    slack = softness * solve_box(bias, flat + softness.unsqueeze(-1) * eye, low, high)[0]
    around = 1 + bias.abs() + finite(low).abs() + finite(high).abs()
    gave = slack.abs() > INFEASIBLE * around.amax(dim=-1, keepdim=True)
    low = torch.where(gave, low - slack.clamp_min(0), low)
    high = torch.where(gave, high - slack.clamp_max(0), high)
    shape = slabs.gram.shape[:-1]
    return (
        (low * size).float().reshape(shape),
        (high * size).float().reshape(shape),
        gave.reshape(shape),
    )


def project_joint(resid: Tensor, slabs: JointSlabs) -> Projected:
    """Move each row of `resid` (..., hidden_size) into all its slabs and verify the stored value.

    Long sequences are handled piece by piece, which bounds the memory of the candidates and changes no result.
    """
    along = resid.ndim - 2
    if along < 0:
        return _project(resid, slabs)
    constraints, hidden_size = slabs.weight.shape[-2:]
    length = resid.shape[along]
    others = resid.numel() // max(1, length * hidden_size)
    step = max(1, _CANDIDATE_NUMBERS // max(1, others * constraints * hidden_size * len(GROWTH)))
    if step >= length:
        return _project(resid, slabs)
    pieces = [
        _project(resid.narrow(along, at, min(step, length - at)), slabs.narrow(at, min(step, length - at)))
        for at in range(0, length, step)
    ]
    return Projected(*(torch.cat(parts, dim=along) for parts in zip(*pieces, strict=True)))


def _project(resid: Tensor, slabs: JointSlabs) -> Projected:
    work = widen(resid)
    weight = slabs.weight.to(work.dtype)
    before = read_logits(resid, slabs)
    outside = (before < slabs.low) | (before > slabs.high)

    spread = (work.unsqueeze(-2) * weight).norm(dim=-1)
    low, high = finite(slabs.low), finite(slabs.high)
    eps = torch.finfo(work.dtype).eps
    headroom = eps * (4 * spread + before.abs() + slabs.bias.abs() + low.abs() + high.abs())
    gap = _multipliers(before, slabs, headroom, rounding_step(resid.dtype) * spread)

    # In float64: near-parallel weights have large multipliers of opposite signs.
    delta = (gap.unsqueeze(-2) @ slabs.lift.double()).squeeze(-2).to(work.dtype) * slabs.strength.unsqueeze(-1)
    size = work.norm(dim=-1)
    tiny = torch.finfo(torch.float32).tiny
    length = delta.norm(dim=-1)
    share = (slabs.max_dose * size.clamp_min(tiny) / length.clamp_min(tiny)).clamp_max(1.0)
    over_budget = torch.where(slabs.promised, share[-1], share[0]) < 1.0  # the furthest of those tried
    candidates = (work + delta * share.unsqueeze(-1)).to(resid.dtype)

    value = read_logits(candidates, slabs)
    inside = (slabs.soft | within(value, slabs.low, slabs.high)).all(dim=-1)
    safely = inside & (slabs.soft | within(value, slabs.low + headroom, slabs.high - headroom)).all(dim=-1)
    choice = ((inside.to(torch.uint8) + safely) * slabs.promised).argmax(dim=0, keepdim=True)

    moved = outside.any(dim=-1) & (slabs.strength > 0)
    chosen = candidates.gather(0, choice.unsqueeze(-1).expand(1, *resid.shape)).squeeze(0)
    stored = torch.where(moved.unsqueeze(-1), chosen, resid)
    read = value.gather(0, choice.unsqueeze(-1).expand(1, *before.shape)).squeeze(0)
    after = torch.where(moved.unsqueeze(-1), read, before)
    active = torch.isfinite(slabs.low) | torch.isfinite(slabs.high)
    missed = active & ~within(after, slabs.low, slabs.high)
    return Projected(
        resid=stored,
        before=before,
        after=after,
        edited=outside & moved.unsqueeze(-1),
        capped=missed & over_budget.unsqueeze(-1),
        violated=missed & ~over_budget.unsqueeze(-1),
        dose=(widen(stored) - work).norm(dim=-1) / size.clamp_min(tiny),
    )


def read_logits(resid: Tensor, slabs: JointSlabs) -> Tensor:
    """(..., hidden_size) -> (..., K), summed elementwise in float32 (float64 for a float64 input)."""
    work = widen(resid)
    return (work.unsqueeze(-2) * slabs.weight.to(work.dtype)).sum(dim=-1) + slabs.bias


def _multipliers(before: Tensor, slabs: JointSlabs, headroom: Tensor, step: Tensor) -> Tensor:
    """Multipliers of all candidates, (candidates, ..., K)."""
    shape = before.shape
    rows = (before.numel() // shape[-1], shape[-1])

    def flat(value: Tensor) -> Tensor:
        return (value / slabs.size).double().expand(shape).reshape(rows)

    gram = slabs.gram.expand(*shape, shape[-1]).reshape(*rows, shape[-1])
    value, low, high, room, step = (flat(part) for part in (before, slabs.low, slabs.high, headroom, step))
    _, side = solve_box(value, gram, low, high)
    growth = torch.tensor(GROWTH, dtype=torch.float64, device=before.device).view(-1, 1, 1)
    margin = 2 * room + growth * step
    # A met bound is aimed past by the whole margin, be the slab as narrow as it may; a free one steps back half-way.
    half = torch.minimum(margin, (high - low) / 2)
    aim_low = low + torch.where(side > 0, margin, half)
    aim_high = high - torch.where(side < 0, margin, half)
    aim_high = torch.where(side > 0, torch.maximum(aim_high, aim_low), aim_high)
    aim_low = torch.where(side < 0, torch.minimum(aim_high, aim_low), aim_low)
    many = (len(GROWTH) * rows[0], rows[1])
    multiplier, _ = solve_box(
        value.expand(len(GROWTH), *rows).reshape(many),
        gram.expand(len(GROWTH), *gram.shape).reshape(*many, rows[1]),
        aim_low.reshape(many),
        aim_high.reshape(many),
        side=side.expand(len(GROWTH), *rows).reshape(many),
    )
    return multiplier.reshape(len(GROWTH), *shape)
