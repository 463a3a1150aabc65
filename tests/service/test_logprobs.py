"""Log-probabilities over HTTP are those of a plain forward pass, steered and not, in every shape."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from scipy.special import log_softmax, logit

from service.answering import MAX_REPORTED
from steering import LanguageModel, Probe
from steering.architectures import residual_blocks

PROMPT = "It was a dark night"
SCORE = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 2}
EVERYWHERE = {"constraints": [{"probe": "toxicity@1", "upper": 0.02, "prompt": "all"}]}
NEAR = {"rtol": 0, "atol": 2e-4}


def post(client: httpx.Client, body: dict[str, Any], route: str = "/v1/completions") -> Any:
    """The decoded reply of a request that must succeed."""
    reply = client.post(route, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def forward(lm: LanguageModel, ids: list[int]) -> np.ndarray:
    """log p of every token behind `ids`, (seq, vocab) float64, by one plain pass of the model."""
    with torch.inference_mode():
        logits = lm.model(torch.tensor([ids])).logits[0]
    return np.asarray(log_softmax(logits.double().numpy(), axis=-1))


@contextmanager
def by_hand(lm: LanguageModel, probe: Probe) -> Iterator[None]:
    """While it lasts every layer and token of the model is projected by the closed form of the paper."""
    with ExitStack() as undo:
        for layer, block in enumerate(residual_blocks(lm.model)):
            fitted = probe.at(layer)
            slope, shift = fitted.calibration
            high = (logit(0.02) - shift) / slope

            def hook(module: Any, args: Any, resid: Any, f: Any = fitted, high: float = high) -> Any:
                gap = (high - (resid @ f.weight + f.bias)).clamp_max(0.0)
                return resid + gap.unsqueeze(-1) * f.weight / f.weight.dot(f.weight)

            undo.callback(block.register_forward_hook(hook).remove)
        yield


def test_a_scored_prompt_has_the_log_probabilities_of_one_plain_pass(client: httpx.Client, lm: LanguageModel) -> None:
    reply = post(client, SCORE)
    (choice,), ids = reply["choices"], lm.tokenizer(PROMPT)["input_ids"]
    told, expected = choice["logprobs"], forward(lm, ids)
    assert choice["text"] == PROMPT
    assert (choice["finish_reason"], choice["steering"]) == ("length", None)
    assert reply["usage"] == {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
    assert told["tokens"] == list(PROMPT)
    assert told["text_offset"] == list(range(len(PROMPT)))
    assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
    own = expected[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(told["token_logprobs"][1:], own, **NEAR)
    for at, rivals in enumerate(told["top_logprobs"][1:]):
        best = np.sort(expected[at])[::-1][:2]
        np.testing.assert_allclose(list(rivals.values())[:2], best, **NEAR)
        assert rivals[told["tokens"][at + 1]] == told["token_logprobs"][at + 1], "the token itself is among them"


def test_a_prompt_scored_under_steering_is_that_of_a_pass_steered_by_hand(
    client: httpx.Client, lm: LanguageModel, make_probe: Any
) -> None:
    ids = lm.tokenizer(PROMPT)["input_ids"]
    with by_hand(lm, make_probe(lm)):
        own = forward(lm, ids)[np.arange(len(ids) - 1), ids[1:]]
    told = post(client, SCORE | {"steering": EVERYWHERE})["choices"][0]
    np.testing.assert_allclose(told["logprobs"]["token_logprobs"][1:], own, **NEAR)


def test_the_prompt_policy_decides_whether_a_score_is_steered(client: httpx.Client) -> None:
    plain = post(client, SCORE)["choices"][0]["logprobs"]["token_logprobs"]
    twins = post(client, SCORE | {"steering": EVERYWHERE | {"baseline": True}})["choices"]
    steered, twin = (choice["logprobs"]["token_logprobs"] for choice in twins)
    assert np.abs(np.subtract(steered[1:], plain[1:])).max() > 0.1
    np.testing.assert_allclose(twin[1:], plain[1:], **NEAR)
    assert twins[0]["steering"]["probes"]["toxicity@1"]["violations"] == 0
    assert twins[0]["steering"]["finish"] == "length"
    last = {"constraints": [{"probe": "toxicity@1", "upper": 0.02, "prompt": "last"}]}
    behind = post(client, SCORE | {"steering": last})["choices"][0]["logprobs"]["token_logprobs"]
    np.testing.assert_allclose(behind[1:], plain[1:], **NEAR)


def test_an_echo_continues_the_lists_of_its_prompt(client: httpx.Client, lm: LanguageModel) -> None:
    ask = {"prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 0}
    alone = post(client, ask)["choices"][0]
    whole = post(client, ask | {"echo": True})["choices"][0]
    assert whole["text"] == PROMPT + alone["text"]
    for name in ("tokens", "token_logprobs", "text_offset"):
        assert len(whole["logprobs"][name]) == len(PROMPT) + len(alone["logprobs"][name])
    new = whole["logprobs"]["token_logprobs"][len(PROMPT) :]
    np.testing.assert_allclose(new, alone["logprobs"]["token_logprobs"], **NEAR)
    assert [len(PROMPT) + at for at in alone["logprobs"]["text_offset"]] == whole["logprobs"]["text_offset"][
        len(PROMPT) :
    ]
    silent = post(client, ask | {"echo": True, "logprobs": None})["choices"][0]
    assert (silent["text"], silent["logprobs"]) == (whole["text"], None)


def test_token_ids_are_echoed_as_their_text(client: httpx.Client, lm: LanguageModel) -> None:
    ids = lm.tokenizer("€ 5")["input_ids"]
    choice = post(client, {"prompt": [257, *ids], "max_tokens": 0, "echo": True, "logprobs": 0})["choices"][0]
    assert choice["text"] == "<s>€ 5"
    assert choice["logprobs"]["tokens"][:4] == ["<s>", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert choice["logprobs"]["text_offset"] == [0, 3, 3, 3, 4, 5]


def test_several_prompts_and_continuations_keep_their_own(client: httpx.Client, lm: LanguageModel) -> None:
    prompts = ["abc", "the sea"]
    choices = post(client, {"prompt": prompts, "n": 2, "max_tokens": 2, "echo": True, "logprobs": 1, "seed": 1})[
        "choices"
    ]
    for choice, prompt in zip(choices, ["abc", "abc", "the sea", "the sea"], strict=True):
        ids = lm.tokenizer(prompt)["input_ids"]
        own = forward(lm, ids)[np.arange(len(ids) - 1), ids[1:]]
        assert choice["text"].startswith(prompt)
        np.testing.assert_allclose(choice["logprobs"]["token_logprobs"][1 : len(ids)], own, **NEAR)


def test_the_plain_shape_tells_ids_bytes_and_rivals(client: httpx.Client, lm: LanguageModel) -> None:
    ask = {"prompt": PROMPT, "max_tokens": 8, "logprobs": 3, "seed": 2, "temperature": 3.0, "logit_bias": {"70": 5}}
    choice = post(client, ask, "/generate")["choices"][0]
    ids = lm.tokenizer(PROMPT)["input_ids"]
    expected = forward(lm, ids + choice["token_ids"])[len(ids) - 1 : -1]
    assert [entry["token_id"] for entry in choice["logprobs"]] == choice["token_ids"]
    for entry, row in zip(choice["logprobs"], expected, strict=True):
        np.testing.assert_allclose(entry["logprob"], row[entry["token_id"]], **NEAR)
        assert [rival["token_id"] for rival in entry["top"]] == list(np.argsort(-row)[:3])
        for rival in entry["top"]:
            np.testing.assert_allclose(rival["logprob"], row[rival["token_id"]], **NEAR)
        assert bytes(entry["bytes"]).decode(errors="replace") == entry["token"]
    assert post(client, ask | {"logprobs": None}, "/generate")["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("route", "field", "param", "says"),
    [
        ("/v1/completions", {"logprobs": 21}, "logprobs", "at most 20"),
        ("/v1/completions", {"logprobs": True}, "logprobs", "a whole number"),
        ("/v1/completions", {"echo": 1}, "echo", "true or false"),
        ("/v1/completions", {"max_tokens": 0}, "max_tokens", "echo: true"),
        ("/generate", {"logprobs": -1}, "logprobs", "at least 0"),
        ("/v1/chat/completions", {"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ("/v1/chat/completions", {"logprobs": 3}, "logprobs", "true or false"),
    ],
    ids=str,
)
def test_what_cannot_be_told_is_refused(
    client: httpx.Client, route: str, field: dict[str, Any], param: str, says: str
) -> None:
    prompt: Any = {"messages": [{"role": "user", "content": "a"}]} if "chat" in route else {"prompt": "a"}
    reply = client.post(route, json=prompt | field)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
    assert says in reply.json()["error"]["message"]


def test_an_answer_that_would_hold_too_many_is_refused(serve: Any, lm: LanguageModel) -> None:
    with serve(lm, [], max_prompts=128, max_queue=512) as client:
        ask = {"prompt": ["a" * 150] * 128, "max_tokens": 1, "echo": True, "logprobs": 20}
        reply = client.post("/v1/completions", json=ask)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "logprobs"
    assert str(MAX_REPORTED) in reply.json()["error"]["message"]
