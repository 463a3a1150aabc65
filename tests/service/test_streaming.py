"""A stream is the same answer, told while it is being written."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from steering import LanguageModel

from .streams import ROUTES, alike, events, held_at, put_together

HELD = {"constraints": [{"probe": "toxicity@1", "upper": 0.02}]}
JOINT = {"constraints": [{"probe": "toxicity@1", "upper": 0.3, "prompt": "all"}, {"probe": "sentiment", "lower": 0.6}]}
ASKS: dict[str, dict[str, Any]] = {
    "plain": {"temperature": 0},
    "sampled twice": {"n": 2, "temperature": 1.3, "top_p": 0.9},
    "steered beside its twin": {"steering": HELD | {"baseline": True}},
    "every token's probabilities": {"steering": HELD | {"report": "tokens", "baseline": True}, "n": 2},
    "joint and the prompt's too": {"steering": JOINT | {"report": "tokens"}},
    "monitored": {"steering": HELD | {"mode": "monitor", "report": "tokens"}},
    "off": {"steering": HELD | {"mode": "off", "report": "tokens"}},
    "no report": {"steering": HELD | {"report": "none"}},
    "stop strings": {"n": 4, "stop": ["a", "e", "th", "1"], "temperature": 2.0},
    "one token": {"max_tokens": 1, "steering": HELD | {"report": "tokens"}},
}
LIKELY: dict[str, dict[str, Any]] = {
    "/generate": {"logprobs": 2},
    "/v1/completions": {"logprobs": 2},
    "/v1/chat/completions": {"logprobs": True, "top_logprobs": 2},
}


def same(client: httpx.Client, route: str, ask: dict[str, Any]) -> list[Any]:
    """Assert that a stream tells what the answer in one piece does, and return its documents."""
    body = ROUTES[route] | {"max_tokens": 16, "seed": 5} | ask
    documents = list(events(client, route, body | {"stream_options": {"include_usage": True}}))
    whole = client.post(route, json=body).json()
    *chunks, last = documents
    assert all(chunk["usage"] is None and len(chunk["choices"]) == 1 for chunk in chunks)
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert len({(document["id"], document["model"]) for document in documents}) == 1
    for got, want in zip(put_together(chunks), whole["choices"], strict=True):
        message = want.pop("message", {})
        told = want.get("steering")
        assert got.pop("role") == message.get("role")
        assert alike(got.pop("scores"), None if told is None else told.pop("tokens", None))
        assert len(got.pop("token_ids")) == len(want.pop("token_ids", ())) or route != "/generate"
        assert alike(got, {"text": message.get("content")} | want)
    return chunks


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("ask", ASKS)
def test_the_chunks_of_a_stream_are_the_answer_in_one_piece(client: httpx.Client, route: str, ask: str) -> None:
    chunks = same(client, route, LIKELY[route] | ASKS[ask])
    for chunk in chunks:
        (choice,) = chunk["choices"]
        assert len(choice["token_ids"]) == (1 if choice["finish_reason"] is None else 0)


@pytest.mark.parametrize(
    "ask",
    [
        {},
        {"logprobs": 3},
        {"logprobs": 0, "max_tokens": 0},
        {"logprobs": 1, "max_tokens": 0, "steering": JOINT | {"report": "tokens", "baseline": True}},
        {"logprobs": 1, "prompt": ["abc", "the sea"], "n": 2, "stop": ["e"], "temperature": 2.0},
        {"logprobs": 1, "prompt": [257, 226, 130, 172]},
    ],
    ids=str,
)
def test_an_echo_is_streamed_with_its_log_probabilities(client: httpx.Client, ask: dict[str, Any]) -> None:
    same(client, "/v1/completions", {"echo": True} | ask)


@pytest.fixture
def scripted(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`scripted(text)`: every row is made to write this text, byte by byte, and then the end."""

    def script(text: str) -> None:
        ids = [*lm.tokenizer(text)["input_ids"], lm.tokenizer.eos_token_id]
        drawn: dict[Any, int] = {}

        def choose(choosers: list[Any], logits: Any) -> list[int]:
            for chooser in choosers:
                drawn[chooser] = drawn.get(chooser, -1) + 1
            return [ids[drawn[chooser]] for chooser in choosers]

        monkeypatch.setattr("steering.engine.batch.choose", choose)

    return script


def texts(documents: list[Any]) -> list[str]:
    """What each chunk brought."""
    return [chunk["text"] for document in documents for chunk in document["choices"]]


def test_a_character_of_several_tokens_is_told_whole(client: httpx.Client, scripted: Any) -> None:
    scripted("a€🌧b")
    told = texts(list(events(client, "/generate", {"prompt": "x", "max_tokens": 20})))
    assert told == ["a", "", "", "€", "", "", "", "🌧", "b", "", ""]


def test_what_may_become_a_stop_string_is_held_back(client: httpx.Client, scripted: Any) -> None:
    scripted("one STXx STOP two")
    for route in ("/generate", "/v1/completions"):
        ask = ROUTES[route] | {"max_tokens": 30, "stop": "STOP", "logprobs": 0}
        documents = list(events(client, route, ask))
        assert texts(documents) == ["o", "n", "e", " ", "", "", "STX", "x", " ", "", "", "", "", ""]
        assert documents[-1]["choices"][0]["finish_reason"] == "stop"
        same(client, route, ask)


@pytest.mark.parametrize("route", ROUTES)
def test_a_token_is_told_before_the_next_is_written(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    """The model does not go on before its first three tokens have arrived here."""
    with held_at(monkeypatch, 2) as go:
        stream = events(client, route, ROUTES[route] | {"max_tokens": 8, "logit_bias": {"258": -100}})
        early = [next(stream) for _ in range(3)]
        assert not go.is_set()
        go.set()
        assert len([*early, *stream]) == 9


def test_a_probability_is_told_with_the_token_its_state_wrote(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = {"prompt": "It was dark", "max_tokens": 6, "steering": HELD | {"report": "tokens"}, "seed": 3}
    with held_at(monkeypatch, 2):
        stream = events(client, "/generate", ask | {"logit_bias": {"258": -100}})
        early = [next(stream)["choices"][0]["steering"]["tokens"] for _ in range(3)]
    assert [[score["offset"] for score in told] for told in early] == [[-1], [0], [1]]
    for told in early:
        before, after = told[0]["probes"]["toxicity@1"]
        assert after <= 0.02 + 1e-6
        assert 0 <= before <= 1
    for _ in stream:
        pass
