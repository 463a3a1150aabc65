"""Probes that carry random statistics of every group, and steer to either side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from steering import LanguageModel, Probe
from steering.architectures import ARCHITECTURES
from steering.fitted import GROUPS, HIDDEN

LAYERS = (0, 1, 3)
REMEMBERING = sorted(name for name, (_, kind) in ARCHITECTURES.items() if kind != "attention")


def random_statistics(hidden_size: int, *, seed: int) -> dict[str, Tensor]:
    """Every part of every group whose shape the hidden size fixes; unit length for `reading.vector`."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for group, parts in GROUPS.items():
        for part, shape in parts.items():
            if all(entry == HIDDEN for entry in shape):
                found[f"{group}.{part}"] = torch.randn([hidden_size] * len(shape), generator=generator)
    found["reading.vector"] /= found["reading.vector"].norm()
    return {name: tensor for name, tensor in found.items() if not name.startswith("metric")}


@pytest.fixture
def carrying(lm: LanguageModel, make_probe: Callable[..., Probe]) -> Callable[..., Probe]:
    """carrying(toward="positive", only=("mean",)): a probe at layers 0, 1 and 3 with these groups, all by default."""

    def build(*, toward: str = "positive", only: tuple[str, ...] | None = None, **changes: Tensor) -> Probe:
        probe = make_probe(lm, layers=list(LAYERS))
        layers = {}
        for layer, fitted in probe.layers.items():
            statistics = random_statistics(lm.info.hidden_size, seed=layer)
            kept = {name: value for name, value in statistics.items() if only is None or name.split(".")[0] in only}
            layers[layer] = replace(fitted, fitted=kept | changes)
        lower, upper = (0.9, None) if toward == "positive" else (None, 0.1)
        default = probe.manifest.default.model_copy(update={"lower": lower, "upper": upper})
        return Probe(manifest=probe.manifest.model_copy(update={"default": default}), layers=layers)

    return build


@pytest.fixture
def resid(lm: LanguageModel) -> Tensor:
    """(2, 5, hidden_size) float32"""
    return 3 * torch.randn(2, 5, lm.info.hidden_size, generator=torch.Generator().manual_seed(9))


@pytest.fixture(params=REMEMBERING)
def remembering_type(request: pytest.FixtureRequest) -> str:
    """Every architecture with a recurrent state, in turn."""
    return str(request.param)


@pytest.fixture
def remembering(remembering_type: str, zoo: Callable[..., LanguageModel]) -> LanguageModel:
    """A float32 model of each."""
    return zoo(remembering_type)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """The mode in which text is written."""
    with torch.inference_mode():
        yield
