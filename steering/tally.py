"""Counting what steering did: per forward pass on the device, per row and constraint at the end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steering import record as field
from steering.constraint import Constraint
from steering.plan import Plan
from steering.report import ProbeReport, SteeringReport


class Tally:
    """Totals of a batch over all forward passes, (rows, slots, FIELDS)."""

    def __init__(self, plans: Sequence[Plan | None], *, slots: int, device: torch.device) -> None:
        self._plans = list(plans)
        self.totals = field.blank(len(plans), slots, device=device)
        self._history: list[tuple[Tensor, Tensor]] | None = None

    def keep_tokens(self) -> None:
        """Remember per-token probabilities from now on."""
        self._history = []

    def add(self, record: Tensor, *, offsets: Tensor) -> None:
        """Count one forward pass: its record (rows, seq, slots, FIELDS), whose tokens have `offsets` (rows, seq)."""
        highest = torch.maximum(self.totals[..., : field.MAXIMA], record[..., : field.MAXIMA].amax(dim=1))
        self.totals[..., : field.MAXIMA] = highest
        self.totals[..., field.MAXIMA :] += record[..., field.MAXIMA :].sum(dim=1)
        self.remember(record, offsets=offsets)

    def remember(self, record: Tensor, *, offsets: Tensor) -> None:
        """Keep the tokens of a forward pass, if they are wanted."""
        if self._history is not None:
            self._history.append((offsets.clone(), record.clone()))

    def report(self, row: int, *, finish: str, tokens: bool) -> SteeringReport | None:
        """The totals of one row; None for a row without a plan. Copies to the host."""
        plan = self._plans[row]
        if plan is None:
            return None
        totals = self.totals[row].tolist()
        return SteeringReport(
            applied=plan.mode == "enforce",
            probes={
                constraint.probe.id: _probe_report(
                    totals[slot], promised=plan.promises(slot), calibrated=constraint.probe.manifest.calibrated
                )
                for slot, constraint in enumerate(plan.constraints)
            },
            layers=plan.layers,
            warnings=plan.warnings,
            finish=finish,
            tokens=self._token_scores(row, plan.constraints) if tokens else None,
        )

    def _token_scores(self, row: int, constraints: Sequence[Constraint]) -> list[dict[str, Any]]:
        scores = []
        for offsets, record in self._history or ():
            read = record[row, :, :, field.TOKENS] > 0
            values = torch.sigmoid(record[row, :, :, : field.MAX_POST + 1])
            for column in read.any(dim=-1).nonzero().flatten().tolist():
                pairs = {
                    constraint.probe.id: values[column, slot].tolist()
                    if constraint.probe.manifest.calibrated
                    else [None, None]
                    for slot, constraint in enumerate(constraints)
                    if read[column, slot]
                }
                scores.append({"offset": int(offsets[min(row, len(offsets) - 1), column]), "probes": pairs})
        return scores


def _probe_report(total: list[float], *, promised: bool, calibrated: bool) -> ProbeReport:
    def probability(name: int, sign: int = 1) -> float:
        return _sigmoid(sign * total[name]) if total[field.TOKENS] and calibrated else math.nan

    return ProbeReport(
        max_pre=probability(field.MAX_PRE),
        max_post=probability(field.MAX_POST),
        min_pre=probability(field.NEG_MIN_PRE, -1),
        min_post=probability(field.NEG_MIN_POST, -1),
        tokens=int(total[field.TOKENS]),
        edited=int(total[field.EDITED]),
        capped=int(total[field.CAPPED]),
        infeasible=int(total[field.INFEASIBLE]),
        violations=int(total[field.VIOLATIONS]),
        mean_dose=total[field.DOSE] / total[field.PAIRS] if total[field.PAIRS] else 0.0,
        max_dose=max(0.0, total[field.MAX_DOSE]) if total[field.TOKENS] else 0.0,
        promised=promised,
    )


def _sigmoid(logit: float) -> float:
    """In float64: a probability told to the user must not be outside a bound that its logit keeps."""
    return float(torch.sigmoid(torch.tensor(logit, dtype=torch.float64)))
