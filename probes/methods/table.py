"""The methods by name, behind one interface: activations, labels and a setting in, a read-out of raw residuals out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Literal

from probes.errors import FitError
from probes.harvest.shards import Floats
from probes.methods import lda, logistic, mean_difference
from probes.methods.lda import fit_lda
from probes.methods.logistic import fit_affine
from probes.methods.mean_difference import fit_mean_difference
from probes.methods.samples import Affine, Labels
from probes.methods.sparse import Fit, fit_sparse

Method = Literal["logistic", "mean-difference", "lda"]

SOLVERS: Mapping[Method, str] = MappingProxyType(
    {"logistic": logistic.SOLVER, "mean-difference": mean_difference.SOLVER, "lda": lda.SOLVER}
)
"""How each finds its weights, in the words of the manifest."""


@dataclass(frozen=True)
class Setting:
    """A method with its strength fixed, ready to fit."""

    method: Method = "logistic"
    C: float | None = None
    """Inverse L2 strength; of `logistic`, and of no other."""
    shrinkage: float | None = None
    """From 0 to 1; of `lda`, and of no other."""
    coordinates: int | None = None
    """How many coordinates the read-out uses; None: all."""

    @property
    def solver(self) -> str:
        """How the weights are found, in the words of the manifest."""
        sparse = "" if self.coordinates is None else f"; {self.coordinates} coordinates, chosen by halving"
        return SOLVERS[self.method] + sparse


def fit_direction(resid: Floats, labels: Labels, setting: Setting) -> Affine:
    """The read-out of `resid` (rows, hidden_size) for `labels` (rows,) of 0 and 1. Raises FitError as methods do."""
    fit = _fit(setting)
    if setting.coordinates is None:
        return fit(resid, labels)
    return fit_sparse(resid, labels, coordinates=setting.coordinates, fit=fit)


def _fit(setting: Setting) -> Fit:
    if setting.method == "mean-difference":
        return fit_mean_difference
    if setting.method == "lda":
        if setting.shrinkage is None:
            raise FitError("lda needs a shrinkage; choose one first", param="shrinkage")
        return partial(fit_lda, shrinkage=setting.shrinkage)
    if setting.C is None:
        raise FitError("logistic needs a C; choose one first", param="C")
    return partial(fit_affine, c=setting.C)
