"""How a scorer stands to a probe: whether it may judge what the probe did.

A scorer that labelled the states a probe was fitted on would find what it taught, so no arm may be called better on its
word. One that was trained on the same data set, or that chose the probe's layers, is a weaker witness than an
independent one, which is said but is no reason to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass

from steering.manifest import Manifest
from steering.scorers.base import ScorerCard


@dataclass(frozen=True)
class Relation:
    """What a scorer and a probe have in common."""

    labelled: bool
    """The scorer labelled what the probe was fitted on: its word counts for nothing here."""
    reasons: tuple[str, ...]
    """In words, also the weaker ties; empty when none is known."""

    @property
    def reason(self) -> str:
        """All in one line."""
        return "; ".join(self.reasons)


def relate(card: ScorerCard, manifest: Manifest) -> Relation:
    """`card`'s scorer against the probe of `manifest`, by what either states; names are compared without case.

    The data set of a manifest names its tests behind "; test", which is no tie.
    """
    labelled = labelled_by(card, manifest)
    ties = []
    if labelled:
        ties.append(f"{card.name} labelled the states that {manifest.id} was fitted on")
    taught = manifest.dataset.name.casefold().partition("; test")[0]
    shared = [name for name in card.data if name in taught]
    if shared:
        ties.append(f"{card.name} and {manifest.id} were both trained on {' and '.join(shared)} data")
    if card.trained_on.startswith("not stated"):
        ties.append(f"it is not stated what {card.name} was trained on, so it may share data with {manifest.id}")
    screen = manifest.screen
    if screen is not None and screen.scorer.startswith(card.name):
        ties.append(f"{card.name} also judged the screen that chose the layers of {manifest.id}, on other prompts")
    return Relation(labelled, tuple(ties))


def labelled_by(card: ScorerCard, manifest: Manifest) -> bool:
    """Whether the scorer labelled what the probe was fitted on: the windows of a look-ahead probe, or a data set whose
    name says `labelled by NAME`. A name within another counts: better one judge too few than one that knows."""
    ahead, name = manifest.lookahead, card.name.casefold()
    windows = "" if ahead is None else ahead.labeller.casefold().partition(", fitted on ")[0]
    return name in windows or name in manifest.dataset.name.casefold().partition("labelled by ")[2]
