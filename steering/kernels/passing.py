"""The frame of a decoding step in compiled code: which tokens are steered, and the totals afterwards.

What `Tables.on`, `record.blank` and `Tally.add` do in tensor operations, for passes of one token per row: a dozen
operations on a few numbers each would cost as much there as all the projections.
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
def announce(offsets, start, stop, prompt, prompt_end, on, record, blank):
    """Write `on` (layers, slots, rows, 1) for `offsets` (rows or 1, 1), reset `record`; whether any token is on."""
    layers, slots, rows = start.shape
    found = False
    for layer in range(layers):
        for slot in range(slots):
            for row in range(rows):
                place, at = (layer, slot, row), offsets[row if len(offsets) > 1 else 0, 0]
                now = prompt[place] <= at < prompt_end[place] or start[place] <= at < stop[place]
                on[layer, slot, row, 0] = now
                found |= now
    for row in range(record.shape[0]):
        for slot in range(slots):
            for name in range(len(blank)):
                record[row, 0, slot, name] = blank[name]
    return found


@compiled
def add_up(record, totals):
    """Add `record` (rows, 1, slots, FIELDS) to `totals` (rows, slots, FIELDS)."""
    rows, slots, fields = totals.shape
    for row in range(rows):
        for slot in range(slots):
            for name in range(fields):
                new, old = record[row, 0, slot, name], totals[row, slot, name]
                totals[row, slot, name] = max(old, new) if name < field.MAXIMA else old + new


class OneToken:
    """The buffers of passes of one token, used again at every step."""

    def __init__(self, tables: Tables, *, rows: int) -> None:
        slots = tables.start.shape[1]
        self.on = torch.zeros(*tables.start.shape, 1, dtype=torch.bool)
        self.record = field.blank(rows, 1, slots, device=self.on.device)
        windows = (tables.start, tables.stop, tables.prompt, tables.prompt_end)
        self._start, self._stop, self._prompt, self._end = (table.contiguous().numpy() for table in windows)
        self.views: tuple[Any, Any] = self.on.numpy(), self.record.numpy()
        self._blank = np.array(field.BLANK)

    def announce(self, offsets: Tensor) -> bool:
        """Fill the buffers for a pass with these offsets, (rows or 1, 1); whether any token is steered."""
        on, record = self.views
        at = offsets.contiguous().numpy()
        return bool(announce(at, self._start, self._stop, self._prompt, self._end, on, record, self._blank))

    def add_to(self, totals: Tensor) -> None:
        """Add the record of the pass to (rows, slots, FIELDS)."""
        add_up(self.views[1], totals.numpy())
