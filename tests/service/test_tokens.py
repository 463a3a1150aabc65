"""What a prompt is read as, and what tokens stand for."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from steering import LanguageModel

HELLO = [{"role": "user", "content": "Hello €"}]


def test_a_text_is_tokenized_as_it_is_read_and_back(client: httpx.Client, lm: LanguageModel) -> None:
    text = "Once upon a €"
    reply = client.post("/tokenize", json={"prompt": text}).json()
    assert reply == {"tokens": lm.tokenizer(text)["input_ids"], "count": 15, "max_model_len": 256}
    usage = client.post("/v1/completions", json={"prompt": text, "max_tokens": 1}).json()["usage"]
    assert usage["prompt_tokens"] == reply["count"]
    assert client.post("/detokenize", json={"tokens": reply["tokens"]}).json() == {"prompt": text}
    assert client.post("/tokenize", json={"prompt": ""}).json()["count"] == 0
    assert client.post("/detokenize", json={"tokens": []}).json() == {"prompt": ""}
    assert client.post("/detokenize", json={"tokens": [257, reply["tokens"][0]]}).json() == {"prompt": "<s>O"}


def test_a_conversation_is_tokenized_through_the_chat_template(client: httpx.Client, lm: LanguageModel) -> None:
    reply = client.post("/tokenize", json={"messages": HELLO}).json()
    assert client.post("/detokenize", json={"tokens": reply["tokens"]}).json()["prompt"] == "[user]Hello €[assistant]"
    usage = client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1}).json()["usage"]
    assert usage["prompt_tokens"] == reply["count"]
    ended = client.post("/tokenize", json={"messages": HELLO, "add_generation_prompt": False}).json()
    assert client.post("/detokenize", json={"tokens": ended["tokens"]}).json()["prompt"] == "[user]Hello €"


@pytest.mark.parametrize(
    ("route", "body", "param", "says"),
    [
        ("/tokenize", {}, "prompt", "neither prompt nor messages"),
        ("/tokenize", {"prompt": "a", "messages": HELLO}, "prompt", "both"),
        ("/tokenize", {"prompt": 5}, "prompt", "a string"),
        ("/tokenize", {"prompt": "\ud800"}, "prompt", "UTF-8"),
        ("/tokenize", {"prompt": "a", "model": "other"}, "model", "tiny-llama"),
        ("/tokenize", {"messages": [{"role": "user", "content": " "}]}, "messages.0.content", "white space"),
        ("/detokenize", {"tokens": [1, 300]}, "tokens.1", "from 0 to"),
        ("/detokenize", {"tokens": [-1]}, "tokens.0", "from 0 to"),
        ("/detokenize", {"tokens": [2**70]}, "tokens.0", "from 0 to"),
        ("/detokenize", {"tokens": "a"}, "tokens", "a list"),
        ("/detokenize", {}, "tokens", "missing"),
    ],
    ids=str,
)
def test_what_cannot_be_tokenized_is_refused(
    client: httpx.Client, route: str, body: Any, param: str, says: str
) -> None:
    reply = client.post(route, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code == (404 if param == "model" else 400)
    assert reply.json()["error"]["param"] == param
    assert says in reply.json()["error"]["message"]
