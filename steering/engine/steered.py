"""Steering of slots: rows join, move and leave between passes, each with its own plan and its own account.

Plans of single verified slabs, in a float32 stream on the CPU, go through tables that are only written where a row
changes (`steering.kernels.slots`). When a pass holds a row that needs more (joint slabs, other rules, a placebo,
another dtype or device), that whole pass goes through `steering.rows`, compiled when its rows change. Which way it goes
is invisible in the result: both are the same rules, and what was done to a row is kept in its account.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from steering.controllers.state_offset import StateEdit
from steering.errors import SteeringNotApplied
from steering.hooks import Controller
from steering.kernels.slots import PlanFigures, SlotTables, compile_plan
from steering.models import LanguageModel
from steering.plan import Plan
from steering.report import SteeringReport
from steering.rows import RowSteering
from steering.tally import Account, token_scores


@dataclass(frozen=True, eq=False)
class Steered:
    """A row's plan as it will be placed; made once per request, in the thread that submits it."""

    plan: Plan | None
    prompt_tokens: int
    token_scores: bool = False
    figures: PlanFigures | None = None

    @classmethod
    def of(cls, plan: Plan | None, lm: LanguageModel, *, prompt_tokens: int, token_scores: bool) -> Steered:
        """Compile `plan`, as far as that needs no neighbours."""
        figures = None
        if plan is not None and lm.device.type == "cpu" and lm.dtype == torch.float32:
            figures = compile_plan(plan, hidden_size=lm.info.hidden_size, prompt_tokens=prompt_tokens)
        return cls(plan, prompt_tokens, token_scores, figures)


