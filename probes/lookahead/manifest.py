"""The manifest of a look-ahead probe."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime

from probes.lookahead.labeller import Labeller
from probes.lookahead.layer import AheadLayer
from probes.lookahead.prompts import SIDES
from probes.lookahead.recipe import Ahead
from probes.lookahead.samples import Sample
from probes.training.describe import versions
from probes.training.recipe import Parts, Recipe
from probes.training.selection import default_layers
from steering.manifest import DatasetInfo, Default, FitInfo, Lookahead, Manifest
from steering.models import LanguageModel
from steering.version import __version__

SOLVER = "scikit-learn LogisticRegression, lbfgs, L2, weighted rows, standardised, float64"
SPLIT = "sha256 of (seed, prompt); all continuations of a prompt fall together; corpus: {rule}"


def ahead_manifest(
    lm: LanguageModel,
    parts: Parts,
    recipe: Recipe,
    ahead: Ahead,
    sample: Sample,
    labeller: Labeller,
    fitted: Mapping[int, AheadLayer],
    *,
    c: float,
    threshold: float,
    iterations: int,
) -> Manifest:
    """What was written, labelled and fitted; the comparison by warning is added when it has been made."""
    labels = sample.labels()
    own = {side: labels[sample.rows(side)] for side in SIDES}
    counts = {f"states, {side}": {"0": int((found == 0).sum()), "1": int(found.sum())} for side, found in own.items()}
    counts |= {"corpus, train": parts.train.counts, "corpus, test": parts.test.counts}
    hashes = f"{parts.train.sha256}\n{parts.test.sha256}\n{sample.prompts.sha256}\n"
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        concept=recipe.concept,
        positive_is=f"{recipe.positive_is} in the next {ahead.rule.horizon} tokens",
        labels={"0": recipe.labels[0], "1": recipe.labels[1]},
        base_model=lm.info,
        tokenizer=lm.tokenizer_info,
        token_rule="lookahead",
        dataset=DatasetInfo(
            name=recipe.dataset or parts.train.name,
            sha256=hashlib.sha256(hashes.encode()).hexdigest(),
            licence=recipe.licence,
            counts=counts,
            split=SPLIT.format(rule=parts.rule),
        ),
        fit=FitInfo(
            solver=SOLVER,
            C=c,
            seed=recipe.seed,
            versions=versions(),
        ),
        metrics={layer: found.report for layer, found in fitted.items()},
        default=Default(
            layers=default_layers(lm.info.num_hidden_layers, list(fitted)),
            lower=recipe.bounds.lower,
            upper=recipe.bounds.upper,
            space=recipe.bounds.space,
            metric="euclidean",
        ),
        lookahead=Lookahead(
            horizon=ahead.rule.horizon,
            labeller=labeller.name,
            threshold=threshold,
            prompts=len(sample.prompts),
            continuations=sum(found.texts for found in sample.rounds),
            tokens=int(sum(map(len, own.values()))),
            corpus_share=ahead.corpus_share,
            iterations=iterations,
        ),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tool_version=__version__,
    )
