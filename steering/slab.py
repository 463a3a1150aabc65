"""Projection of the residual stream onto a slab {low <= weight . resid + bias <= high}, verified on the stored value.

    delta = (clamp(z, low, high) - z) * direction,   z = weight . resid + bias,   direction = w / (w . w)

is the smallest Euclidean change that brings the probe inside (LiSeCo, arXiv 2405.15454, Theorem 1): zero inside the
slab, exactly on the bound outside. In exact arithmetic that is all. But the model stores bfloat16, float16 or
float32, and the rounding of that cast throws about half of the edited rows back out; where delta is small against the
spacing of the dtype, most coordinates do not move at all. What counts is the probe's value on the *stored* tensor, its
dot product taken in float32, so each row is tried with growing commands

    gap_r = gap + sign(gap) * GROWTH[r] * (eps(dtype) / 2) * ||weight * resid||,   GROWTH = 0, 1, 2, 4, ... 64

and the first candidate whose stored value is inside is kept: as near as rounding allows, never nearer than true.
Candidates inside by a `headroom` that covers the summation order of the float32 dot product are preferred, so that a
reader who sums differently comes to the same verdict. A row that no candidate satisfies is a violation, and is
counted. Nothing here branches on data or waits for the device.

This module does not know layers, requests or tokens: rows in, rows out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from steering.errors import InvalidBounds

GROWTH = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_EPS32 = torch.finfo(torch.float32).eps
_CHUNK = 4096  # rows handled at once: bounds the memory of the candidates, not the result


class Projected(NamedTuple):
    """What became of each row; all but `resid` have the shape of the rows, (...).

    From the joint projection of K slabs, all but `resid` and `dose` have a last axis of K: each slab by itself.
    """

    resid: Tensor
    """(..., hidden_size), dtype of the input: the stored value; rows already inside are bit-exact."""
    before: Tensor
    """float32 logit of the input."""
    after: Tensor
    """float32 logit of the stored output."""
    edited: Tensor
    """bool: the row was outside and has been moved."""
    capped: Tensor
    """bool: the budget `max_dose` stopped the row outside its bound."""
    violated: Tensor
    """bool: the stored value is outside its bound and no budget is to blame."""
    dose: Tensor
    """float32 ||stored - input|| / ||input||."""


@dataclass(frozen=True, eq=False)
class Slabs:
    """One slab per row, ready to apply; every field is float32 and broadcasts against the rows.

    A row with infinite bounds on both sides is inactive. `direction` is the change of the residual per unit of
    logit: weight / (weight . weight) for the Euclidean projection. A row whose `promised` is false (strength below 1,
    or a direction that is not the projection's) is moved once, without verification.
    """

    weight: Tensor
    """(..., hidden_size)"""
    bias: Tensor
    """(...)"""
    low: Tensor
    """(...) logit, -inf when free"""
    high: Tensor
    """(...) logit, +inf when free"""
    direction: Tensor
    """(..., hidden_size)"""
    strength: Tensor
    """(...) share of delta that is applied; 0 only measures"""
    max_dose: Tensor
    """(...) largest allowed ||delta|| / ||resid||, +inf when free"""
    promised: Tensor
    """(...) bool: the bound is promised to hold afterwards (unless capped)"""

    def __call__(self, resid: Tensor) -> Tensor:
        """The projected residual alone; see `project`."""
        return project(resid, self).resid

    def map(self, change: Callable[[Tensor], Tensor]) -> Slabs:
        """The same slabs with `change` applied to every tensor (indexing, expanding, moving)."""
        return Slabs(**{name: change(value) for name, value in vars(self).items()})

    def only(self, on: Tensor) -> Slabs:
        """The same slabs where `on` (...) is true, and free elsewhere."""
        return replace(self, low=torch.where(on, self.low, -math.inf), high=torch.where(on, self.high, math.inf))


def slab(
    weight: Tensor, bias: float, *, low: float = -math.inf, high: float = math.inf, lifted: Tensor | None = None
) -> Slabs:
    """The slab of one affine probe, for any number of rows.

    `weight` is (hidden_size,). `lifted` is M w, for the nearest point in the metric of `steering.metric`; w itself for
    the Euclidean metric, the default. Raises InvalidBounds when low > high or a bound is NaN.

    >>> slab(torch.tensor([0.0, 2.0]), 0.0, high=2.0)(torch.tensor([3.0, 4.0]))
    tensor([3.0000, 1.0000])
    """
    if not low <= high:
        raise InvalidBounds(f"low {low} and high {high} do not bound a region; low must not exceed high")
    weight = weight.float()
    lifted = weight if lifted is None else lifted.float()

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=weight.device)

    return Slabs(
        weight=weight,
        bias=scalar(bias),
        low=scalar(low),
        high=scalar(high),
        direction=lifted / weight.dot(lifted),
        strength=scalar(1.0),
        max_dose=scalar(math.inf),
        promised=torch.tensor(True, device=weight.device),
    )


def read_logit(resid: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """weight . resid + bias, (...): elementwise and summed in float32, so that TF32 matmuls cannot blur it.

    A float64 `resid` is read in float64.
    """
    return (widen(resid) * weight).sum(dim=-1) + bias


def project(resid: Tensor, slabs: Slabs) -> Projected:
    """Move each row of `resid` (..., hidden_size) into its slab and verify the stored value.

    `slabs` broadcasts against the rows. Accepts float32, bfloat16, float16 and float64.
    """
    rows = resid.shape[:-1]
    if rows.numel() <= _CHUNK:
        return _project_rows(resid, slabs)
    flat = resid.reshape(-1, resid.shape[-1])
    expanded = Slabs(
        weight=slabs.weight.expand(resid.shape).reshape(flat.shape),
        direction=slabs.direction.expand(resid.shape).reshape(flat.shape),
        **{
            name: getattr(slabs, name).expand(rows).reshape(-1)
            for name in ("bias", "low", "high", "strength", "max_dose", "promised")
        },
    )
    pieces = [
        _project_rows(_piece(flat, at=at), expanded.map(partial(_piece, at=at)))
        for at in range(0, max(len(flat), 1), _CHUNK)
    ]
    whole = pieces[0] if len(pieces) == 1 else Projected(*(torch.cat(parts) for parts in zip(*pieces, strict=True)))
    return Projected(whole.resid.reshape(resid.shape), *(part.reshape(rows) for part in whole[1:]))


def narrowest(*, weight_norm: float, resid_norm: float, hidden_size: int, reach: float, dtype: torch.dtype) -> float:
    """The narrowest slab, in logits, that `dtype` can be relied on to hit at this norm of the residual stream.

    With spread = ||w|| * ||resid|| / sqrt(hidden_size), the typical length of the read-out's terms, it is sixteen
    rounding errors of the stored dtype for the commands to land in, plus twice the `headroom` of the float32 read-out
    on either side. `reach` is the larger bound plus the bias: what that read-out adds up besides.
    """
    spread = weight_norm * resid_norm / math.sqrt(hidden_size)
    return 16 * rounding_step(dtype) * spread + 4 * _EPS32 * (4 * spread + 3 * reach)


def _piece(value: Tensor, *, at: int) -> Tensor:
    return value[at : at + _CHUNK]


def _project_rows(resid: Tensor, slabs: Slabs) -> Projected:
    """The work on (..., hidden_size); candidates carry a leading axis, one entry per command."""
    work = widen(resid)
    product = work * slabs.weight
    before = product.sum(dim=-1) + slabs.bias
    outside = (before < slabs.low) | (before > slabs.high)

    tiny = torch.finfo(torch.float32).tiny
    spread = product.norm(dim=-1)
    size = work.norm(dim=-1)
    low, high = finite(slabs.low), finite(slabs.high)  # a free side never binds; its infinity must not reach sums
    headroom = torch.finfo(work.dtype).eps * (4 * spread + before.abs() + slabs.bias.abs() + low.abs() + high.abs())
    inset = torch.minimum(2 * headroom, (slabs.high - slabs.low) / 2)
    target = torch.minimum(torch.maximum(before, slabs.low + inset), slabs.high - inset)

    allowed = slabs.max_dose * size.clamp_min(tiny) / slabs.direction.norm(dim=-1).clamp_min(tiny)
    gap = torch.where(outside, (target - before) * slabs.strength, 0.0)
    growth = torch.tensor(GROWTH, dtype=work.dtype, device=work.device).view(-1, *(1 for _ in before.shape))
    gap = gap + growth * gap.sign() * rounding_step(resid.dtype) * spread
    over_budget = torch.where(slabs.promised, gap[-1].abs(), gap[0].abs()) > allowed  # the furthest of those tried
    gap = torch.minimum(torch.maximum(gap, -allowed), allowed)

    candidates = torch.addcmul(work, gap.unsqueeze(-1), slabs.direction.to(work.dtype)).to(resid.dtype)
    value = read_logit(candidates, slabs.weight, slabs.bias)
    inside = within(value, slabs.low, slabs.high)
    safely = inside & within(value, slabs.low + headroom, slabs.high - headroom)
    verdict = (inside.to(torch.uint8) + safely) * slabs.promised
    choice = verdict.argmax(dim=0, keepdim=True)  # the first of the best

    index = choice.unsqueeze(-1).expand(1, *resid.shape)
    moved = outside & (slabs.strength > 0)
    stored = torch.where(moved.unsqueeze(-1), candidates.gather(0, index).squeeze(0), resid)
    after = torch.where(moved, value.gather(0, choice).squeeze(0), before)
    active = torch.isfinite(slabs.low) | torch.isfinite(slabs.high)
    missed = active & ~within(after, slabs.low, slabs.high)
    dose = (stored.to(work.dtype) - work).norm(dim=-1) / size.clamp_min(tiny)
    return Projected(
        resid=stored,
        before=before,
        after=after,
        edited=moved,
        capped=missed & over_budget,
        violated=missed & ~over_budget,
        dose=dose,
    )


def rounding_step(dtype: torch.dtype) -> float:
    """Largest relative rounding error of a value stored in `dtype` from float32 arithmetic."""
    return max(torch.finfo(dtype).eps, _EPS32) / 2


def widen(resid: Tensor) -> Tensor:
    """float32, or float64 if it is that already: what sums are taken in."""
    return resid if resid.dtype == torch.float64 else resid.float()


def within(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Inside, and a number: an overflow to infinity satisfies no half-space."""
    return (value >= low) & (value <= high) & torch.isfinite(value)


def finite(bound: Tensor) -> Tensor:
    """Bounds with 0 for infinity, where a free side never binds and must not reach a sum."""
    return torch.where(torch.isfinite(bound), bound, 0.0)
