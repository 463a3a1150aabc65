"""The compiled loops on the tensors of a batch: what `steering.rows` calls at a layer, for float32 on the CPU."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steering import record as field
from steering.box_qp import MAX_CONSTRAINTS, rounds_for
from steering.errors import UnsupportedSteering
from steering.joint import JointSlabs, joint_slabs
from steering.kernels import joint, single
from steering.kernels.compiling import forget, keep_on_disk
from steering.kernels.direct import ByAddress, project_by_address
from steering.slab import Slabs, finite, slab

Array = NDArray[np.float32]

_lock = threading.Lock()
_prepared = False


def prepare() -> None:
    """Compile the loops, or load what an earlier process compiled, once; seconds at worst, and never an error.

    A folder that cannot be read or written is not trusted: both loops are run on two numbers here, and when that fails
    they are compiled without it.
    """
    global _prepared
    with _lock:
        if _prepared:
            return
        _prepared = True
        folder = keep_on_disk()
        try:
            _try_out()
        except Exception:
            if folder is None:
                raise
            forget(folder)
            _try_out()


class Vectors:
    """The weights and directions of a layer, each once: the less memory a layer touches, the less it costs.

    Between two layers the model streams its own weights through the caches, so whatever is read here comes from afar.
    """

    def __init__(self) -> None:
        self._places: dict[bytes, int] = {}
        self._kept: list[Array] = []

    def share(self, weight: Array, move: Array, per: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, 3): the rows of `stacked` with each weight and each move, both (n, hidden_size), and the move's factor.

        A move that is `per` (n,) times its weight needs no vector of its own.
        """
        same = [bool(close.all()) for close in np.isclose(move, weight * per[:, None], rtol=1e-6, atol=0)]
        rows = [
            (self._place(w), self._place(w if plain else m), p if plain else 1.0)
            for w, m, p, plain in zip(weight, move, per, same, strict=True)
        ]
        return np.array(rows, dtype=np.float64)

    def stacked(self) -> Array:
        """(n, hidden_size) float32"""
        return np.stack(self._kept)

    def _place(self, vector: Array) -> int:
        place = self._places.setdefault(vector.tobytes(), len(self._kept))
        if place == len(self._kept):
            self._kept.append(vector)
        return place


def single_figures(
    slabs: Slabs, *, acts: Tensor, slot: Tensor, scale: Tensor, shift: Tensor, gave: Tensor
) -> tuple[NDArray[np.float64], Array]:
    """One slab per row as `steering.kernels.single` reads it: figures (rows, 16) and vectors (n, hidden_size).

    The seq axis of `slabs` is 1. `acts` (rows,) says which rows have a slab, `slot` in which slot; `scale`, `shift`
    and `gave` are (slots, rows).
    """
    rows = len(slabs.low)
    at = slot.unsqueeze(0)
    columns = (
        slabs.bias,
        slabs.low,
        slabs.high,
        slabs.strength,
        slabs.max_dose,
        slabs.bias.abs() + finite(slabs.low).abs() + finite(slabs.high).abs(),
        slabs.direction.norm(dim=-1),
        scale.gather(0, at),
        shift.gather(0, at),
        slabs.promised,
        gave.gather(0, at),
        slot,
        acts,
    )
    vectors = Vectors()
    weight, direction = slabs.weight[:, 0].numpy(), slabs.direction[:, 0].numpy()
    square = (weight.astype(np.float64) ** 2).sum(axis=1)
    shared = vectors.share(weight, direction, 1 / np.where(square > 0, square, 1.0))
    figures = np.stack([column.reshape(rows).numpy() for column in columns], axis=1, dtype=np.float64)
    return np.concatenate([figures, shared], axis=1), vectors.stacked()


class SingleKernel:
    """One slab per row. Holds copies of what `slabs`, whose seq axis is 1, says of each row."""

    def __init__(self, slabs: Slabs, *, acts: Tensor, slot: Tensor, scale: Tensor, shift: Tensor, gave: Tensor) -> None:
        """As in `single_figures`."""
        self._figures, self._vectors = single_figures(slabs, acts=acts, slot=slot, scale=scale, shift=shift, gave=gave)

    def by_address(self, *, on: Any, record: Any) -> ByAddress:
        """The quick form for passes of one token, whose `on` (slots, rows, 1) and `record` stay in one place."""
        return ByAddress(self._vectors, self._figures, on=on, record=record)

    def __call__(self, resid: Tensor, *, on: Any, record: Any) -> Tensor:
        """The steered copy of `resid` (rows, seq, hidden_size); `on` and `record` are numpy views, as in `single`."""
        out = torch.empty(resid.shape)
        single.project_rows(resid.numpy(), out.numpy(), self._vectors, self._figures, on, record)
        return out


