"""steering: keep a language model's residual stream inside the regions you allow.

The base of the house: torch and transformers, and numba for the compiled loops of the CPU. `Bounds` and a `Probe` make
a `Constraint`, constraints make a `Plan`, and `generate` (or an `Engine`) writes with one plan per row. `capture` and
`steer` are the two verbs below.

A name is looked for where it lives when it is first asked for (PEP 562), so that what needs no model, such as the
exceptions or `tiller keys`, does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steering.artefact import load_probe, save_probe
    from steering.bounds import Bounds
    from steering.constraint import Constraint
    from steering.engine import Engine
    from steering.errors import TillerError
    from steering.generation import generate
    from steering.hooks import capture, steer
    from steering.models import LanguageModel, load_model, wrap
    from steering.plan import Plan
    from steering.probe import LayerProbe, Probe
    from steering.requests import Completion, Request
    from steering.sampling import Sampling
    from steering.slab import project
    from steering.store import ProbeStore

__all__ = [
    "Bounds",
    "Completion",
    "Constraint",
    "Engine",
    "LanguageModel",
    "LayerProbe",
    "Plan",
    "Probe",
    "ProbeStore",
    "Request",
    "Sampling",
    "TillerError",
    "capture",
    "generate",
    "load_model",
    "load_probe",
    "project",
    "save_probe",
    "steer",
    "wrap",
]

_HOMES = {
    "artefact": ("load_probe", "save_probe"),
    "bounds": ("Bounds",),
    "constraint": ("Constraint",),
    "engine": ("Engine",),
    "errors": ("TillerError",),
    "generation": ("generate",),
    "hooks": ("capture", "steer"),
    "models": ("LanguageModel", "load_model", "wrap"),
    "plan": ("Plan",),
    "probe": ("LayerProbe", "Probe"),
    "requests": ("Completion", "Request"),
    "sampling": ("Sampling",),
    "slab": ("project",),
    "store": ("ProbeStore",),
}
"""Module -> what it exports here."""


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"steering.{module}"), name)
    raise AttributeError(f"module 'steering' has no attribute {name!r}")
