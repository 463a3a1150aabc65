"""One shipped probe from texts to published artefact: train, screen, fit what needs the layers it chose, publish.

    work/trained/<name>/1/   the probe as `probes.training.train` leaves it
    work/screen/             the arms of its causal screen, one line each
    out/<name>/1/            the same weights with the screen's defaults and table, and the card

Interrupted at any point, the same call goes on from there.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from probes.card import card_from_probe, read_extras, write_card
from probes.fitting.table import SHIPPED_GROUPS
from probes.fitting.with_model import WITH_MODEL, fit_with_model
from probes.screen.adopt import with_screen
from probes.screen.run import expected_arms
from probes.screen.run import run as screen
from probes.shipping.recipes import PROBES
from probes.shipping.screens import SCREENS, ask
from probes.training.recipe import Parts, Recipe
from probes.training.train import Progress, run
from steering.artefact import load_probe, save_probe
from steering.embedded import SMOLLM2
from steering.models import LanguageModel, load_model
from steering.probe import Probe

COMMAND = "python -m probes.pretrain --data DATA --only"
VERSION = "1"


def build(name: str, data: Path, *, language_model: LanguageModel, out: Path, work: Path, progress: Progress) -> Path:
    """Make the probe `name`, save it below `out` with its card and return its folder."""
    parts, recipe = PROBES[name](data)
    recipe = replace(
        recipe,
        poolings=("last", "mean"),
        carry=tuple(group for group in SHIPPED_GROUPS if group not in WITH_MODEL),
        command=f"{COMMAND} {name}",
    )
    trained = work / "trained" / recipe.name / VERSION
    if not trained.exists():
        run(language_model, parts, recipe, out=work / "trained", work=work, progress=progress)
    probe = screened(load_probe(trained), name, data, language_model=language_model, work=work, progress=progress)
    probe = with_model_groups(probe, parts, recipe, language_model=language_model, progress=progress)
    extras = read_extras(trained)
    carried = {**extras.carried, **{group: use for group, use in WITH_MODEL.items() if group in SHIPPED_GROUPS}}
    card = card_from_probe(probe, extras.model_copy(update={"carried": carried}))
    return save_probe(probe, out, beside=partial(write_card, card))


def screened(
    probe: Probe, name: str, data: Path, *, language_model: LanguageModel, work: Path, progress: Progress
) -> Probe:
    """`probe` with the defaults and the table of its causal screen."""
    recipe = SCREENS[name]
    lm = language_model
    if recipe.dtype != "float32":
        lm = load_model(SMOLLM2.name, device="cpu", dtype=recipe.dtype, threads=torch.get_num_threads())
    question = ask(lm, probe, recipe, data)
    layers = sorted(probe.layers)
    found = screen(question, layers, work / "screen", on_arm=progress.stage("screening", expected_arms(layers)))
    return with_screen(probe, found.screen)


def with_model_groups(
    probe: Probe, parts: Parts, recipe: Recipe, *, language_model: LanguageModel, progress: Progress
) -> Probe:
    """`probe` with the groups whose fit runs the model once more, at the layers that are its default now."""
    found = fit_with_model(
        [group for group in SHIPPED_GROUPS if group in WITH_MODEL],
        language_model,
        parts.train,
        probe.layers,
        default=probe.manifest.default.layers,
        toward=recipe.toward,
        stage=progress.stage,
    )
    layers = {
        layer: replace(
            fitted,
            fitted={
                **fitted.fitted,
                **{part: torch.from_numpy(value) for part, value in found.get(layer, {}).items()},
            },
        )
        for layer, fitted in probe.layers.items()
    }
    return replace(probe, layers=layers)


def clean(work: Path) -> None:
    """Remove the activations and everything between."""
    shutil.rmtree(work, ignore_errors=True)
