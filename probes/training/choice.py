"""What is chosen before the layers are fitted: the strength of the fit on training texts, the pooling on calibration
texts. Test texts choose nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from probes.harvest.shards import Pooling
from probes.methods.fit import FOLDS, Load, choose_setting, ledoit_wolf
from probes.methods.table import Setting
from probes.texts.splits import folds
from probes.training.layer import compare_poolings
from probes.training.recipe import Recipe
from probes.training.samples import Harvested, fold_rows


@dataclass(frozen=True)
class Choice:
    """How every layer will be fitted."""

    pooling: Pooling
    setting: Setting
    compared: Mapping[Pooling, tuple[float, float]]
    """Per pooling the figures that decided; empty when there was nothing to compare."""


def choose(data: Harvested, recipe: Recipe, layers: Sequence[int], *, say: Callable[[str], None]) -> Choice:
    """Strength over three of `layers`, pooling over all of them (the layers that the probe would use by default)."""
    screened = sorted({layers[0], layers[len(layers) // 2], layers[-1]})
    chosen: dict[Pooling, Setting] = {}

    def strength(pooling: Pooling) -> Setting:
        if pooling not in chosen:
            chosen[pooling] = choose_strength(data, recipe, pooling, screened, say=say)
        return chosen[pooling]

    poolings = recipe.poolings
    if len(poolings) == 1:
        return Choice(poolings[0], strength(poolings[0]), {})
    compared = compare_poolings(data, poolings, list(layers), choose=strength)
    best = max(compared, key=lambda pooling: compared[pooling][0])
    say(f"pooling '{best}' reads the calibration texts best")
    return Choice(best, strength(best), compared)


def choose_strength(
    data: Harvested, recipe: Recipe, pooling: Pooling, layers: Sequence[int], *, say: Callable[[str], None]
) -> Setting:
    """The setting of `recipe` that reads held-out training texts best, over `layers`; folds go by text."""
    settings = recipe.settings
    by_text = folds(data.train.corpus, FOLDS, seed=recipe.seed)
    loads: list[Load] = [partial(fold_rows, data.train, layer, pooling, by_text) for layer in layers]
    if recipe.shrinkage == "auto":
        return replace(settings[0], shrinkage=ledoit_wolf(loads))
    if len(settings) == 1:
        return settings[0]
    say(
        f"choosing the strength of {recipe.method} by {FOLDS}-fold cross-validation at layers {list(layers)}, "
        f"pooling '{pooling}'"
    )
    return choose_setting(loads, settings)
