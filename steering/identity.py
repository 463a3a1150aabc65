"""Which model is this? What a probe remembers of its model, and what is compared when the two meet again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import nn

from steering.architectures import text_config
from steering.choices import Compatibility
from steering.embedded import PROVENANCE
from steering.errors import ProbeMismatch
from steering.manifest import BaseModelInfo, TokenizerInfo
from steering.probe import Probe

# The fields that fix shapes and wiring. Others come and go between Transformers releases and would break the hash.
_WIRING = (
    "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads",
    "num_key_value_heads", "head_dim", "sliding_window", "hidden_act", "rms_norm_eps", "layer_norm_eps",
    "layer_norm_epsilon", "state_size", "conv_kernel", "expand", "n_groups", "num_heads", "time_step_rank",
    "tie_word_embeddings", "use_parallel_residual", "do_layer_norm_before", "num_experts",
)  # fmt: skip
_EDGE = 1 << 20  # bytes read from either end of a weight file


def describe_model(model: nn.Module, *, model_id: str) -> BaseModelInfo:
    """What identifies the loaded `model`; `model_id` is the Hub id or folder it was loaded from."""
    config = text_config(model)
    provenance = _provenance(model_id)
    return BaseModelInfo(
        id=provenance.get("id") or Path(model_id).resolve().name if Path(model_id).is_dir() else model_id,
        revision=provenance.get("revision")
        or getattr(model.config, "_commit_hash", None)
        or weights_fingerprint(model_id),
        config_sha256=hash_json({key: getattr(config, key, None) for key in _WIRING}),
        model_type=config.model_type,
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
    )


def describe_tokenizer(tokenizer: Any) -> TokenizerInfo:
    """What identifies a tokenizer: its vocabulary, its special tokens and its chat template."""
    template = tokenizer.chat_template
    return TokenizerInfo(
        sha256=hash_json([sorted(tokenizer.get_vocab().items()), sorted(tokenizer.all_special_ids)]),
        chat_template_sha256=None if template is None else hash_json(template),
    )


def check_compatible(
    probe: Probe, model: BaseModelInfo, tokenizer: TokenizerInfo, *, level: Compatibility = "exact"
) -> None:
    """Raise ProbeMismatch, saying what differs, unless `probe` may be used on this model.

    exact         same wiring, weights (revision), vocabulary and chat template
    architecture  same model type, width and depth: a fine-tuned relative; accuracy and calibration are not vouched for
    width         same hidden_size and enough layers: an experiment
    """
    base = probe.manifest.base_model
    compared: dict[str, tuple[object, object]] = {"hidden_size": (base.hidden_size, model.hidden_size)}
    if level != "width":
        compared["model_type"] = (base.model_type, model.model_type)
        compared["num_hidden_layers"] = (base.num_hidden_layers, model.num_hidden_layers)
    if level == "exact":
        theirs = probe.manifest.tokenizer
        compared["revision"] = (base.revision, model.revision)
        compared["config"] = (base.config_sha256, model.config_sha256)
        compared["vocabulary"] = (theirs.sha256, tokenizer.sha256)
        compared["chat template"] = (theirs.chat_template_sha256, tokenizer.chat_template_sha256)
    different = [f"{what} {_short(was)}, here {_short(now)}" for what, (was, now) in compared.items() if was != now]
    deepest = max(probe.layers)
    if deepest >= model.num_hidden_layers:
        different.append(f"a read-out at layer {deepest}, here layers 0 to {model.num_hidden_layers - 1}")
    if different:
        raise ProbeMismatch(
            f"probe {probe.id} was fitted for {base.id} and does not fit {model.id} at level '{level}': "
            f"it has {'; '.join(different)}. Refit it for this model (tiller probe train), serve the model it was "
            "fitted for, or lower --probe-compat if you know the two are close"
        )


def _provenance(model_id: str) -> dict[str, str]:
    path = Path(model_id) / PROVENANCE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def weights_fingerprint(model_id: str) -> str:
    """A fingerprint of local weight files: name, size and both ends of each; 'unsaved' for a model made in memory."""
    folder = Path(model_id)
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")) if folder.is_dir() else []
    if not files:
        return "unsaved"
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}".encode())
        with path.open("rb") as file:
            digest.update(file.read(_EDGE))
            file.seek(max(0, size - _EDGE))
            digest.update(file.read(_EDGE))
    return f"weights-{digest.hexdigest()[:16]}"


def hash_json(value: object) -> str:
    """SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:10]}…"
