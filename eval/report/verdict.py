"""The first page: what may be claimed and what not, in words, weak results and broken bounds included."""

from __future__ import annotations

from eval.claim import Verdict
from eval.report.model import ArmReport, RunReport
from eval.report.words import change, counted, listed, number, p_value, plain
from steering.page.document import Aside, Block, Bullets, Code, Findings, Paragraph, Section, Statement, Strong, Words

MANY = 4
"""Arms beyond which only their names stand on the first page, with the reasons in a table."""
FEW = 64
"""Prompts below which only a large effect can be seen."""


def verdict_section(run: RunReport) -> Section:
    """Claims, then everything that speaks against one, arm by arm."""
    items = [*_claims(run), _bounds(run), *_broken_text(run), *_instructions(run), *_witnesses(run), *_size(run)]
    refused = [words for arm in run.arms if arm.kind == "steered" and (words := _refused(run, arm))]
    blocks: list[Block] = [Findings(tuple(items))]
    if refused:
        blocks += [Paragraph((Strong("What may not be claimed"), ", and why:")), Bullets(tuple(refused))]
    return Section("verdict", "Verdict", tuple(blocks))


def standing_arms(run: RunReport) -> set[tuple[str, str]]:
    """(arm, judge) of every claim that stands."""
    return {(one.evidence.arm, one.evidence.judge) for one in run.verdicts if one.stands}


def _claims(run: RunReport) -> list[Statement]:
    standing: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in run.verdicts:
        if verdict.stands:
            standing.setdefault((verdict.evidence.arm, verdict.evidence.judge), []).append(verdict)
    if standing:
        return [_claim(verdicts) for verdicts in standing.values()]
    if not any(arm.kind == "steered" for arm in run.arms):
        return [Statement("unknown", (Strong("Nothing was steered"), ", so there is nothing to claim."))]
    tests = max((verdict.tests for verdict in run.verdicts), default=0)
    return [
        Statement(
            "against",
            (
                Strong("Nothing may be claimed."),
                f" No arm changed the text beyond chance, beyond its placebo and without breaking it, in "
                f"{counted(tests, 'comparison')}. That is not evidence of no effect.",
            ),
        )
    ]


def _claim(verdicts: list[Verdict]) -> Statement:
    """One arm by one judge; a second measure that says the same is named behind the first."""
    first, *others = verdicts
    lead, _, rest = _sentence(first.claim or "").partition(": ")
    words: list[str | Code | Strong | Aside] = [Strong(lead), f": {rest}."]
    for other in others:
        found = other.evidence
        moved = plain(change(found, found.against_unsteered.change))
        words.append(f" So does the {found.measure}: {moved}, Holm p {p_value(other.p_holm)}.")
    words += [f" Beside it: {note}." for note in dict.fromkeys(note for one in verdicts for note in one.caveats)]
    return Statement("for", tuple(words))


def _bounds(run: RunReport) -> Statement:
    """The one thing the algebra promises, and what it does not."""
    promised = [arm for arm in run.arms if any(one.promised for one in arm.summary.steered.values())]
    scope = " A bound is on the probe's read-out at each steered layer and token; what the text says is not bounded."
    if not promised:
        return Statement("unknown", ("No arm promised a bound.", scope))
    broken = [arm for arm in promised if arm.broken]
    capped = sum(one.capped + one.infeasible for arm in promised for one in arm.summary.steered.values())
    short = (
        f" At {counted(capped, 'token')} a budget or a contradiction left a bound unmet, as was asked."
        if capped
        else ""
    )
    if broken:
        named = listed([f"{arm.name} at {counted(arm.broken, 'token')}" for arm in broken])
        return Statement("against", (Strong("A promised bound was violated"), f": {named}.{short}{scope}"))
    tokens = sum(one.tokens for arm in promised for one in arm.summary.steered.values())
    return Statement(
        "for", (Strong("Every promised bound held"), f" at all {tokens} tokens read under one.{short}{scope}")
    )


