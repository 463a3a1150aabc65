"""Texts to artefact, in order: harvest, choose strength and pooling, fit and calibrate each layer, measure, save, card.

    run(language_model, parts, recipe, out=..., work=...) -> folder of the artefact
    run_concepts(language_model, [(parts, recipe), ...], out=..., work=...) -> one folder per concept

What can fail early fails before the harvest. Interrupted, the same call resumes at the first unfinished shard. Several
concepts share one harvest, since activations depend on the texts and not on their labels, and each manifest gets the
cosines of its weights with those of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from probes.card import Card, write_card
from probes.errors import FitError
from probes.fitting.table import FITS, by_class
from probes.fitting.with_model import WITH_MODEL, check_model, fit_with_model
from probes.harvest.activations import Activations, Reading, harvest
from probes.harvest.processes import team
from probes.harvest.shards import Tally
from probes.measure.baseline import measure_baselines
from probes.training.choice import Choice, choose
from probes.training.cosines import concept_cosines
from probes.training.describe import describe
from probes.training.layer import FittedLayer, fit_layer
from probes.training.outputs import require_new
from probes.training.recipe import Parts, Recipe
from probes.training.samples import Harvested
from probes.training.selection import default_layers, parse_layers
from steering.artefact import save_probe
from steering.manifest import Manifest
from steering.models import LanguageModel
from steering.probe import LayerProbe, Probe


@dataclass(frozen=True)
class Progress:
    """Whom to tell how far things are; silent unless told otherwise."""

    stage: Callable[[str, int], Callable[[int], None]] = lambda name, total: lambda done: None
    """(name, steps in all) -> a function called with the number of steps just done."""
    say: Callable[[str], None] = lambda line: None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A fitted concept that is not saved yet."""

    manifest: Manifest
    layers: Mapping[int, LayerProbe]
    choice: Choice
    fitted: Mapping[int, FittedLayer]
    refused: Mapping[int, str]
    tallies: Mapping[str, Tally]


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
    return run_concepts(language_model, [(parts, recipe)], out=out, work=work, progress=progress)[0]


def run_concepts(
    language_model: LanguageModel,
    concepts: Sequence[tuple[Parts, Recipe]],
    *,
    out: Path,
    work: Path,
    progress: Progress | None = None,
) -> list[Path]:
    """Train one probe per concept from one harvest; their parts hold the same texts in the same order.

    Other texts under the same name of a part are refused by the harvest, since both would go to one folder of `work`.
    Nothing is saved before every concept is fitted. Of several processes (`probes/harvest/processes.py`) all harvest,
    the first fits and writes. Raises as `run` does.
    """
    progress = progress or Progress()
    runs = [TrainingRun(language_model, parts, recipe, progress) for parts, recipe in concepts]

    def check() -> None:
        for each in runs:
            require_new(out, each.recipe)
            each.check()

    def finish() -> list[Path]:
        outcomes = [each.train(data) for each, data in zip(runs, harvested, strict=True)]
        cosines = concept_cosines({found.manifest.name: found.layers for found in outcomes})
        return [
            each.save(found, cosines[found.manifest.name], out=out) for each, found in zip(runs, outcomes, strict=True)
        ]

    processes = team()
    processes.agree(check)
    read: dict[str, Activations] = {}
    harvested = [each.harvest(work, read) for each in runs]
    return processes.agree(finish)


