"""The tables of arms: scores never without fluency beside them, and what steering did for it."""

from __future__ import annotations

import math

from eval.report.model import ArmReport, Judge, RunReport
from eval.report.words import (
    ABSENT,
    difference,
    estimate,
    number,
    p_value,
    points,
    share,
    share_estimate,
)
from steering.page.document import Aside, Block, Paragraph, Section, Strong, Table, Words

HEADER = (
    "arm", "share", "perplexity", "text", "change", "its placebo", "p", "p, Holm", "mean", "rep-4", "n", "edited",
    "dose", "violations", "tokens/s",
)  # fmt: skip
"""Perplexity is next to the share, so that neither is seen without the other on any screen."""


def arms_section(run: RunReport) -> Section:
    """One table per judge, all arms, the steered with their placebos under them."""
    blocks: list[Block] = []
    for judge in run.judges:
        hit = f"{judge.card.higher_is}: score of {judge.threshold:g} or more by {judge.name}"
        want = {"lower": ", less is wanted", "higher": ", more is wanted", None: ""}[judge.aim]
        blocks += [
            Paragraph((Strong(hit), f"{want}.")),
            Table(HEADER, tuple(_row(run, arm, judge) for arm in run.arms), align="left", stacked=True),
        ]
    blocks.append(
        Paragraph(
            (
                "Share: of continuations with a hit (Wilson; bootstrap over prompts where a prompt has several "
                "samples). Mean: of the score. Change: of the share, in points against the unsteered arm, paired by "
                "prompt; beside it that of the arm's own placebo, which takes steps of the same norm in a random "
                "direction. p: exact McNemar, and after Holm's correction over every comparison made. Perplexity: "
                "median over continuations under the unsteered model, read two-sided, for loops are low and broken "
                "text is high. rep-4: mean share of 4-grams that came before. Brackets are 95% intervals. A placebo "
                "promises no bound, so its violations are expected.",
            )
        )
    )
    return Section("arms", "The arms", tuple(blocks))


def text_section(run: RunReport) -> Section:
    """Fluency in full: every detector of collapse, none of which is enough alone."""
    header = (
        "arm", "perplexity", "quartiles", "pooled", "change of median", "rep-4", "distinct-1/2/3", "compression",
        "unique", "tokens", "ended", "left the band",
    )  # fmt: skip
    rows = tuple(_text_row(arm) for arm in run.arms)
    said = (
        "An arm is degenerate when its perplexity or length leaves 1/2 to 2 times the unsteered one, its repetition "
        "or its share of texts that cannot be scored rises by more than 0.1, or its compression by half. An "
        "instruction is read without it, so its perplexity is that of an answer where a continuation was expected."
    )
    return Section("text", "Is it still text?", (Paragraph((said,)), Table(header, rows, align="left", stacked=True)))


def cost_section(run: RunReport) -> Section:
    """What it takes: speed against the unhooked model of the same run, and divergence on neutral text."""
    base = run.unsteered.summary.tokens_per_second
    rows = []
    for arm in run.arms:
        ratio = arm.summary.tokens_per_second / base if base else math.nan
        rows.append(
            (
                _name(arm),
                (number(arm.summary.tokens_per_second, 0),),
                (number(ratio, 2),),
                estimate(arm.kl),
            )
        )
    said = (
        "Tokens per second while this run was written, all else that the machine did included, so a ratio is a "
        "rough one; benchmarks/ measures it by itself. The unsteered arm runs without a hook. KL(unsteered || steered) "
        "of the next token on neutral excerpts, in nats: what the arm does to text that gives no reason to steer."
    )
    header = ("arm", "tokens/s", "of unsteered", "KL on neutral text")
    return Section("cost", "Cost", (Paragraph((said,)), Table(header, tuple(rows), align="left")))


def _name(arm: ArmReport) -> Words:
    """With its number, as in the plots."""
    words: Words = (f"{arm.number} ", Strong(arm.name) if arm.kind == "steered" else arm.name)
    return words


def _row(run: RunReport, arm: ArmReport, judge: Judge) -> tuple[Words, ...]:
    scores, evidence = arm.summary.scores[judge.name], arm.against.get((judge.name, "rate"))
    verdict = run.verdict(arm.name, judge.name, "rate")
    placebo = run.arm(arm.placebo).against[judge.name, "rate"] if arm.placebo else None
    return (
        _name(arm),
        share_estimate(scores.rate),
        estimate(arm.summary.perplexity, 1),
        ((Strong("degenerate") if arm.degenerate else "whole"),),
        (ABSENT,) if evidence is None else points(evidence.against_unsteered.change),
        (ABSENT,) if placebo is None else points(placebo.against_unsteered.change),
        (ABSENT if evidence is None else p_value(evidence.against_unsteered.p),),
        (ABSENT if verdict is None else p_value(verdict.p_holm),),
        estimate(scores.mean),
        (number(arm.summary.repetition),),
        (str(arm.summary.samples),),
        *_steered(arm),
        (number(arm.summary.tokens_per_second, 0),),
    )


def _steered(arm: ArmReport) -> tuple[Words, Words, Words]:
    """Edited, dose, violations; by probe where there are several."""
    found = list(arm.summary.steered.values())
    if not found:
        return (ABSENT,), (ABSENT,), (ABSENT,)
    violations = sum(one.violations for one in found)
    mark: Words = (Strong(str(violations)),) if arm.broken else (str(violations),)
    return (
        (", ".join(share(one.edited) for one in found),),
        (", ".join(number(one.mean_dose, 3) for one in found),),
        mark,
    )


def _text_row(arm: ArmReport) -> tuple[Words, ...]:
    text = arm.summary
    low, high = text.perplexity_quartiles
    return (
        _name(arm),
        estimate(text.perplexity, 1),
        (f"{number(low, 1)} to {number(high, 1)}",),
        (number(text.pooled_perplexity, 1),),
        difference(arm.perplexity_change.change, 1) if arm.kind != "unsteered" else (ABSENT,),
        (number(text.repetition, 3),),
        (" / ".join(number(value) for value in text.distinct),),
        (number(text.compression),),
        (share(text.unique),),
        (number(text.length, 1),),
        (share(text.ended),),
        (", ".join(arm.degenerate) or ABSENT,) if arm.degenerate else (Aside("no"),),
    )
