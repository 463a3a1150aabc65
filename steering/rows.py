"""Steering of a batch: one plan per row, compiled to tensors once, applied inside the forward pass.

For every layer some row steers there is one `Slabs` whose leading axis is the row; rows without a constraint there
have infinite bounds and pass through bit-exact. Before each forward pass `begin` says which offsets its tokens have
(see `steering.plan`); after it `collect` adds what happened to the totals, in a handful of operations on the device
whatever the number of layers. Nothing is copied to the host until `report`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steering.controllers.random import random_direction
from steering.hooks import Controller
from steering.plan import FOREVER, PROMPT_START, Constraint, Plan
from steering.report import ProbeReport, SteeringReport
from steering.slab import Projected, Slabs, project

PAD = -(2**31)
"""Offset of padding and of rows that have finished: never steered, never counted."""

_COUNTS = ("tokens", "edited", "capped", "violations", "pairs", "dose")
_LARGEST = ("max_pre", "max_post", "neg_min_pre", "neg_min_post", "max_dose")


class RowSteering:
    """Compiled plans of one batch. `plans[row]` may be None: that row is never touched.

    Raises InvalidBounds when a slab is too narrow for `dtype`.
    """

    def __init__(
        self, plans: Sequence[Plan | None], *, hidden_size: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        self._plans = list(plans)
        for plan in plans:
            for constraint in plan.constraints if plan and plan.mode == "enforce" else ():
                constraint.check_representable(dtype)
        active = {layer for plan in plans if plan for c in plan.constraints for layer in c.at_layers}
        self.layers = sorted(active)
        self._device = device
        self._width = max((len(plan.constraints) for plan in plans if plan), default=0)
        self._slabs = {layer: self._compile(layer, hidden_size) for layer in self.layers}
        self._windows, self._member, self._calibration = self._compile_tables()
        self._on: Tensor | None = None
        self._from = 0
        self._offsets: Tensor | None = None
        self._done: dict[int, Projected] = {}
        shape = (self._width, len(plans))
        self._totals = {name: torch.zeros(shape, device=device) for name in _COUNTS} | {
            name: torch.full(shape, -math.inf, device=device) for name in _LARGEST
        }
        self._history: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def controllers(self) -> dict[int, Controller]:
        """One `resid -> resid` rule per steered layer, for `steering.hooks.steer`."""
        return {layer: self._controller(layer) for layer in self.layers}

    def keep_tokens(self) -> None:
        """Remember per-token probabilities from now on, for the report 'tokens'."""
        self._history = []

    def begin(self, offsets: Tensor) -> None:
        """Announce the tokens of the next forward pass: their offsets, (batch, seq) int64 on the host."""
        start, stop, prompt = (self._windows[name].unsqueeze(-1) for name in ("start", "stop", "prompt"))
        on = ((offsets >= prompt) & (offsets < 0)) | ((offsets >= start) & (offsets < stop))
        needed = on.any(dim=0).any(dim=0).nonzero()
        self._from = int(needed[0]) if len(needed) else offsets.shape[1]
        self._offsets = offsets[:, self._from :]
        self._on = on[:, :, self._from :].to(self._device)

    def collect(self) -> None:
        """Add the forward pass that has just ended to the totals."""
        assert self._on is not None, "begin comes first"
        assert self._offsets is not None, "begin comes first"
        if not self._done:
            return
        stacked = self._stack()
        scale, shift = (part.unsqueeze(-1) for part in self._calibration)
        pre, post = torch.sigmoid(scale * stacked.before + shift), torch.sigmoid(scale * stacked.after + shift)
        scores = []
        for slot in range(self._width):
            mine = self._member[slot].unsqueeze(-1) & self._on
            edited = stacked.edited & mine
            self._add(
                slot,
                tokens=mine.any(0),
                edited=edited.any(0),
                capped=(stacked.capped & mine).any(0),
                violations=(stacked.violated & mine).any(0),
                pairs=edited.sum(0),
                dose=torch.where(edited, stacked.dose, 0.0).sum(0),
            )
            highest = [torch.where(mine, value, -math.inf).amax(0) for value in (pre, post, -pre, -post, stacked.dose)]
            for name, value in zip(_LARGEST, highest, strict=True):
                self._totals[name][slot] = torch.maximum(self._totals[name][slot], value.amax(-1))
            scores.append(torch.stack(highest[:2]))
        if self._history is not None:
            self._history.append((self._offsets, self._on.any(0), torch.stack(scores)))
        self._done.clear()

    def report(self, row: int, *, finish: str = "", tokens: bool = False) -> SteeringReport | None:
        """What was done to `row` so far; None for a row without a plan. Copies to the host."""
        plan = self._plans[row]
        if plan is None:
            return None
        totals = {name: value[:, row].tolist() for name, value in self._totals.items()}

        def one(slot: int, constraint: Constraint) -> ProbeReport:
            def get(name: str) -> float:
                value: float = totals[name][slot]
                return math.nan if value == -math.inf else value

            pairs = get("pairs")
            return ProbeReport(
                max_pre=get("max_pre"),
                max_post=get("max_post"),
                min_pre=-get("neg_min_pre"),
                min_post=-get("neg_min_post"),
                tokens=int(get("tokens")),
                edited=int(get("edited")),
                capped=int(get("capped")),
                violations=int(get("violations")),
                mean_dose=get("dose") / pairs if pairs else 0.0,
                max_dose=max(0.0, get("max_dose")) if get("tokens") else 0.0,
                promised=constraint.promised and plan.mode == "enforce",
            )

        return SteeringReport(
            applied=plan.mode == "enforce",
            probes={c.probe.id: one(slot, c) for slot, c in enumerate(plan.constraints)},
            layers=sorted(layer for c in plan.constraints for layer in c.at_layers),
            finish=finish,
            tokens=self._token_scores(row, plan) if tokens else None,
        )

    def _controller(self, layer: int) -> Controller:
        index = self.layers.index(layer)

        def control(resid: Tensor) -> Tensor:
            assert self._on is not None, "begin comes first"
            if self._from >= resid.shape[1]:
                return resid
            slabs = self._slabs[layer]
            if slabs.weight.device != resid.device:
                slabs = self._slabs[layer] = slabs.map(lambda value: value.to(resid.device))
            on = self._on[index].to(resid.device)
            here = Slabs(**vars(slabs) | {
                "low": torch.where(on, slabs.low, -math.inf),
                "high": torch.where(on, slabs.high, math.inf),
            })  # fmt: skip
            tail = resid[:, self._from :]
            self._done[layer] = projected = project(tail, here)
            return projected.resid if self._from == 0 else torch.cat([resid[:, : self._from], projected.resid], dim=1)

        return control

    def _stack(self) -> Projected:
        """The last pass of all layers, (layers, batch, seq) each; the residuals themselves are left out."""
        done = [self._done[layer]._replace(resid=self._done[layer].dose) for layer in self.layers]
        return Projected(*(torch.stack([part.to(self._device) for part in parts]) for parts in zip(*done, strict=True)))

    def _constraint_at(self, row: int, layer: int) -> tuple[int, Constraint] | None:
        plan = self._plans[row]
        for slot, constraint in enumerate(plan.constraints if plan else ()):
            if layer in constraint.at_layers:
                return slot, constraint
        return None

    def _compile(self, layer: int, hidden_size: int) -> Slabs:
        """(rows, 1, hidden_size) and (rows, 1): the middle axis broadcasts over the tokens of a pass."""
        inactive = {"bias": 0.0, "low": -math.inf, "high": math.inf, "strength": 0.0, "max_dose": math.inf}
        scalars: list[dict[str, float]] = []
        weights, directions = torch.zeros(len(self._plans), hidden_size), torch.zeros(len(self._plans), hidden_size)
        for row, plan in enumerate(self._plans):
            found = self._constraint_at(row, layer)
            if found is None or plan is None:
                scalars.append(inactive | {"promised": False})
                continue
            constraint = found[1]
            fitted = constraint.probe.at(layer)
            low, high = constraint.interval(layer)
            weights[row] = fitted.weight
            directions[row] = (
                random_direction(fitted.weight, seed=constraint.seed, layer=layer)
                if constraint.controller == "random"
                else fitted.weight / fitted.weight.dot(fitted.weight)
            )
            scalars.append({
                "bias": fitted.bias,
                "low": low,
                "high": high,
                "strength": constraint.strength if plan.mode == "enforce" else 0.0,
                "max_dose": math.inf if constraint.max_dose is None else constraint.max_dose,
                "promised": constraint.promised,
            })  # fmt: skip
        columns: dict[str, Any] = {
            name: torch.tensor([row[name] for row in scalars], device=self._device).unsqueeze(-1) for name in scalars[0]
        }
        return Slabs(
            weight=weights.unsqueeze(1).to(self._device), direction=directions.unsqueeze(1).to(self._device), **columns
        )

    def _compile_tables(self) -> tuple[dict[str, Tensor], Tensor, tuple[Tensor, Tensor]]:
        """Token windows (layers, rows) on the host; membership (slots, layers, rows) and calibration (layers, rows)."""
        shape = (len(self.layers), len(self._plans))
        windows = {name: torch.full(shape, at) for name, at in (("start", FOREVER), ("stop", 0), ("prompt", 0))}
        member = torch.zeros(self._width, *shape, dtype=torch.bool)
        scale, shift = torch.ones(shape), torch.zeros(shape)
        for index, layer in enumerate(self.layers):
            for row in range(len(self._plans)):
                found = self._constraint_at(row, layer)
                if found is None:
                    continue
                slot, constraint = found
                member[slot, index, row] = True
                start, stop = constraint.generation
                windows["start"][index, row] = start
                windows["stop"][index, row] = FOREVER if stop is None else stop
                windows["prompt"][index, row] = PROMPT_START[constraint.prompt]
                scale[index, row], shift[index, row] = constraint.probe.at(layer).calibration
        return windows, member.to(self._device), (scale.to(self._device), shift.to(self._device))

    def _add(self, slot: int, **parts: Tensor) -> None:
        for name, value in parts.items():
            self._totals[name][slot] += value.sum(-1)

    def _token_scores(self, row: int, plan: Plan) -> list[dict[str, Any]]:
        scores = []
        for offsets, on, values in self._history or ():
            for column in on[row].nonzero().flatten().tolist():
                pairs = values[:, :, row, column].tolist()
                named = {
                    c.probe.id: pairs[slot] for slot, c in enumerate(plan.constraints) if pairs[slot][0] > -math.inf
                }
                scores.append({"offset": int(offsets[row, column]), "probes": named})
        return scores
