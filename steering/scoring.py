"""What a probe reads of a given text, at every layer and token, before and after a plan's edits. Nothing is generated.

A text is a prompt and a completion, and its tokens have the offsets of `steering.plan`: -1 is the last prompt token, 0
the first of the completion. Steered, it is read exactly as the model would have read it while writing it, so a token's
values are those that generation reports for it. `before` a layer's edit the stream carries the edits of earlier layers.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from steering.architectures import state_kind
from steering.controllers.state_offset import held
from steering.errors import InvalidRequest
from steering.hooks import Controller, steer
from steering.models import LanguageModel
from steering.plan import Plan
from steering.probe import Probe
from steering.report import SteeringReport
from steering.rows import RowSteering
from steering.stepping import cache_name


@dataclass(frozen=True, eq=False)
class Scores:
    """One text as one probe sees it."""

    offsets: list[int]
    """Of each token, rising"""
    layers: list[int]
    """All layers of the probe, rising"""
    before: Tensor
    """(tokens, layers) float64: calibrated P(concept) ahead of each layer's edit; NaN where nothing was calibrated"""
    after: Tensor
    """The same of what was stored; equal to `before` where nothing acts"""
    steering: SteeringReport | None
    """What the plan did on the way; None without a plan"""


class Scoring:
    """A text on its way through the model, `chunk_tokens` at a time. Whoever calls `step` owns the model meanwhile.

    A plan on recurrent states reads the completion token by token, as generation does; models with recurrent layers
    read all else in one pass, since not all of them go on from a state with several tokens at once.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompt: Sequence[int],
        completion: Sequence[int] = (),
        *,
        probe: Probe,
        plan: Plan | None = None,
        chunk_tokens: int = 128,
    ) -> None:
        """Raises InvalidRequest without a prompt, and what `Plan.check_model` and `check_representable` raise."""
        if not prompt:
            raise InvalidRequest("the prompt holds no token ids; give the text to score", param="prompt")
        if plan is not None:
            plan.check_representable(lm.dtype)
            plan.check_model(lm.model)
        self._lm = lm
        self._tokens = [*prompt, *completion]
        self._prompt_tokens = len(prompt)
        self._probe = probe
        self._plan = plan
        self._chunk = chunk_tokens if state_kind(lm.model) == "attention" else len(self._tokens)
        self._stepwise = plan is not None and any(constraint.offset is not None for constraint in plan.constraints)
        keeps = "logits_to_keep" in inspect.signature(lm.model.forward).parameters
        self._extra: dict[str, Any] = {"logits_to_keep": 1} if keeps else {}
        self._read = 0
        self._cache: DynamicCache | None = None
        self._steering: RowSteering | None = None
        self._before: dict[int, list[Tensor]] = {layer: [] for layer in probe.layers}
        self._after: dict[int, list[Tensor]] = {layer: [] for layer in probe.layers}

    def step(self) -> bool:
        """Read the next tokens in one forward pass; False when that was the last. Leaves no hook on the model.

        Raises SteeringNotApplied when the plan's edits did not happen.
        """
        with torch.inference_mode():
            if self._cache is None:
                self._begin()
            self._pass(self._tokens[self._read : self._read + self._next()])
        return self._read < len(self._tokens)

    @torch.inference_mode()
    def result(self) -> Scores:
        """What was read, once `step` has said False."""
        assert self._read == len(self._tokens), "step comes first, until it says False"
        layers = sorted(self._probe.layers)
        report = None if self._steering is None else self._steering.report(0)
        return Scores(
            offsets=list(range(-self._prompt_tokens, len(self._tokens) - self._prompt_tokens)),
            layers=layers,
            before=self._probabilities(self._before, layers),
            after=self._probabilities(self._after, layers),
            steering=report,
        )

    def _begin(self) -> None:
        lm = self._lm
        self._cache = DynamicCache(config=lm.model.config)
        if self._plan is not None:
            self._steering = RowSteering(
                [self._plan],
                hidden_size=lm.info.hidden_size,
                device=lm.device,
                dtype=lm.dtype,
                prompt_tokens=[self._prompt_tokens],
            )

    def _next(self) -> int:
        """How many tokens the next pass reads."""
        if self._stepwise and self._read >= self._prompt_tokens:
            return 1
        most = self._prompt_tokens if self._stepwise else len(self._tokens)
        return min(self._chunk, most - self._read)

    def _pass(self, tokens: list[int]) -> None:
        model, steering, cache = self._lm.model, self._steering, self._cache
        assert cache is not None
        first = self._read - self._prompt_tokens
        controllers = {}
        if steering is not None:
            steering.begin(torch.arange(first, first + len(tokens)).unsqueeze(0))
            controllers = steering.controllers()
        edits = steering.state_edits() if steering is not None and first >= 0 else []
        inputs: dict[str, Any] = {"input_ids": torch.tensor([tokens], device=self._lm.device), cache_name(model): cache}
        with (
            steer(model, self._readers(self._before)),
            steer(model, controllers),
            steer(model, self._readers(self._after)),
            held(model, cache, edits),
        ):
            model(**inputs, use_cache=True, **self._extra)
        if steering is not None:
            steering.collect()
        self._read += len(tokens)

    def _readers(self, into: dict[int, list[Tensor]]) -> dict[int, Controller]:
        """Controllers that change nothing and keep the logits, (tokens,) each."""

        def reader(layer: int) -> Controller:
            fitted = self._probe.at(layer)

            def read(resid: Tensor) -> Tensor:
                into[layer].append(fitted.logit(resid)[0].cpu())
                return resid

            return read

        return {layer: reader(layer) for layer in into}

    def _probabilities(self, logits: dict[int, list[Tensor]], layers: list[int]) -> Tensor:
        if not self._probe.manifest.calibrated:
            return torch.full((len(self._tokens), len(layers)), torch.nan, dtype=torch.float64)
        columns = []
        for layer in layers:
            scale, shift = self._probe.at(layer).calibration
            columns.append(torch.sigmoid(scale * torch.cat(logits[layer]).double() + shift))
        return torch.stack(columns, dim=1)


def score(
    lm: LanguageModel, prompt: Sequence[int], completion: Sequence[int] = (), *, probe: Probe, plan: Plan | None = None
) -> Scores:
    """The scores of a text, for whoever owns the model: the engine of a server takes a `Scoring` instead."""
    work = Scoring(lm, prompt, completion, probe=probe, plan=plan)
    while work.step():
        pass
    return work.result()
