"""What the tensor form of steering leaves of one forward pass, and how its layers are folded into a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steering import record as field
from steering.slab import Projected
from steering.tables import Tables


class Pass(NamedTuple):
    """What one layer, or a stack of layers, did in one forward pass; (..., slots, rows, seq) each."""

    before: Tensor
    after: Tensor
    edited: Tensor
    capped: Tensor
    violated: Tensor
    dose: Tensor

    @classmethod
    def of_single(cls, done: Projected, *, slots: int) -> Pass:
        """One constraint per row, seen from every slot; the tables say which slot it is."""
        return cls(*(part.expand(slots, *part.shape) for part in done[1:]))

    @classmethod
    def of_joint(cls, done: Projected) -> Pass:
        """Each slot by itself; the dose belongs to all."""
        slots = done.before.shape[-1]
        before, after, edited, capped, violated = (part.movedim(-1, 0) for part in done[1:-1])
        return cls(before, after, edited, capped, violated, done.dose.expand(slots, *done.dose.shape))


class Piece(NamedTuple):
    """A pass of some rows at one layer."""

    layer: int
    """Its index in the tables"""
    rows: tuple[int, ...]
    place: Tensor
    """(rows,) int64: the same, to index with"""
    on: Tensor
    """(slots, rows, seq) bool: which constraints these rows follow here, and at which tokens"""
    done: Pass


def fold(pieces: Sequence[Piece], tables: Tables, record: Tensor) -> Tensor:
    """`record` (rows, seq, slots, FIELDS) with the pieces of one forward pass added.

    In one stack per set of rows, so that the number of operations does not grow with the number of layers.
    """
    device = record.device
    for rows in dict.fromkeys(piece.rows for piece in pieces):
        mine = [piece for piece in pieces if piece.rows == rows]
        place = mine[0].place.to(device)
        on = torch.stack([piece.on.to(device) for piece in mine])
        done = Pass(
            *(torch.stack([part.to(device) for part in parts]) for parts in zip(*(p.done for p in mine), strict=True))
        )
        scale, shift, gave = (
            torch.stack([table[piece.layer] for piece in mine])[..., place].unsqueeze(-1)
            for table in (tables.scale, tables.shift, tables.gave)
        )
        lines = _lines(done, on, scale, shift, gave).permute(1, 2, 0, 3)
        record = record.index_copy(0, place, field.merge(record[place], lines))
    return record


def _lines(done: Pass, on: Tensor, scale: Tensor, shift: Tensor, gave: Tensor) -> Tensor:
    """(slots, rows, seq, FIELDS) of a stack of layers."""
    before, after = (scale * logit.double() + shift for logit in (done.before, done.after))
    edited = done.edited & on
    highest = [torch.where(on, value, -torch.inf).amax(0) for value in (before, after, -before, -after, done.dose)]
    sums = [edited.sum(0), torch.where(edited, done.dose, 0.0).sum(0)]
    flags = [flag.any(0) for flag in (on, edited, done.capped & on, gave & on, done.violated & on & ~gave)]
    return torch.stack([value.double() for value in (*highest, *sums, *flags)], dim=-1)
