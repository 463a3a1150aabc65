"""A tiny random model and probe, made in memory in milliseconds: to try the mechanics without a download.

Random models write noise. Anything said about behaviour needs a trained one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from steering.manifest import DatasetInfo, Default, FitInfo, LayerMetrics, LayerReport, Manifest
from steering.models import LanguageModel, wrap
from steering.probe import QUANTILES, LayerProbe, Probe
from steering.version import __version__

VOCAB = 300
"""256 bytes, three special tokens, and room."""
SPECIAL = {"pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}

_CHAT = """\
{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"""


def tiny_model(*, layers: int = 4, hidden_size: int = 32, seed: int = 0) -> LanguageModel:
    """A random Llama with a byte-level tokenizer, wrapped and ready. float32, on the CPU, context 256."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.2,
        **SPECIAL,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    return wrap(model, byte_tokenizer(), model_id="tiny-llama")


def byte_tokenizer() -> Any:
    """One token per byte, with a chat template; <pad>, <s> and </s> are 256 to 258."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {symbol: index for index, symbol in enumerate([*alphabet, "<pad>", "<s>", "</s>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", chat_template=_CHAT
    )


def tiny_probe(
    lm: LanguageModel,
    *,
    layers: Sequence[int] | None = None,
    name: str = "toxicity",
    version: int = 1,
    seed: int = 0,
) -> Probe:
    """Random unit read-outs at `layers` (all by default), with a calibration that is not the identity."""
    chosen = list(range(lm.info.num_hidden_layers) if layers is None else layers)
    generator = torch.Generator().manual_seed(seed)

    def layer_probe() -> LayerProbe:
        weight = torch.randn(lm.info.hidden_size, generator=generator)
        return LayerProbe(
            weight=weight / weight.norm(),
            bias=0.25,
            calibration=(1.5, -0.2),
            resid_norm=math.sqrt(lm.info.hidden_size),
            quantiles_negative=torch.linspace(-3, 3, QUANTILES),
            quantiles_positive=torch.linspace(-2, 4, QUANTILES),
        )

    manifest = untrained_manifest(lm, layers=chosen, name=name, version=version)
    return Probe(manifest=manifest, layers={layer: layer_probe() for layer in chosen})


def untrained_manifest(lm: LanguageModel, *, layers: Sequence[int], name: str, version: int = 1) -> Manifest:
    """A manifest that fits `lm`; its figures are those of a probe that knows nothing."""
    chance = LayerMetrics(
        n=0, auroc=0.5, accuracy=0.5, brier=0.25, ece=0.0, brier_uncalibrated=0.25, ece_uncalibrated=0.0
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
            layer: LayerReport(test=chance, random_label_auroc=0.5, random_direction_auroc=0.5) for layer in layers
        },
        default=Default(layers=list(layers), lower=None, upper=0.1, space="probability", metric="euclidean"),
        created="2026-01-01T00:00:00+00:00",
        tool_version=__version__,
    )
