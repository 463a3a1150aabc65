"""From the folder of a run to its `RunReport`: nothing is generated or scored here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from eval.claim import Aim, Evidence, Measure, judge
from eval.evidence import Question, gather
from eval.flow import Flow, flow
from eval.metrics.scores import THRESHOLD, hits
from eval.paired import compare_medians
from eval.record import Record, by_prompt, read_records, scores_of
from eval.report.asked import aim_of
from eval.report.model import ArmReport, Judge, Kind, LayerReading, RunReport
from eval.runner.arms import NONE
from eval.runner.folder import RunFolder
from eval.statistics import bootstrap
from eval.summary import ScoreSummary, summarise_arm, summarise_scores
from eval.validated import published
from steering.manifest import Manifest
from steering.scorers import Relation, ScorerCard

MEASURES: tuple[Measure, ...] = ("rate", "mean")
"""Both are looked at, so both count in Holm's correction."""


def read_run(folder: RunFolder) -> RunReport:
    """Everything of a finished run. Raises SpecError for one that is not, InvalidRequest for a damaged table."""
    identity = folder.identity()
    records = read_records(folder.table().to_pylist())
    order = [arm["name"] for arm in identity["arms"]]
    known = {name: Manifest.model_validate(found) for name, found in folder.document("probes.json").items()}
    cards = [ScorerCard(**(card | {"data": tuple(card["data"])})) for card in folder.cards()]
    aims = {card.name: _aims(card, identity["arms"], known) for card in cards}
    judges = _judges(cards, aims, identity["thresholds"], records)
    found = _evidence(records, identity["arms"], judges, aims, known)
    asked = [
        one
        for one in found
        if aims[one.judge][one.arm] is not None and _kind(identity["arms"], one.arm) in ("steered", "instruction")
    ]
    neutral = folder.neutral()
    arms = tuple(
        _arm(number, name, identity["arms"], records, judges, found, neutral.get(name, ()))
        for number, name in enumerate(order, start=1)
    )
    return RunReport(
        identity=identity,
        provenance=folder.document("provenance.json"),
        judges=judges,
        arms=arms,
        verdicts=tuple(judge(asked)),
        left_out=tuple(folder.left_out()),
        layers=tuple(LayerReading(r["arm"], r["probe"], r["layer"], r["before"], r["after"]) for r in folder.layers()),
        unknown_probes=tuple(name for name in identity["probes"] if name not in known),
        records={name: tuple(records[name]) for name in order},
        prompts=folder.prompt_texts(),
    )


def _judges(
    cards: Sequence[ScorerCard],
    aims: Mapping[str, Mapping[str, Aim | None]],
    thresholds: Mapping[str, float],
    records: Mapping[str, Sequence[Record]],
) -> tuple[Judge, ...]:
    """Those of the spec in its order, then those that came later; one that has not judged every sample yet is none."""
    scored = set.intersection(*(set(record.scores) for arm in records.values() for record in arm[:1]))
    place = {name: at for at, name in enumerate(thresholds)}
    known = sorted((card for card in cards if card.name in scored), key=lambda card: place.get(card.name, len(place)))
    return tuple(
        Judge(card, float(thresholds.get(card.name, THRESHOLD)), _common(aims[card.name]), tuple(published(card.name)))
        for card in known
    )


def _aims(card: ScorerCard, arms: Sequence[Mapping[str, Any]], known: Mapping[str, Manifest]) -> dict[str, Aim | None]:
    """Arm -> aim; an arm without constraints wants what most of the others do."""
    aims = {arm["name"]: aim_of(card, arm["constraints"], known) for arm in arms if arm["constraints"]}
    common = _common(aims)
    return {arm["name"]: aims.get(arm["name"], common) for arm in arms}


def _common(aims: Mapping[str, Aim | None]) -> Aim | None:
    counted = Counter(aims.values())
    return counted.most_common(1)[0][0] if counted else None


