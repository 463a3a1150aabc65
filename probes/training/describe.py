"""The manifest of a trained probe: what was read, fitted and measured, put into the words of `steering.manifest`."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
import sklearn
import torch
import transformers

from probes.harvest.shards import Pooling
from probes.methods.table import Setting
from probes.training.layer import FittedLayer
from probes.training.recipe import Parts, Recipe
from probes.training.selection import default_layers
from steering.manifest import DatasetInfo, Default, FitInfo, Manifest
from steering.models import LanguageModel
from steering.version import __version__


def describe(
    language_model: LanguageModel,
    parts: Parts,
    recipe: Recipe,
    *,
    pooling: Pooling,
    setting: Setting,
    fitted: Mapping[int, FittedLayer],
    baselines: Mapping[str, Mapping[str, float]],
) -> Manifest:
    """Everything about the probe but its numbers, and but the cosines with others, which come with them."""
    return Manifest(
        name=recipe.name,
        version=recipe.version,
        concept=recipe.concept,
        positive_is=recipe.positive_is,
        labels={"0": recipe.labels[0], "1": recipe.labels[1]},
        base_model=language_model.info,
        tokenizer=language_model.tokenizer_info,
        token_rule=pooling,
        dataset=_dataset(parts, recipe),
        fit=FitInfo(
            solver=setting.solver,
            method=setting.method,
            C=setting.C,
            shrinkage=setting.shrinkage,
            coordinates=setting.coordinates,
            seed=recipe.seed,
            versions=versions(),
        ),
        metrics={layer: found.report for layer, found in fitted.items()},
        baselines={name: dict(figures) for name, figures in baselines.items()},
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


def versions() -> dict[str, str]:
    """Releases of what the numbers depend on."""
    return {
        "numpy": np.__version__,
        "python": platform.python_version(),
        "scikit-learn": sklearn.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _dataset(parts: Parts, recipe: Recipe) -> DatasetInfo:
    named = parts.named()
    hashes = "".join(f"{name}:{corpus.sha256}\n" for name, corpus in named.items())
    return DatasetInfo(
        name=recipe.dataset or parts.train.name,
        sha256=hashlib.sha256(hashes.encode()).hexdigest(),
        licence=recipe.licence,
        counts={name: corpus.counts for name, corpus in named.items()},
        split=parts.rule,
    )
