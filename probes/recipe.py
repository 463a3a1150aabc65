"""What a training run is asked to make: the probe's meaning, its texts, and the choices of the fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from probes.activations import BATCH_TOKENS, MAX_TOKENS
from probes.corpus import Corpus
from probes.errors import FitError
from probes.fitting.samples import Toward
from probes.fitting.table import check_carry
from probes.shards import SHARD_ROWS, Pooling
from probes.splits import RULE, refuse_leakage, split, without
from steering.bounds import Bounds
from steering.manifest import Name

SHARES = {"train": 0.70, "calibration": 0.15, "test": 0.15}


@dataclass(frozen=True)
class Parts:
    """The texts of one run, already disjoint."""

    train: Corpus
    calibration: Corpus
    test: Corpus
    out_of_domain: Mapping[str, Corpus]
    dropped: int = 0
    """Training texts left out because they stand in one of the other files."""
    rule: str = RULE

    def named(self) -> dict[str, Corpus]:
        """Every part under the name its activations and counts are kept by."""
        others = {f"ood-{name}": corpus for name, corpus in self.out_of_domain.items()}
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
    C: float | None = None
    """Inverse L2 strength; None: cross-validated on the training texts."""
    seed: int = 0
    max_tokens: int = MAX_TOKENS
    batch_tokens: int = BATCH_TOKENS
    shard_rows: int = SHARD_ROWS
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
        if self.C is not None and not self.C > 0:
            raise FitError(f"C is {self.C}; the inverse penalty is a positive number such as 0.003", param="C")
        check_carry(self.carry, self.bounds)

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
    drop_leaks: bool = False,
    seed: int = 0,
) -> Parts:
    """Disjoint parts from what the user gave: parts without a file of their own are split off `data` by hash.

    Raises CorpusError when a text stands in two parts; `drop_leaks` leaves such texts out of `data` instead (never out
    of a test file, whose figures would change).
    """
    others = dict(out_of_domain or {})
    given = [corpus for corpus in (calibration, test, *others.values()) if corpus is not None]
    refuse_leakage(Corpus("the training file", ()), given)
    own = without(data, given) if drop_leaks else data
    refuse_leakage(own, given)
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
        dropped=len(data) - len(own),
        rule=f"{kept}given files checked to share no text with any other",
    )
