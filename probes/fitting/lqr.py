"""`lqr.gain`: feedback gains from the Jacobians of the blocks (A-LQR, Skifstad, Yang and Chou, 2604.19018).

Let s_k be the stream after block k and its edit u_k, as a deviation from where it should be. To first order

    s_k = A_k s_{k-1} + u_k            A_k = mean Jacobian of block k at the last token;   B = I
    minimise sum_k  q ||s_k||^2 + r ||u_k||^2

over the layers that are steered, first to last. The cost-to-go s' P_k s obeys, backwards from P_last = q I,

    P_k = q I + A_{k+1}' (P_{k+1} - P_{k+1} (r I + P_{k+1})^-1 P_{k+1}) A_{k+1}
    u_k = -K_k A_k s_{k-1},   K_k = (r I + P_k)^-1 P_k

A controller of ours reads the stream *after* block k, before its own edit: that is z_k = A_k s_{k-1}, so K_k, symmetric
and with eigenvalues in (0, 1), is the gain on what it reads. Textbooks print K_k A_k, the gain on s_{k-1}. Only q / r
matters. The gain stored is g_k = K_k v_k, v_k the unit difference of class means: the error read along v_k, answered
along g_k. Between layers that are not neighbours the Jacobians of the blocks between are multiplied.

Jacobians are exact derivatives, not differences, in one decoding step per batch of rows: the text but its last token
goes into the cache once; then that token is fed to `rows` copies, each block starting from a leaf of the graph, and row
i of one backward pass per block is row i of its Jacobian. The rest of the text is held fixed. State-space models change
their cache in place, which cannot be derived, so they read the whole text in every such pass.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from probes.errors import FitError
from probes.fitting.samples import Toward, Wide, narrowed, source_and_target, unit
from probes.harvest.shards import Floats
from steering.architectures import residual_blocks, state_kind
from steering.hooks import check_layer
from steering.models import LanguageModel
from steering.stepping import cache_name

MAX_TOKENS = 64
ROWS = 96
"""Copies of a text in one step: bounds the memory, the cache of that many rows, and not the result."""


def fit_lqr(
    means: Mapping[int, Mapping[str, Floats]],
    jacobians: Mapping[int, Wide],
    *,
    toward: Toward,
    q: float = 1.0,
    r: float = 1.0,
) -> dict[int, dict[str, Floats]]:
    """Per layer {"lqr.gain": (hidden_size,)}, for the layers of `means`, all of them steered.

    `means` holds what `fit_means` leaves of each layer, `jacobians` what `mean_block_jacobians` leaves of each block.
    Raises FitError for equal class means, a block without Jacobian, q < 0 or r <= 0.
    """
    layers = sorted(means)
    between = range(layers[0] + 1, layers[-1] + 1)
    missing = [block for block in between if block not in jacobians]
    if missing:
        raise FitError(f"the Jacobians of blocks {missing} are missing; take them for layers {layers}")
    directions = [_direction(means[layer], toward, layer) for layer in layers]
    chain = [
        reduce(lambda inner, outer: outer @ inner, (jacobians[block] for block in range(at + 1, to + 1)))
        for at, to in pairwise(layers)
    ]
    gains = riccati_gains(chain, q=q, r=r, hidden_size=len(directions[0]))
    return {
        layer: narrowed({"lqr.gain": gain @ direction})
        for layer, gain, direction in zip(layers, gains, directions, strict=True)
    }


def riccati_gains(jacobians: Sequence[Wide], *, q: float, r: float, hidden_size: int) -> list[Wide]:
    """K_k of every steered layer, first to last: one (hidden_size, hidden_size) more than there are `jacobians`.

    `jacobians[i]` carries the stream from the i-th steered layer to the next, (hidden_size, hidden_size) each. The last
    gain is q / (q + r) I: after it nothing follows. Raises FitError for q < 0, r <= 0, or gains that are not finite.
    """
    if not (q >= 0.0 and r > 0.0):
        raise FitError(f"q is {q} and r is {r}; the cost of state must not be negative, that of effort be positive")
    eye = np.eye(hidden_size)
    gains = [eye * (q / (q + r))]
    for jacobian in reversed(jacobians):
        with np.errstate(over="ignore", invalid="ignore"):
            cost = q * eye + r * jacobian.T @ gains[-1] @ jacobian  # as P - P (r I + P)^-1 P = r (r I + P)^-1 P
        cost = (cost + cost.T) / 2
        if not np.isfinite(cost).all():
            raise FitError("the Jacobians grow beyond all bounds; take fewer layers, or leave out the one that does it")
        gains.append(np.linalg.solve(r * eye + cost, cost).astype(np.float64))
    return gains[::-1]


def mean_block_jacobians(
    language_model: LanguageModel,
    texts: Sequence[str],
    layers: Sequence[int],
    *,
    max_tokens: int = MAX_TOKENS,
    rows: int = ROWS,
    advance: Callable[[int], None] = lambda texts: None,
) -> dict[int, Wide]:
    """d resid_out / d resid_in at the last token, averaged over `texts`, of each block after the first of `layers`.

    Keys are the blocks from min(layers) + 1 to max(layers), values (hidden_size, hidden_size) float64. Longer texts
    keep their first `max_tokens` tokens; `advance` is told of every text done. Attention models are quick; a recurrent
    or hybrid one reads the text anew for every batch of rows. Raises InvalidRequest for a layer the model lacks,
    FitError for no texts, a text of one token, a model that is not float32, or derivatives that are not finite.
    """
    model = language_model.model
    blocks = residual_blocks(model)
    for layer in layers:
        check_layer(layer, num_hidden_layers=len(blocks))
    if language_model.dtype != torch.float32:
        raise FitError(f"the model is loaded in {language_model.dtype}, too coarse for derivatives; load it in float32")
    if not texts:
        raise FitError("no texts were given to take Jacobians on; some tens are enough")
    width = language_model.info.hidden_size
    wanted = {block: blocks[block] for block in range(min(layers) + 1, max(layers) + 1)}
    sums = {block: np.zeros((width, width)) for block in wanted}
    for number, text in enumerate(texts):
        ids = language_model.tokenizer(text, verbose=False)["input_ids"][:max_tokens]
        if len(ids) < 2:
            raise FitError(f"text {number} has {len(ids)} tokens; a Jacobian needs a last token and one before it")
        tokens = torch.tensor([ids], device=language_model.device)
        with torch.no_grad():
            prefix = _prefix(model, tokens[:, :-1])
            for start in range(0, width, rows):
                with _differentiated(wanted, sums, start):
                    _read_last(model, tokens.expand(min(rows, width - start), -1), prefix)
        advance(1)
    means = {block: total / len(texts) for block, total in sums.items()}
    broken = [block for block, mean in means.items() if not np.isfinite(mean).all()]
    if broken:
        raise FitError(f"the Jacobians of blocks {broken} are not finite; leave these layers or the texts out")
    return means


def _prefix(model: Any, tokens: Tensor) -> DynamicCache | None:
    """A cache that has read `tokens` (1, seq); None for a model that overwrites its state, which cannot be derived."""
    if state_kind(model) != "attention":
        return None
    cache = DynamicCache(config=model.config)
    model(**{"input_ids": tokens, cache_name(model): cache}, use_cache=True)
    return cache


def _read_last(model: Any, tokens: Tensor, prefix: DynamicCache | None) -> None:
    """One pass over equal `tokens` (rows, seq): of the last alone after `prefix`, or of all where there is none."""
    if prefix is None:
        model(input_ids=tokens, use_cache=False)
        return
    cache = copy.deepcopy(prefix)
    cache.batch_repeat_interleave(len(tokens))
    model(**{"input_ids": tokens[:, -1:], cache_name(model): cache}, use_cache=True)


@contextmanager
def _differentiated(blocks: Mapping[int, nn.Module], sums: Mapping[int, Wide], start: int) -> Iterator[None]:
    """Add rows `start`, `start + 1`, ... of each block's Jacobian to `sums`, one row per row of the next pass."""
    with ExitStack() as undo:
        for block, module in blocks.items():
            leaves: list[Tensor] = []
            before, after = _enter(leaves), _leave(leaves, sums[block], start)
            undo.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            undo.callback(module.register_forward_hook(after).remove)
        yield


def _enter(leaves: list[Tensor]) -> Callable[..., Any]:
    """Turn the block's input into a leaf and differentiation on."""

    def hook(module: nn.Module, args: Any, kwargs: Any) -> Any:
        resid = args[0] if args else kwargs["hidden_states"]
        leaves.append(resid.detach().requires_grad_())
        torch.set_grad_enabled(True)
        return ((leaves[-1], *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": leaves[-1]})

    return hook


def _leave(leaves: list[Tensor], total: Wide, start: int) -> Callable[..., None]:
    """Take the derivatives and turn differentiation off; the block's output is handed on as it is."""

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        resid = output[0] if isinstance(output, tuple) else output
        leaf = leaves.pop()
        count = len(resid)
        (rows,) = torch.autograd.grad(resid[:, -1, start : start + count].diagonal().sum(), leaf)
        torch.set_grad_enabled(False)
        total[start : start + count] += rows[:, -1].double().cpu().numpy()

    return hook


def _direction(means: Mapping[str, Floats], toward: Toward, layer: int) -> Wide:
    """v: (hidden_size,), of unit length."""
    away, on = source_and_target(means["mean.negative"][None], means["mean.positive"][None], toward)
    return unit((on - away)[0], what=f"the difference of class means at layer {layer}")
