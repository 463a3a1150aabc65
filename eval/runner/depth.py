"""What the probes read at every layer while an arm writes: the probability before that layer's step, and after it.

A few of the run's own continuations are read again in one pass under the arm's plan (teacher forcing), which gives the
states they were written in. "Before" is what a layer hands on, already moved by the steps of the layers below it;
"after" is what is stored. At a layer that is not steered the two are one. Means are over the tokens that are steered by
default: the last of the prompt and all that were written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from eval.runner.arms import NONE, RunArm
from steering import LanguageModel, Probe
from steering.hooks import Controller, capture, steer
from steering.requests import encode
from steering.rows import RowSteering
from steering.stepping import prefill_inputs

LAYERS = pa.schema(
    [
        ("arm", pa.string()),
        ("probe", pa.string()),
        ("layer", pa.int32()),
        ("before", pa.float64()),
        ("after", pa.float64()),
        ("tokens", pa.int32()),
    ]
)
"""Of `layers.parquet`."""

TEXTS = 8
"""Continuations read again per arm: enough for a picture, and a matter of seconds."""


@dataclass(frozen=True)
class Written:
    """One continuation to be read again."""

    prompt: str
    token_ids: tuple[int, ...]
    seed: int


def watched(arms: Sequence[RunArm]) -> list[RunArm]:
    """The arms whose states are read again: the unsteered one and all that move the residual stream."""
    return [
        arm
        for arm in arms
        if arm.name == NONE or (arm.steered and all(held.controller != "state-offset" for held in arm.constraints))
    ]


def texts_of(table: pa.Table, prompts: Mapping[tuple[str, str], str]) -> dict[str, list[Written]]:
    """Arm -> the first sample of its first prompts, of those that are not empty."""
    found: dict[str, list[Written]] = {}
    for row in table.select(["arm", "prompt_set", "prompt_id", "sample", "seed", "token_ids"]).to_pylist():
        mine = found.setdefault(row["arm"], [])
        if row["sample"] == 0 and row["token_ids"] and len(mine) < TEXTS:
            text = prompts[row["prompt_set"], row["prompt_id"]]
            mine.append(Written(text, tuple(row["token_ids"]), row["seed"]))
    return found


@torch.inference_mode()
def read_layers(
    lm: LanguageModel, probes: Mapping[str, Probe], arm: RunArm, texts: Sequence[Written]
) -> dict[str, list[object]]:
    """Columns of LAYERS: every calibrated probe of `probes` at each of its layers, under one arm."""
    known = {name: probe for name, probe in probes.items() if probe.manifest.calibrated}
    layers = sorted({layer for probe in known.values() for layer in probe.layers})
    sums = {
        (name, layer): torch.zeros(2, dtype=torch.float64) for name, probe in known.items() for layer in probe.layers
    }
    tokens = 0
    for text in texts:
        before, after, start = _states(lm, probes, arm, text, layers)
        tokens += len(text.token_ids)
        for (name, layer), total in sums.items():
            read_out = known[name].layers[layer]
            for at, stream in enumerate((before, after)):
                total[at] += read_out.probability(stream[layer][start:]).double().sum().cpu()
    keys = sorted(sums)
    return {
        "arm": [arm.name] * len(keys),
        "probe": [name for name, _ in keys],
        "layer": [layer for _, layer in keys],
        "before": [_mean(sums[key][0], tokens) for key in keys],
        "after": [_mean(sums[key][1], tokens) for key in keys],
        "tokens": [tokens] * len(keys),
    }


def _states(
    lm: LanguageModel, probes: Mapping[str, Probe], arm: RunArm, text: Written, layers: Sequence[int]
) -> tuple[dict[int, Tensor], dict[int, Tensor], int]:
    """(tokens, hidden_size) by layer before and after the step there, and the first token that counts."""
    head = encode(lm, text.prompt, max_tokens=len(text.token_ids))
    ids = torch.tensor([[*head, *text.token_ids[:-1]]])  # the last one was written, and never read
    lead, length = len(head), ids.shape[1]
    steering = RowSteering(
        [arm.plan(probes, seed=text.seed)],
        hidden_size=lm.info.hidden_size,
        device=lm.device,
        dtype=lm.dtype,
        prompt_tokens=[lead],
    )
    steering.begin(torch.arange(-lead, length - lead).unsqueeze(0))
    inputs = prefill_inputs(lm.model, ids.to(lm.device), torch.ones_like(ids).to(lm.device))
    before: dict[int, Tensor] = {}

    def watch(layer: int, rule: Controller) -> Controller:
        def control(resid: Tensor) -> Tensor:
            before[layer] = resid[0].clone()
            return rule(resid)

        return control

    rules = {layer: watch(layer, rule) for layer, rule in steering.controllers().items()}
    with steer(lm.model, rules), capture(lm.model, layers) as seen:
        lm.model(**inputs, use_cache=False)
        steering.collect()
    after = {layer: seen[layer][0] for layer in layers}
    return after | before, after, lead - 1


def _mean(total: Tensor, tokens: int) -> float:
    return float(total) / tokens if tokens else math.nan
