"""Harvest: texts -> residual stream after each requested block, pooled (`probes/harvest/pooling.py`) and kept on disk.

Read at the very point where `steering.hooks.steer` writes, in one forward pass for all layers; the vocabulary logits
are never computed. A batch holds texts of similar length of one shard, so that a shard's numbers do not depend on which
process reads it or on what was finished before. What is held in memory at a time is one shard (its token ids and its
pooled rows) and one batch; besides, the corpus's texts, which are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from probes.errors import HarvestError
from probes.harvest.filling import read_shard
from probes.harvest.forward import Template, describe_template, require_hooks
from probes.harvest.processes import team
from probes.harvest.shards import SHARD_ROWS, Floats, Inputs, Pooling, ShardDType, ShardFolder, Tally
from probes.texts.corpus import Corpus
from steering.architectures import residual_blocks
from steering.hooks import check_layer
from steering.models import LanguageModel

MAX_TOKENS = 512
BATCH_TOKENS = 2048
TOKENS_PER_TEXT = 16
_SHARD_BYTES = 256 << 20  # of one shard in memory, where "all" makes its rows many


@dataclass(frozen=True)
class Reading:
    """What is read of each text."""

    layers: tuple[int, ...]
    poolings: tuple[Pooling, ...] = ("last",)
    max_tokens: int = MAX_TOKENS
    """Longer texts keep their first `max_tokens` tokens and are counted; a chat loses its generation prompt so."""
    tokens_per_text: int = TOKENS_PER_TEXT
    """Pooling "all" keeps at most as many rows of a text."""
    template: Template = "raw"
    """`chat`: each text is the user's turn in the tokenizer's chat template, up to where the answer would begin."""
    shard_dtype: ShardDType = "float32"
    """Of the files; float16 halves them and keeps about three digits. Fits get float32 either way."""


@dataclass(frozen=True, eq=False)
class Activations:
    """Finished activations of one corpus, on disk. Rows of `layer` and of `owners` go together."""

    corpus: Corpus
    shards: ShardFolder

    def layer(self, layer: int, pooling: Pooling) -> Floats:
        """(rows, hidden_size) float32 in the corpus's order, one array in memory: 100,000 rows of 4,096 are 1.6 GB.

        One row per text, or with "all" one per token kept. Raises HarvestError for a damaged shard.
        """
        return self.shards.layer(layer, pooling)

    def owners(self, pooling: Pooling) -> NDArray[np.int64]:
        """(rows,): the place in the corpus of the text that each row of `layer` was read from, ascending.

        What belongs to a text is spread over its rows so: `corpus.labels[owners]`.
        """
        return self.token_index()[:, 0] if pooling == "all" else np.arange(len(self.corpus))

    def token_index(self) -> NDArray[np.int64]:
        """(rows of "all", 2): the text's place in the corpus and the token's 0-based place in the text."""
        return self.shards.token_index()

    @property
    def tally(self) -> Tally:
        """Texts, tokens read, texts cut short and rows of "all"."""
        return self.shards.tally()


def harvest(
    language_model: LanguageModel,
    corpus: Corpus,
    folder: Path,
    reading: Reading,
    *,
    batch_tokens: int = BATCH_TOKENS,
    shard_rows: int | None = None,
    advance: Callable[[int], None] = lambda texts: None,
    say: Callable[[str], None] = lambda line: None,
) -> Activations:
    """Read the residuals of `corpus` into `folder`; shards finished by an earlier call are not computed again.

    `batch_tokens` bounds the padded tokens of one forward pass, and with `shard_rows` (a shard's texts; by default 512,
    fewer where "all" would make a shard large) the memory used, whatever the size of the corpus. `advance` is told of
    every text this process has done or found done, `say` of damaged shards that are read again. Under a launcher every
    process calls this with the same arguments, and it returns in all of them when all shards are finished.

    Raises InvalidRequest for a layer the model lacks; ModelError for a model that cannot be hooked; HarvestError for a
    text without tokens, activations that are not finite or not within float16, a tokenizer without the chat template
    asked for, a full disk, a folder of other inputs, or one that another run has.
    """
    if batch_tokens < 1:
        raise HarvestError(
            f"batch_tokens is {batch_tokens}; a forward pass reads at least one token (--batch-tokens)",
            param="batch_tokens",
        )
    inputs = _inputs(language_model, corpus, reading, shard_rows)
    shards = ShardFolder(folder, inputs, labelled=corpus.sha256)
    processes = team()
    with ExitStack() as held:

        def begin() -> list[int]:
            held.enter_context(shards.locked())
            for line in shards.prepare():
                say(line)
            return shards.pending()

        pending = processes.agree(begin)
        if pending:
            require_hooks(language_model, reading.layers)
        advance(len(corpus) - sum(len(inputs.span(shard)) for shard in pending))

        def make(shard: int) -> None:
            rows = inputs.span(shard)
            arrays, tally = read_shard(language_model, corpus, rows, inputs, batch_tokens=batch_tokens, advance=advance)
            shards.write(shard, arrays, tally)

        processes.share(shards, pending, make)
        if processes.first:
            shards.clear_claims()
    return Activations(corpus, shards)


def fitting_length(language_model: LanguageModel, max_tokens: int) -> int:
    """`max_tokens`, or the model's context where that is shorter. Raises HarvestError below 1."""
    if max_tokens < 1:
        raise HarvestError(f"max_tokens is {max_tokens}; at least one token of a text must be read", param="max_tokens")
    return min(max_tokens, language_model.context or max_tokens)


def _inputs(language_model: LanguageModel, corpus: Corpus, reading: Reading, shard_rows: int | None) -> Inputs:
    info = language_model.info
    residual_blocks(language_model.model)
    for layer in reading.layers:
        check_layer(layer, num_hidden_layers=info.num_hidden_layers)
    if reading.tokens_per_text < 1:
        raise HarvestError(
            f"tokens_per_text is {reading.tokens_per_text}; pooling 'all' keeps at least one token of a text",
            param="tokens_per_text",
        )
    every = "all" in reading.poolings
    row = len(reading.layers) * info.hidden_size * np.dtype(reading.shard_dtype).itemsize
    fitting = max(16, _SHARD_BYTES // (row * reading.tokens_per_text)) if every else SHARD_ROWS
    return Inputs(
        corpus=corpus.texts_sha256,
        rows=len(corpus),
        model=":".join(str(part) for part in (info.id, info.revision, info.config_sha256, info.dtype)),
        tokenizer=language_model.tokenizer_info.sha256,
        template=describe_template(language_model, reading.template),
        layers=reading.layers,
        poolings=reading.poolings,
        tokens_per_text=reading.tokens_per_text if every else None,
        max_tokens=fitting_length(language_model, reading.max_tokens),
        hidden_size=info.hidden_size,
        shard_dtype=reading.shard_dtype,
        shard_rows=shard_rows or min(SHARD_ROWS, fitting),
    )
