"""Texts to artefact, in order: harvest, choose C (and pooling), fit and calibrate each layer, measure, save, card.

    run(language_model, parts, recipe, out=..., work=...) -> folder of the artefact

What can fail early fails before the harvest. Interrupted, the same call resumes at the first unfinished shard.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import sklearn
import torch
import transformers
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from probes.activations import Activations, Reading, harvest
from probes.baseline import NAME, lexical_baseline
from probes.card import Card, write_card
from probes.errors import FitError
from probes.fit import FOLDS, SOLVER, choose_penalty
from probes.fitting.table import FITS, by_class
from probes.fitting.with_model import WITH_MODEL, check_model, fit_with_model
from probes.layer import FittedLayer, Harvested, compare_poolings, fit_layer
from probes.recipe import Parts, Recipe
from probes.selection import default_layers, parse_layers
from probes.shards import Floats, Pooling
from probes.splits import folds
from steering.artefact import save_probe
from steering.errors import InvalidRequest
from steering.manifest import DatasetInfo, Default, FitInfo, Manifest
from steering.models import LanguageModel
from steering.probe import LayerProbe, Probe
from steering.version import __version__


@dataclass(frozen=True)
class Progress:
    """Whom to tell how far things are; silent unless told otherwise."""

    stage: Callable[[str, int], Callable[[int], None]] = lambda name, total: lambda done: None
    """(name, steps in all) -> a function called with the number of steps just done."""
    say: Callable[[str], None] = lambda line: None


def run(
    language_model: LanguageModel,
    parts: Parts,
    recipe: Recipe,
    *,
    out: Path,
    work: Path,
    progress: Progress | None = None,
) -> Path:
    """Train, save `out/<name>/<version>/` with its card, and return that folder.

    `work` keeps the activations (about 4 bytes x texts x layers x hidden_size x poolings). Raises InvalidRequest when
    the version exists already, HarvestError and FitError as their modules say.
    """
    progress = progress or Progress()
    info = language_model.info
    target = out / recipe.name / str(recipe.version)
    if target.exists():
        raise InvalidRequest(
            f"{recipe.name}@{recipe.version} already exists at {target} and versions are never overwritten; "
            "give a higher --version or another --out",
            param="version",
        )
    _check_writable(target.parent)
    check_model(recipe.carry, language_model)
    if any(FITS[group].paired for group in recipe.carry if group in FITS):
        by_class(parts.train, paired=True)
    reading = Reading(
        layers=parse_layers(recipe.layers, num_hidden_layers=info.num_hidden_layers),
        poolings=recipe.poolings,
        max_tokens=recipe.max_tokens,
    )
    data = _harvest_all(language_model, parts, reading, recipe, work=work, progress=progress)
    with threadpool_limits(limits=torch.get_num_threads()):
        pooling, c, comparison = _choose(data, reading, recipe, info.num_hidden_layers, progress)
        fitted, refused = _fit_all(data, reading.layers, pooling, c, recipe, progress)
        progress.say("fitting the lexical baseline")
        baseline = lexical_baseline(parts.train, {"test": parts.test, **parts.out_of_domain})
    manifest = _manifest(language_model, parts, recipe, pooling, c, fitted, baseline)
    layers = {layer: found.probe for layer, found in fitted.items()}
    extra = fit_with_model(
        recipe.carry,
        language_model,
        parts.train,
        layers,
        default=manifest.default.layers,
        toward=recipe.toward,
        stage=progress.stage,
    )
    probe = Probe(
        manifest=manifest, layers={layer: _with_groups(found, extra.get(layer, {})) for layer, found in layers.items()}
    )
    tallies = {"train": data.train.tally, "calibration": data.calibration.tally, "test": data.test.tally}
    tallies |= {name: activations.tally for name, activations in data.out_of_domain.items()}
    card = Card(
        manifest=probe.manifest,
        calibration_auroc={layer: found.calibration_auroc for layer, found in fitted.items()},
        tallies=tallies,
        poolings=comparison,
        refused=refused,
        dropped=parts.dropped,
        command=recipe.command,
        carried={group: entry.use for group, entry in FITS.items() if probe.carries(group)}
        | {group: use for group, use in WITH_MODEL.items() if group in recipe.carry},
    )
    return save_probe(probe, out, beside=partial(write_card, card))


def _with_groups(layer: LayerProbe, groups: Mapping[str, Floats]) -> LayerProbe:
    tensors = {name: torch.from_numpy(value) for name, value in groups.items()}
    return replace(layer, fitted={**layer.fitted, **tensors})


def _check_writable(folder: Path) -> None:
    """Now, not after the harvest; nothing is left behind."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InvalidRequest(
            f"the probe cannot be written to {folder} ({error.strerror or error}); give another --out", param="out"
        ) from None


