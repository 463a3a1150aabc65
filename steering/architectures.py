"""Where the decoder blocks of each known architecture are: one explicit table, nothing guessed.

A block is "residual in, residual out": the tensor it returns is the residual stream after that block
(`resid`, resid_post), of shape (batch, seq, hidden_size). This holds for attention and state-space blocks alike.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from steering.errors import UnsupportedModel

StateKind = Literal["attention", "recurrent", "hybrid"]

# model_type -> (path of the block list from the *ForCausalLM module, what a decoding step remembers)
ARCHITECTURES: dict[str, tuple[str, StateKind]] = {
    "llama": ("model.layers", "attention"),
    "mistral": ("model.layers", "attention"),
    "qwen2": ("model.layers", "attention"),
    "qwen3": ("model.layers", "attention"),
    "gemma": ("model.layers", "attention"),
    "gemma2": ("model.layers", "attention"),
    "gemma3_text": ("model.layers", "attention"),
    "gemma3": ("model.language_model.layers", "attention"),
    "phi": ("model.layers", "attention"),
    "phi3": ("model.layers", "attention"),
    "olmo2": ("model.layers", "attention"),
    "gpt2": ("transformer.h", "attention"),
    "gpt_neox": ("gpt_neox.layers", "attention"),
    "opt": ("model.decoder.layers", "attention"),
    "mamba": ("backbone.layers", "recurrent"),
    "mamba2": ("backbone.layers", "recurrent"),
    "falcon_mamba": ("backbone.layers", "recurrent"),
    "jamba": ("model.layers", "hybrid"),
    "zamba2": ("model.layers", "hybrid"),
    "bamba": ("model.layers", "hybrid"),
}


def residual_blocks(model: nn.Module) -> list[nn.Module]:
    """The decoder blocks of `model` in order; entry i is `layer` i.

    Raises UnsupportedModel when the model type is not in the table, or when the block list the table
    names is absent or its length differs from the config's.
    """
    path, _ = _entry(model)
    found: object = model
    for name in path.split("."):
        found = getattr(found, name, None)
    if not isinstance(found, nn.ModuleList):
        raise UnsupportedModel(
            f"{type(model).__name__} has no module list at '{path}', where the table of architectures expects its "
            "decoder blocks; load it with AutoModelForCausalLM, or mend the entry in steering/architectures.py"
        )
    expected = text_config(model).num_hidden_layers
    if len(found) != expected:
        raise UnsupportedModel(
            f"{type(model).__name__}.{path} holds {len(found)} blocks, but its config says {expected} layers; "
            "the entry in steering/architectures.py does not fit this model"
        )
    return list(found)


def state_kind(model: nn.Module) -> StateKind:
    """What a decoding step of `model` remembers: attention keys, a recurrent state, or both."""
    return _entry(model)[1]


def text_config(model: nn.Module):  # type: ignore[no-untyped-def]  # transformers configs carry no static fields
    """The config of the language model itself (a multi-modal config nests it)."""
    config = model.config
    get = getattr(config, "get_text_config", None)
    return config if get is None else get()


def _entry(model: nn.Module) -> tuple[str, StateKind]:
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    try:
        return ARCHITECTURES[model_type]
    except KeyError:
        known = ", ".join(sorted(ARCHITECTURES))
        raise UnsupportedModel(
            f"model type '{model_type}' is not in the table of architectures; known are: {known}. "
            "If its blocks are residual in, residual out, one line in steering/architectures.py adds it"
        ) from None
