"""Plans of rows that come and go, as the tables the compiled loops read: compiled once, then only placed.

A plan whose layers hold one verified slab each becomes a block of figures (`compile_plan`, in whoever's thread asks).
When its row joins, moves or leaves, the block is written, copied or blanked in tables that are made once, (layers,
slots, ...): no other row is touched and nothing is compiled again. Weights that rows share are kept once per layer, so
that what a layer touches stays small. A pass works on neighbouring slots, as the cache does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering import record as field
from steering.compilation import Compiler
from steering.kernels import single
from steering.kernels.direct import project_by_address
from steering.kernels.layer import prepare, single_figures
from steering.kernels.passing import add_up, announce
from steering.plan import Plan
from steering.tables import FOREVER, compile_tables

CONSTRAINTS = 4
"""Of one plan, at disjoint layers; a plan with more goes through `steering.rows`."""

_NEVER = (0, 0, FOREVER, 0)


@dataclass(frozen=True, eq=False)
class PlanFigures:
    """One plan, ready to be placed; arrays over its layers, rising."""

    layers: NDArray[np.int64]
    figures: NDArray[np.float64]
    """(layers, 16), as `steering.kernels.single` reads them; weight and lift are places in `vectors`"""
    windows: NDArray[np.int64]
    """(layers, CONSTRAINTS, 4)"""
    vectors: NDArray[np.float32]
    """(n, hidden_size)"""
    names: tuple[bytes, ...]
    """What the vectors hold, for sharing: equal for equal ones"""


def compile_plan(plan: Plan, *, hidden_size: int, prompt_tokens: int) -> PlanFigures | None:
    """The block of one plan; None when it needs more than one verified slab at a layer, or another rule."""
    slots = len(plan.constraints)
    slabs = Compiler([plan], hidden_size=hidden_size, slots=slots).alone(0) if slots <= CONSTRAINTS else None
    if slabs is None:
        return None
    layers = plan.layers
    tables = compile_tables([plan], layers, device=torch.device("cpu"), prompt_tokens=[prompt_tokens])
    figures, vectors = single_figures(
        slabs,
        acts=torch.ones(len(layers), dtype=torch.bool),
        slot=torch.tensor([plan.at(layer)[0][0] for layer in layers]),
        scale=tables.scale[..., 0].T,
        shift=tables.shift[..., 0].T,
        gave=tables.gave[..., 0].T,
    )
    windows = np.full((len(layers), CONSTRAINTS, 4), _NEVER, dtype=np.int64)
    windows[:, :slots] = tables.windows()[0]
    names = tuple(hashlib.blake2b(vector.tobytes(), digest_size=16).digest() for vector in vectors)
    return PlanFigures(np.array(layers), figures, windows, vectors, names)


class SlotTables:
    """The tables of all slots, and the buffers of the pass that runs."""

    def __init__(self, *, slots: int, layers: int, hidden_size: int) -> None:
        prepare()
        self._call = project_by_address()
        self._figures = np.zeros((layers, slots, 16))
        self._windows = np.full((slots, layers, CONSTRAINTS, 4), _NEVER, dtype=np.int64)
        self._vectors = np.zeros((layers, 2 * slots, hidden_size), dtype=np.float32)
        self._users: list[dict[bytes, list[int]]] = [{} for _ in range(layers)]
        """Per layer, of each vector kept: its place and how many rows use it"""
        self._placed: dict[int, PlanFigures] = {}
        self.totals = np.tile(np.array(field.BLANK), (slots, CONSTRAINTS, 1))
        """(slots, CONSTRAINTS, FIELDS): what was done to each row so far"""
        self._blank = np.array(field.BLANK)
        self._calls = np.zeros((layers, 9), dtype=np.int64)
        """What each layer's call by address reads: sizes, then addresses"""
        self._single_on = np.zeros(layers * CONSTRAINTS * slots, dtype=np.bool_)
        self._single_record = np.zeros((slots, 1, CONSTRAINTS, field.FIELDS))
        self._rows = slice(0, 0)
        self._acting: tuple[slice, list[int]] | None = None
        """Layers at which some row of these slots is steered; forgotten when a row comes, moves or goes"""
        self._on: Any = None
        self.record: Any = None
        """(rows, seq, CONSTRAINTS, FIELDS) of the pass that runs"""

    def put(self, slot: int, plan: PlanFigures) -> None:
        """Place a plan in a slot that is free, its totals blank."""
        self._placed[slot], self._acting = plan, None
        self.totals[slot] = self._blank
        self._windows[slot][plan.layers] = plan.windows
        for layer, line in zip(plan.layers, plan.figures, strict=True):
            mine = line.copy()
            for column in (single.WEIGHT, single.LIFT):
                place = int(line[column])
                mine[column] = self._share(layer, plan.names[place], plan.vectors[place])
            self._figures[layer, slot] = mine

    def take(self, slot: int) -> None:
        """Blank a slot."""
        plan = self._placed.pop(slot, None)
        if plan is None:
            return
        self._acting = None
        self._windows[slot][plan.layers] = _NEVER
        for layer, line in zip(plan.layers, plan.figures, strict=True):
            self._figures[layer, slot] = 0
            for column in (single.WEIGHT, single.LIFT):
                self._release(layer, plan.names[int(line[column])])

    def move(self, source: int, target: int) -> None:
        """Take the row of one slot to another, which is free."""
        plan = self._placed.pop(source, None)
        if plan is None:
            return
        self._placed[target], self._acting = plan, None
        self.totals[target] = self.totals[source]
        for rows, blank in ((self._windows, np.array(_NEVER)), (self._figures.swapaxes(0, 1), np.zeros(16))):
            rows[target][plan.layers] = rows[source][plan.layers]
            rows[source][plan.layers] = blank

    def open(self, first: int, offsets: Tensor) -> list[int]:
        """Announce a pass over the slots from `first` on, with these offsets, (rows, seq) int64 on the host.

        The layers at which some row is steered at all; none when no token of the pass is.
        """
        rows, seq = offsets.shape
        self._rows = slice(first, first + rows)
        if seq == 1:
            self._on = self._single_on[: self._figures.shape[0] * CONSTRAINTS * rows].reshape(-1, CONSTRAINTS, rows, 1)
            self.record = self._single_record[:rows]
        else:
            self._on = np.zeros((self._figures.shape[0], CONSTRAINTS, rows, seq), dtype=np.bool_)
            self.record = np.zeros((rows, seq, CONSTRAINTS, field.FIELDS))
        at = offsets.contiguous().numpy()
        if not announce(at, self._windows[self._rows], self._on, self.record, self._blank):
            return []
        if seq == 1:
            self._address(first, rows)
        if self._acting is None or self._acting[0] != self._rows:
            own = range(first, first + rows)
            layers = {int(layer) for slot, plan in self._placed.items() if slot in own for layer in plan.layers}
            self._acting = self._rows, sorted(layers)
        return self._acting[1]

    def project(self, layer: int, resid: Tensor) -> Tensor:
        """The steered copy of a contiguous float32 `resid` (rows, seq, hidden_size) at one layer."""
        if resid.shape[1] == 1:
            out = resid.clone()
            self._call(int(self._calls[layer].ctypes.data), resid.data_ptr(), out.data_ptr())
            return out
        out = torch.empty_like(resid)
        single.project_rows(
            resid.numpy(),
            out.numpy(),
            self._vectors[layer],
            self._figures[layer, self._rows],
            self._on[layer],
            self.record,
        )
        return out

    def close(self) -> None:
        """Add the pass that has just ended to the totals."""
        add_up(self.record, self.totals[self._rows])

    def _address(self, first: int, rows: int) -> None:
        layers = len(self._figures)
        sizes = (rows, self._vectors.shape[2], CONSTRAINTS, self._vectors.shape[1], field.FIELDS)
        every = np.arange(layers)
        self._calls[:, :5] = sizes
        self._calls[:, 5] = self._vectors.ctypes.data + every * self._vectors.strides[0]
        self._calls[:, 6] = (
            self._figures.ctypes.data + every * self._figures.strides[0] + first * self._figures.strides[1]
        )
        self._calls[:, 7] = self._on.ctypes.data + every * self._on.strides[0]
        self._calls[:, 8] = self.record.ctypes.data

    def _share(self, layer: int, name: bytes, vector: NDArray[np.float32]) -> int:
        users = self._users[layer]
        if name not in users:
            taken = {place for place, _ in users.values()}
            place = next(place for place in range(self._vectors.shape[1]) if place not in taken)
            self._vectors[layer, place] = vector
            users[name] = [place, 0]
        users[name][1] += 1
        return users[name][0]

    def _release(self, layer: int, name: bytes) -> None:
        users = self._users[layer]
        users[name][1] -= 1
        if users[name][1] == 0:
            del users[name]