def _harvest_all(
    language_model: LanguageModel, parts: Parts, reading: Reading, recipe: Recipe, *, work: Path, progress: Progress
) -> Harvested:
    named = parts.named()
    advance = progress.stage("reading activations", sum(map(len, named.values())))
    done: dict[str, Activations] = {}
    for name, corpus in named.items():
        done[name] = harvest(
            language_model,
            corpus,
            work / name,
            reading,
            batch_tokens=recipe.batch_tokens,
            shard_rows=recipe.shard_rows,
            advance=advance,
        )
    return Harvested(
        train=done["train"],
        calibration=done["calibration"],
        test=done["test"],
        out_of_domain={name: done[f"ood-{name}"] for name in parts.out_of_domain},
    )


def _choose(
    data: Harvested, reading: Reading, recipe: Recipe, num_hidden_layers: int, progress: Progress
) -> tuple[Pooling, float, dict[Pooling, tuple[float, float]]]:
    """The pooling, its C, and the comparison that decided (empty when there was nothing to compare)."""
    layers = default_layers(num_hidden_layers, reading.layers)
    screened = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    corpus = data.train.corpus
    chosen: dict[Pooling, float] = {}

    def penalty(pooling: Pooling) -> float:
        if recipe.C is not None:
            return recipe.C
        if pooling not in chosen:
            progress.say(f"choosing C by {FOLDS}-fold cross-validation at layers {screened}, pooling '{pooling}'")
            loads: list[Callable[[], Floats]] = [partial(data.train.layer, layer, pooling) for layer in screened]
            chosen[pooling] = choose_penalty(loads, corpus.labels, folds(corpus, FOLDS, seed=recipe.seed))
        return chosen[pooling]

    if len(recipe.poolings) == 1:
        return recipe.poolings[0], penalty(recipe.poolings[0]), {}
    comparison = compare_poolings(data, recipe.poolings, layers, penalty=penalty)
    best = max(comparison, key=lambda pooling: comparison[pooling][0])
    progress.say(f"pooling '{best}' reads the calibration texts best")
    return best, penalty(best), comparison


def _fit_all(
    data: Harvested, layers: tuple[int, ...], pooling: Pooling, c: float, recipe: Recipe, progress: Progress
) -> tuple[dict[int, FittedLayer], dict[int, str]]:
    """Fitted layers, and the reason for each layer that could not be; raises FitError when none is left."""
    advance = progress.stage("fitting layers", len(layers))
    fitted: dict[int, FittedLayer] = {}
    refused: dict[int, str] = {}
    for layer in layers:
        try:
            fitted[layer] = fit_layer(
                data, layer, pooling, c=c, seed=recipe.seed, carry=recipe.carry, toward=recipe.toward
            )
        except FitError as error:
            refused[layer] = str(error)
            progress.say(f"layer {layer} is left out: {error}")
        advance(1)
    if not fitted:
        reasons = "; ".join(f"layer {layer}: {reason}" for layer, reason in list(refused.items())[:2])
        raise FitError(f"no layer gave a usable probe ({reasons})")
    return fitted, refused


def _manifest(
    language_model: LanguageModel,
    parts: Parts,
    recipe: Recipe,
    pooling: Pooling,
    c: float,
    fitted: Mapping[int, FittedLayer],
    baseline: Mapping[str, float],
) -> Manifest:
    named = parts.named()
    hashes = "".join(f"{name}:{corpus.sha256}\n" for name, corpus in named.items())
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        concept=recipe.concept,
        positive_is=recipe.positive_is,
        labels={"0": recipe.labels[0], "1": recipe.labels[1]},
        base_model=language_model.info,
        tokenizer=language_model.tokenizer_info,
        token_rule=pooling,
        dataset=DatasetInfo(
            name=recipe.dataset or parts.train.name,
            sha256=hashlib.sha256(hashes.encode()).hexdigest(),
            licence=recipe.licence,
            counts={name: corpus.counts for name, corpus in named.items()},
            split=parts.rule,
        ),
        fit=FitInfo(
            solver=SOLVER,
            C=c,
            seed=recipe.seed,
            versions={
                "numpy": np.__version__,
                "python": platform.python_version(),
                "scikit-learn": sklearn.__version__,
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
        ),
        metrics={layer: found.report for layer, found in fitted.items()},
        baselines={NAME: dict(baseline)},
        default=Default(
            layers=default_layers(language_model.info.num_hidden_layers, list(fitted)),
            lower=recipe.bounds.lower,
            upper=recipe.bounds.upper,
            space=recipe.bounds.space,
            metric="euclidean",
        ),
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        tool_version=__version__,
    )
