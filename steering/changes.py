"""What a rule would do to some rows, as a change of the residual stream: the common form of all that holds no promise.

A `Change` is asked for the change of (n, seq, hidden_size) at one layer, with strength and budget applied. A `Group`
applies it to its rows of the batch, or, for the placebo, an equally long step in a random direction; reads the probes
before and after; and keeps what it must remember from layer to layer. Slabs that are to be *verified* do not come this
way (`steering.slab`, `steering.joint`); their placebo does.

The placebo's twin. Were the shadowed rule asked about the placebo's own stream, it would find its bound still broken at
every later layer and step again, so that the placebo moved further than what it is compared with. It is asked about a
shadow instead: the stream as it would be had the rule's steps been taken in place of the placebo's, as far as the
blocks hand them on unchanged (shadow = resid + drift, drift = steps of the rule - steps of the placebo, summed over
earlier layers). The shadow is stored in the model's dtype and the rule's step verified there, so its length is that of
a step as it would be taken; the placebo's own, stored, differs from it by one rounding of the stream. A budget is that
of the rule, a share of the shadow's norm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from steering.controllers.base import Carry, Controller
from steering.joint import JointSlabs, project_joint
from steering.passes import Pass
from steering.slab import Slabs, project, widen, within

_TINY = torch.finfo(torch.float32).tiny


class Step(NamedTuple):
    """What a rule would do, per token."""

    delta: Tensor
    """(n, seq, hidden_size) in the dtype of the work"""
    moved: Tensor
    """(n, seq) bool: the token is edited, here or (`Elsewhere`) in another place"""
    over: Tensor
    """(n, seq) bool: the budget cut the step short"""


class Change(Protocol):
    """How far a rule would move each token of some rows at one layer."""

    def __call__(self, resid: Tensor, *, on: Tensor, carry: Carry) -> Step:
        """The step from `resid` (n, seq, hidden_size); `on` (slots, n, seq) says which constraints a token follows."""
        ...

    def to(self, device: torch.device) -> Change:
        """The same on another device."""
        ...


@dataclass(frozen=True, eq=False)
class SlabChange:
    """The change of the single slab of each row, verified as it would be for the slab itself."""

    slabs: Slabs

    def to(self, device: torch.device) -> SlabChange:
        """See `Change`."""
        return SlabChange(self.slabs.map(lambda value: value.to(device)))

    def __call__(self, resid: Tensor, *, on: Tensor, carry: Carry) -> Step:
        """See `Change`."""
        done = project(resid, self.slabs.only(on.any(dim=0)))
        return Step(widen(done.resid) - widen(resid), done.edited, done.capped)


@dataclass(frozen=True, eq=False)
class JointChange:
    """The change of several slabs held together."""

    slabs: JointSlabs

    def to(self, device: torch.device) -> JointChange:
        """See `Change`."""
        return JointChange(self.slabs.map(lambda value: value.to(device)))

    def __call__(self, resid: Tensor, *, on: Tensor, carry: Carry) -> Step:
        """See `Change`."""
        done = project_joint(resid, self.slabs.only(on.movedim(0, -1)))
        return Step(widen(done.resid) - widen(resid), done.edited.any(dim=-1), done.capped.any(dim=-1))


@dataclass(frozen=True, eq=False)
class RuleChange:
    """The change of a controller without bounds."""

    controller: Controller
    layer: int
    strength: Tensor
    """(n, 1)"""
    max_dose: Tensor
    """(n, 1)"""

    def to(self, device: torch.device) -> RuleChange:
        """See `Change`."""
        return replace(self, strength=self.strength.to(device), max_dose=self.max_dose.to(device))

    def __call__(self, resid: Tensor, *, on: Tensor, carry: Carry) -> Step:
        """See `Change`."""
        work = widen(resid)
        delta = self.controller.delta(work, layer=self.layer, carry=carry) * self.strength.unsqueeze(-1)
        delta = torch.where(on.any(dim=0).unsqueeze(-1), delta, 0.0)
        length = delta.norm(dim=-1)
        share = (self.max_dose * work.norm(dim=-1).clamp_min(_TINY) / length.clamp_min(_TINY)).clamp_max(1.0)
        return Step(delta * share.unsqueeze(-1), length > 0, share < 1.0)


@dataclass(frozen=True, eq=False)
class Elsewhere:
    """No change of the residual stream: the rule acts on the recurrent state (`steering.state_edits`)."""

    acts: Tensor
    """(n, 1) bool: false for a row that only watches, or whose offset is zero"""

    def to(self, device: torch.device) -> Elsewhere:
        """See `Change`."""
        return Elsewhere(self.acts.to(device))

    def __call__(self, resid: Tensor, *, on: Tensor, carry: Carry) -> Step:
        """See `Change`."""
        still = torch.zeros_like(widen(resid))
        return Step(still, on.any(dim=0) & self.acts, torch.zeros_like(still[..., 0], dtype=torch.bool))


@dataclass(frozen=True, eq=False)
class Group:
    """Rows of a batch that follow one unverified rule at one layer; tensors as in `JointSlabs`, their seq axis 1."""

    key: object
    """Equal for one rule on the same rows at several layers, which share what it remembers"""
    rows: tuple[int, ...]
    """Which rows of the batch"""
    place: Tensor
    """(n,) int64: the same, to index with"""
    change: Change
    weight: Tensor
    """(n, 1, slots, hidden_size): read before and after; zero for a slot that does not act here"""
    bias: Tensor
    """(n, 1, slots)"""
    low: Tensor
    """(n, 1, slots) logits the placebo's rule would hold; infinite without bounds"""
    high: Tensor
    """(n, 1, slots)"""
    unit: Tensor | None
    """(n, 1, hidden_size): the placebo's direction; None for the rule itself"""

    def __call__(self, resid: Tensor, *, on: Tensor, carry: Carry, drift: Tensor) -> tuple[Tensor, Pass, Tensor]:
        """The stored rows, what was done, and the new drift, for `resid` (n, seq, hidden_size), `on` (slots, n, seq).

        `drift` (n, seq, hidden_size) float32 is how far the shadow is from the stream; a placebo alone changes it.
        """
        work = widen(resid)
        before = self._read(work)
        if self.unit is None:
            step = self.change(resid, on=on, carry=carry)
            delta = step.delta
        else:
            step = self.change((work + drift).to(resid.dtype), on=on, carry=carry)
            rises = (step.delta * self.weight.sum(dim=-2)).sum(dim=-1) >= 0
            length = step.delta.norm(dim=-1)
            delta = torch.where(rises, length, -length).unsqueeze(-1) * self.unit
            drift = drift + step.delta - delta
        stored = torch.where((delta != 0).any(dim=-1, keepdim=True), (work + delta).to(resid.dtype), resid)
        after = self._read(widen(stored))
        missed = self._bounded & ~within(after, self.low, self.high)
        dose = (widen(stored) - work).norm(dim=-1) / work.norm(dim=-1).clamp_min(_TINY)
        over = (step.over & step.moved).unsqueeze(-1)
        done = Pass(
            before=before.movedim(-1, 0),
            after=after.movedim(-1, 0),
            edited=step.moved.expand(on.shape),
            capped=(over & (missed | ~self._bounded)).movedim(-1, 0),
            violated=(missed & ~over).movedim(-1, 0),
            dose=dose.expand(on.shape),
        )
        return stored, done, drift

    def to(self, device: torch.device) -> Group:
        """The same on another device."""
        moving = ("place", "change", "weight", "bias", "low", "high")
        named = {name: getattr(self, name).to(device) for name in moving}
        return replace(self, unit=None if self.unit is None else self.unit.to(device), **named)

    @property
    def _bounded(self) -> Tensor:
        return torch.isfinite(self.low) | torch.isfinite(self.high)

    def _read(self, resid: Tensor) -> Tensor:
        return (resid.unsqueeze(-2) * self.weight).sum(dim=-1) + self.bias
