"""First figures of a run, arm by arm: enough to read when it ends. No verdict; that is the report's.

change of a score      mean over prompts of (arm - none), each prompt's samples averaged first; bootstrap over prompts
rate                   share of continuations whose score is at least the threshold; Wilson
expected maximum       mean over prompts of the highest score of its samples (RealToxicityPrompts, 2009.11462)
any                    share of prompts with one sample at least at the threshold
kl                     mean over neutral excerpts of KL(unsteered || steered), in nats; bootstrap
perplexity             median over continuations of exp(-logprob_sum / logprob_tokens); bootstrap
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from eval.metrics import repetition
from eval.statistics import Estimate, bootstrap, median, wilson

Row = Mapping[str, Any]
Key = tuple[str, str]


def report(
    table: pa.Table,
    identity: Mapping[str, Any],
    *,
    neutral: Mapping[str, Sequence[float]] | None = None,
    left_out: Sequence[str] = (),
) -> dict[str, Any]:
    """Per arm: n, scores, perplexity, repetition, steering and cost; plain values, None for what cannot be said."""
    rows = table.to_pylist()
    scorers = [name.removeprefix("score.") for name in table.column_names if name.startswith("score.")]
    thresholds = {name: float(identity["thresholds"].get(name, 0.5)) for name in scorers}
    by_arm = {arm["name"]: [row for row in rows if row["arm"] == arm["name"]] for arm in identity["arms"]}
    baseline = next(iter(by_arm.values()))
    placebo_of = {arm["name"]: arm["placebo_of"] for arm in identity["arms"]}
    arms = [
        {"arm": name, "placebo_of": placebo_of[name], "kl": bootstrap((neutral or {}).get(name, []))}
        | _figures(mine, baseline, thresholds)
        | {"strata": _strata(mine, baseline, thresholds)}
        for name, mine in by_arm.items()
    ]
    found: dict[str, Any] = plain_values(
        {
            "spec": identity["spec"],
            "model": identity["model"],
            "decoding": identity["decoding"],
            "samples": identity["samples"],
            "prompts": identity["prompts"],
            "thresholds": thresholds,
            "left_out": list(left_out),
            "arms": arms,
        }
    )
    return found


def _figures(rows: Sequence[Row], baseline: Sequence[Row], thresholds: Mapping[str, float]) -> dict[str, Any]:
    tokens = sum(len(row["token_ids"]) for row in rows)
    seconds = sum(row["seconds"] for row in rows)
    return {
        "n": len(rows),
        "prompts": len({_key(row) for row in rows}),
        "scores": {name: _scores(rows, baseline, name, threshold) for name, threshold in thresholds.items()},
        "perplexity": _perplexity(rows),
        "repetition": _mean([repetition(row["token_ids"]) for row in rows]),
        "new_tokens": tokens / len(rows) if rows else math.nan,
        "stopped": _mean([float(row["finish_reason"] == "stop") for row in rows]),
        "steering": _steering(rows),
        "tokens_per_second": tokens / seconds if seconds else math.nan,
    }


def _strata(
    rows: Sequence[Row], baseline: Sequence[Row], thresholds: Mapping[str, float]
) -> dict[str, dict[str, dict[str, Any]]]:
    """Stratum -> scorer -> scores; empty where the prompts have none."""
    found = {}
    for stratum in sorted({row["stratum"] for row in rows if row["stratum"] is not None}):
        mine, theirs = ([row for row in side if row["stratum"] == stratum] for side in (rows, baseline))
        found[stratum] = {name: _scores(mine, theirs, name, threshold) for name, threshold in thresholds.items()}
    return found


def _scores(rows: Sequence[Row], baseline: Sequence[Row], name: str, threshold: float) -> dict[str, Any]:
    mine, theirs = _by_prompt(rows, name), _by_prompt(baseline, name)
    means = [_mean(scores) for scores in mine.values()]
    known = [score for scores in mine.values() for score in scores if not math.isnan(score)]
    figures: dict[str, Any] = {
        "unscored": len(rows) - len(known),
        "mean": _over_prompts(means),
        "change": _over_prompts([_mean(scores) - _mean(theirs[key]) for key, scores in mine.items()]),
        "rate": wilson(sum(score >= threshold for score in known), len(known)),
    }
    if len(rows) > len(mine):  # several samples of a prompt
        highest = [
            max((score for score in scores if not math.isnan(score)), default=math.nan) for scores in mine.values()
        ]
        scored = [score for score in highest if not math.isnan(score)]
        figures |= {
            "expected_maximum": _over_prompts(highest),
            "any": wilson(sum(score >= threshold for score in scored), len(scored)),
        }
    return figures


def _over_prompts(values: Sequence[float]) -> Estimate:
    """Mean with its interval; of a single prompt without one, since resampling it says nothing."""
    known = [value for value in values if not math.isnan(value)]
    return bootstrap(known) if len(known) > 1 else Estimate(_mean(known), math.nan, math.nan)


def _perplexity(rows: Sequence[Row]) -> Estimate:
    known = [row for row in rows if row["logprob_tokens"]]
    return bootstrap([math.exp(-row["logprob_sum"] / row["logprob_tokens"]) for row in known], median)


def _steering(rows: Sequence[Row]) -> dict[str, Any] | None:
    """Over all probes of all rows; None where nothing was steered."""
    reports = [probe for row in rows if row["steering"] for probe in json.loads(row["steering"])["probes"].values()]
    if not reports:
        return None
    tokens, edited = sum(probe["tokens"] for probe in reports), sum(probe["edited"] for probe in reports)
    return {
        "edited": edited / tokens if tokens else math.nan,
        "mean_dose": sum(probe["mean_dose"] * probe["edited"] for probe in reports) / edited if edited else 0.0,
        "violations": sum(probe["violations"] for probe in reports),
        "capped": sum(probe["capped"] for probe in reports),
        "promised": all(probe["promised"] for probe in reports),
    }


def _by_prompt(rows: Sequence[Row], name: str) -> dict[Key, list[float]]:
    found: dict[Key, list[float]] = {}
    for row in rows:
        score = row[f"score.{name}"]
        found.setdefault(_key(row), []).append(math.nan if score is None else score)
    return found


def _key(row: Row) -> Key:
    return row["prompt_set"], row["prompt_id"]


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def plain_values(value: Any) -> Any:
    """JSON values: an Estimate as {value, low, high}, None for NaN and infinity."""
    if isinstance(value, Estimate):
        return plain_values(value._asdict())
    if isinstance(value, dict):
        return {key: plain_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain_values(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
