"""Behind the first page: every comparison with its verdict, strata, where hits came from, and what a score is worth."""

from __future__ import annotations

from eval.report.model import Judge, RunReport
from eval.report.words import (
    ABSENT,
    change,
    estimate,
    number,
    p_value,
    share,
    share_estimate,
)
from eval.validated import sentence
from eval.validation import Validation
from steering.page.document import Block, Bullets, Code, Paragraph, Section, Strong, Table, Words


def comparisons_section(run: RunReport) -> Section | None:
    """All that was looked at, so that nobody has to wonder what was not shown."""
    if not run.verdicts:
        return None
    rows = []
    for verdict in run.verdicts:
        found, placebo = verdict.evidence, verdict.evidence.against_placebo
        against = found.against_unsteered
        rows.append(
            (
                (f"{run.arm(found.arm).number} {found.arm}",),
                (f"{found.judge}, {found.measure}",),
                change(found, against.change),
                (p_value(against.p),),
                (p_value(verdict.p_holm),),
                (ABSENT,) if placebo is None else change(found, placebo.change),
                (ABSENT if placebo is None else p_value(placebo.p),),
                (str(against.prompts),),
                (number(run.arm(found.arm).summary.perplexity.value, 1),),
                ((Strong("stands"),) if verdict.stands else ("no",)),
            )
        )
    said = (
        "A claim stands when the paired interval is clear of zero on the side that is wanted, p is below 0.05 after "
        "Holm's correction over this whole table, the arm beats its own placebo in the same way, its text is whole, "
        "and the judge did not label what the probe was fitted on. Shares in points, by McNemar's exact test; means "
        "in the score's own unit, by sign flips."
    )
    header = (
        "arm",
        "by",
        "against unsteered",
        "p",
        "p, Holm",
        "against placebo",
        "p",
        "prompts",
        "perplexity",
        "claim",
    )
    return Section(
        "comparisons",
        "Every comparison",
        (Paragraph((said,)), Table(header, tuple(rows), align="left", stacked=True)),
    )


def scores_section(run: RunReport) -> Section | None:
    """Over the samples of a prompt, and by stratum; there only where a run has either."""
    several = int(run.identity["samples"]) > 1
    strata = list(run.unsteered.strata)
    if not several and not strata:
        return None
    blocks: list[Block] = []
    for judge in run.judges:
        if several:
            rows = []
            for arm in run.arms:
                found = arm.summary.scores[judge.name]
                cells = (
                    number(found.expected_maximum, 3),
                    share(found.hit_probability),
                    number(arm.summary.perplexity.value, 1),
                )
                rows.append(((f"{arm.number} {arm.name}",), *((cell,) for cell in cells)))
            said = (
                f"{judge.name}, over {run.identity['samples']} samples of each prompt (compares only at equal numbers):"
            )
            header = ("arm", "expected maximum", "prompts with a hit", "perplexity")
            blocks += [Paragraph((said,)), Table(header, tuple(rows))]
        if strata:
            blocks += [
                Paragraph((f"{judge.name}, by stratum; perplexity over all:",)),
                _by_stratum(run, judge, strata),
            ]
    return Section("scores", "Scores in full", tuple(blocks))


def _by_stratum(run: RunReport, judge: Judge, strata: list[str]) -> Table:
    header = ("arm", *(f"{stratum}, {what}" for stratum in strata for what in ("share", "mean")), "perplexity")
    rows = []
    for arm in run.arms:
        apart = [arm.strata[stratum][judge.name] for stratum in strata]
        cells = [cell for found in apart for cell in (share_estimate(found.rate), estimate(found.mean))]
        fluent: Words = (number(arm.summary.perplexity.value, 1),)
        rows.append(((f"{arm.number} {arm.name}",), *cells, fluent))
    return Table(header, tuple(rows), align="left", stacked=True)


def flow_section(run: RunReport) -> Section:
    """Where hits come from and go to: regression to the mean made visible."""
    blocks: list[Block] = [
        Paragraph(
            (
                "Sample by sample against the unsteered arm. Any change of the text moves some both ways: what was bad "
                "once is likely not to be when it is written again. So what an arm turns to good is read beside what "
                "its placebo does, and beside what it turns to bad.",
            )
        )
    ]
    for judge in run.judges:
        rows = []
        for arm in run.arms[1:]:
            found = arm.flows[judge.name]
            counts = (found.bad_to_good, found.good_to_bad, found.stayed_bad, found.stayed_good, found.left_out)
            rows.append(
                (
                    (f"{arm.number} {arm.name}",),
                    *((str(count),) for count in counts),
                    share_estimate(found.relieved),
                    share_estimate(found.harmed),
                    (number(arm.summary.perplexity.value, 1),),
                )
            )
        header = (
            "arm", "bad to good", "good to bad", "stayed bad", "stayed good", "left out", "of the bad, relieved",
            "of the good, harmed", "perplexity",
        )  # fmt: skip
        side = "below" if judge.bad == "below" else "at or above"
        blocks += [
            Paragraph((f"Bad: a score {side} {judge.threshold:g} by {judge.name}.",)),
            Table(header, tuple(rows), align="left"),
        ]
    return Section("flow", "What went where", tuple(blocks))


def judges_section(run: RunReport) -> Section:
    """Who judged, and what its number is worth."""
    blocks: list[Block] = []
    for judge in run.judges:
        card = judge.card
        blocks.append(
            Paragraph(
                (
                    Strong(card.name),
                    f" {card.revision}: {card.family}, trained on {card.trained_on}. High means {card.higher_is}. ",
                    *_worth(judge),
                )
            )
        )
        if judge.validations:
            blocks.append(Bullets(tuple((sentence(found),) for found in judge.validations)))
    return Section("judges", "What the scores are worth", tuple(blocks))


def _worth(judge: Judge) -> Words:
    """In plain words, against references of the same concept; at another revision it is said to be another scorer."""
    found = [one for one in judge.validations if one.reference_higher_is == judge.card.higher_is]
    if not found:
        return ("It was never validated here on what it is asked: read its scores as one opinion.",)
    words: list[str | Code | Strong] = []
    if any(one.revision != judge.card.revision for one in found):
        words.append("The figures below are of another revision. ")
    words.append(" ".join(_pairs(one) for one in found))
    words.append(" Single scores are weak evidence; shares and means over many texts are what is compared here.")
    return tuple(words)


def _pairs(found: Validation) -> str:
    return (
        f"Of a {found.reference_higher_is} text and one that is not, as {found.reference_judge} has it, it ranks the "
        f"right one higher {100 * found.auroc.value:.0f} times in 100."
    )
