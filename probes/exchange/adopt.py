"""Another tool's read-outs as a probe of one loaded model.

What the file has becomes the weight (and bias) of each layer, float32 and unscaled. What it has not is not made up:
without a bias the logit is weight . resid; nothing is calibrated, so `manifest.calibrated` is false and bounds in
probability or percentile are refused wherever the probe goes; there are no figures. Measured here is one thing only,
the mean norm of the residual stream on a few plain sentences, which sizes the `weight` source of `additive` and tells
how narrow a slab the dtype can hold.

A vector without a bias is also stored as the group `contrast`, turned to the allowed side, so that

    controller additive, source contrast, coefficient c

adds +-c times the vector as it stands in the file: what its own tool does with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from probes.errors import ExchangeError
from probes.exchange.foreign import Foreign
from steering.bounds import Bounds
from steering.choices import Compatibility
from steering.errors import ProbeMismatch
from steering.hooks import capture
from steering.manifest import DatasetInfo, Default, FitInfo, LayerReport, Manifest, Name, Origin
from steering.models import LanguageModel
from steering.probe import LayerProbe, Probe
from steering.version import __version__

UNKNOWN = "not stated"
SENTENCES = (
    "The train to the coast leaves at half past nine.",
    "She put the book back on the shelf and closed the window.",
    "Most of the rain fell in the mountains during the night.",
    "He asked for two tickets and a map of the old town.",
    "The recipe needs flour, butter and a little salt.",
    "On Monday the library opens an hour later than usual.",
    "They painted the kitchen white and the door green.",
    "The river is wide here, and slow.",
)
"""Plain text to measure the length of the residual stream on."""

_SAME = {"mistral": "llama"}
"""Model types that llama.cpp files under another name."""


@dataclass(frozen=True)
class Naming:
    """What the importer says about the read-outs, since their file does not."""

    name: str
    version: int
    concept: str
    positive_is: str | None = None
    """What adding the vector, or a high logit, means; None takes the file's own word, else the concept."""
    licence: str = UNKNOWN

    def __post_init__(self) -> None:
        """Raise ExchangeError for a name or version that no artefact can have."""
        try:
            TypeAdapter(Name).validate_python(self.name)
        except ValidationError:
            raise ExchangeError(
                f"'{self.name}' cannot name a probe; use 1-64 of a-z, 0-9, '_' and '-', beginning with a letter or "
                "digit (--name)",
                param="name",
            ) from None
        if self.version < 1:
            raise ExchangeError(f"version is {self.version}; versions count from 1", param="version")


def adopt(
    foreign: Foreign,
    lm: LanguageModel,
    *,
    naming: Naming,
    bounds: Bounds,
    level: Compatibility = "architecture",
) -> Probe:
    """A probe for `lm` whose manifest says where it comes from and what is missing.

    `bounds` are the default's, in logits. `level="width"` passes over another model type in the file. Raises
    ProbeMismatch when the read-outs do not fit the model, ExchangeError for bounds in another space or a band for
    vectors without a bias, which have one side to be steered toward.
    """
    check_fits(foreign, lm, level=level)
    if bounds.space != "logit":
        raise ExchangeError(f"default bounds of an imported probe are logits, not '{bounds.space}'", param="space")
    if foreign.biases is None and bounds.lower is not None and bounds.upper is not None:
        raise ExchangeError(
            "a vector without a bias has one allowed side, so give --lower or --upper, not both", param="lower"
        )
    norms = mean_norms(lm, sorted(foreign.weights))
    sign = 1.0 if bounds.upper is None else -1.0

    def layer_probe(layer: int, weight: Tensor) -> LayerProbe:
        directional = foreign.biases is None
        return LayerProbe(
            weight=weight,
            bias=0.0 if foreign.biases is None else foreign.biases[layer],
            resid_norm=norms[layer],
            fitted={"contrast.vector": sign * weight} if directional else {},
        )

    return Probe(
        manifest=_manifest(foreign, lm, naming=naming, bounds=bounds),
        layers={layer: layer_probe(layer, weight) for layer, weight in sorted(foreign.weights.items())},
    )


def check_fits(foreign: Foreign, lm: LanguageModel, *, level: Compatibility) -> None:
    """Raise ProbeMismatch when width, depth or (above level `width`) the stated model type is not the model's."""
    width = len(next(iter(foreign.weights.values())))
    if width != lm.info.hidden_size:
        raise ProbeMismatch(
            f"{foreign.file} has vectors of width {width}, but {lm.info.id} has hidden_size {lm.info.hidden_size}; "
            "they were made for another model"
        )
    deepest = max(foreign.weights)
    if deepest >= lm.info.num_hidden_layers:
        raise ProbeMismatch(
            f"{foreign.file} has a vector for layer {deepest}, but {lm.info.id} has layers 0 to "
            f"{lm.info.num_hidden_layers - 1}; it was made for another model"
        )
    said = foreign.architecture
    if said is not None and level != "width" and _plain(said) != _plain(lm.info.model_type):
        raise ProbeMismatch(
            f"{foreign.file} says it is for models of type '{said}', but {lm.info.id} is of type "
            f"'{lm.info.model_type}'; give --compat width if you know that they are the same"
        )


@torch.inference_mode()
def mean_norms(lm: LanguageModel, layers: Sequence[int]) -> dict[int, float]:
    """Mean ||resid|| after each layer at the last token of SENTENCES, each read alone."""
    total = dict.fromkeys(layers, 0.0)
    for sentence in SENTENCES:
        ids = torch.tensor([lm.tokenizer(sentence)["input_ids"]], device=lm.device)
        with capture(lm.model, layers) as seen:
            lm.model(ids)
        for layer in layers:
            total[layer] += float(seen[layer][0, -1].float().norm())
    return {layer: value / len(SENTENCES) for layer, value in total.items()}


def _manifest(foreign: Foreign, lm: LanguageModel, *, naming: Naming, bounds: Bounds) -> Manifest:
    layers = sorted(foreign.weights)
    return Manifest(
        name=naming.name,
        version=naming.version,
        concept=naming.concept,
        positive_is=naming.positive_is or foreign.positive_is or naming.concept,
        labels={"0": f"not {naming.concept}", "1": naming.concept},
        base_model=lm.info,
        tokenizer=lm.tokenizer_info,
        token_rule="last",
        dataset=DatasetInfo(name=UNKNOWN, sha256="0" * 64, licence=naming.licence, counts={}, split=UNKNOWN),
        fit=FitInfo(
            solver=f"imported: {foreign.format}",
            method=foreign.method,
            C=None,
            seed=0,
            versions={"tiller-lm": __version__},
        ),
        metrics={
            layer: LayerReport(test=None, random_label_auroc=None, random_direction_auroc=None) for layer in layers
        },
        default=Default(layers=layers, lower=bounds.lower, upper=bounds.upper, space="logit", metric="euclidean"),
        origin=Origin(
            format=foreign.format,
            file=foreign.file,
            sha256=foreign.sha256,
            lost=[*foreign.lost, f"the weights of the model it was made on: those of {lm.info.id} are assumed"],
            bias=foreign.biases is not None,
        ),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        tool_version=__version__,
    )


def _plain(model_type: str) -> str:
    """gemma3_text, gemma3 and Gemma-3 are one; so are model types that share a GGUF architecture."""
    word = model_type.lower().replace("-", "").replace("_", "").removesuffix("text")
    return _SAME.get(word, word)
