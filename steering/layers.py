"""One steered layer of a batch at work: verified slabs first, then the rows that follow another rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steering.compilation import LayerWork
from steering.controllers.base import Carry
from steering.joint import project_joint
from steering.kernels.layer import JointKernel, SingleKernel, prepare
from steering.kernels.passing import OneToken
from steering.passes import Pass, Piece
from steering.slab import project, widen
from steering.tables import Tables


@dataclass(eq=False)
class Now:
    """One forward pass while it runs."""

    start: int
    """Tokens before this one are not steered by any row."""
    offsets: Tensor
    """(rows or 1, seq) of the tokens from `start` on"""
    on: Tensor
    """(layers, slots, rows, seq) bool: which constraints those tokens follow"""
    record: Tensor
    """(rows, seq, slots, FIELDS): what the compiled loops did"""
    expected: tuple[int, int, int]
    """Shape of the whole residual stream of this pass"""
    one: OneToken | None = None
    """Whose `on` and `record` these are, in a pass of one token through the compiled loops"""
    pieces: list[Piece] = field(default_factory=list)
    """What the tensor form did"""
    carry: dict[object, Carry] = field(default_factory=dict)
    """What rules remember from layer to layer"""
    drift: Tensor | None = None
    """(rows, seq, hidden_size) float32: how far each placebo's shadow is from its stream"""
    ran: set[int] = field(default_factory=set)
    """Layers (their index in the tables) that have had their turn"""

    @property
    def steered(self) -> bool:
        """Whether any token of the pass is steered."""
        return self.start < self.expected[1]

    def __post_init__(self) -> None:
        on_host = self.on.device.type == "cpu"
        self.on_array: Any = self.on.numpy() if on_host else None
        self.record_array: Any = self.record.numpy() if on_host else None


class TensorLayer:
    """The tensor form: any dtype and device, no branch on data."""

    def __init__(self, work: LayerWork, index: int, *, slots: int, device: torch.device) -> None:
        self._work = work.to(device)
        self._index = index
        self._slots = slots
        self._every = tuple(range(len(work.acting)))

    def __call__(self, resid: Tensor, now: Now) -> Tensor:
        """The steered stream of (rows, seq, hidden_size) after this layer."""
        if self._work.place.device != resid.device:  # a layer of a model that is spread over several devices
            self._work = self._work.to(resid.device)
        stored = self._verified(resid, now) if self._work.verified else resid
        for group in self._work.groups:
            if now.drift is None:
                now.drift = torch.zeros_like(resid, dtype=widen(resid).dtype)
            now.drift = now.drift.to(resid.device)
            place, on = group.place, now.on[self._index].to(resid.device)[:, group.place]
            moved, done, drift = group(
                resid[place], on=on, carry=now.carry.setdefault(group.key, {}), drift=now.drift[place]
            )
            now.pieces.append(Piece(self._index, group.rows, place, on, done))
            now.drift = now.drift.index_copy(0, place, drift)
            stored = stored.index_copy(0, place, moved)
        return stored

    def _verified(self, resid: Tensor, now: Now) -> Tensor:
        """The rows under a promise: a new tensor, never the input edited."""
        work = self._work
        on = now.on[self._index].to(resid.device)
        alone = on & work.alone
        single = project(resid, work.single.only(alone.any(dim=0)))
        now.pieces.append(Piece(self._index, self._every, work.every, alone, Pass.of_single(single, slots=self._slots)))
        if work.joint is None:
            return single.resid
        some = on[:, work.place]
        joint = project_joint(resid[work.place], work.joint.only(some.movedim(0, -1)))
        now.pieces.append(Piece(self._index, work.rows, work.place, some, Pass.of_joint(joint)))
        return single.resid.index_copy(0, work.place, joint.resid)


class CompiledLayer(TensorLayer):
    """The compiled form of the verified slabs: float32 on the CPU."""

    def __init__(self, work: LayerWork, index: int, *, slots: int, tables: Tables, one: OneToken) -> None:
        super().__init__(work, index, slots=slots, device=work.place.device)
        prepare()
        figures = {"scale": tables.scale[index], "shift": tables.shift[index], "gave": tables.gave[index]}
        slot = torch.tensor([found[0][0] if found else 0 for found in work.acting])
        self._single = SingleKernel(work.single, acts=work.alone, slot=slot, **figures)
        self._joint = None
        if work.joint is not None:
            slots_of = [[slot for slot, _ in work.acting[row]] for row in work.rows]
            self._joint = JointKernel(work.joint, rows=work.place, slots=slots_of, **figures)
        self._one, on, noted = one, *one.views
        bare = work.joint is None and not work.groups
        self._quick = self._single.by_address(on=on[index], record=noted) if bare else None

    def __call__(self, resid: Tensor, now: Now) -> Tensor:
        """As above; the shortest way for the commonest case."""
        if self._quick is not None and now.one is self._one and resid.is_contiguous() and not resid.requires_grad:
            return self._quick(resid)
        return super().__call__(resid, now)

    def _verified(self, resid: Tensor, now: Now) -> Tensor:
        if resid.requires_grad:  # machine code has no derivative
            return super()._verified(resid, now)
        resid, on = resid.contiguous(), now.on_array[self._index]
        out = self._single(resid, on=on, record=now.record_array)
        if self._joint is not None:
            self._joint(resid, out, on=on, record=now.record_array)
        return out
