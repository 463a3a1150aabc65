"""Steering of a batch: one plan per row, applied inside the forward pass.

Before each forward pass `begin` says which offsets its tokens have (see `steering.plan`); inside it each steered layer
moves its rows; after it `collect` adds what happened to the totals. Verified slabs of a float32 stream on the CPU go
through the compiled loops of `steering.kernels`, all else through tensor operations without a branch on data. Nothing
is copied to the host until `report`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steering import record
from steering.compilation import Compiler, LayerWork
from steering.controllers.state_offset import StateEdit
from steering.errors import SteeringNotApplied
from steering.hooks import Controller
from steering.kernels.passing import OneToken
from steering.layers import CompiledLayer, Now, TensorLayer
from steering.passes import fold
from steering.plan import Plan
from steering.report import SteeringReport
from steering.state_edits import StateEdits
from steering.tables import compile_tables, steered_layers
from steering.tally import Account, Tally

PAD = -(2**31)
"""Offset of padding and of rows that have finished: never steered, never counted."""


class RowSteering:
    """Compiled plans of one batch. `plans[row]` may be None: that row is never touched.

    `prompt_tokens`, the length of each row's prompt, is needed by plans that steer the first prompt token. `accounts`
    go on from earlier passes of the same rows, and are brought up to date by `settle`.
    Raises InvalidBounds when a slab is too narrow for `dtype`.
    """

    def __init__(
        self,
        plans: Sequence[Plan | None],
        *,
        hidden_size: int,
        device: torch.device,
        dtype: torch.dtype,
        prompt_tokens: Sequence[int] | None = None,
        accounts: Sequence[Account | None] | None = None,
    ) -> None:
        for plan in plans:
            if plan is not None:
                plan.check_representable(dtype)
        self.layers = steered_layers(plans)
        self._device = device
        self._tables = compile_tables(plans, self.layers, device=device, prompt_tokens=prompt_tokens)
        rows, self._slots = len(plans), self._tables.start.shape[1]
        compiler = Compiler(plans, hidden_size=hidden_size, slots=self._slots)
        compiled = device.type == "cpu" and dtype == torch.float32 and self.layers
        self._one = OneToken(self._tables, rows=rows) if compiled else None
        self._layers = [self._layer(compiler.layer(layer), index) for index, layer in enumerate(self.layers)]
        self._tally = Tally(plans, slots=self._slots, device=device, accounts=accounts)
        self._states = StateEdits(plans, self.layers, device=device)
        self._rows = rows
        self._hidden_size = hidden_size
        self._now: Now | None = None

    def controllers(self) -> dict[int, Controller]:
        """One `resid -> resid` rule per steered layer, for `steering.hooks.steer`."""
        return {layer: self._controller(index) for index, layer in enumerate(self.layers)}

    def keep_tokens(self) -> None:
        """Remember per-token probabilities from now on, for the report 'tokens'."""
        self._tally.keep_tokens()

    def begin(self, offsets: Tensor) -> None:
        """Announce the tokens of the next forward pass: their offsets, (batch, seq) int64 on the host."""
        expected = (self._rows, offsets.shape[1], self._hidden_size)
        if self._one is not None and offsets.shape[1] == 1:
            start = 0 if self._one.announce(offsets) else 1
            self._now = Now(start, offsets, self._one.on, self._one.record, expected, self._one)
            return
        on = self._tables.on(offsets)
        needed = on.flatten(0, 2).any(dim=0).nonzero()
        start = int(needed[0]) if len(needed) else offsets.shape[1]
        on = on[..., start:].contiguous().to(self._device)
        blank = record.blank(self._rows, on.shape[-1], self._slots, device=self._device)
        self._now = Now(start, offsets[:, start:], on, blank, expected)

    def state_edits(self) -> list[StateEdit]:
        """What acts on recurrent states in the step announced by `begin`, for `held` around it."""
        assert self._now is not None, "begin comes first"
        return self._states.at(self._now.on) if self._now.steered else []

    def collect(self) -> None:
        """Add the forward pass that has just ended to the totals.

        Raises SteeringNotApplied when it had tokens to steer and some layer ran without its controller.
        """
        now = self._now
        assert now is not None, "begin comes first"
        if not now.steered or not self.layers:
            return
        if len(now.ran) < len(self.layers):
            missing = [layer for index, layer in enumerate(self.layers) if index not in now.ran]
            raise SteeringNotApplied(
                f"a forward pass ran without its controllers at layers {missing}, so its text would be unsteered; "
                "run the model inside steer(model, steering.controllers())"
            )
        now.ran.clear()
        if now.one is not None and not now.pieces:
            now.one.add_to(self._tally.totals)
            self._tally.remember(now.record, offsets=now.offsets)
            return
        done = fold(now.pieces, self._tables, now.record) if now.pieces else now.record
        self._tally.add(done, offsets=now.offsets)

    def settle(self) -> None:
        """Bring the accounts of the rows up to date. Copies to the host."""
        self._tally.settle()

    def report(self, row: int, *, finish: str = "", tokens: bool = False) -> SteeringReport | None:
        """What was done to `row` so far; None for a row without a plan. Copies to the host."""
        return self._tally.report(row, finish=finish, tokens=tokens)

    def _layer(self, work: LayerWork, index: int) -> TensorLayer:
        if self._one is not None:
            return CompiledLayer(work, index, slots=self._slots, tables=self._tables, one=self._one)
        return TensorLayer(work, index, slots=self._slots, device=self._device)

    def _controller(self, index: int) -> Controller:
        layer = self._layers[index]

        def control(resid: Tensor) -> Tensor:
            now = self._now
            assert now is not None, "begin comes first"
            if resid.shape != now.expected:
                raise SteeringNotApplied(
                    f"the residual stream at layer {self.layers[index]} has shape {tuple(resid.shape)}, but plans were "
                    f"compiled and tokens announced for {now.expected}; call begin with the offsets of this pass"
                )
            now.ran.add(index)
            if now.start >= resid.shape[1]:
                return resid
            if now.start == 0:
                return layer(resid, now)
            return torch.cat([resid[:, : now.start], layer(resid[:, now.start :], now)], dim=1)

        return control
