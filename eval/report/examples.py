"""Continuations side by side: hidden until a reader asks for them, chosen by hash, and the largest changes beside."""

from __future__ import annotations

import hashlib
import math

from eval.record import PromptKey
from eval.report.model import ArmReport, Judge, RunReport
from eval.report.words import number
from steering.page.document import Aside, Block, Excerpt, Folded, Paragraph, Section

BY_HASH = 8
EXTREMES = 2
"""Of each side."""
COLUMNS = 6


def examples_section(run: RunReport) -> Section:
    """Prompts by hash, then those whose score under the first shown steered arm changed most, for better and worse."""
    arms = shown_arms(run)
    keys = sorted({record.key for record in run.records[run.unsteered.name]}, key=_hash)
    chosen = keys[:BY_HASH]
    blocks: list[Block] = [
        Paragraph(
            (
                "The texts may be of any kind, offensive ones too: a click shows them. These prompts were chosen by "
                "the hash of their name, not by what came of them; scores are of each continuation alone. All samples "
                "stand in samples.parquet.",
            )
        ),
        *(_folded(run, arms, key, f"{at}. prompt {key[1]} of {key[0]}") for at, key in enumerate(chosen, start=1)),
    ]
    steered = next((arm for arm in arms if arm.kind == "steered"), None)
    if steered is not None and run.judges:
        judge = run.judges[0]
        changed = sorted(
            (gap, key) for key in keys if not math.isnan(gap := _gap(run, steered, judge, key)) and gap != 0
        )
        if changed:
            sides = [*changed[:EXTREMES], *(pair for pair in changed[-EXTREMES:] if pair not in changed[:EXTREMES])]
            blocks.append(Paragraph((f"And those that {steered.name} changed most by {judge.name}, chosen for that:",)))
            blocks += [_folded(run, arms, key, f"{gap:+.2f}, prompt {key[1]} of {key[0]}") for gap, key in sides]
    return Section("examples", "Examples side by side", tuple(blocks))


def shown_arms(run: RunReport) -> list[ArmReport]:
    """Unsteered and instruction, then the steered arms that carry a claim before the others, each with its placebo."""
    standing = {verdict.evidence.arm for verdict in run.verdicts if verdict.stands}
    plain = [arm for arm in run.arms if arm.kind in ("unsteered", "instruction")][:2]
    steered = sorted((arm for arm in run.arms if arm.kind == "steered"), key=lambda arm: arm.name not in standing)
    pairs = [pair for arm in steered for pair in ([arm, run.arm(arm.placebo)] if arm.placebo else [arm])]
    return [*plain, *pairs[: COLUMNS - len(plain)]]


def _folded(run: RunReport, arms: list[ArmReport], key: PromptKey, summary: str) -> Folded:
    items = []
    for arm in arms:
        record = next(record for record in run.records[arm.name] if record.key == key and record.sample == 0)
        scores = ", ".join(f"{judge.name} {number(record.scores[judge.name])}" for judge in run.judges)
        aside = Aside(f"{scores}, perplexity {number(record.perplexity, 1)}")
        items.append(Excerpt((f"{arm.name} ", aside), record.continuation.strip("\n") or "(nothing)"))
    return Folded((summary,), run.prompts[key], tuple(items))


def _gap(run: RunReport, arm: ArmReport, judge: Judge, key: PromptKey) -> float:
    now, was = (
        next(r.scores[judge.name] for r in run.records[name] if r.key == key and r.sample == 0)
        for name in (arm.name, run.unsteered.name)
    )
    return now - was


def _hash(key: PromptKey) -> bytes:
    return hashlib.sha256("\0".join(key).encode()).digest()