class JointKernel:
    """Several slabs for some rows, held together. Holds only what acts: the constraints of a row, without gaps."""

    def __init__(
        self, slabs: JointSlabs, *, rows: Tensor, slots: list[list[int]], scale: Tensor, shift: Tensor, gave: Tensor
    ) -> None:
        """`slots[i]` are the slots that act here in the row `rows[i]`; `scale`, `shift`, `gave` are (slots, rows)."""
        most = max(map(len, slots))
        if most > MAX_CONSTRAINTS:
            raise UnsupportedSteering(f"{most} constraints meet; at most {MAX_CONSTRAINTS} can be held together")
        self._rows, self._counts = rows.numpy(), np.array([len(found) for found in slots])
        padded = torch.tensor([found + [found[0]] * (most - len(found)) for found in slots])
        self._slots = padded.numpy()
        self._rounds = np.array([rounds_for(len(found)) for found in slots])

        def pick(value: Tensor) -> Tensor:
            """(n, 1, slots, ...) -> (n, most, ...), the slots that act first."""
            flat = value[:, 0]
            return torch.stack([part[found] for part, found in zip(flat, padded, strict=True)])

        def table(value: Tensor) -> Tensor:
            return value[:, rows].T.gather(1, padded)

        low, high, bias = pick(slabs.low), pick(slabs.high), pick(slabs.bias)
        reach = bias.abs() + finite(low).abs() + finite(high).abs()
        columns = (bias, low, high, reach, pick(slabs.size), table(scale), table(shift), table(gave))
        vectors = Vectors()
        weight, lift, size = (pick(value).numpy() for value in (slabs.weight, slabs.lift, slabs.size))
        wide = weight.shape[-1]
        moved = vectors.share(weight.reshape(-1, wide), lift.reshape(-1, wide), 1 / size.ravel().astype(np.float64))
        figures = np.stack([column.numpy() for column in columns], axis=-1, dtype=np.float64)
        self._figures = np.concatenate([figures, moved.reshape(*size.shape, 3)], axis=-1)
        self._vectors = vectors.stacked()
        gram = slabs.gram[:, 0]
        self._gram = torch.stack([g[f][:, f] for g, f in zip(gram, padded, strict=True)]).contiguous().numpy()
        shared = (slabs.strength, slabs.max_dose, slabs.promised)
        self._shared = np.stack([column.reshape(len(rows)).numpy() for column in shared], axis=1, dtype=np.float64)

    def __call__(self, resid: Tensor, out: Tensor, *, on: Any, record: Any) -> None:
        """Overwrite these rows of `out` (rows, seq, hidden_size)."""
        joint.project_joint_rows(
            resid.numpy(), out.numpy(), self._rows, self._slots, self._counts, self._vectors, self._gram, self._figures,
            self._shared, on, record, self._rounds,
        )  # fmt: skip


def project_compiled(resid: Tensor, slabs: Slabs | JointSlabs) -> tuple[Tensor, Tensor]:
    """Rows (n, hidden_size) under the same slabs, through the loops: what is stored, and which rows moved or missed.

    `slabs` has no row axes. The second tensor is the record of the rows, (n, K, FIELDS).
    """
    prepare()
    return _project(resid, slabs)


def _try_out() -> None:
    project_by_address()
    weight, free = torch.ones(2, 2), torch.full((2,), math.inf)
    _project(torch.ones(1, 2), slab(weight[0], 0.0, high=0.0))
    _project(torch.ones(1, 2), joint_slabs(weight, torch.zeros(2), -free, torch.tensor([0.0, math.inf])))


def _project(resid: Tensor, slabs: Slabs | JointSlabs) -> tuple[Tensor, Tensor]:
    count = len(slabs.bias) if isinstance(slabs, JointSlabs) else 1
    ones = torch.ones(count, 1, dtype=torch.float64)
    gave = slabs.soft[:, None] if isinstance(slabs, JointSlabs) else torch.zeros(1, 1, dtype=torch.bool)
    figures = {"scale": ones, "shift": 0 * ones, "gave": gave}
    on, noted = (
        torch.ones(count, 1, len(resid), dtype=torch.bool),
        field.blank(1, len(resid), count, device=resid.device),
    )
    rows, tokens = slabs.map(lambda value: value[None, None]), resid.contiguous()[None]
    views = {"on": on.numpy(), "record": noted.numpy()}
    if isinstance(rows, JointSlabs):
        stored = torch.empty_like(tokens)
        JointKernel(rows, rows=torch.tensor([0]), slots=[list(range(count))], **figures)(tokens, stored, **views)
    else:
        alone = SingleKernel(rows, acts=torch.tensor([True]), slot=torch.tensor([0]), **figures)
        stored = alone(tokens, **views)
    return stored[0], noted[0]
