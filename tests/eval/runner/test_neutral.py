"""The cost on neutral text is the divergence of the very distributions that are sampled from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr

from eval.runner.errors import SpecError
from eval.runner.folder import RunFolder
from eval.runner.neutral import read_excerpts
from eval.runner.prepare import Prepared
from eval.runner.reading import ReadSpec
from steering import LanguageModel
from steering.hooks import steer
from steering.rows import RowSteering
from steering.stepping import Stepper

NEUTRAL = {
    "texts": ["The tide comes in twice a day\nBread needs flour and water", "Bees dance"],
    "tokens": 12,
    "lead": 5,
    "n": 2,
}
Ready = Callable[..., Prepared]
Run = Callable[[Prepared, Path], dict[str, Any]]


def test_it_is_the_mean_over_cached_steps_of_the_entropy_scipy_finds(
    make_ready: Ready, do_run: Run, lm: LanguageModel, tmp_path: Path
) -> None:
    prepared = make_ready(neutral=NEUTRAL)
    do_run(prepared, tmp_path / "out")
    found = RunFolder(tmp_path / "out").neutral()
    probes = prepared.writer.loaded()  # type: ignore[attr-defined]
    assert list(found) == [arm.name for arm in prepared.arms if arm.steered]
    for arm in prepared.arms[1:]:
        for excerpt, kl in zip(prepared.excerpts, found[arm.name], strict=True):
            steps = [read_step_by_step(lm, excerpt.ids, plan) for plan in (None, arm.plan(probes, seed=excerpt.number))]
            p, q = (log_softmax(logits, axis=-1) for logits in steps)
            expected = rel_entr(np.exp(p), np.exp(q)).sum(axis=-1).mean()
            assert kl == pytest.approx(expected, rel=1e-3, abs=1e-6)
            assert kl > 0


@torch.inference_mode()
def read_step_by_step(lm: LanguageModel, ids: tuple[int, ...], plan: Any) -> np.ndarray:
    """Logits (predictions, vocab) of the excerpt read through the cache, its first five tokens as the prompt."""
    steering = RowSteering([plan], hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype, prompt_tokens=[5])
    stepper, found = Stepper(lm.model), []
    with steer(lm.model, steering.controllers()):
        steering.begin(torch.arange(-5, 0).unsqueeze(0))
        found.append(stepper.prefill(torch.tensor([ids[:5]]), torch.ones(1, 5, dtype=torch.long)))
        for at, token in enumerate(ids[5:]):
            steering.collect()
            steering.begin(torch.tensor([[at]]))
            found.append(stepper.step(torch.tensor([token])))
    return torch.cat(found).double().numpy()


def test_the_report_has_it_and_arms_that_steer_nothing_do_not(make_ready: Ready, do_run: Run, tmp_path: Path) -> None:
    arms = [{"controller": "prompt", "instruction": "write Spanish"}, {"controller": "slab", "upper": 0.2}]
    report = do_run(make_ready(neutral=NEUTRAL, arms=arms), tmp_path / "out")
    assert [arm["kl"]["value"] is not None for arm in report["arms"]] == [False, False, True, True]


def test_excerpts_are_the_beginnings_of_lines_that_are_long_enough(
    read: Callable[..., ReadSpec], lm: LanguageModel, tmp_path: Path
) -> None:
    found = read_excerpts(read(neutral=NEUTRAL), lm)
    assert {lm.tokenizer.decode(excerpt.ids) for excerpt in found} == {"The tide com", "Bread needs "}
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": NEUTRAL["texts"][0]}) + "\n", encoding="utf-8")
    filed = {key: value for key, value in NEUTRAL.items() if key != "texts"} | {"file": "texts.jsonl"}
    assert read_excerpts(read(neutral=filed), lm) == found


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n": 3}, "the neutral texts hold 2 lines of at least 12 tokens, and n is 3"),
        ({"lead": 12}, "neutral: expected lead below tokens"),
        ({"texts": None, "file": "absent.jsonl"}, "there is no file"),
    ],
)
def test_neutral_text_that_will_not_do_is_refused(make_ready: Ready, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refused:
        make_ready(neutral={key: value for key, value in (NEUTRAL | changed).items() if value is not None})
    assert message in str(refused.value)
