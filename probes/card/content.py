"""What the card says, in order; each section is there exactly when there is something to say.

Weak results stand in the same tables as good ones, and the first section says them in words. No text of any corpus
appears.
"""

from __future__ import annotations

from probes.card.effects import PLOTS as EFFECT_PLOTS
from probes.card.effects import lookahead_section, screen_section, siblings_section
from probes.card.figures import PLOTS as FIGURE_PLOTS
from probes.card.figures import all_layers_section, calibration_section, figures_section, layers_section
from probes.card.making import carried_section, corpus_section, limits_section, making_section, origin_section
from probes.card.model import Card
from probes.card.verdict import verdict_section
from steering.manifest import Manifest
from steering.page.document import Code, Page, Section, Strong, Words
from steering.probe import named_layers

PLOTS = FIGURE_PLOTS | EFFECT_PLOTS
"""Every file name a plot can have."""


def page_of(card: Card, *, content: str) -> Page:
    """The card's page; `content` is the hash over the probe's numbers."""
    sections: list[Section | None] = [
        verdict_section(card),
        figures_section(card),
        layers_section(card),
        calibration_section(card),
        screen_section(card),
        lookahead_section(card),
        siblings_section(card),
        origin_section(card),
        corpus_section(card),
        carried_section(card),
        making_section(card, content),
        limits_section(card),
        all_layers_section(card),
    ]
    return Page(card.manifest.id, _lede(card.manifest), tuple(section for section in sections if section is not None))


def _lede(manifest: Manifest) -> Words:
    default = manifest.default
    sides = [
        f"{name} {value:g}" for name, value in (("lower", default.lower), ("upper", default.upper)) if value is not None
    ]
    return (
        "Reads ",
        Strong(manifest.concept),
        " from the residual stream of ",
        Code(manifest.base_model.id),
        ". A high logit means: ",
        Strong(manifest.positive_is),
        f". Used by default at {named_layers(default.layers)} with {' and '.join(sides) or 'no bound'} "
        f"({default.space}), {default.metric} projection.",
    )
