"""Shared by all tests: tiny random models made in memory, a byte-level tokenizer, probes, one torch thread.

Random models are for mechanics only; a claim about behaviour is tested on the embedded model (marked slow).
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, Mamba2Config, Mamba2ForCausalLM, PreTrainedTokenizerFast

from steering import LanguageModel, LayerProbe, Probe, wrap
from steering.manifest import (
    DatasetInfo,
    Default,
    FitInfo,
    LayerMetrics,
    LayerReport,
    Manifest,
)

torch.set_num_threads(1)

VOCAB = 300
"""256 bytes, three special tokens, and room."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, made in memory; <pad>, <s> and </s> are 256 to 258."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate([*alphabet, "<pad>", "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        chat_template=(
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}[assistant]{% endif %}"
        ),
    )


def tiny_llama(*, layers: int = 4, hidden_size: int = 32, seed: int = 0) -> LlamaForCausalLM:
    """A random Llama whose logits depend visibly on its residual stream."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        pad_token_id=256,
        bos_token_id=257,
        eos_token_id=258,
    )
    return LlamaForCausalLM(config).eval()


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
        pad_token_id=256,
        bos_token_id=257,
        eos_token_id=258,
    )
    return Mamba2ForCausalLM(config).eval()


def make_manifest(lm: LanguageModel, *, layers: list[int], name: str = "toxicity", version: int = 1) -> Manifest:
    """A manifest that fits `lm`; its figures are placeholders of a probe that was never trained."""
    metrics = LayerMetrics(
        n=10, auroc=0.5, accuracy=0.5, brier=0.25, ece=0.1, brier_uncalibrated=0.25, ece_uncalibrated=0.1
    )
    return Manifest(
        name=name,
        version=version,
        concept=name,
        positive_is=name,
        labels={"0": f"not {name}", "1": name},
        base_model=lm.info,
        tokenizer=lm.tokenizer_info,
        token_rule="last",
        dataset=DatasetInfo(name="none", sha256="0" * 64, licence="none", counts={}, split="none"),
        fit=FitInfo(solver="random", C=1.0, seed=0, versions={}),
        metrics={
            layer: LayerReport(test=metrics, random_label_auroc=0.5, random_direction_auroc=0.5) for layer in layers
        },
        default=Default(layers=layers, lower=None, upper=0.1, space="probability", metric="euclidean"),
        created=datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
        tool_version="test",
    )


def random_probe(
    lm: LanguageModel, *, layers: list[int] | None = None, name: str = "toxicity", version: int = 1, seed: int = 0
) -> Probe:
    """Random unit read-outs at `layers` (all by default), with a calibration that is not the identity."""
    chosen = list(range(lm.info.num_hidden_layers)) if layers is None else layers
    generator = torch.Generator().manual_seed(seed)

    def layer_probe() -> LayerProbe:
        weight = torch.randn(lm.info.hidden_size, generator=generator)
        return LayerProbe(
            weight=weight / weight.norm(),
            bias=0.25,
            calibration=(1.5, -0.2),
            resid_norm=math.sqrt(lm.info.hidden_size),
            quantiles_negative=torch.linspace(-3, 3, 101),
            quantiles_positive=torch.linspace(-2, 4, 101),
        )

    return Probe(
        manifest=make_manifest(lm, layers=chosen, name=name, version=version),
        layers={layer: layer_probe() for layer in chosen},
    )


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


@pytest.fixture(scope="session")
def embedded() -> Any:
    """The embedded model itself, for slow tests; made on first use."""
    from steering import load_model

    return load_model("smollm2-135m-instruct", device="cpu", threads=1)
