"""Read: the residuals of chosen tokens at all layers, by one teacher-forced pass over prompt and continuation.

The stream that later blocks and later tokens receive, so under a plan *after* the edit of the same layer: the state the
text went on from. (The state before an edit is followed by what the edit made of it; a read-out fitted on that would
learn that alarms come to nothing.) Right-padded, equal to the states met while generating with a cache up to rounding;
under a plan because its rules act on each token by itself. Offsets on recurrent states are refused.

    folder/index.json, folder/states-00000.npy    (states of the part, layers, hidden_size), whole or absent
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from probes.errors import HarvestError
from probes.harvest.filling import batches
from probes.harvest.shards import Floats
from probes.lookahead.windows import Places
from probes.lookahead.writing import Written, model_key, plan_key, write_json
from steering.errors import UnsupportedSteering
from steering.hooks import capture, steer
from steering.models import LanguageModel
from steering.plan import Plan
from steering.rows import PAD, RowSteering

TEXTS = 256
"""Texts of one file."""
StoreDType = Literal["float32", "float16"]


@dataclass(frozen=True, eq=False)
class States:
    """Residuals of the states at `places`, on disk."""

    places: Places
    folder: Path
    layers: tuple[int, ...]
    parts: int

    def layer(self, layer: int) -> Floats:
        """(states, hidden_size) float32, in the order of `places`."""
        position = self.layers.index(layer)
        found = [
            np.load(self.folder / f"states-{part:05d}.npy", mmap_mode="r", allow_pickle=False)[:, position]
            for part in range(self.parts)
        ]
        return np.concatenate(found).astype(np.float32)


def read_states(
    lm: LanguageModel,
    texts: Sequence[Written],
    places: Places,
    folder: Path,
    layers: tuple[int, ...],
    *,
    plan: Plan | None = None,
    dtype: StoreDType = "float32",
    batch_tokens: int = 2048,
    advance: Callable[[int], None] = lambda texts: None,
) -> States:
    """The states of `places` in `folder`; finished parts are not read again.

    Raises HarvestError for numbers that are not finite in `dtype`, a full disk, or a folder of other inputs.
    """
    if any(constraint.offset is not None for constraint in (plan.constraints if plan else ())):
        raise UnsupportedSteering(
            "states under offsets of a recurrent state cannot be read in one pass; use a controller of the stream",
            param="controller",
        )
    digest = hashlib.sha256(places.tobytes())
    for text in texts:
        digest.update(repr((text.prompt_ids, text.new_ids)).encode())
    index: dict[str, object] = {
        "texts": digest.hexdigest(),
        "model": model_key(lm),
        "plan": plan_key(plan),
        "layers": list(layers),
        "dtype": dtype,
    }
    _prepare(folder, index)
    starts = range(0, len(texts), TEXTS)
    for part, start in enumerate(starts):
        path = folder / f"states-{part:05d}.npy"
        rows = range(start, min(start + TEXTS, len(texts)))
        if not path.exists():
            _save(path, _read_part(lm, texts, places, rows, layers, plan, dtype, batch_tokens))
        advance(len(rows))
    return States(places, folder, layers, len(starts))


def _read_part(
    lm: LanguageModel,
    texts: Sequence[Written],
    places: Places,
    rows: range,
    layers: tuple[int, ...],
    plan: Plan | None,
    dtype: StoreDType,
    batch_tokens: int,
) -> np.ndarray:
    first, last = np.searchsorted(places[:, 0], [rows.start, rows.stop])
    own = places[first:last]
    out = np.empty((len(own), len(layers), lm.info.hidden_size), dtype=dtype)
    ids = [[*texts[row].prompt_ids, *texts[row].new_ids] for row in rows]
    for batch in batches([len(found) for found in ids], batch_tokens=batch_tokens):
        at = {rows[index]: place for place, index in enumerate(batch)}
        mine = np.flatnonzero(np.isin(own[:, 0], list(at)))
        if not len(mine):
            continue
        row = torch.tensor([at[text] for text in own[mine, 0].tolist()])
        column = torch.tensor([len(texts[text].prompt_ids) + offset for text, offset in own[mine].tolist()])
        seen = _forward(
            lm, [ids[index] for index in batch], [len(texts[rows[index]].prompt_ids) for index in batch], layers, plan
        )
        for position, layer in enumerate(layers):
            values = seen[layer][row.to(seen[layer].device), column.to(seen[layer].device)].float().cpu().numpy()
            with np.errstate(over="ignore"):
                out[mine, position] = values
            if not np.isfinite(out[mine, position]).all():
                raise HarvestError(
                    f"the residual stream after layer {layer} is not finite in {dtype} for a generated text; store "
                    "float32, or load the model in a wider dtype (--dtype float32)"
                )
    return out


@torch.inference_mode()
def _forward(
    lm: LanguageModel, rows: list[list[int]], prompts: list[int], layers: tuple[int, ...], plan: Plan | None
) -> dict[int, torch.Tensor]:
    """(rows, longest, hidden_size) per layer, as the next block receives it."""
    width = max(map(len, rows))
    padded = torch.tensor([ids + [lm.tokenizer.pad_token_id] * (width - len(ids)) for ids in rows])
    offsets = torch.tensor(
        [
            [*range(-prompt, len(ids) - prompt), *[PAD] * (width - len(ids))]
            for ids, prompt in zip(rows, prompts, strict=True)
        ]
    )
    steering = RowSteering(
        [plan] * len(rows), hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype, prompt_tokens=prompts
    )
    with steer(lm.model, steering.controllers()), capture(lm.model, layers) as seen:
        steering.begin(offsets)
        lm.model.base_model(input_ids=padded.to(lm.device), use_cache=False)
        steering.collect()
    return dict(seen)


def _prepare(folder: Path, index: dict[str, object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.json"
    if not path.exists():
        write_json(path, index)
    elif json.loads(path.read_text(encoding="utf-8")) != index:
        raise HarvestError(
            f"{folder} holds states of other inputs; give another --work, or delete that folder", param="work"
        )


def _save(path: Path, array: np.ndarray) -> None:
    aside = path.with_name(f".partial-{path.name}")
    try:
        with aside.open("wb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(aside, path)
    except OSError as error:
        raise HarvestError(
            f"{path} cannot be written ({error.strerror or error}); free some space or give another --work",
            param="work",
        ) from error