def _broken_text(run: RunReport) -> list[Statement]:
    """Arms whose scores mean nothing by themselves."""
    left = [arm for arm in run.arms if arm.degenerate and arm.kind in ("steered", "placebo")]
    if not left:
        return []
    if len(left) <= MANY:
        named = "; ".join(f"{arm.name} ({', '.join(arm.degenerate)})" for arm in left)
    else:
        shams = [arm for arm in left if arm.kind == "placebo"]
        count = [counted(len(shams), "placebo")] if shams else []
        named = (
            f"{listed([*(arm.name for arm in left if arm.kind == 'steered'), *count])}; why is in 'Is it still text?'"
        )
    return [
        Statement(
            "against",
            (Strong("Degenerate text"), f": {named}. Broken text is neither toxic nor anything else; no score counts."),
        )
    ]


def _instructions(run: RunReport) -> list[Statement]:
    """The baseline that steering has to beat."""
    found = []
    for arm in run.arms:
        if arm.kind != "instruction":
            continue
        moved = [
            f"{plain(change(evidence, evidence.against_unsteered.change))} points by {judge}"
            for (judge, measure), evidence in arm.against.items()
            if measure == "rate"
        ]
        was, now = run.unsteered.summary.perplexity.value, arm.summary.perplexity.value
        found.append(
            Statement(
                "unknown",
                (
                    Strong("An instruction alone"),
                    f" ({arm.name}) changed the share by {listed(moved)}, at perplexity {number(was, 1)} -> "
                    f"{number(now, 1)} behind the plain prompt: it answers where the others continue.",
                ),
            )
        )
    return found


def _witnesses(run: RunReport) -> list[Statement]:
    """How much the judges together can say."""
    found = []
    silent = [judge.name for judge in run.judges if judge.aim is None]
    if silent:
        found.append(
            Statement(
                "unknown", (f"Nothing is asked of {listed(silent)}: which way is better is not known to the tool.",)
            )
        )
    aimed: dict[str, set[str]] = {}
    for judge in run.judges:
        aimed.setdefault(judge.card.higher_is, set()).add(judge.card.family)
    single = [what for what, families in aimed.items() if len(families) == 1]
    if single:
        found.append(
            Statement(
                "unknown",
                (
                    Strong("One kind of judge"),
                    f" says what is {listed(single)} here; a second of another family would make it a finding of two "
                    "(tiller eval rescore).",
                ),
            )
        )
    return found


def _size(run: RunReport) -> list[Statement]:
    few = run.unsteered.summary.prompts
    notes = "".join(f" {note[:1].upper()}{note[1:].rstrip('.')}." for note in run.left_out)
    found = []
    if few < FEW:
        found.append(
            Statement("unknown", (Strong(f"Only {counted(few, 'prompt')}"), ": small effects cannot be seen."))
        )
    if isinstance(run.provenance.get("prompts_compared_with_training_data"), str):
        words = " It is not known here that no probe was trained on them (--train-data compares)."
        found.append(Statement("unknown", (Strong("Prompts not compared with training data."), words)))
    if notes:
        found.append(Statement("unknown", (Strong("Left out."), notes)))
    return found


def _refused(run: RunReport, arm: ArmReport) -> Words | None:
    """One line for an arm: by each judge, why its better measure carries no claim."""
    lines = []
    for judge in run.judges:
        asked = [verdict for measure in ("rate", "mean") if (verdict := run.verdict(arm.name, judge.name, measure))]
        if asked and not any(verdict.stands for verdict in asked):
            nearest = min(asked, key=lambda verdict: (len(verdict.failed), verdict.p_holm))
            lines.append(f"by {judge.name} ({nearest.evidence.measure}), {'; '.join(nearest.failed)}")
    return (Strong(arm.name), f": {'. '.join(_sentence(line) for line in lines)}.") if lines else None


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