@dataclass(frozen=True)
class TrainingRun:
    """One concept from texts to a finished probe, stage by stage."""

    language_model: LanguageModel
    parts: Parts
    recipe: Recipe
    progress: Progress

    def check(self) -> None:
        """Whatever can be refused before the harvest."""
        check_model(self.recipe.carry, self.language_model)
        if any(FITS[group].paired for group in self.recipe.carry if group in FITS):
            by_class(self.parts.train, paired=True)
        size, wanted = self.language_model.info.hidden_size, self.recipe.coordinates
        if wanted is not None and wanted > size:
            raise FitError(
                f"{wanted} coordinates are asked for, the residual stream has {size}; give --coordinates from 1 to "
                f"{size}",
                param="coordinates",
            )
        _ = self.reading

    @cached_property
    def reading(self) -> Reading:
        """What is read of each text."""
        recipe = self.recipe
        return Reading(
            layers=parse_layers(recipe.layers, num_hidden_layers=self.language_model.info.num_hidden_layers),
            poolings=recipe.poolings,
            max_tokens=recipe.max_tokens,
            tokens_per_text=recipe.tokens_per_text,
            template=recipe.template,
            shard_dtype=recipe.shard_dtype,
        )

    def train(self, data: Harvested) -> Outcome:
        """Choose, fit and measure: all stages between the harvest and the saving."""
        with threadpool_limits(limits=torch.get_num_threads()):
            layers = default_layers(self.language_model.info.num_hidden_layers, self.reading.layers)
            choice = choose(data, self.recipe, layers, say=self.progress.say)
            fitted, refused = self.fit(data, choice)
            self.progress.say("fitting the baselines that read no hidden states")
            tests = {"test": self.parts.test, **self.parts.out_of_domain}
            baselines = measure_baselines(self.parts.train, tests, pairs=self.parts.pairs)
        manifest = describe(
            self.language_model,
            self.parts,
            self.recipe,
            pooling=choice.pooling,
            setting=choice.setting,
            fitted=fitted,
            baselines=baselines,
        )
        return Outcome(
            manifest=manifest,
            layers=self.with_groups(fitted, manifest),
            choice=choice,
            fitted=fitted,
            refused=refused,
            tallies={name.removeprefix("ood-"): part.tally for name, part in data.named().items()},
        )

    def harvest(self, work: Path, read: dict[str, Activations]) -> Harvested:
        """Activations of all parts, below `work`.

        `read` holds what is harvested already, by the hash of the texts: parts of several concepts, or of one, that
        hold the same texts are read once and labelled each in its own way.
        """
        named = self.parts.named()
        advance = self.progress.stage("reading activations", sum(map(len, named.values())))
        done: dict[str, Activations] = {}
        for name, corpus in named.items():
            if corpus.texts_sha256 in read:
                done[name] = replace(read[corpus.texts_sha256], corpus=corpus)
                advance(len(corpus))
                continue
            done[name] = read[corpus.texts_sha256] = harvest(
                self.language_model,
                corpus,
                work / name,
                self.reading,
                batch_tokens=self.recipe.batch_tokens,
                shard_rows=self.recipe.shard_rows,
                advance=advance,
                say=self.progress.say,
            )
        return Harvested(
            train=done["train"],
            calibration=done["calibration"],
            test=done["test"],
            out_of_domain={name: done[f"ood-{name}"] for name in self.parts.out_of_domain},
            pairs={name: done[f"pairs-{name}"] for name in self.parts.pairs},
        )

    def fit(self, data: Harvested, choice: Choice) -> tuple[dict[int, FittedLayer], dict[int, str]]:
        """Fitted layers, and the reason for each layer that could not be; raises FitError when none is left."""
        recipe, layers = self.recipe, self.reading.layers
        advance = self.progress.stage("fitting layers", len(layers))
        fitted: dict[int, FittedLayer] = {}
        refused: dict[int, str] = {}
        for layer in layers:
            try:
                fitted[layer] = fit_layer(
                    data,
                    layer,
                    choice.pooling,
                    setting=choice.setting,
                    seed=recipe.seed,
                    carry=recipe.carry,
                    toward=recipe.toward,
                )
            except FitError as error:
                refused[layer] = str(error)
                self.progress.say(f"layer {layer} is left out: {error}")
            advance(1)
        if not fitted:
            reasons = "; ".join(f"layer {layer}: {reason}" for layer, reason in list(refused.items())[:2])
            raise FitError(f"no layer gave a usable probe ({reasons})")
        return fitted, refused

    def with_groups(self, fitted: Mapping[int, FittedLayer], manifest: Manifest) -> dict[int, LayerProbe]:
        """The read-outs with what has to be fitted by running the model once more."""
        layers = {layer: found.probe for layer, found in fitted.items()}
        extra = fit_with_model(
            self.recipe.carry,
            self.language_model,
            self.parts.train,
            layers,
            default=manifest.default.layers,
            toward=self.recipe.toward,
            stage=self.progress.stage,
        )
        tensors = {
            layer: {name: torch.from_numpy(value) for name, value in groups.items()} for layer, groups in extra.items()
        }
        return {
            layer: replace(found, fitted={**found.fitted, **tensors.get(layer, {})}) for layer, found in layers.items()
        }

    def save(self, found: Outcome, cosines: Mapping[str, Mapping[int, float]], *, out: Path) -> Path:
        """Write the artefact with its page and return its folder."""
        known = {name: dict(by_layer) for name, by_layer in cosines.items()}
        probe = Probe(manifest=found.manifest.model_copy(update={"cosines": known}), layers=dict(found.layers))
        card = Card(
            manifest=probe.manifest,
            calibration_auroc={layer: each.calibration_auroc for layer, each in found.fitted.items()},
            tallies=found.tallies,
            poolings=found.choice.compared,
            refused=found.refused,
            dropped=self.parts.dropped,
            command=self.recipe.command,
            carried={group: entry.use for group, entry in FITS.items() if probe.carries(group)}
            | {group: use for group, use in WITH_MODEL.items() if group in self.recipe.carry},
            reliability={layer: each.reliability for layer, each in found.fitted.items()},
            corpus_reports={report.name: report for report in self.parts.reports},
        )
        return save_probe(probe, out, beside=partial(write_card, card))
