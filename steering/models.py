"""Loading a language model and its tokenizer, the same way for serving, training and evaluation."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from steering.architectures import residual_blocks, text_config
from steering.choices import DType
from steering.embedded import EMBEDDED, get_model, model_folder
from steering.errors import ModelError
from steering.identity import describe_model, describe_tokenizer
from steering.manifest import BaseModelInfo, TokenizerInfo

_WINDOWS = ("max_position_embeddings", "n_positions", "max_sequence_length")


@dataclass(frozen=True, eq=False)
class LanguageModel:
    """A causal language model ready to be hooked, its tokenizer, and what identifies both."""

    model: Any
    tokenizer: Any
    info: BaseModelInfo
    tokenizer_info: TokenizerInfo
    name: str
    """The short name requests and replies use."""

    @property
    def device(self) -> torch.device:
        """Where the input embedding, and so every prompt, lives."""
        device: torch.device = self.model.get_input_embeddings().weight.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the residual stream is stored in."""
        dtype: torch.dtype = self.model.get_input_embeddings().weight.dtype
        return dtype

    @property
    def vocabulary(self) -> int:
        """How many token ids have a logit: those from 0 to one less."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def context(self) -> int | None:
        """Tokens the model was built for, prompt and continuation together; None for an unbounded recurrence."""
        config = text_config(self.model)
        return next((getattr(config, name) for name in _WINDOWS if getattr(config, name, None)), None)


def wrap(model: Any, tokenizer: Any, *, model_id: str) -> LanguageModel:
    """A model already in memory as a LanguageModel: evaluation mode, left padding, a pad token.

    Raises UnsupportedModel when its blocks cannot be reached, ModelError when the tokenizer has nothing to pad with.
    """
    residual_blocks(model)
    model.eval()
    tokenizer.padding_side = "left"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise ModelError(
                "the tokenizer has neither a pad nor an end-of-text token, so prompts of different length cannot "
                "share a batch; set tokenizer.pad_token and save it again"
            )
        tokenizer.pad_token = tokenizer.eos_token
    info = describe_model(model, model_id=model_id)
    return LanguageModel(model, tokenizer, info, describe_tokenizer(tokenizer), info.id)


def load_model(name: str, *, device: str = "auto", dtype: DType = "auto", threads: int | None = None) -> LanguageModel:
    """Load an embedded model by name, or any Hugging Face id or local folder.

    `device`: "cpu", "cuda", "cuda:1", "balanced" (several GPUs through accelerate), or "auto": CUDA where there is
    one. `dtype`: "auto" is float32 on CPU, where bfloat16 gains nothing, and the checkpoint's own elsewhere.
    `threads`: torch threads on CPU; see `choose_threads`. Raises ModelError with the way out.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # loading takes a second or two; a bar in a server's log helps nobody
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    if place.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError(f"--device {device} was asked for, but torch sees no CUDA device; use --device cpu")
    torch.set_num_threads(choose_threads(threads))
    path = str(get_model(name)) if name in EMBEDDED and not Path(name).is_dir() else name
    chosen = (torch.float32 if place == "cpu" else "auto") if dtype == "auto" else getattr(torch, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=chosen, device_map=place)
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"cannot load the model '{name}': {reason} Give a Hugging Face id, a local folder, or one of: "
            f"{', '.join(EMBEDDED)} (tiller model get {next(iter(EMBEDDED))})"
        ) from error
    return wrap(model, tokenizer, model_id=path)


def choose_threads(wanted: int | None = None) -> int:
    """How many torch threads to use: `wanted`, else $TILLER_THREADS, else a choice by load.

    Two threads that wait for a busy core are many times slower than one that does not wait, so cores that other
    work already keeps busy (the one-minute load average) are left alone; at least one thread is used.
    """
    given = wanted if wanted is not None else os.environ.get("TILLER_THREADS")
    if given is not None:
        if not str(given).isdigit() or int(given) < 1:
            raise ModelError(f"threads is {given!r}; expected a whole number of at least 1 (--threads, TILLER_THREADS)")
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, cores - round(load))


def is_ready(name: str) -> bool:
    """Whether an embedded model has been converted already."""
    return model_folder(name).is_dir()
