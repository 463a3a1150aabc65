"""One steered layer of a batch at work: verified slabs first, then the rows that follow another rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from steering.compilation import LayerWork
from steering.controllers.base import Carry
from steering.joint import project_joint
from steering.kernels.layer import JointKernel, SingleKernel
from steering.passes import Pass, Piece
from steering.slab import project
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
    pieces: list[Piece] = field(default_factory=list)
    """What the tensor form did"""
    carry: dict[object, Carry] = field(default_factory=dict)
    """What rules remember from layer to layer"""
    ran: set[int] = field(default_factory=set)
    """Layers (their index in the tables) that have had their turn"""

    def __post_init__(self) -> None:
        on_host = self.on.device.type == "cpu"
        self.on_array: Any = self.on.numpy() if on_host else None
        self.record_array: Any = self.record.numpy() if on_host else None


class TensorLayer:
    """The tensor form: any dtype and device, no branch on data."""

    def __init__(self, work: LayerWork, index: int, *, slots: int) -> None:
        self._work = work
        self._index = index
        self._slots = slots
        self._every = tuple(range(len(work.acting)))
        self._alone = torch.zeros(len(self._every), 1, dtype=torch.bool)
        self._alone[list(work.alone)] = True

    def __call__(self, resid: Tensor, now: Now) -> Tensor:
        """The steered stream of (rows, seq, hidden_size) after this layer."""
        if self._alone.device != resid.device:
            self._work, self._alone = self._work.to(resid.device), self._alone.to(resid.device)
        stored = self._verified(resid, now) if self._work.alone or self._work.joint else resid
        for group in self._work.groups:
            on = now.on[self._index].to(resid.device)[:, group.rows]
            moved, done = group(resid[list(group.rows)], on=on, carry=now.carry.setdefault(group.key, {}))
            now.pieces.append(Piece(self._index, group.rows, on, done))
            stored = stored.index_copy(0, torch.tensor(group.rows, device=resid.device), moved)
        return stored

    def _verified(self, resid: Tensor, now: Now) -> Tensor:
        """The rows under a promise: a new tensor, never the input edited."""
        on = now.on[self._index].to(resid.device)
        alone = on & self._alone
        single = project(resid, self._work.single.only(alone.any(dim=0)))
        now.pieces.append(Piece(self._index, self._every, alone, Pass.of_single(single, slots=self._slots)))
        if self._work.joint is None:
            return single.resid
        rows, some = list(self._work.rows), on[:, self._work.rows]
        joint = project_joint(resid[rows], self._work.joint.only(some.movedim(0, -1)))
        now.pieces.append(Piece(self._index, self._work.rows, some, Pass.of_joint(joint)))
        return single.resid.index_copy(0, torch.tensor(rows, device=resid.device), joint.resid)


class CompiledLayer(TensorLayer):
    """The compiled form of the verified slabs: float32 on the CPU."""

    def __init__(self, work: LayerWork, index: int, *, slots: int, tables: Tables) -> None:
        super().__init__(work, index, slots=slots)
        figures = {"scale": tables.scale[index], "shift": tables.shift[index], "gave": tables.gave[index]}
        slot = torch.tensor([found[0][0] if found else 0 for found in work.acting])
        self._single = SingleKernel(work.single, acts=self._alone, slot=slot, **figures)
        self._joint = None
        if work.joint is not None:
            slots_of = [[slot for slot, _ in work.acting[row]] for row in work.rows]
            self._joint = JointKernel(work.joint, rows=torch.tensor(work.rows), slots=slots_of, **figures)

    def _verified(self, resid: Tensor, now: Now) -> Tensor:
        resid, on = resid.detach().contiguous(), now.on_array[self._index]
        out = self._single(resid, on=on, record=now.record_array)
        if self._joint is not None:
            self._joint(resid, out, on=on, record=now.record_array)
        return out
