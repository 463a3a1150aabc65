"""The names requests use, and the controllers behind them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from steering.controllers.ablate import Ablate
from steering.controllers.additive import Additive
from steering.controllers.affine import Affine, MeanMatch
from steering.controllers.base import Controller
from steering.controllers.erase import Erase
from steering.controllers.lqr import Lqr
from steering.controllers.reading import ReadingVector
from steering.controllers.setpoint import Setpoint
from steering.controllers.transport import Transport

BoundedName = Literal["slab", "capping"]
FreeName = Literal[
    "additive", "ablate", "affine", "affine-mean", "erase", "lqr", "reading-vector", "setpoint", "transport"
]
RuleName = Literal[BoundedName, FreeName]
ControllerName = Literal[RuleName, "state-offset", "random"]

CONTROLLER_NAMES: tuple[str, ...] = get_args(ControllerName)
"""Every controller a request may name."""

BOUNDED: frozenset[str] = frozenset({"slab", "capping"})
"""Rules that hold a bound and promise it."""

CONTROLLERS: Mapping[str, type[Controller]] = MappingProxyType(
    {
        "ablate": Ablate,
        "additive": Additive,
        "affine": Affine,
        "affine-mean": MeanMatch,
        "erase": Erase,
        "lqr": Lqr,
        "reading-vector": ReadingVector,
        "setpoint": Setpoint,
        "transport": Transport,
    }
)
"""Rules of the residual stream that promise nothing."""

USES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "ablate": frozenset({"source"}),
        "additive": frozenset({"coefficient", "source"}),
        "lqr": frozenset({"coefficient"}),
        "reading-vector": frozenset({"coefficient", "piecewise"}),
        "setpoint": frozenset({"coefficient", "gains"}),
        "state-offset": frozenset({"coefficient"}),
    }
)
"""Which of the `Settings` a controller has a use for; none where it is not named."""
