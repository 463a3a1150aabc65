"""The zoo: one tiny random model per entry of the table of architectures.

Every vector of every model is perturbed, so that norms, biases and decay rates all matter, and every sliding window
is shorter than the sequences of these tests, so that it bites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from steering import LanguageModel, wrap
from steering.architectures import ARCHITECTURES

WINDOW = 8
"""Of the models with sliding attention, in tokens."""

_TOKENS = {"vocab_size": 300, "pad_token_id": 256, "bos_token_id": 257, "eos_token_id": 258}
_COMMON = _TOKENS | {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
_HEADS = _GROUPED | {"head_dim": 8}
_SLIDING = _HEADS | {"sliding_window": WINDOW}
_ALTERNATING = ["sliding_attention", "full_attention"] * 2
_GEMMA3 = _SLIDING | {"layer_types": _ALTERNATING, "query_pre_attn_scalar": 8}
_VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
_RECURRENT = _TOKENS | {
    "hidden_size": 32,
    "state_size": 8,
    "num_hidden_layers": 4,
    "initializer_range": 0.2,
}
_MAMBA_PARTS = {"mamba_d_state": 8, "mamba_expand": 2, "use_mamba_kernels": False}
_MIXED = ["linear_attention", "hybrid"] * 2

ZOO: dict[str, dict[str, Any]] = {
    "llama": _GROUPED,
    "mistral": _SLIDING,
    "qwen2": _GROUPED,
    "qwen3": _HEADS,
    "gemma": _HEADS,
    "gemma2": _SLIDING | {"query_pre_attn_scalar": 8, "layer_types": _ALTERNATING},
    "gemma3_text": _GEMMA3,
    "gemma3": {
        "text_config": _GEMMA3,
        "vision_config": _VISION,
        "mm_tokens_per_image": 4,
        "boi_token_index": 290,
        "eoi_token_index": 291,
        "image_token_index": 292,
    },
    "phi": _GROUPED,
    "phi3": _SLIDING,
    "olmo2": _GROUPED,
    "gpt2": _TOKENS | {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256, "initializer_range": 0.2},
    "gpt_neox": _COMMON,
    "opt": _TOKENS
    | {
        "hidden_size": 32,
        "word_embed_proj_dim": 16,
        "ffn_dim": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "init_std": 0.2,
    },
    "mamba": _RECURRENT,
    "mamba2": _RECURRENT | {"head_dim": 16, "num_heads": 4, "n_groups": 1, "chunk_size": WINDOW},
    "falcon_mamba": _RECURRENT,
    "jamba": _GROUPED
    | _MAMBA_PARTS
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 4, "expert_layer_period": 2},
    "zamba2": _COMMON
    | _MAMBA_PARTS
    | {"layers_block_type": _MIXED, "n_mamba_heads": 4, "chunk_size": WINDOW, "adapter_rank": 4, "use_mem_rope": True}
    # Transformers clamps the step to time_step_min when it reads a prompt but not when it decodes from the cache, so
    # with the default 0.001 its own cached logits differ from its full pass by about 0.001, steered or not.
    | {"time_step_min": 1e-9},
    "bamba": _GROUPED
    | {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_chunk_size": WINDOW, "attn_layer_indices": [1, 3]},
}


def tiny(model_type: str, *, seed: int = 0) -> Any:
    """A random model of `model_type`, float32, in evaluation mode."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **ZOO[model_type])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.fixture(params=sorted(ZOO))
def model_type(request: pytest.FixtureRequest) -> str:
    """Every model type of the zoo in turn."""
    return str(request.param)


@pytest.fixture(scope="session")
def zoo(lm: LanguageModel) -> Callable[..., LanguageModel]:
    """`zoo(model_type, dtype=...)`: one shared model each, so a test must leave it as it was."""

    @cache
    def build(model_type: str, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
        return wrap(tiny(model_type).to(dtype), lm.tokenizer, model_id=f"tiny-{model_type}")

    return build


@pytest.fixture
def any_lm(zoo: Callable[..., LanguageModel], model_type: str) -> LanguageModel:
    """A float32 model of every type in turn."""
    return zoo(model_type)


@pytest.fixture(scope="session")
def zoo_types() -> set[str]:
    """The model types of the zoo."""
    return set(ZOO)


@contextmanager
def receive(model: torch.nn.Module) -> Iterator[dict[int, list[torch.Tensor]]]:
    """What the reader of each layer's output is given, pass by pass: the next block, after the last the final norm.

    Written without `capture`, as its judge.
    """
    path = ARCHITECTURES[model.config.model_type][0]
    stack = model.get_submodule(path.rpartition(".")[0])
    (norm,) = (child for name, child in stack.named_children() if "norm" in name or name == "ln_f")
    readers = [*list(model.get_submodule(path))[1:], norm]
    received: dict[int, list[torch.Tensor]] = {layer: [] for layer in range(len(readers))}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: torch.nn.Module, args: Any, kwargs: Any) -> None:
            received[layer].append((args[0] if args else kwargs["hidden_states"]).detach().clone())

        return hook

    handles = [reader.register_forward_pre_hook(keep(layer), with_kwargs=True) for layer, reader in enumerate(readers)]
    try:
        yield received
    finally:
        for handle in handles:
            handle.remove()


@pytest.fixture(scope="session")
def received() -> Callable[..., Any]:
    """`with received(model) as resid:` fills `resid[layer]` with one tensor per forward pass; see `receive`."""
    return receive
