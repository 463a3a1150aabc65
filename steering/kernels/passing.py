"""The frame of a pass in compiled code: which tokens are steered, and the totals afterwards.

What `Tables.on`, `record.blank` and `Tally.add` do in tensor operations. In passes of one token per row, a dozen
operations on a few numbers each would cost as much as all the projections.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from steering import record as field
from steering.kernels.compiling import compiled
from steering.tables import Tables


@compiled
def announce(offsets, windows, on, record, blank):
    """Write `on` (layers, slots, rows, seq) for `offsets` (rows or 1, seq), reset `record`; whether any token is on.

    `windows` (rows, layers, slots, 4) holds the first and the end of the prompt offsets, then of the generated ones.
    """
    rows, layers, slots, _ = windows.shape
    found = False
    for row in range(rows):
        for token in range(on.shape[3]):
            at = offsets[row if len(offsets) > 1 else 0, token]
            for layer in range(layers):
                for slot in range(slots):
                    window = windows[row, layer, slot]
                    now = window[0] <= at < window[1] or window[2] <= at < window[3]
                    on[layer, slot, row, token] = now
                    found |= now
            for slot in range(slots):
                for name in range(len(blank)):
                    record[row, token, slot, name] = blank[name]
    return found


@compiled
def add_up(record, totals):
    """Add `record` (rows, seq, slots, FIELDS) to `totals` (rows, slots, FIELDS)."""
    rows, seq, slots, fields = record.shape
    for row in range(rows):
        for token in range(seq):
            for slot in range(slots):
                for name in range(fields):
                    new, old = record[row, token, slot, name], totals[row, slot, name]
                    totals[row, slot, name] = max(old, new) if name < field.MAXIMA else old + new


class OneToken:
    """The buffers of passes of one token, used again at every step."""

    def __init__(self, tables: Tables, *, rows: int) -> None:
        slots = tables.start.shape[1]
        self.on = torch.zeros(*tables.start.shape, 1, dtype=torch.bool)
        self.record = field.blank(rows, 1, slots, device=self.on.device)
        self._windows = tables.windows()
        self.views: tuple[Any, Any] = self.on.numpy(), self.record.numpy()
        self._blank = np.array(field.BLANK)

    def announce(self, offsets: Tensor) -> bool:
        """Fill the buffers for a pass with these offsets, (rows or 1, 1); whether any token is steered."""
        on, record = self.views
        at = offsets.contiguous().numpy()
        return bool(announce(at, self._windows, on, record, self._blank))

    def add_to(self, totals: Tensor) -> None:
        """Add the record of the pass to (rows, slots, FIELDS)."""
        add_up(self.views[1], totals.numpy())
