"""What a layer can carry that activations alone do not tell: groups whose fit runs the model once more.

`lqr` takes the Jacobians of the blocks between the probe's default layers, on texts of the class it leads away from,
and so stands at the default layers only. `state` reads the recurrent states of the training texts, at every layer that
has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType

import torch

from probes.errors import FitError
from probes.fitting.lqr import fit_lqr, mean_block_jacobians
from probes.fitting.samples import Toward
from probes.fitting.state import fit_state_offsets
from probes.harvest.shards import Floats
from probes.texts.corpus import Corpus
from steering.models import LanguageModel
from steering.probe import LayerProbe
from steering.recurrent import recurrent_layers

JACOBIAN_TEXTS = 50
"""As many as the paper takes."""

WITH_MODEL: Mapping[str, str] = MappingProxyType(
    {
        "lqr": "feedback gains from the blocks' mean Jacobians, at the default layers",
        "state": "the difference of mean recurrent states: the state offset",
    }
)
"""Groups by name, and what each is for."""

Stage = Callable[[str, int], Callable[[int], None]]
"""(name, steps in all) -> a function told of the steps just done."""


def check_model(names: Iterable[str], language_model: LanguageModel) -> None:
    """Before the harvest: can these groups be fitted on this model?

    Raises UnsupportedSteering for `state` without recurrent states, FitError for `lqr` in a dtype too coarse to derive.
    """
    wanted = set(names)
    if "state" in wanted:
        recurrent_layers(language_model.model)
    if "lqr" in wanted and language_model.dtype != torch.float32:
        raise FitError(
            f"'lqr' takes derivatives, and the model is loaded in {language_model.dtype}; train with --dtype float32, "
            "or leave it out of --carry",
            param="carry",
        )


def fit_with_model(
    names: Iterable[str],
    language_model: LanguageModel,
    corpus: Corpus,
    layers: Mapping[int, LayerProbe],
    *,
    default: Sequence[int],
    toward: Toward,
    stage: Stage,
) -> dict[int, dict[str, Floats]]:
    """The groups of `names` that are of this kind, by layer; `corpus` is that of the training texts.

    `layers` are the fitted layers with their class means, `default` the probe's own choice of them. Raises FitError
    as the fits say, and when no text is long enough to take a derivative on.
    """
    found: dict[int, dict[str, Floats]] = {}
    if "lqr" in names:
        means = {
            layer: {name: value.numpy() for name, value in layers[layer].fitted.items() if name.startswith("mean.")}
            for layer in default
        }
        texts = _to_derive_on(language_model, corpus, away_from=0 if toward == "positive" else 1)
        advance = stage("taking Jacobians", len(texts))
        jacobians = mean_block_jacobians(language_model, texts, default, advance=advance)
        found = fit_lqr(means, jacobians, toward=toward)
    if "state" in names:
        shared = [layer for layer in recurrent_layers(language_model.model) if layer in layers]
        advance = stage("reading states", len(corpus))
        offsets = fit_state_offsets(language_model, corpus, toward=toward, layers=shared, advance=advance)
        found = {layer: found.get(layer, {}) | offsets.get(layer, {}) for layer in found.keys() | offsets.keys()}
    return found


def _to_derive_on(language_model: LanguageModel, corpus: Corpus, *, away_from: int) -> list[str]:
    """Texts of one class, spread over the corpus, of two tokens at least."""
    texts = [row.text for row in corpus.rows if row.label == away_from]
    long = [text for text in texts if len(language_model.tokenizer(text, verbose=False)["input_ids"]) > 1]
    if not long:
        raise FitError("no text of the class that 'lqr' leads away from has two tokens; leave it out of --carry")
    return long[:: max(1, len(long) // JACOBIAN_TEXTS)][:JACOBIAN_TEXTS]
