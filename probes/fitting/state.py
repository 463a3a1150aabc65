"""`state.offset`: how far the recurrent state of one class is from that of the other, after the last token of a text.

    h' = mean of h over texts of the class steered toward  -  mean of h over texts of the other class

Every text is read once, all layers in one pass, and one float64 sum per class and layer is kept, whatever the size of
the corpus. Batches are padded on the *left*, as the plain loop does it: a mask keeps padding out of a recurrent state
there, while on the right it would be read as text and overwrite the very state that is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from probes.errors import FitError
from probes.harvest.activations import BATCH_TOKENS, MAX_TOKENS, fitting_length
from probes.harvest.filling import batches
from probes.harvest.shards import Floats
from probes.texts.corpus import Corpus
from steering.models import LanguageModel
from steering.recurrent import Shape, recurrent_layers, recurrent_state
from steering.stepping import Stepper, left_pad

OFFSET = "state.offset"


def fit_state_offsets(
    language_model: LanguageModel,
    corpus: Corpus,
    *,
    toward: Literal["negative", "positive"],
    layers: Sequence[int] | None = None,
    max_tokens: int = MAX_TOKENS,
    batch_tokens: int = BATCH_TOKENS,
    advance: Callable[[int], None] = lambda texts: None,
) -> dict[int, dict[str, Floats]]:
    """Per layer {"state.offset": (intermediate, state_size) float32}; `layers` are all with a state by default.

    Several heads are joined: (heads, head_dim, state_size) becomes (heads * head_dim, state_size). `batch_tokens`
    bounds the padded tokens of one pass, `advance` is told of every text done. Raises UnsupportedSteering for a model
    or a layer without recurrent state, FitError for a corpus of one class, a text without tokens or a state that is
    not finite.
    """
    shapes = recurrent_layers(language_model.model, layers)
    labels = corpus.labels
    if len(np.unique(labels)) != 2:
        raise FitError(f"{corpus.name} holds {corpus.counts} texts per label; a difference of means needs both labels")
    tokens = _tokenize(language_model, corpus, max_tokens=fitting_length(language_model, max_tokens))
    sums = {layer: np.zeros((2, *shape)) for layer, shape in shapes.items()}
    for batch in batches([len(ids) for ids in tokens], batch_tokens=batch_tokens):
        for layer, states in _last_states(language_model, [tokens[at] for at in batch], shapes).items():
            finite = np.isfinite(states).all(axis=(1, 2))
            if not finite.all():
                row = corpus.rows[batch[int(np.argmin(finite))]].number
                raise FitError(
                    f"{corpus.name}, row {row}: the recurrent state of layer {layer} is not finite in "
                    f"{language_model.info.dtype}; load the model in a wider dtype or leave the row out"
                )
            for label in (0, 1):
                sums[layer][label] += states[labels[batch] == label].sum(axis=0)
        advance(len(batch))
    counts = np.bincount(labels, minlength=2)
    return {layer: {OFFSET: _offset(total, counts, toward)} for layer, total in sums.items()}


def _offset(sums: NDArray[np.float64], counts: NDArray[np.int64], toward: Literal["negative", "positive"]) -> Floats:
    """Sums per class, (2, intermediate, state_size) -> the difference of means, (intermediate, state_size) float32."""
    negative, positive = sums / counts[:, None, None]
    difference = positive - negative if toward == "positive" else negative - positive
    offset: Floats = difference.astype(np.float32)
    return offset


@torch.inference_mode()
def _last_states(
    language_model: LanguageModel, tokens: list[list[int]], shapes: Mapping[int, Shape]
) -> dict[int, NDArray[np.float64]]:
    """The states after each text's last token, (texts, intermediate, state_size), by layer."""
    stepper = Stepper(language_model.model)
    ids, mask = left_pad(tokens, pad_token_id=language_model.tokenizer.pad_token_id, device=language_model.device)
    stepper.prefill(ids, mask)
    states: dict[int, Tensor] = {layer: recurrent_state(stepper.cache, layer) for layer in shapes}
    return {layer: state.double().flatten(1, -2).cpu().numpy() for layer, state in states.items()}


def _tokenize(language_model: LanguageModel, corpus: Corpus, *, max_tokens: int) -> list[list[int]]:
    """The first `max_tokens` ids of each text, special tokens as the tokenizer adds them."""
    tokens: list[list[int]] = language_model.tokenizer(corpus.texts, verbose=False)["input_ids"]
    for row, ids in zip(corpus.rows, tokens, strict=True):
        if not ids:
            raise FitError(
                f"{corpus.name}, row {row.number}: the tokenizer makes no tokens of this text; remove the row"
            )
    return [ids[:max_tokens] for ids in tokens]
