"""What a training run is asked to make: the probe's meaning, its texts, and the choices of the fit."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from probes.errors import CorpusError, FitError
from probes.fitting.samples import Toward
from probes.fitting.table import FITS, check_carry
from probes.fitting.with_model import WITH_MODEL
from probes.harvest.activations import BATCH_TOKENS, MAX_TOKENS, TOKENS_PER_TEXT
from probes.harvest.forward import Template
from probes.harvest.shards import Pooling, ShardDType
from probes.measure.minimal_pairs import require_pairs
from probes.methods.fit import candidates
from probes.methods.table import Method, Setting
from probes.texts.corpus import Corpus, CorpusReport
from probes.texts.splits import RULE, refuse_leakage, split, without
from steering.bounds import Bounds
from steering.manifest import Name

SHARES = {"train": 0.70, "calibration": 0.15, "test": 0.15}
_SET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Parts:
    """The texts of one run, already disjoint."""

    train: Corpus
    calibration: Corpus
    test: Corpus
    out_of_domain: Mapping[str, Corpus]
    pairs: Mapping[str, Corpus] = field(default_factory=dict)
    """Minimal pairs to test on; of these alone a text may also stand in a test or out-of-domain file."""
    dropped: int = 0
    """Training texts left out because they stand in one of the other files."""
    rule: str = RULE
    reports: tuple[CorpusReport, ...] = ()
    """What was found in each file; no two of one name."""

    def named(self) -> dict[str, Corpus]:
        """Every part under the name its activations and counts are kept by."""
        others = {f"ood-{name}": corpus for name, corpus in self.out_of_domain.items()}
        others |= {f"pairs-{name}": corpus for name, corpus in self.pairs.items()}
        return {"train": self.train, "calibration": self.calibration, "test": self.test, **others}


@dataclass(frozen=True)
class Recipe:
    """The probe to make. Raises FitError for a name that cannot be one, InvalidBounds for bounds that bound nothing."""

    name: str
    """[a-z0-9_-], what requests call the probe."""
    concept: str
    positive_is: str
    """What a high logit means, in words."""
    labels: tuple[str, str] = ("without", "with")
    """Names of label 0 and label 1."""
    version: int = 1
    dataset: str = ""
    """Name of the data as the manifest gives it; empty: the training corpus's."""
    licence: str = "not stated"
    layers: str = "all"
    poolings: tuple[Pooling, ...] = ("last",)
    """Several: compared on the calibration texts, the better one kept."""
    bounds: Bounds = field(default_factory=lambda: Bounds(upper=0.1))
    """What a request gets that names the probe and says nothing more."""
    carry: tuple[str, ...] = ()
    """Groups of `steering.fitted` that every layer carries besides class means and metric."""
    method: Method = "logistic"
    """What chooses the direction."""
    C: float | None = None
    """Inverse L2 strength of `logistic`; None: cross-validated on the training texts."""
    shrinkage: float | Literal["auto"] | None = None
    """Of the covariance of `lda`, from 0 to 1; "auto": Ledoit and Wolf's; None: cross-validated."""
    coordinates: int | None = None
    """A sparse probe reads this many coordinates of the residual stream; None: all."""
    seed: int = 0
    max_tokens: int = MAX_TOKENS
    batch_tokens: int = BATCH_TOKENS
    tokens_per_text: int = TOKENS_PER_TEXT
    """With pooling "all", at most as many rows of a text."""
    template: Template = "raw"
    """`chat`: each text is the user's turn in the tokenizer's chat template."""
    shard_dtype: ShardDType = "float32"
    """Of the activations on disk."""
    shard_rows: int | None = None
    """Texts of one shard; None: as the harvest says."""
    command: str = ""
    """The line that made the probe, for its card."""

    def __post_init__(self) -> None:
        try:
            TypeAdapter(Name).validate_python(self.name)
        except ValidationError:
            raise FitError(
                f"'{self.name}' cannot name a probe; use 1-64 of a-z, 0-9, '_' and '-', beginning with a letter or "
                "digit (--name)",
                param="name",
            ) from None
        if self.version < 1:
            raise FitError(f"version is {self.version}; versions count from 1", param="version")
        if self.seed < 0:
            raise FitError(f"seed is {self.seed}; seeds count from 0", param="seed")
        self._check_strength()
        check_carry(self.carry, self.bounds)
        if "all" in self.poolings and any(FITS[group].paired for group in self.carry if group in FITS):
            raise FitError(
                "with pooling 'all' a row is a token, and tokens of two texts make no pairs; leave 'contrast' out of "
                "--carry, or take another --pooling",
                param="carry",
            )
        raw = [group for group in self.carry if group in WITH_MODEL]
        if raw and self.template != "raw":
            raise FitError(
                f"'{raw[0]}' runs the model on the bare texts, and would not stand for what --template {self.template} "
                "reads; leave it out of --carry, or take --template raw",
                param="carry",
            )

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What cross-validation tries, the strongest regularisation first; one, where there is nothing to choose."""
        if self.C is None and not isinstance(self.shrinkage, float | int):
            return candidates(self.method, coordinates=self.coordinates)
        given = None if self.shrinkage == "auto" else self.shrinkage
        return (Setting(self.method, C=self.C, shrinkage=given, coordinates=self.coordinates),)

    def _check_strength(self) -> None:
        if self.C is not None and not 0 < self.C < math.inf:
            raise FitError(f"C is {self.C}; the inverse penalty is a positive number such as 0.003", param="C")
        if self.C is not None and self.method != "logistic":
            raise FitError(f"C is the penalty of logistic regression; {self.method} has none: leave it off", param="C")
        if self.shrinkage is not None and self.method != "lda":
            raise FitError(f"shrinkage is of lda; {self.method} has none: leave it off", param="shrinkage")
        if isinstance(self.shrinkage, float | int) and not 0 <= self.shrinkage <= 1:
            raise FitError(f"shrinkage is {self.shrinkage}; expected a number from 0 to 1, or auto", param="shrinkage")
        if self.coordinates is not None and self.coordinates < 1:
            raise FitError(f"{self.coordinates} coordinates read nothing; give 1 or more", param="coordinates")

    @property
    def toward(self) -> Toward:
        """The class the default bounds keep the stream on; of a band, which has none, "negative", and unused."""
        return "negative" if self.bounds.lower is None or self.bounds.upper is not None else "positive"


def arrange(
    data: Corpus,
    *,
    calibration: Corpus | None = None,
    test: Corpus | None = None,
    out_of_domain: Mapping[str, Corpus] | None = None,
    pairs: Mapping[str, Corpus] | None = None,
    drop_leaks: bool = False,
    seed: int = 0,
) -> Parts:
    """Disjoint parts from what the user gave: parts without a file of their own are split off `data` by hash.

    Raises CorpusError for a set whose name is that of a part, and when a text or group stands in two parts;
    `drop_leaks` leaves it out of `data` instead (never out of a test file, whose figures would change). Texts of
    `pairs` may stand in a test or out-of-domain file too, since neither is fitted to.
    """
    others, couples = dict(out_of_domain or {}), dict(pairs or {})
    _check_names(others, flag="--ood")
    _check_names(couples, flag="--pairs")
    given = [corpus for corpus in (calibration, test, *others.values()) if corpus is not None]
    refuse_leakage(Corpus("the training file", ()), given)
    own = without(data, [*given, *couples.values()]) if drop_leaks else data
    refuse_leakage(own, given)
    for couple in couples.values():
        require_pairs(couple)
        refuse_leakage(own, [couple])
        if calibration is not None:
            refuse_leakage(Corpus("the training file", ()), [calibration, couple])
    shares = {
        name: share
        for name, share in SHARES.items()
        if not ((name == "calibration" and calibration) or (name == "test" and test))
    }
    parts = split(own, shares, seed=seed)
    kept = "" if len(shares) == 1 else f"{' / '.join(shares)} by {RULE}; "
    return Parts(
        train=parts["train"],
        calibration=calibration or parts["calibration"],
        test=test or parts["test"],
        out_of_domain=others,
        pairs=couples,
        dropped=len(data) - len(own),
        rule=f"{kept}given files checked to share no text and no group with any other",
        reports=_distinct(report for corpus in (data, *given, *couples.values()) for report in corpus.reports),
    )


def _check_names(names: Iterable[str], *, flag: str) -> None:
    """Names of test sets name folders of activations and figures beside those of the parts. Raises CorpusError."""
    for name in names:
        if not _SET.fullmatch(name) or name in SHARES or name.startswith("pairs-"):
            raise CorpusError(
                f"{flag} {name}=...: '{name}' cannot name a set of test texts; use 1-64 letters, digits, '.', '_' and "
                f"'-', beginning with a letter or digit, and none of {', '.join(SHARES)} or pairs-...",
                param=flag.strip("-"),
            )


def _distinct(reports: Iterable[CorpusReport]) -> tuple[CorpusReport, ...]:
    """The reports, of several files of one name the second called 'name (2)' and so on."""
    seen: Counter[str] = Counter()
    named = []
    for report in reports:
        seen[report.name] += 1
        count = seen[report.name]
        named.append(report if count == 1 else replace(report, name=f"{report.name} ({count})"))
    return tuple(named)
