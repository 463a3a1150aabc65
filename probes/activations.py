"""Harvest: texts -> residual stream after each requested block, pooled to one vector per text.

Read with `steering.hooks.capture`, at the very point `steer` writes to, in one forward pass for all layers; the
vocabulary logits are never computed. Pooling over the n real tokens of a text:

    last   resid[n]                             the state from which the next token would be written
    mean   1/(n-1) sum_{t=2..n} resid[t]        of a text of one token: that token

The mean leaves the first token out. In a causal model it sees nothing but itself, and most models use it as an
attention sink: in the embedded one its residual is a hundred times longer than any other at most layers, so that
a mean with it would read 1/n, the length of the text, and no single later token would look like such a mean.

Batches hold texts of similar length, padded on the *right*: every architecture we know is causal, attention and
recurrence alike, so real tokens cannot see what comes after them. That makes the harvested value equal to a forward
pass of the text alone with no mask and no position arithmetic, also where left padding would enter a recurrent state.

Not here: several processes, all-token pooling.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probes.corpus import Corpus
from probes.errors import HarvestError
from probes.shards import SHARD_ROWS, Floats, Inputs, Pooling, ShardFolder, Tally
from steering.hooks import capture, check_layer
from steering.models import LanguageModel

MAX_TOKENS = 512
BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Reading:
    """What is read of each text."""

    layers: tuple[int, ...]
    poolings: tuple[Pooling, ...] = ("last",)
    max_tokens: int = MAX_TOKENS
    """Longer texts keep their first `max_tokens` tokens and are counted."""


@dataclass(frozen=True, eq=False)
class Activations:
    """Finished activations of one corpus, on disk."""

    corpus: Corpus
    shards: ShardFolder

    def layer(self, layer: int, pooling: Pooling) -> Floats:
        """(texts, hidden_size) float32, in the corpus's order."""
        return self.shards.layer(layer, pooling)

    @property
    def tally(self) -> Tally:
        """Texts, tokens read and texts cut short."""
        return self.shards.tally()


def harvest(
    language_model: LanguageModel,
    corpus: Corpus,
    folder: Path,
    reading: Reading,
    *,
    batch_tokens: int = BATCH_TOKENS,
    shard_rows: int = SHARD_ROWS,
    advance: Callable[[int], None] = lambda texts: None,
) -> Activations:
    """Read the residuals of `corpus` into `folder`; shards finished by an earlier call are not computed again.

    `batch_tokens` bounds the padded tokens of one forward pass, and with `shard_rows` the memory used, whatever the
    size of the corpus. `advance` is told of every text done. Raises InvalidRequest for a layer the model lacks,
    HarvestError for a text without tokens, activations that are not finite, a full disk, or a folder of other inputs.
    """
    for layer in reading.layers:
        check_layer(layer, num_hidden_layers=language_model.info.num_hidden_layers)
    max_tokens = fitting_length(language_model, reading.max_tokens)
    info = language_model.info
    shards = ShardFolder(
        folder,
        Inputs(
            corpus=corpus.sha256,
            rows=len(corpus),
            model=":".join(str(part) for part in (info.id, info.revision, info.config_sha256, info.dtype)),
            tokenizer=language_model.tokenizer_info.sha256,
            layers=reading.layers,
            poolings=reading.poolings,
            max_tokens=max_tokens,
            hidden_size=info.hidden_size,
            shard_rows=shard_rows,
        ),
    )
    with shards.locked():
        pending = shards.pending()
        shards.require_space()
        advance(len(corpus) - sum(len(shards.inputs.span(shard)) for shard in pending))
        for shard in pending:
            rows = shards.inputs.span(shard)
            arrays, tally = _read_shard(language_model, corpus, rows, shards.inputs, batch_tokens, advance)
            shards.write(shard, arrays, tally)
    return Activations(corpus, shards)


def fitting_length(language_model: LanguageModel, max_tokens: int) -> int:
    """`max_tokens`, or the model's context where that is shorter. Raises HarvestError below 1."""
    if max_tokens < 1:
        raise HarvestError(f"max_tokens is {max_tokens}; at least one token of a text must be read", param="max_tokens")
    return min(max_tokens, language_model.context or max_tokens)