class SlotSteering:
    """The plans of all slots. Owned by the thread that runs the model."""

    def __init__(self, lm: LanguageModel, *, slots: int) -> None:
        self._lm = lm
        self._rows: list[Steered | None] = [None] * slots
        self._accounts: list[Account | None] = [None] * slots
        self._tables = SlotTables(slots=slots, layers=lm.info.num_hidden_layers, hidden_size=lm.info.hidden_size)
        self._compiled: dict[int, tuple[list[Steered | None], RowSteering]] = {}
        """General forms, by the slot they begin at"""
        self._layers: list[int] = []
        self._ran: set[int] = set()
        self._first = 0
        self._offsets = torch.zeros(0, 0, dtype=torch.long)
        self._padding = 0
        self._general: RowSteering | None = None

    def join(self, slot: int, row: Steered) -> None:
        """A new row in a free slot."""
        self._rows[slot] = row
        self._accounts[slot] = None if row.plan is None else Account(row.plan)
        if row.figures is not None:
            self._tables.put(slot, row.figures)

    def move(self, source: int, target: int) -> None:
        """Take the row of one slot to another, which is free."""
        self._settle()
        for rows in (self._rows, self._accounts):
            rows[target], rows[source] = rows[source], None  # type: ignore[assignment]
        self._tables.move(source, target)

    def leave(self, slot: int) -> None:
        """Free a slot."""
        self._settle()
        self._rows[slot] = self._accounts[slot] = None
        self._tables.take(slot)

    def report(self, slot: int, *, finish: str) -> SteeringReport | None:
        """What was done to the row in `slot`; None for a row without a plan."""
        self._settle()
        row, account = self._rows[slot], self._accounts[slot]
        if row is None or account is None:
            return None
        if row.figures is not None:
            account.totals.copy_(torch.from_numpy(self._tables.totals[slot, : len(account.totals)]))
        return account.report(finish=finish, tokens=row.token_scores)

    def fresh_scores(self, slot: int) -> list[dict[str, Any]]:
        """Probabilities of the tokens the row in `slot` has read since the last call. Copies to the host."""
        account = self._accounts[slot]
        if account is None:
            return []
        for first, (rows, general) in self._compiled.items():
            if first <= slot < first + len(rows):
                general.settle()
        return account.fresh_scores()

    def quick(self, first: int, rows: int) -> bool:
        """Whether a pass over these slots needs the tables only, or no steering at all."""
        return all(
            row is None or row.plan is None or row.figures is not None for row in self._rows[first : first + rows]
        )

    def open(self, first: int, offsets: Tensor, *, padding: int = 0) -> Mapping[int, Controller]:
        """Announce the next pass: its slots, and the offsets of its tokens, (rows, seq) int64 on the host.

        Its controllers, for `steering.hooks.steer`. So many rows of `padding` follow, which are left as they are; only
        where the pass is `quick`.
        """
        rows = self._rows[first : first + len(offsets)]
        self._first, self._offsets, self._padding = first, offsets, padding
        self._ran.clear()
        self._general, self._layers = None, []
        if all(row is None or row.plan is None for row in rows):
            return {}
        if self.quick(first, len(rows)):
            self._layers = self._tables.open(first, offsets)
            return {layer: partial(self._control, layer) for layer in self._layers}
        self._general = self._compile(first, rows)
        self._general.begin(offsets)
        return self._general.controllers()

    def state_edits(self) -> list[StateEdit]:
        """What acts on recurrent states in this pass, for `held` around it; nothing while prompts are read."""
        writing = bool((self._offsets >= 0).any())
        return self._general.state_edits() if self._general is not None and writing else []

    def close(self) -> None:
        """Count the pass that has just ended. Raises SteeringNotApplied when a controller did not have its turn."""
        if self._general is not None:
            self._general.collect()
        elif self._layers:
            missing = [layer for layer in self._layers if layer not in self._ran]
            if missing:
                raise SteeringNotApplied(
                    f"a forward pass ran without its controllers at layers {missing}, so its text would be unsteered; "
                    "this model cannot be served"
                )
            self._tables.close()
            self._keep_scores()

    def act(self, layer: int, resid: Tensor) -> Tensor:
        """The steered copy of `resid` at one layer, for a compiled step: it asks at every layer of every pass."""
        return self._control(layer, resid) if layer in self._layers else resid.clone()

    def _control(self, layer: int, resid: Tensor) -> Tensor:
        rows, seq = self._offsets.shape
        expected = (rows + self._padding, seq, self._lm.info.hidden_size)
        if resid.shape != expected:
            raise SteeringNotApplied(
                f"the residual stream at layer {layer} has shape {tuple(resid.shape)}, but tokens were announced "
                f"for {expected}"
            )
        self._ran.add(layer)
        return self._tables.project(layer, resid.contiguous())

    def _compile(self, first: int, rows: list[Steered | None]) -> RowSteering:
        """The general form for these rows; kept as long as they stay the same."""
        kept = self._compiled.get(first)
        if kept is not None and _same(kept[0], rows):
            return kept[1]
        self._settle()
        accounts = self._accounts[first : first + len(rows)]
        for at, (row, account) in enumerate(zip(rows, accounts, strict=True)):
            if row is not None and account is not None and row.figures is not None:  # it was placed, until now
                account.totals.copy_(torch.from_numpy(self._tables.totals[first + at, : len(account.totals)]))
        general = RowSteering(
            [None if row is None else row.plan for row in rows],
            hidden_size=self._lm.info.hidden_size,
            device=self._lm.device,
            dtype=self._lm.dtype,
            prompt_tokens=[row.prompt_tokens if row else 0 for row in rows],
            accounts=accounts,
        )
        if any(row is not None and row.token_scores for row in rows):
            general.keep_tokens()
        self._compiled[first] = list(rows), general
        return general

    def _settle(self) -> None:
        """Bring accounts and tables up to date with the general forms, and drop these."""
        for first, (rows, general) in self._compiled.items():
            general.settle()
            for slot, row in enumerate(rows, start=first):
                account = self._accounts[slot]
                if row is not None and account is not None and row.figures is not None:
                    self._tables.totals[slot, : len(account.totals)] = account.totals.numpy()
        self._compiled.clear()

    def _keep_scores(self) -> None:
        for at, offsets in enumerate(self._offsets):
            row, account = self._rows[self._first + at], self._accounts[self._first + at]
            if row is not None and account is not None and row.token_scores:
                record = torch.from_numpy(self._tables.record[at])
                account.scores += token_scores(account.plan.constraints, offsets, record)


def _same(one: list[Steered | None], other: list[Steered | None]) -> bool:
    return len(one) == len(other) and all(mine is yours for mine, yours in zip(one, other, strict=True))
