"""lm-evaluation-harness, by its own `local-completions`, in a process of its own; where it is not installed, skipped.

`benchmarks/harness.py` holds it against the harness's own model on whole tasks.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from steering import LanguageModel

NEEDED = ("lm_eval", "aiohttp", "tenacity")
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in NEEDED),
    reason="lm-evaluation-harness is not installed (pip install 'lm-eval[api]'); it is too heavy for the extra `dev`",
)

ASK = """
import json, sys
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

url, tokenizer = sys.argv[1:]
lm = LocalCompletionsAPI(
    model="tiny-llama", tokenizer=tokenizer, tokenizer_backend="huggingface",
    base_url=url + "/v1/completions", batch_size=2, num_concurrent=2,
)
pairs = [("It was", " dark"), ("It was", " light"), ("The sea", " is wide")]
scored = lm.loglikelihood([Instance("loglikelihood", {}, pair, at) for at, pair in enumerate(pairs)])
until = ("Once upon", {"until": ["e"], "max_gen_toks": 8, "temperature": 0})
(text,) = lm.generate_until([Instance("generate_until", {}, until, 0)])
print(json.dumps({"scored": scored, "text": text}))
"""
PAIRS = [("It was", " dark"), ("It was", " light"), ("The sea", " is wide")]


def test_the_harness_scores_and_generates_as_the_model_does(
    client: httpx.Client, lm: LanguageModel, tmp_path: Path
) -> None:
    lm.tokenizer.save_pretrained(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(client.base_url), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    for (loglikelihood, greedy), (context, end) in zip(said["scored"], PAIRS, strict=True):
        ids, own = (lm.tokenizer(text)["input_ids"] for text in (context + end, end))
        with torch.inference_mode():
            logits = lm.model(torch.tensor([ids])).logits[0].double().numpy()
        behind = log_softmax(logits, axis=-1)[-len(own) - 1 : -1]
        np.testing.assert_allclose(loglikelihood, behind[np.arange(len(own)), own].sum(), rtol=0, atol=1e-3)
        assert greedy == (behind.argmax(axis=-1) == own).all()
    ask = {"prompt": "Once upon", "max_tokens": 8, "temperature": 0, "stop": ["e"]}
    assert said["text"] == client.post("/v1/completions", json=ask).json()["choices"][0]["text"]
