"""What a screen found, put into the artefact: default layers, `causal`, and the whole table."""

from __future__ import annotations

from steering.manifest import Screen
from steering.probe import Probe


def with_screen(probe: Probe, screen: Screen, *, version: int | None = None) -> Probe:
    """`probe` with the same weights and what `screen` found; `version` None keeps its own.

    The default layers, bounds and metric become those of the screen, so that what a request gets is what was screened.
    When no set of layers beat its placebo, `causal` is False and the default layers stay as they were.
    """
    manifest = probe.manifest
    default = manifest.default.model_copy(
        update={
            "layers": list(screen.chosen) or manifest.default.layers,
            "lower": screen.lower,
            "upper": screen.upper,
            "space": screen.space,
            "metric": screen.metric,
        }
    )
    changed = manifest.model_copy(
        update={
            "version": manifest.version if version is None else version,
            "default": default,
            "causal": bool(screen.chosen),
            "screen": screen,
            "files": {},
        }
    )
    return Probe(manifest=changed, layers=probe.layers)
