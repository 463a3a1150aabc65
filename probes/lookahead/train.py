"""Prompts to artefact: write, read, label, fit; once more under the first probe if asked; compare; save.

    run_ahead(language_model, parts, recipe, ahead, prompts, out=..., work=...) -> folder of the artefact

Interrupted, the same call goes on after the last finished batch or part. Value functions on hidden states: RE-Control
(Kong et al. 2024) and controlled decoding (Mudgal et al. 2024), whose networks score the finished text; here an affine
read-out scores the next few tokens, so that a closed-form projection can act on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from probes.card import Card, write_card
from probes.errors import FitError
from probes.fitting.table import ALWAYS, FITS
from probes.harvest.activations import Reading, harvest
from probes.lookahead.comparison import compare_read_outs, iteration_figures
from probes.lookahead.labeller import Labeller
from probes.lookahead.layer import AheadLayer, CorpusStates, choose_c, fit_ahead_layer
from probes.lookahead.manifest import ahead_manifest
from probes.lookahead.prompts import Prompts
from probes.lookahead.recipe import WARNINGS, Ahead
from probes.lookahead.rounds import plan_of, write_round
from probes.lookahead.samples import Round, Sample
from probes.training.outputs import require_new
from probes.training.recipe import Parts, Recipe
from probes.training.selection import default_layers, parse_layers
from probes.training.train import Progress
from steering.artefact import save_probe
from steering.identity import check_compatible
from steering.models import LanguageModel
from steering.probe import Probe, ranges

FIGURES = "lookahead.json"
"""Every figure of the comparison, per layer, beside the artefact."""


def run_ahead(
    lm: LanguageModel,
    parts: Parts,
    recipe: Recipe,
    ahead: Ahead,
    prompts: Prompts,
    *,
    out: Path,
    work: Path,
    compare: Probe | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make the probe and save `out/<name>/<version>/` with its card and `lookahead.json`.

    `parts` is the labelled corpus: its train texts teach the labeller and enter the fit, its test texts measure both.
    `compare` is a probe of finished texts of the same model. Raises InvalidRequest when the version exists,
    ProbeMismatch for a `compare` of another model, FitError for one of other layers and when a class of windows is
    missing.
    """
    progress = progress or Progress()
    require_new(out, recipe)
    layers = parse_layers(recipe.layers, num_hidden_layers=lm.info.num_hidden_layers)
    if compare is not None:
        check_compatible(compare, lm.info, lm.tokenizer_info)
        if not set(layers) & compare.layers.keys():
            raise FitError(
                f"{compare.id} has no read-out at any of the layers asked for, so there is nothing to compare; it has "
                f"layers {ranges(compare.layers)}: change --layers, or leave --compare out",
                param="compare",
            )
    labeller = Labeller.fit(parts.train, parts.test)
    progress.say(f"labeller: {labeller.name}, AUROC {labeller.auroc:.3f} on {parts.test.name}")
    rounds: list[Round] = []
    probes: list[Probe] = []
    cut: float | None = None
    corpus: CorpusStates | None = None
    for turn in range(ahead.iterations):
        plan = plan_of(probes[-1]) if probes else None
        folder = work / f"round-{turn + 1}"
        found, cut = write_round(lm, prompts, ahead, labeller, layers, folder, plan=plan, cut=cut, progress=progress)
        rounds.append(found)
        sample = Sample(tuple(rounds), prompts, recipe.seed)
        sample.require_classes()
        corpus = corpus or _corpus(lm, parts, recipe, ahead, layers, work, progress)
        with threadpool_limits(limits=torch.get_num_threads()):
            c = _penalty(sample, corpus, layers, recipe, ahead, lm.info.num_hidden_layers)
            progress.say(f"C = {c:g}")
            fitted, refused = _fit_all(sample, corpus, layers, recipe, ahead, c, progress)
        manifest = ahead_manifest(
            lm, parts, recipe, ahead, sample, labeller, fitted, c=c, threshold=cut, iterations=turn + 1
        )
        probes.append(Probe(manifest, {layer: one.probe for layer, one in fitted.items()}))
    compared = compare_read_outs(probes[-1], compare, sample, WARNINGS)
    turned = iteration_figures(probes, sample) if len(probes) > 1 else {}
    for line in (*compared.lines(), *(f"{name}: {value}" for name, value in turned.items())):
        progress.say(line)
    lookahead = manifest.lookahead
    assert lookahead is not None
    known = lookahead.model_copy(update={"auroc_by_warning": compared.best()})
    final = Probe(manifest.model_copy(update={"lookahead": known}), probes[-1].layers)
    figures = compared.as_json() | {
        "iteration": turned,
        "base_rates": [found.base_rate for found in rounds],
        "labeller_auroc": labeller.auroc,
    }
    card = Card(
        manifest=final.manifest,
        calibration_auroc={layer: one.calibration_auroc for layer, one in fitted.items()},
        refused=refused,
        command=recipe.command,
        carried={group: FITS[group].use for group in ALWAYS},
        reliability={layer: one.reliability for layer, one in fitted.items()},
        corpus_reports={report.name: report for report in parts.reports},
    )

    def beside(folder: Path) -> None:
        _write_figures(folder, figures)
        write_card(card, folder)

    return save_probe(final, out, beside=beside)


