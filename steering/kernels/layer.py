"""The compiled loops on the tensors of a batch: what `steering.rows` calls at a layer, for float32 on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering import record as field
from steering.box_qp import rounds_for
from steering.joint import JointSlabs
from steering.kernels import joint, single
from steering.kernels.compiling import keep_on_disk
from steering.slab import Slabs, finite


class SingleKernel:
    """One slab per row. Holds views of the tensors of `slabs`, whose seq axis is 1, and copies of its figures."""

    def __init__(self, slabs: Slabs, *, acts: Tensor, slot: Tensor, scale: Tensor, shift: Tensor, gave: Tensor) -> None:
        """`acts` (rows,) says which rows have a slab, `slot` in which slot; `scale`, `shift`, `gave` (slots, rows)."""
        keep_on_disk()
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
        self._figures = np.stack([column.reshape(rows).numpy() for column in columns], axis=1, dtype=np.float64)
        self._weight, self._direction = slabs.weight[:, 0].numpy(), slabs.direction[:, 0].numpy()

    def __call__(self, resid: Tensor, *, on: Any, record: Any) -> Tensor:
        """The steered copy of `resid` (rows, seq, hidden_size); `on` and `record` are numpy views, as in `single`."""
        out = torch.empty(resid.shape)
        single.project_rows(resid.numpy(), out.numpy(), self._weight, self._direction, self._figures, on, record)
        return out


class JointKernel:
    """Several slabs for some rows, held together. Holds only what acts: the constraints of a row, without gaps."""

    def __init__(
        self, slabs: JointSlabs, *, rows: Tensor, slots: list[list[int]], scale: Tensor, shift: Tensor, gave: Tensor
    ) -> None:
        """`slots[i]` are the slots that act here in the row `rows[i]`; `scale`, `shift`, `gave` are (slots, rows)."""
        most = max(map(len, slots))
        self._rows, self._counts = rows.numpy(), np.array([len(found) for found in slots])
        padded = torch.tensor([found + [found[0]] * (most - len(found)) for found in slots])
        self._slots, self._rounds = padded.numpy(), rounds_for(most)

        def pick(value: Tensor) -> Tensor:
            """(n, 1, slots, ...) -> (n, most, ...), the slots that act first."""
            flat = value[:, 0]
            return torch.stack([part[found] for part, found in zip(flat, padded, strict=True)])

        def table(value: Tensor) -> Tensor:
            return value[:, rows].T.gather(1, padded)

        low, high, bias = pick(slabs.low), pick(slabs.high), pick(slabs.bias)
        reach = bias.abs() + finite(low).abs() + finite(high).abs()
        columns = (bias, low, high, reach, pick(slabs.size), table(scale), table(shift), table(gave))
        self._figures = torch.stack([column.double() for column in columns], dim=-1).numpy()
        self._weight, self._lift = pick(slabs.weight).contiguous().numpy(), pick(slabs.lift).contiguous().numpy()
        gram = slabs.gram[:, 0]
        self._gram = torch.stack([g[f][:, f] for g, f in zip(gram, padded, strict=True)]).contiguous().numpy()
        shared = (slabs.strength, slabs.max_dose, slabs.promised)
        self._shared = np.stack([column.reshape(len(rows)).numpy() for column in shared], axis=1, dtype=np.float64)

    def __call__(self, resid: Tensor, out: Tensor, *, on: Any, record: Any) -> None:
        """Overwrite these rows of `out` (rows, seq, hidden_size)."""
        joint.project_joint_rows(
            resid.numpy(), out.numpy(), self._rows, self._slots, self._counts, self._weight, self._lift, self._gram,
            self._figures, self._shared, on, record, self._rounds,
        )  # fmt: skip


def project_compiled(resid: Tensor, slabs: Slabs | JointSlabs) -> tuple[Tensor, Tensor]:
    """Rows (n, hidden_size) under the same slabs, through the loops: what is stored, and which rows moved or missed.

    `slabs` has no row axes. The second tensor is the record of the rows, (n, K, FIELDS).
    """
    several = isinstance(slabs, JointSlabs)
    count = len(slabs.bias) if several else 1
    ones, none = torch.ones(count, 1, dtype=torch.float64), torch.zeros(count, 1, dtype=torch.bool)
    figures = {"scale": ones, "shift": 0 * ones, "gave": none}
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
