"""The names requests use, and the controllers behind them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from steering.controllers.base import Controller

BoundedName = Literal["slab", "capping"]
RuleName = Literal["slab", "capping"]
ControllerName = Literal["slab", "capping", "random"]

BOUNDED: frozenset[str] = frozenset({"slab", "capping"})
"""Rules that hold a bound and promise it."""
CONTROLLERS: Mapping[str, type[Controller]] = MappingProxyType({})
USES: Mapping[str, frozenset[str]] = MappingProxyType({})