def _evidence(
    records: Mapping[str, Sequence[Record]],
    arms: Sequence[Mapping[str, Any]],
    judges: Sequence[Judge],
    aims: Mapping[str, Mapping[str, Aim | None]],
    known: Mapping[str, Manifest],
) -> list[Evidence]:
    """Every arm but the unsteered one, by every judge and measure."""
    placebo_of = {arm["placebo_of"]: arm["name"] for arm in arms if arm["placebo_of"]}
    probes = {arm["name"]: list(dict.fromkeys(held["probe"] for held in arm["constraints"])) for arm in arms}
    manifests = {name: [known[probe] for probe in used if probe in known] for name, used in probes.items()}
    found = []
    for one in judges:
        for measure in MEASURES:
            for arm in (arm["name"] for arm in arms if arm["name"] != NONE):
                question = Question(
                    one.card,
                    aims[one.name][arm] or "lower",  # where it is not known, nothing is judged: only the change is used
                    one.card.higher_is,
                    measure=measure,
                    threshold=one.threshold,
                )
                (evidence,) = gather(records, {arm: placebo_of.get(arm)}, [question], manifests=manifests)
                strangers = [probe for probe in probes[arm] if probe not in known]
                found.append(replace(evidence, relation=_unknown(one.name, strangers)) if strangers else evidence)
    return found


def _unknown(judge_name: str, probes: Sequence[str]) -> Relation:
    """What cannot be ruled out is not claimed."""
    return Relation(
        True,
        (f"the manifest of {' and '.join(probes)} is not with the run, so {judge_name} may have labelled its data",),
    )


def _arm(
    number: int,
    name: str,
    arms: Sequence[Mapping[str, Any]],
    records: Mapping[str, Sequence[Record]],
    judges: Sequence[Judge],
    found: Sequence[Evidence],
    kl: Sequence[float],
) -> ArmReport:
    mine, baseline = records[name], records[NONE]
    against = {(one.judge, one.measure): one for one in found if one.arm == name}
    thresholds = {one.name: one.threshold for one in judges}
    reports = [report for record in mine for report in (record.steering or {}).get("probes", {}).values()]
    ours, theirs = (by_prompt(rows, [row.perplexity for row in rows]) for rows in (mine, baseline))
    return ArmReport(
        number=number,
        name=name,
        kind=_kind(arms, name),
        placebo=next((arm["name"] for arm in arms if arm["placebo_of"] == name), None),
        summary=summarise_arm(mine, [one.name for one in judges], thresholds=thresholds),
        strata=_strata(mine, judges),
        against=against,
        perplexity_change=compare_medians(ours, theirs),
        flows={one.name: _flow(mine, baseline, one) for one in judges},
        degenerate=tuple(dict.fromkeys(reason for one in against.values() for reason in one.degenerate)),
        kl=bootstrap(kl),
        doses=tuple(float(report["mean_dose"]) for report in reports if report["edited"]),
        broken=sum(int(report["violations"]) for report in reports if report["promised"]),
    )


def _kind(arms: Sequence[Mapping[str, Any]], name: str) -> Kind:
    arm = next(arm for arm in arms if arm["name"] == name)
    if arm["placebo_of"]:
        return "placebo"
    if arm["constraints"]:
        return "steered"
    return "instruction" if arm["instruction"] else "unsteered"


def _flow(mine: Sequence[Record], baseline: Sequence[Record], one: Judge) -> Flow:
    now, was = (hits(scores_of(rows, one.name), threshold=one.threshold, side=one.bad) for rows in (mine, baseline))
    return flow(now, was)


def _strata(mine: Sequence[Record], judges: Sequence[Judge]) -> dict[str, dict[str, ScoreSummary]]:
    names = list(dict.fromkeys(f"{record.prompt_set}: {record.stratum}" for record in mine if record.stratum))
    if len(names) < 2:
        return {}
    apart = {name: [r for r in mine if f"{r.prompt_set}: {r.stratum}" == name] for name in names}
    return {
        name: {
            one.name: summarise_scores(by_prompt(rows, scores_of(rows, one.name)), threshold=one.threshold)
            for one in judges
        }
        for name, rows in apart.items()
    }
