"""How alike two read-outs are: the cosine of their weights, layer by layer, in raw coordinates.

    cos = w_a . w_b / (||w_a|| ||w_b||)

Bounding one probe moves the stream along its weight, and the logit of the other by this share of what moving along its
own weight would do. It compares directions, not how the concepts go together in texts.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from steering.probe import LayerProbe


def concept_cosines(concepts: Mapping[str, Mapping[int, LayerProbe]]) -> dict[str, dict[str, dict[int, float]]]:
    """Concept -> other concept -> layer -> cosine, at the layers both read; all of them of one model."""
    return {
        name: {
            other: {layer: _cosine(own[layer], theirs[layer]) for layer in sorted(own.keys() & theirs.keys())}
            for other, theirs in concepts.items()
            if other != name
        }
        for name, own in concepts.items()
    }


def _cosine(first: LayerProbe, second: LayerProbe) -> float:
    return float(torch.nn.functional.cosine_similarity(first.weight.double(), second.weight.double(), dim=0))