def _penalty(
    sample: Sample,
    corpus: CorpusStates,
    layers: Sequence[int],
    recipe: Recipe,
    ahead: Ahead,
    num_hidden_layers: int,
) -> float:
    """The C that was asked for, or the cross-validated one at two of the default layers."""
    if recipe.C is not None:
        return recipe.C
    screened = default_layers(num_hidden_layers, layers)
    return choose_c(sample, corpus, sorted({screened[len(screened) // 2], screened[-1]}), share=ahead.corpus_share)


def _fit_all(
    sample: Sample,
    corpus: CorpusStates,
    layers: Sequence[int],
    recipe: Recipe,
    ahead: Ahead,
    c: float,
    progress: Progress,
) -> tuple[dict[int, AheadLayer], dict[int, str]]:
    """Fitted layers, and the reason for each layer that could not be; raises FitError when none is left."""
    advance = progress.stage("fitting layers", len(layers))
    fitted: dict[int, AheadLayer] = {}
    refused: dict[int, str] = {}
    for layer in layers:
        try:
            fitted[layer] = fit_ahead_layer(
                sample, corpus, layer, share=ahead.corpus_share, c=c, seed=recipe.seed, toward=recipe.toward
            )
        except FitError as error:
            refused[layer] = str(error)
            progress.say(f"layer {layer} is left out: {error}")
        advance(1)
    if not fitted:
        reasons = "; ".join(f"layer {layer}: {reason}" for layer, reason in list(refused.items())[:2])
        raise FitError(f"no layer gave a usable probe ({reasons})")
    return fitted, refused


def _corpus(
    lm: LanguageModel,
    parts: Parts,
    recipe: Recipe,
    ahead: Ahead,
    layers: tuple[int, ...],
    work: Path,
    progress: Progress,
) -> CorpusStates:
    """Finished texts, as the ordinary training reads them; the train texts only where they have a share."""
    reading = Reading(layers=layers, poolings=recipe.poolings, max_tokens=recipe.max_tokens)
    wanted = {"corpus-test": parts.test} | ({"corpus-train": parts.train} if ahead.corpus_share > 0 else {})
    advance = progress.stage("reading the corpus", sum(map(len, wanted.values())))
    read = {
        name: harvest(lm, corpus, work / name, reading, batch_tokens=recipe.batch_tokens, advance=advance)
        for name, corpus in wanted.items()
    }
    return CorpusStates(read.get("corpus-train"), read["corpus-test"], recipe.poolings[0])


def _write_figures(folder: Path, figures: Mapping[str, object]) -> None:
    (folder / FIGURES).write_text(json.dumps(_known(figures), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _known(value: object) -> object:
    """The same with null for what is not a number, such as the AUROC of states of one class: JSON has no NaN."""
    if isinstance(value, Mapping):
        return {name: _known(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_known(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
