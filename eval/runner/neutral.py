"""What an arm costs on text that gives no reason to steer: the divergence of the next-token distribution.

    KL(unsteered || steered) = sum_v p(v) (log p(v) - log q(v)),  in nats

The model reads an excerpt as it stands (teacher forcing). Its first `lead` tokens pass as a prompt and the rest as
written by the model, so that exactly the tokens are steered that would be in practice; the figure is the mean over the
predictions that follow a steered token. An instruction in the prompt is not measured: it changes what is read.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from eval.runner.arms import RunArm
from eval.runner.errors import SpecError
from eval.runner.lines import read_lines
from eval.runner.reading import ReadSpec
from steering import LanguageModel, Plan, Probe
from steering.hooks import steer
from steering.rows import RowSteering
from steering.stepping import prefill_inputs

NEUTRAL = pa.schema([("arm", pa.string()), ("text", pa.int32()), ("kl", pa.float64())])
"""Of `neutral.parquet`; `text` is the number of the excerpt."""


@dataclass(frozen=True)
class Excerpt:
    """A piece of neutral text."""

    number: int
    ids: tuple[int, ...]
    """All excerpts have the same number of tokens."""


def read_excerpts(read: ReadSpec, lm: LanguageModel) -> list[Excerpt]:
    """The excerpts of a spec: the beginnings of lines that are long enough, those whose hash is smallest.

    Raises SpecError when there are fewer than n, or no such file or column.
    """
    wanted = read.spec.neutral
    if wanted is None:
        return []
    lines = {" ".join(line.split()) for text in _texts(read) for line in text.split("\n")}
    ranked = sorted(lines - {""}, key=lambda line: hashlib.sha256(f"{wanted.seed}:{line}".encode()).digest())
    found: list[Excerpt] = []
    for line in ranked:
        ids = tuple(lm.tokenizer(line)["input_ids"][: wanted.tokens])
        if len(ids) == wanted.tokens:
            found.append(Excerpt(len(found), ids))
        if len(found) == wanted.n:
            return found
    raise SpecError(
        f"the neutral texts hold {len(found)} lines of at least {wanted.tokens} tokens, and n is {wanted.n}; lower one "
        "of the two",
        param="neutral",
    )


@torch.inference_mode()
def divergences(
    lm: LanguageModel, probes: Mapping[str, Probe], arms: Sequence[RunArm], excerpts: Sequence[Excerpt], *, lead: int
) -> dict[str, list[object]]:
    """Columns of NEUTRAL: every steered arm on every excerpt. A placebo's directions are drawn per excerpt."""
    plain = _log_probabilities(lm, excerpts, [None] * len(excerpts), lead=lead)
    columns: dict[str, list[object]] = {"arm": [], "text": [], "kl": []}
    for arm in arms:
        plans = [arm.plan(probes, seed=excerpt.number) for excerpt in excerpts]
        gap = plain - _log_probabilities(lm, excerpts, plans, lead=lead)
        found = gap.mul_(plain.exp()).sum(dim=-1, dtype=torch.float64).clamp_min(0.0).mean(dim=-1)
        columns["arm"] += [arm.name] * len(excerpts)
        columns["text"] += [excerpt.number for excerpt in excerpts]
        columns["kl"] += found.tolist()
    return columns


def _log_probabilities(
    lm: LanguageModel, excerpts: Sequence[Excerpt], plans: Sequence[Plan | None], *, lead: int
) -> Tensor:
    """(excerpts, predictions, vocab) float32."""
    ids = torch.tensor([excerpt.ids for excerpt in excerpts])
    rows, length = ids.shape
    keep = length - lead + 1
    steering = RowSteering(
        plans,
        hidden_size=lm.info.hidden_size,
        device=lm.device,
        dtype=lm.dtype,
        prompt_tokens=[lead] * rows,
    )
    steering.begin(torch.arange(-lead, length - lead).expand(rows, length))
    inputs = prefill_inputs(lm.model, ids.to(lm.device), torch.ones_like(ids).to(lm.device))
    has = "logits_to_keep" in inspect.signature(lm.model.forward).parameters
    extra: dict[str, Any] = {"logits_to_keep": keep} if has else {}
    with steer(lm.model, steering.controllers()):
        logits = lm.model(**inputs, use_cache=False, **extra).logits
        steering.collect()
    found: Tensor = logits[:, -keep:].float().log_softmax(dim=-1)
    return found


def _texts(read: ReadSpec) -> Iterator[str]:
    wanted = read.spec.neutral
    assert wanted is not None
    if wanted.texts is not None:
        yield from wanted.texts
        return
    assert wanted.file is not None
    missing = "; give the folder that holds it with --data"
    for line, row in read_lines(read.path(wanted.file), missing=missing):
        if not isinstance(row.get(wanted.column), str):
            raise SpecError(f"{wanted.file}, line {line}: no text in column '{wanted.column}'", param="neutral")
        yield row[wanted.column]
