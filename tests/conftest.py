"""Shared by all tests: tiny random models made in memory, a byte-level tokenizer, probes, one torch thread.

Random models are for mechanics only; a claim about behaviour is tested on the embedded model (marked slow).
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM

from steering import LanguageModel, LayerProbe, Probe, wrap
from steering.manifest import Manifest
from steering.tiny import SPECIAL, VOCAB, byte_tokenizer, tiny_model, tiny_probe, untrained_manifest

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_server_of_a_test_keeps_anything(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers started without `--state` keep what they keep in a folder of this run, not in the user's."""
    os.environ["TILLER_STATE"] = str(tmp_path_factory.mktemp("state"))


def tiny_llama(*, layers: int = 4, hidden_size: int = 32, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama whose logits depend visibly on its residual stream."""
    return tiny_model(layers=layers, hidden_size=hidden_size, seed=seed).model


def tiny_mamba2(*, layers: int = 4, hidden_size: int = 32, seed: int = 0) -> Mamba2ForCausalLM:
    """A random Mamba-2."""
    torch.manual_seed(seed)
    config = Mamba2Config(
        vocab_size=VOCAB,
        hidden_size=hidden_size,
        state_size=8,
        num_hidden_layers=layers,
        expand=2,
        head_dim=16,
        num_heads=2 * hidden_size // 16,
        n_groups=1,
        chunk_size=16,
        initializer_range=0.2,
        **SPECIAL,
    )
    return Mamba2ForCausalLM(config).eval()


def make_manifest(lm: LanguageModel, *, layers: list[int], name: str = "toxicity", version: int = 1) -> Manifest:
    """A manifest that fits `lm`."""
    return untrained_manifest(lm, layers=layers, name=name, version=version)


def random_probe(
    lm: LanguageModel, *, layers: list[int] | None = None, name: str = "toxicity", version: int = 1, seed: int = 0
) -> Probe:
    """Random unit read-outs at `layers`, all by default."""
    return tiny_probe(lm, layers=layers, name=name, version=version, seed=seed)


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    """A tiny random Llama; session-wide, so a test must leave it as it was."""
    return wrap(tiny_llama(), byte_tokenizer(), model_id="tiny-llama")


@pytest.fixture(scope="session")
def mamba_lm() -> LanguageModel:
    """A tiny random Mamba-2."""
    return wrap(tiny_mamba2(), byte_tokenizer(), model_id="tiny-mamba2")


@pytest.fixture
def probe(lm: LanguageModel) -> Probe:
    """A random probe at every layer of `lm`."""
    return random_probe(lm)


@pytest.fixture(scope="session")
def make_probe() -> Callable[..., Probe]:
    """`random_probe`, for tests that need several."""
    return random_probe


def with_statistics(probe: Probe, *, seed: int = 0) -> Probe:
    """`probe` with random statistics for every metric and controller of the residual stream."""
    generator = torch.Generator().manual_seed(seed)
    size = probe.manifest.base_model.hidden_size

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def fitted(layer: LayerProbe) -> LayerProbe:
        mean, along = drawn(size), torch.nn.functional.normalize(drawn(size), dim=0)
        statistics = {
            "mean.negative": mean,
            "mean.positive": mean + 2 * along,
            "metric.diagonal": 0.2 + drawn(size).abs(),
            "metric.factor": drawn(size, 3),
            "contrast.vector": 1.5 * along,
            "reading.vector": along,
            "reading.center": torch.tensor(0.3),
            "transport.scale": 1 + 0.1 * drawn(size),
            "transport.shift": 0.2 * drawn(size),
            "affine.matrix": torch.eye(size) + 0.05 * drawn(size, size),
            "affine.shift": 0.2 * drawn(size),
            "erase.reader": along,
            "erase.writer": along + 0.1 * drawn(size),
            "erase.center": torch.tensor(0.2),
            "lqr.gain": 0.5 * along,
        }
        return replace(layer, fitted=statistics)

    return replace(probe, layers={at: fitted(layer) for at, layer in probe.layers.items()})


@pytest.fixture(scope="session")
def make_fitted() -> Callable[..., Probe]:
    """`random_probe` with statistics for every controller."""

    def make(lm: LanguageModel, *, seed: int = 0, name: str = "toxicity") -> Probe:
        return with_statistics(random_probe(lm, name=name, seed=seed), seed=seed)

    return make


@pytest.fixture(scope="session")
def embedded() -> Any:
    """The embedded model itself, for slow tests; made on first use."""
    from steering import load_model

    return load_model("smollm2-135m-instruct", device="cpu", threads=1)
