"""Texts to token ids, and one forward pass over a batch of them: the part of a harvest that runs the model.

Batches are padded on the *right*: every architecture we know is causal, attention and recurrence alike, so real tokens
cannot see what comes after them. That makes the harvested value equal to a forward pass of the text alone with no mask
and no position arithmetic, also where left padding would enter a recurrent state; and any token can pad.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from probes.errors import HarvestError
from probes.harvest.pooling import Pool
from probes.harvest.shards import Pooling
from steering.architectures import residual_blocks
from steering.errors import ModelError
from steering.hooks import Controller, capture, steer
from steering.models import LanguageModel

Template = Literal["raw", "chat"]
_SAMPLE = "A fixed text."


def describe_template(language_model: LanguageModel, template: Template) -> str:
    """`raw`, or `chat:` and the hash of what the tokenizer's chat template makes of a fixed text.

    It differs where the same texts would come out differently: another template, or one that writes today's date.
    Raises HarvestError for a tokenizer without a template.
    """
    if template == "raw":
        return template
    return f"chat:{hashlib.sha256(_user_turn(language_model, _SAMPLE).encode()).hexdigest()}"


def tokenize(language_model: LanguageModel, texts: Sequence[str], *, chat: bool = False) -> list[list[int]]:
    """The ids of each text, uncut, with the special tokens the tokenizer adds.

    `chat`: of the text as the user's turn in the tokenizer's chat template, up to where the answer would begin, with
    the special tokens that the template writes.
    """
    if chat:
        texts = [_user_turn(language_model, text) for text in texts]
    ids: list[list[int]] = language_model.tokenizer(list(texts), add_special_tokens=not chat, verbose=False)[
        "input_ids"
    ]
    return ids


def require_hooks(language_model: LanguageModel, layers: Sequence[int]) -> None:
    """Pass one token through: do the blocks report what they return, in the shape of a residual stream?

    Raises UnsupportedModel for an architecture that is not in the table, ModelError for blocks that do not fit it.
    """
    residual_blocks(language_model.model)
    with torch.inference_mode(), capture(language_model.model, layers) as seen:
        body_pass(language_model, torch.tensor([[_filler(language_model)]]))
    silent = [layer for layer in layers if layer not in seen]
    if silent:
        raise ModelError(
            f"{type(language_model.model).__name__} does not call the hooks of its blocks at layers {silent} (is it "
            "compiled or exported?); load it with AutoModelForCausalLM"
        )
    width = seen[layers[0]].shape[-1]
    if width != language_model.info.hidden_size:
        raise ModelError(
            f"the blocks of {type(language_model.model).__name__} return {width} numbers per token, but its config "
            f"says hidden_size {language_model.info.hidden_size}"
        )


@torch.inference_mode()
def read_batch(
    language_model: LanguageModel,
    tokens: Sequence[Sequence[int]],
    layers: Sequence[int],
    pools: Mapping[Pooling, Pool],
) -> dict[Pooling, Tensor]:
    """(layers, rows, hidden_size) float32 on the CPU per pooling, from one forward pass of the decoder body.

    Each layer is pooled as it passes by, in a controller that changes nothing, so that one residual stream is held at
    a time and not one per layer.

    Raises HarvestError when the device's memory does not suffice for the batch.
    """
    width, filler = max(map(len, tokens)), _filler(language_model)
    padded = torch.tensor([[*ids, *[filler] * (width - len(ids))] for ids in tokens])
    rows: dict[Pooling, dict[int, Tensor]] = {name: {} for name in pools}

    def reader(layer: int) -> Controller:
        def read(resid: Tensor) -> Tensor:
            for name, pool in pools.items():
                rows[name][layer] = pool(resid)
            return resid

        return read

    with steer(language_model.model, {layer: reader(layer) for layer in layers}):
        body_pass(language_model, padded)
    return {name: torch.stack([found[layer].cpu() for layer in layers]) for name, found in rows.items()}


def body_pass(language_model: LanguageModel, padded: Tensor) -> None:
    """Run (batch, seq) ids through the model without its language-model head and without keeping a cache."""
    body = language_model.model.base_model
    options = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
    try:
        body(input_ids=padded.to(language_model.device), **options)
    except torch.OutOfMemoryError as error:
        raise HarvestError(
            f"the device has no memory for {padded.shape[0]} texts of {padded.shape[1]} tokens at once; "
            "lower --batch-tokens or --max-tokens",
            param="batch_tokens",
        ) from error


def _filler(language_model: LanguageModel) -> int:
    """Any valid id does: nothing real sees what stands to its right."""
    pad: int | None = language_model.tokenizer.pad_token_id
    return 0 if pad is None else pad


def _user_turn(language_model: LanguageModel, text: str) -> str:
    tokenizer = language_model.tokenizer
    if getattr(tokenizer, "chat_template", None) is None:
        raise HarvestError(
            f"the tokenizer of {language_model.name} has no chat template; use --template raw, or a model that was "
            "trained to chat",
            param="template",
        )
    turn: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return turn