def pool(resid: Tensor, lengths: Tensor, pooling: Pooling) -> Tensor:
    """(batch, seq, hidden_size) padded on the right -> (batch, hidden_size) float32; `lengths` (batch,) real tokens."""
    if pooling == "last":
        return resid[torch.arange(len(resid), device=resid.device), lengths - 1].float()
    position, lengths = torch.arange(resid.shape[1], device=resid.device), lengths.unsqueeze(-1)
    counted = (position < lengths) & ((position > 0) | (lengths == 1))
    summed = torch.where(counted.unsqueeze(-1), resid.float(), 0.0).sum(dim=1)
    return summed / counted.sum(dim=1, keepdim=True)


def batches(lengths: Sequence[int], *, batch_tokens: int) -> Iterator[list[int]]:
    """Indices grouped by similar length, longest first, each group within `batch_tokens` padded tokens (or alone)."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        size = max(1, batch_tokens // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def _read_shard(
    language_model: LanguageModel,
    corpus: Corpus,
    rows: range,
    inputs: Inputs,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> tuple[dict[Pooling, Floats], Tally]:
    tokens, truncated = _tokenize(language_model, corpus, rows, max_tokens=inputs.max_tokens)
    shape = (len(rows), len(inputs.layers), inputs.hidden_size)
    arrays: dict[Pooling, Floats] = {pooling: np.empty(shape, dtype=np.float32) for pooling in inputs.poolings}
    for batch in batches([len(ids) for ids in tokens], batch_tokens=batch_tokens):
        pooled = _read_batch(language_model, [tokens[index] for index in batch], inputs)
        for pooling, values in pooled.items():
            finite = np.isfinite(values).all(axis=-1)
            if not finite.all():
                text, layer = np.argwhere(~finite)[0]
                raise HarvestError(
                    f"{corpus.name}, row {corpus.rows[rows[batch[text]]].number}: the residual stream after layer "
                    f"{inputs.layers[layer]} is not finite in {language_model.info.dtype}; load the model in a wider "
                    "dtype (--dtype float32) or leave the row out"
                )
            arrays[pooling][batch] = values
        advance(len(batch))
    return arrays, Tally(rows=len(rows), tokens=sum(map(len, tokens)), truncated=truncated)


def _tokenize(
    language_model: LanguageModel, corpus: Corpus, rows: range, *, max_tokens: int
) -> tuple[list[list[int]], int]:
    """The ids of each text, special tokens as the tokenizer adds them, and how many texts were cut short."""
    texts = [corpus.rows[row].text for row in rows]
    tokens: list[list[int]] = language_model.tokenizer(texts, verbose=False)["input_ids"]
    for row, ids in zip(rows, tokens, strict=True):
        if not ids:
            raise HarvestError(
                f"{corpus.name}, row {corpus.rows[row].number}: the tokenizer makes no tokens of this text; "
                "remove the row"
            )
    return [ids[:max_tokens] for ids in tokens], sum(len(ids) > max_tokens for ids in tokens)


@torch.inference_mode()
def _read_batch(language_model: LanguageModel, tokens: list[list[int]], inputs: Inputs) -> dict[Pooling, Floats]:
    """(texts, layers, hidden_size) per pooling, from one forward pass of the decoder body."""
    lengths = torch.tensor([len(ids) for ids in tokens])
    width = int(lengths.max())
    filler = language_model.tokenizer.pad_token_id
    padded = torch.tensor([ids + [filler] * (width - len(ids)) for ids in tokens])
    body = language_model.model.base_model  # without the language-model head
    options = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
    with capture(language_model.model, inputs.layers) as seen:
        try:
            body(input_ids=padded.to(language_model.device), **options)
        except torch.OutOfMemoryError as error:
            raise HarvestError(
                f"the device has no memory for {len(tokens)} texts of {width} tokens at once; "
                "lower --batch-tokens or --max-tokens",
                param="batch_tokens",
            ) from error
    return {
        pooling: np.stack(
            [pool(seen[layer], lengths.to(seen[layer].device), pooling).cpu().numpy() for layer in inputs.layers],
            axis=1,
        )
        for pooling in inputs.poolings
    }
