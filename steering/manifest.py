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
Interval = tuple[float, float]
"""95% interval, low then high."""


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
    method: Literal["logistic", "mean-difference", "lda", "imported"] = "logistic"
    """What chose the direction."""
    C: float | None
    """Inverse strength of the L2 penalty on standardised activations; None where the method has none."""
    shrinkage: float | None = None
    """Of the covariance of `lda`."""
    coordinates: int | None = None
    """A sparse probe reads this many coordinates of the residual stream; None: all."""
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
    auroc_interval: Interval | None = None
    ece_interval: Interval | None = None
    brier_isotonic: Unit | None = None
    """With isotonic regression on the calibration texts in place of Platt scaling; for comparison only."""
    ece_isotonic: Unit | None = None


class PairMetrics(_Strict):
    """Minimal pairs: how often the text with the concept has the higher logit, ties counting one half."""

    n: int
    accuracy: Unit
    interval: Interval


class LayerReport(_Strict):
    """All figures of one layer. An imported read-out comes without any."""

    test: LayerMetrics | None
    out_of_domain: dict[str, LayerMetrics] = {}
    pairs: dict[str, PairMetrics] = {}
    random_label_auroc: Unit | None
    """A probe fitted to shuffled labels, on the same test set: what chance looks like."""
    random_direction_auroc: Unit | None
    """A random direction on the same test set, the better of its two signs."""


class Default(_Strict):
    """What a request gets that names the probe and says nothing more."""

    layers: Annotated[list[int], Field(min_length=1)]
    lower: float | None
    upper: float | None
    space: Literal["probability", "logit", "percentile"]
    metric: Literal["euclidean", "whitened"]


class ScreenRow(_Strict):
    """What steering one set of layers did to the text, beside a placebo of the same norm."""

    layers: list[int]
    role: str
    """`single`, `growing`, `all`, `rule` (a fixed rule by depth) or `best AUROC`."""
    effect: float
    """Mean change of the external score toward the allowed side, steered against unsteered, paired by prompt."""
    effect_interval: Interval
    kl: float
    """Mean KL(unsteered || steered) of the next token on neutral text, in nats."""
    per_kl: float
    """effect / kl"""
    per_kl_interval: Interval
    placebo_effect: float
    placebo_kl: float
    difference: float
    """effect - placebo_effect"""
    difference_interval: Interval
    beats_placebo: bool
    """The effect is above zero, and so is the difference after correction for the number of sets tried."""


class Screen(_Strict):
    """The causal screen that chose the default layers (`tiller probe screen`)."""

    scorer: str
    """The external classifier that judged the text."""
    metric: Literal["euclidean", "whitened"]
    lower: float | None
    upper: float | None
    space: Literal["probability", "logit", "percentile"]
    prompts: int
    neutral: int
    new_tokens: int
    seed: int
    prompts_sha256: Sha256
    rows: list[ScreenRow]
    chosen: list[int]
    """The default layers it chose; empty when no set of layers beats the placebo."""


class Lookahead(_Strict):
    """How an on-policy probe was labelled: by what the model went on to write."""

    horizon: int
    """Tokens of the window that labels a token's residual, which begins after it."""
    labeller: str
    """The classifier of the windows, which may not judge the result."""
    threshold: float
    """A window scored above it counts as the concept."""
    prompts: int
    continuations: int
    tokens: int
    """Labelled token states."""
    corpus_share: Unit
    """Weight of the labelled corpus in the fit; 0: on-policy states alone."""
    iterations: int
    """1: states of the unsteered model; 2: and of the model steered by the first probe."""
    auroc_by_warning: dict[int, dict[str, float]] = {}
    """Tokens of warning -> read-out (`this probe`, `end of text`) -> AUROC on held-out prompts."""


class Origin(_Strict):
    """Where an imported probe comes from."""

    format: str
    file: str
    sha256: Sha256
    lost: list[str]
    """What the format could not carry, in words."""
    bias: bool
    """Whether it carried a bias; without one the logit is weight . resid, whose zero means nothing."""
    calibrated: bool = False
    """Whether the logit was calibrated after the import; if not, it has no probabilities and no percentiles."""


class Manifest(_Strict):
    """Everything about a probe but its numbers."""

    schema_version: Literal[1] = 1
    name: Name
    version: Annotated[int, Field(ge=1, lt=2**31)]
    concept: str
    positive_is: str
    """The polarity in words: a high logit means this."""
    labels: dict[str, str]
    """{"0": "non-toxic", "1": "toxic"}"""
    base_model: BaseModelInfo
    tokenizer: TokenizerInfo
    token_rule: Literal["last", "mean", "all", "lookahead"]
    """Which token's residual stands for a text: its last, the mean of all but the first (an attention sink), each of
    them, or each token that the model itself wrote, labelled by what followed."""
    dataset: DatasetInfo
    fit: FitInfo
    metrics: dict[int, LayerReport]
    baselines: dict[str, dict[str, Unit]] = {}
    """AUROC of methods that read no hidden states, per test set: {"tf-idf words": {"test": 0.94, ...}}."""
    default: Default
    cosines: dict[str, dict[int, float]] = {}
    """Concept fitted in the same run -> layer -> cosine of its weight with this one."""
    causal: bool | None = None
    """Whether steering it changed the text more than a placebo of the same norm did; None: not screened."""
    screen: Screen | None = None
    lookahead: Lookahead | None = None
    origin: Origin | None = None
    files: dict[str, Sha256] = {}
    """SHA-256 of the artefact's other files; absent in the safetensors header."""
    created: str
    tool_version: str

    @property
    def id(self) -> str:
        """`name@version`, as requests write it."""
        return f"{self.name}@{self.version}"

    @property
    def calibrated(self) -> bool:
        """Whether its logits have probabilities: all but those of imported read-outs that nobody calibrated."""
        return self.origin is None or self.origin.calibrated
