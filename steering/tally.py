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


class Account:
    """What was done to one row so far, wherever its next pass is run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.totals = field.blank(len(plan.constraints), device=torch.device("cpu"))
        """(constraints, FIELDS) float64"""
        self.scores: list[dict[str, Any]] = []
        """Of every token read, if they are wanted"""
        self._told = 0

    def fresh_scores(self) -> list[dict[str, Any]]:
        """The scores that have come since the last call."""
        fresh = self.scores[self._told :]
        self._told = len(self.scores)
        return fresh

    def report(self, *, finish: str, tokens: bool) -> SteeringReport:
        """The totals in words and probabilities."""
        totals = self.totals.tolist()
        return SteeringReport(
            applied=self.plan.mode == "enforce",
            probes={
                constraint.probe.id: _probe_report(
                    totals[slot], promised=self.plan.promises(slot), calibrated=constraint.probe.manifest.calibrated
                )
                for slot, constraint in enumerate(self.plan.constraints)
            },
            layers=self.plan.layers,
            warnings=self.plan.warnings,
            finish=finish,
            tokens=self.scores if tokens else None,
        )


class Tally:
    """Totals of a batch over all forward passes, (rows, slots, FIELDS)."""

    def __init__(
        self,
        plans: Sequence[Plan | None],
        *,
        slots: int,
        device: torch.device,
        accounts: Sequence[Account | None] | None = None,
    ) -> None:
        """`accounts` go on where earlier passes of the same rows ended; `settle` brings them up to date."""
        self._accounts = list(accounts) if accounts else [None if plan is None else Account(plan) for plan in plans]
        self.totals = field.blank(len(plans), slots, device=device)
        for row, account in enumerate(self._accounts):
            if account is not None:
                self.totals[row, : len(account.totals)] = account.totals.to(device)
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
        account = self._accounts[row]
        if account is None:
            return None
        self.settle()
        return account.report(finish=finish, tokens=tokens)

    def settle(self) -> None:
        """Bring the accounts up to date. Copies to the host."""
        for row, account in enumerate(self._accounts):
            if account is not None:
                account.totals.copy_(self.totals[row, : len(account.totals)])
                for offsets, record in self._history or ():
                    at = offsets[min(row, len(offsets) - 1)]
                    account.scores += token_scores(account.plan.constraints, at, record[row])
        if self._history is not None:
            self._history.clear()


def token_scores(constraints: Sequence[Constraint], offsets: Tensor, record: Tensor) -> list[dict[str, Any]]:
    """What was read and done at one row's tokens in one pass: `offsets` (seq,), `record` (seq, slots, FIELDS).

    The probabilities are those of the layer the bound is about: the lowest where only a lower bound is set, else the
    highest. The dose is the largest over the layers.
    """
    scores = []
    read = record[:, :, field.TOKENS] > 0
    highest = torch.sigmoid(record[:, :, [field.MAX_PRE, field.MAX_POST]])
    lowest = torch.sigmoid(-record[:, :, [field.NEG_MIN_PRE, field.NEG_MIN_POST]])
    for column in read.any(dim=-1).nonzero().flatten().tolist():
        score: dict[str, Any] = {"offset": int(offsets[column]), "probes": {}, "doses": {}, "violated": []}
        for slot, constraint in enumerate(constraints):
            if read[column, slot]:
                probe, values = constraint.probe, lowest if constraint.lower_only else highest
                calibrated = probe.manifest.calibrated
                score["probes"][probe.id] = values[column, slot].tolist() if calibrated else [None, None]
                edited = record[column, slot, field.EDITED] > 0  # else the dose is of the others it meets at a layer
                score["doses"][probe.id] = float(record[column, slot, field.MAX_DOSE]) if edited else 0.0
                if record[column, slot, field.VIOLATIONS] > 0:
                    score["violated"].append(probe.id)
        scores.append(score)
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
