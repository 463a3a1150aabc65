"""One shard of a harvest: its texts tokenised, read batch by batch, and pooled into its arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.errors import HarvestError
from probes.harvest.forward import read_batch, tokenize
from probes.harvest.pooling import kept_positions, make_pool
from probes.harvest.shards import TOKENS, Inputs, Tally
from probes.texts.corpus import Corpus
from steering.models import LanguageModel


def read_shard(
    language_model: LanguageModel,
    corpus: Corpus,
    rows: range,
    inputs: Inputs,
    *,
    batch_tokens: int,
    advance: Callable[[int], None],
) -> tuple[dict[str, NDArray[Any]], Tally]:
    """Per pooling (layers, rows, hidden_size) in `inputs.shard_dtype`, with "all" also `TOKENS`; and what was counted.

    Raises HarvestError for a text without tokens, and for numbers that are not finite or not within float16.
    """
    uncut = tokenize(language_model, [corpus.rows[row].text for row in rows], chat=inputs.template != "raw")
    if not all(uncut):
        number = corpus.rows[rows[uncut.index([])]].number
        raise HarvestError(f"{corpus.name}, row {number}: the tokenizer makes no tokens of this text; remove the row")
    tokens = [ids[: inputs.max_tokens] for ids in uncut]
    cap = inputs.tokens_per_text or 0
    kept = [kept_positions(len(ids), cap=cap) if cap else [] for ids in tokens]
    starts = np.concatenate([[0], np.cumsum([len(positions) for positions in kept])]).tolist()
    arrays: dict[str, NDArray[Any]] = {
        name: np.empty(
            (len(inputs.layers), starts[-1] if name == "all" else len(rows), inputs.hidden_size), inputs.shard_dtype
        )
        for name in inputs.poolings
    }
    for batch in batches([len(ids) for ids in tokens], batch_tokens=batch_tokens):
        ids = [tokens[index] for index in batch]
        pools = {name: make_pool(name, [len(each) for each in ids], cap=cap) for name in inputs.poolings}
        every = [slot for index in batch for slot in range(starts[index], starts[index + 1])]
        for name, values in read_batch(language_model, ids, inputs.layers, pools).items():
            owners = [index for index in batch for _ in kept[index]] if name == "all" else batch
            numbers = [corpus.rows[rows[index]].number for index in owners]
            stored = _checked(values, numbers, inputs=inputs, where=corpus.name, dtype=language_model.info.dtype)
            arrays[name][:, every if name == "all" else batch] = stored.numpy()
        advance(len(batch))
    if "all" in arrays:
        pairs = [(row, position) for row, positions in zip(rows, kept, strict=True) for position in positions]
        arrays[TOKENS] = np.array(pairs, dtype=np.int32)
    return arrays, Tally(
        rows=len(rows),
        tokens=sum(map(len, tokens)),
        truncated=sum(len(ids) > inputs.max_tokens for ids in uncut),
        kept=starts[-1],
    )


def batches(lengths: Sequence[int], *, batch_tokens: int) -> Iterator[list[int]]:
    """Indices grouped by similar length, longest first, each group within `batch_tokens` padded tokens (or alone)."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    while order:
        size = max(1, batch_tokens // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def _checked(values: Tensor, numbers: Sequence[int], *, inputs: Inputs, where: str, dtype: str) -> Tensor:
    """(layers, rows, hidden_size) in the dtype of the files, or HarvestError naming the first layer and its text."""
    stored = values.to(getattr(torch, inputs.shard_dtype))
    finite = torch.isfinite(stored).all(dim=-1)
    if finite.all():
        return stored
    layer, row = (int(index) for index in torch.nonzero(~finite)[0])
    what = f"{where}, row {numbers[row]}: the residual stream after layer {inputs.layers[layer]}"
    if torch.isfinite(values[layer, row]).all():
        raise HarvestError(
            f"{what} reaches {float(values[layer, row].abs().max()):.0f}, which {inputs.shard_dtype} cannot hold; keep "
            "the activations in float32 (--shard-dtype float32)",
            param="shard_dtype",
        )
    raise HarvestError(
        f"{what} is not finite in {dtype}; load the model in a wider dtype (--dtype float32) or leave the row out"
    )
