"""Counting what steering did: per forward pass on the device, per row and constraint at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from steering.compilation import Tables
from steering.plan import Constraint, Plan
from steering.report import ProbeReport, SteeringReport
from steering.slab import Projected

_COUNTS = ("tokens", "edited", "capped", "infeasible", "violations", "pairs", "dose")
_LARGEST = ("max_pre", "max_post", "neg_min_pre", "neg_min_post", "max_dose")


class Pass(NamedTuple):
    """What one layer, or a stack of layers, did in one forward pass; (..., slots, batch, seq) each."""

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
        return cls(
            before=done.before.movedim(-1, 0),
            after=done.after.movedim(-1, 0),
            edited=done.edited.movedim(-1, 0),
            capped=done.capped.movedim(-1, 0),
            violated=done.violated.movedim(-1, 0),
            dose=done.dose.expand(slots, *done.dose.shape),
        )

    def with_rows(self, rows: Tensor, other: Pass) -> Pass:
        """`other` in place of the given rows."""
        return Pass(*(mine.index_copy(1, rows, theirs) for mine, theirs in zip(self, other, strict=True)))

    @classmethod
    def stack(cls, passes: Sequence[Pass], *, device: torch.device) -> Pass:
        """Layers first."""
        return cls(*(torch.stack([part.to(device) for part in parts]) for parts in zip(*passes, strict=True)))


class Tally:
    """Totals of a batch, (slots, rows) each."""

    def __init__(self, plans: Sequence[Plan | None], tables: Tables) -> None:
        self._plans = list(plans)
        self._tables = tables
        shape, device = tables.scale.shape[1:], tables.scale.device
        self._totals = {name: torch.zeros(shape, device=device, dtype=torch.float64) for name in _COUNTS} | {
            name: torch.full(shape, -math.inf, device=device, dtype=torch.float64) for name in _LARGEST
        }
        self._history: list[tuple[Tensor, Tensor, Tensor]] | None = None

    def keep_tokens(self) -> None:
        """Remember per-token probabilities from now on."""
        self._history = []

    def add(self, done: Pass, *, on: Tensor, offsets: Tensor) -> None:
        """Count one forward pass; `done` and `on` are (layers, slots, batch, seq), `offsets` (batch, seq)."""
        scale, shift, gave = (
            table.unsqueeze(-1) for table in (self._tables.scale, self._tables.shift, self._tables.gave)
        )
        # In float64: a probability reported to the user must not be outside a bound that its logit keeps.
        pre, post = (torch.sigmoid(scale * logit.double() + shift) for logit in (done.before, done.after))
        edited = done.edited & on
        counts = {
            "tokens": on.any(0),
            "edited": edited.any(0),
            "capped": (done.capped & on).any(0),
            "infeasible": (gave & on).any(0),
            "violations": (done.violated & on & ~gave).any(0),
            "pairs": edited.sum(0),
            "dose": torch.where(edited, done.dose, 0.0).sum(0),
        }
        for name, value in counts.items():
            self._totals[name] += value.sum(-1)
        highest = [torch.where(on, value, -math.inf).amax(0) for value in (pre, post, -pre, -post, done.dose)]
        for name, value in zip(_LARGEST, highest, strict=True):
            self._totals[name] = torch.maximum(self._totals[name], value.amax(-1))
        if self._history is not None:
            self._history.append((offsets, on.any(0).any(0), torch.stack(highest[:2], dim=1)))

    def report(self, row: int, *, finish: str, tokens: bool) -> SteeringReport | None:
        """The totals of one row; None for a row without a plan. Copies to the host."""
        plan = self._plans[row]
        if plan is None:
            return None
        totals = {name: value[:, row].tolist() for name, value in self._totals.items()}
        return SteeringReport(
            applied=plan.mode == "enforce",
            probes={
                constraint.probe.id: _probe_report(
                    {name: values[slot] for name, values in totals.items()},
                    promised=plan.promises(slot),
                )
                for slot, constraint in enumerate(plan.constraints)
            },
            layers=plan.layers,
            finish=finish,
            tokens=self._token_scores(row, plan.constraints) if tokens else None,
        )

    def _token_scores(self, row: int, constraints: Sequence[Constraint]) -> list[dict[str, Any]]:
        scores = []
        for offsets, on, values in self._history or ():
            for column in on[row].nonzero().flatten().tolist():
                pairs = values[:, :, row, column].tolist()
                read = [(c.probe.id, pair) for c, pair in zip(constraints, pairs, strict=False) if pair[0] > -math.inf]
                scores.append({"offset": int(offsets[row, column]), "probes": dict(read)})
        return scores


def _probe_report(total: dict[str, float], *, promised: bool) -> ProbeReport:
    def get(name: str) -> float:
        return math.nan if total[name] == -math.inf else total[name]

    return ProbeReport(
        max_pre=get("max_pre"),
        max_post=get("max_post"),
        min_pre=-get("neg_min_pre"),
        min_post=-get("neg_min_post"),
        tokens=int(total["tokens"]),
        edited=int(total["edited"]),
        capped=int(total["capped"]),
        infeasible=int(total["infeasible"]),
        violations=int(total["violations"]),
        mean_dose=total["dose"] / total["pairs"] if total["pairs"] else 0.0,
        max_dose=max(0.0, total["max_dose"]) if total["tokens"] else 0.0,
        promised=promised,
    )
