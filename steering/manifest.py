"""The manifest of a probe artefact: what it reads, of which model, fitted on what, and how well.

It stands in `probe.json` and, without the file hashes, in the header of `probe.safetensors`, so that the single file
is self-contained. Unknown keys are refused: a field this release does not understand may change the meaning of the
numbers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Unit = Annotated[float, Field(ge=0.0, le=1.0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BaseModelInfo(_Strict):
    """The language model whose residual stream the probe reads."""

    id: str
    """Hub id or folder name; informational, never compared."""
    revision: str
    """Commit, package release or fingerprint of the weight files."""
    config_sha256: Sha256
    """Over the fields of the config that fix shapes and wiring."""
    model_type: str
    hidden_size: Annotated[int, Field(gt=0)]
    num_hidden_layers: Annotated[int, Field(gt=0)]
    dtype: str
    """dtype of the forward passes the activations came from."""


class TokenizerInfo(_Strict):
    """What turns text into the tokens the probe was fitted on."""

    sha256: Sha256
    chat_template_sha256: Sha256 | None


class DatasetInfo(_Strict):
    """Where the labels came from; never the texts themselves."""

    name: str
    sha256: Sha256
    licence: str
    counts: dict[str, dict[str, int]]
    """Texts per split and label: {"train": {"0": 2100, "1": 2100}, ...}."""
    split: str
    """How the splits were made disjoint."""


class FitInfo(_Strict):
    """How the weights were found."""

    solver: str
    C: float
    """Inverse strength of the L2 penalty on standardised activations."""
    seed: int
    versions: dict[str, str]


class LayerMetrics(_Strict):
    """How well one layer's read-out separates the classes of one test set."""

    n: int
    auroc: Unit
    accuracy: Unit
    """At probability 0.5 after calibration."""
    brier: Unit
    ece: Unit
    brier_uncalibrated: Unit
    ece_uncalibrated: Unit


class LayerReport(_Strict):
    """All figures of one layer."""

    test: LayerMetrics
    out_of_domain: dict[str, LayerMetrics] = {}
    random_label_auroc: Unit
    """A probe fitted to shuffled labels, on the same test set: what chance looks like."""
    random_direction_auroc: Unit
    """A random direction on the same test set, the better of its two signs."""


class Default(_Strict):
    """What a request gets that names the probe and says nothing more."""

    layers: Annotated[list[int], Field(min_length=1)]
    lower: float | None
    upper: float | None
    space: Literal["probability", "logit", "percentile"]
    metric: Literal["euclidean", "whitened"]


class Manifest(_Strict):
    """Everything about a probe but its numbers."""

    schema_version: Literal[1] = 1
    name: Name
    version: Annotated[int, Field(ge=1)]
    concept: str
    positive_is: str
    """The polarity in words: a high logit means this."""
    labels: dict[str, str]
    """{"0": "non-toxic", "1": "toxic"}"""
    base_model: BaseModelInfo
    tokenizer: TokenizerInfo
    token_rule: Literal["last", "mean"]
    """Which token's residual stands for a text: its last, or the mean of all but the first (an attention sink)."""
    dataset: DatasetInfo
    fit: FitInfo
    metrics: dict[int, LayerReport]
    baselines: dict[str, dict[str, Unit]] = {}
    """AUROC of methods that read no hidden states, per test set: {"tf-idf words": {"test": 0.94, ...}}."""
    default: Default
    files: dict[str, Sha256] = {}
    """SHA-256 of the artefact's other files; absent in the safetensors header."""
    created: str
    tool_version: str

    @property
    def id(self) -> str:
        """`name@version`, as requests write it."""
        return f"{self.name}@{self.version}"
