"""Steering of a batch: one plan per row, applied inside the forward pass.

Before each forward pass `begin` says which offsets its tokens have (see `steering.plan`); inside it each steered layer
projects its rows; after it `collect` adds what happened to the totals, in a handful of operations on the device
whatever the number of layers. Nothing is copied to the host until `report`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steering.compilation import compile_layer, compile_tables, steered_layers
from steering.errors import SteeringNotApplied
from steering.hooks import Controller
from steering.joint import project_joint
from steering.plan import Plan
from steering.report import SteeringReport
from steering.slab import project
from steering.tally import Pass, Tally

PAD = -(2**31)
"""Offset of padding and of rows that have finished: never steered, never counted."""


class RowSteering:
    """Compiled plans of one batch. `plans[row]` may be None: that row is never touched.

    Raises InvalidBounds when a slab is too narrow for `dtype`.
    """

    def __init__(
        self, plans: Sequence[Plan | None], *, hidden_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        for plan in plans:
            if plan is not None:
                plan.check_representable(dtype)
        self.layers = steered_layers(plans)
        self._device = device
        self._tables = compile_tables(plans, self.layers, device=device)
        self._slots = self._tables.start.shape[1]
        self._work = {
            layer: compile_layer(plans, layer, hidden_size=hidden_size, slots=self._slots, device=device)
            for layer in self.layers
        }
        self._tally = Tally(plans, self._tables)
        self._on: Tensor | None = None
        self._from = 0
        self._offsets: Tensor | None = None
        self._done: dict[int, Pass] = {}

    def controllers(self) -> dict[int, Controller]:
        """One `resid -> resid` rule per steered layer, for `steering.hooks.steer`."""
        return {layer: self._controller(layer) for layer in self.layers}

    def keep_tokens(self) -> None:
        """Remember per-token probabilities from now on, for the report 'tokens'."""
        self._tally.keep_tokens()

    def begin(self, offsets: Tensor) -> None:
        """Announce the tokens of the next forward pass: their offsets, (batch, seq) int64 on the host."""
        start, stop, prompt = (
            table.unsqueeze(-1) for table in (self._tables.start, self._tables.stop, self._tables.prompt)
        )
        on = ((offsets >= prompt) & (offsets < 0)) | ((offsets >= start) & (offsets < stop))
        needed = on.flatten(0, 2).any(dim=0).nonzero()
        self._from = int(needed[0]) if len(needed) else offsets.shape[1]
        self._offsets = offsets[:, self._from :]
        self._on = on[..., self._from :].to(self._device)

    def collect(self) -> None:
        """Add the forward pass that has just ended to the totals.

        Raises SteeringNotApplied when it had tokens to steer and some layer ran without its controller.
        """
        assert self._on is not None, "begin comes first"
        assert self._offsets is not None, "begin comes first"
        if self._offsets.shape[1] == 0 or not self.layers:
            return
        missing = [layer for layer in self.layers if layer not in self._done]
        if missing:
            raise SteeringNotApplied(
                f"a forward pass ran without its controllers at layers {missing}, so its text would be unsteered; "
                "run the model inside steer(model, steering.controllers())"
            )
        done = [self._done.pop(layer) for layer in self.layers]
        self._tally.add(Pass.stack(done, device=self._device), on=self._on, offsets=self._offsets)

    def report(self, row: int, *, finish: str = "", tokens: bool = False) -> SteeringReport | None:
        """What was done to `row` so far; None for a row without a plan. Copies to the host."""
        return self._tally.report(row, finish=finish, tokens=tokens)

    def _controller(self, layer: int) -> Controller:
        index = self.layers.index(layer)

        def control(resid: Tensor) -> Tensor:
            assert self._on is not None, "begin comes first"
            if self._from >= resid.shape[1]:
                return resid
            work = self._work[layer]
            if work.rows.device != resid.device:
                work = self._work[layer] = work.to(resid.device)
            tail, on = resid[:, self._from :], self._on[index].to(resid.device)
            single = project(tail, work.single.only(on.any(dim=0)))
            done, stored = Pass.of_single(single, slots=self._slots), single.resid
            if work.joint is not None:
                joint = project_joint(tail[work.rows], work.joint.only(on[:, work.rows].movedim(0, -1)))
                done = done.with_rows(work.rows, Pass.of_joint(joint))
                stored = stored.index_copy(0, work.rows, joint.resid)
            self._done[layer] = done
            return stored if self._from == 0 else torch.cat([resid[:, : self._from], stored], dim=1)

        return control
