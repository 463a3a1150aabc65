"""What a layer can be made to carry beside its read-out: one line per fitted group of `steering.fitted`.

Every fit sees the pooled training activations of one layer, by class, and nothing else: neither calibration nor test
texts. `lqr` and `state` are not here (`probes/fitting/with_model.py`): they need the model, not activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from probes.errors import FitError
from probes.fitting.affine import fit_affine_map
from probes.fitting.contrast import fit_contrast
from probes.fitting.erase import fit_erase
from probes.fitting.means import fit_means
from probes.fitting.metric import fit_metric
from probes.fitting.reading import fit_reading
from probes.fitting.samples import Toward
from probes.fitting.transport import fit_transport
from probes.fitting.with_model import WITH_MODEL
from probes.harvest.shards import Floats
from probes.texts.corpus import Corpus
from steering.bounds import Bounds


class Fit(Protocol):
    """(texts, hidden_size) of both classes -> {"<group>.<part>": float32 array}."""

    def __call__(self, negative: Floats, positive: Floats, *, toward: Toward) -> dict[str, Floats]:
        """`toward` is the class that the probe's default bounds keep the stream on."""
        ...


@dataclass(frozen=True)
class Entry:
    """One group: its fit, and what that needs of the data."""

    fit: Fit
    use: str
    """What it is for, in a few words."""
    sided: bool = False
    """It leads from one class to the other, so it needs bounds that say to which."""
    paired: bool = False
    """Its rows belong together, one of each class."""


FITS: Mapping[str, Entry] = MappingProxyType(
    {
        "mean": Entry(fit_means, "the mean of each class: additive, ablate, setpoint"),
        "metric": Entry(fit_metric, "the covariance within classes: whitened projections"),
        "transport": Entry(fit_transport, "optimal transport of each coordinate", sided=True),
        "affine": Entry(fit_affine_map, "mean and covariance matched; hidden_size x hidden_size numbers", sided=True),
        "erase": Entry(fit_erase, "least-squares erasure of the concept"),
        "reading": Entry(fit_reading, "principal axis of the contrasts: the reading vector", sided=True),
        "contrast": Entry(fit_contrast, "mean difference within pairs: additive", sided=True, paired=True),
    }
)
"""Groups by name."""

ALWAYS = ("mean", "metric")
"""Carried by every probe."""

SHIPPED_GROUPS = ("erase", "transport", "reading", "lqr")
"""Carried by the shipped probes besides. Not `affine`: at hidden size 576 more than ten times all the rest."""


def check_carry(names: Iterable[str], bounds: Bounds) -> None:
    """Raise FitError for a group that is not known, or one with a side when `bounds` are a band, which has none."""
    for name in names:
        if name not in FITS and name not in WITH_MODEL:
            known = ", ".join([*FITS, *WITH_MODEL])
            raise FitError(f"a probe cannot be made to carry '{name}'; known are {known}", param="carry")
        if (name in WITH_MODEL or FITS[name].sided) and bounds.lower is not None and bounds.upper is not None:
            raise FitError(
                f"'{name}' leads from one class to the other, but default bounds with both sides are a band and name "
                "neither; give --upper or --lower alone, or leave it out of --carry",
                param="carry",
            )


def by_class(corpus: Corpus, *, paired: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Positions of the negative and of the positive texts; `paired`: by group, so that the two lists run in step.

    Raises FitError when pairs are wanted and a group is not one text of each class.
    """
    negative, positive = (np.flatnonzero(corpus.labels == label) for label in (0, 1))
    if not paired:
        return negative, positive
    first, second = ({corpus.rows[at].group: at for at in side} for side in (negative, positive))
    whole = len(first) == len(negative) and len(second) == len(positive) and first.keys() == second.keys()
    if not whole or None in first:
        raise FitError(
            "'contrast' compares the two texts of a pair, but the texts are not pairs; name the column that says which "
            "belong together (--group-column), with one text of each label, or leave it out of --carry",
            param="carry",
        )
    return np.array(list(first.values())), np.array([second[group] for group in first])


def fit_groups(resid: Floats, corpus: Corpus, names: Iterable[str], *, toward: Toward) -> dict[str, Floats]:
    """The groups of one layer, `ALWAYS` and those of `names` in `FITS`, from `resid` (texts, hidden_size).

    `corpus` is that of the training texts. One fit after another, so that what each needs in float64 is freed before
    the next. Raises FitError as they say.
    """
    fitted: dict[str, Floats] = {}
    for name in dict.fromkeys((*ALWAYS, *(name for name in names if name in FITS))):
        negative, positive = by_class(corpus, paired=FITS[name].paired)
        fitted |= FITS[name].fit(resid[negative], resid[positive], toward=toward)
    return fitted
