"""What a probe reads of a text over HTTP: the values generation reports, and nobody else's text is touched."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import httpx
import pytest

from steering.manifest import Origin

SCORE = "/v1/steering/probes/toxicity@1/score"
ASK = {"prompt": "It was a dark night", "max_tokens": 10, "temperature": 0}


def steering(**more: Any) -> dict[str, Any]:
    """A tight bound on toxicity@1."""
    return {"constraints": [{"probe": "toxicity@1", "upper": 0.05, **more}]}


@pytest.mark.parametrize("prompt", ["last", "all"])
def test_a_steered_score_is_what_generation_reported_of_the_same_text_token_by_token(
    client: httpx.Client, prompt: str
) -> None:
    rule = steering(prompt=prompt)
    written = client.post("/generate", json=ASK | {"steering": rule | {"report": "tokens"}}).json()["choices"][0]
    body = {"prompt": ASK["prompt"], "completion": written["token_ids"], "steering": rule}
    read = client.post(SCORE, json=body).json()
    assert (read["probe"], read["layers"]) == ("toxicity@1", [0, 1, 2, 3])
    offsets = [token["offset"] for token in read["tokens"]]
    assert offsets == list(range(-len(ASK["prompt"]), 10))
    told = written["steering"]["tokens"]
    assert len(told) >= 10
    for token in told:
        at = offsets.index(token["offset"])
        before, after = token["probes"]["toxicity@1"]
        assert max(read["pre"][at]) == pytest.approx(before, abs=1e-5)
        assert max(read["post"][at]) == pytest.approx(after, abs=1e-5)
        assert max(read["post"][at]) <= 0.05
    assert read["steering"]["probes"]["toxicity@1"]["violations"] == 0


def test_without_steering_both_tables_are_equal_and_tokens_are_named(client: httpx.Client) -> None:
    read = client.post(SCORE, json={"prompt": "ab", "completion": "c"}).json()
    assert read["pre"] == read["post"]
    assert [len(row) for row in read["pre"]] == [4, 4, 4]
    assert all(0 < value < 1 for row in read["pre"] for value in row)
    assert [(token["offset"], token["token"]) for token in read["tokens"]] == [(-2, "a"), (-1, "b"), (0, "c")]
    assert read["steering"] is None
    ids = [token["token_id"] for token in read["tokens"]]
    assert client.post(SCORE, json={"prompt": ids[:2], "completion": ids[2:]}).json() == read
    assert client.post(SCORE, json={"prompt": "abc"}).json()["pre"] == read["pre"]


def test_texts_scored_beside_rows_that_write_disturb_none(client: httpx.Client) -> None:
    bodies = [ASK | {"prompt": f"number {at}", "steering": steering() if at % 2 else None} for at in range(8)]
    alone = [client.post("/generate", json=body).json()["choices"][0]["text"] for body in bodies]
    expected = client.post(SCORE, json={"prompt": "x" * 200, "steering": steering(prompt="all")}).json()

    def generate(at: int) -> None:
        for _ in range(3):
            assert client.post("/generate", json=bodies[at]).json()["choices"][0]["text"] == alone[at]

    def score() -> None:
        for _ in range(4):
            read = client.post(SCORE, json={"prompt": "x" * 200, "steering": steering(prompt="all")}).json()
            assert read["post"][-1] == pytest.approx(expected["post"][-1], abs=1e-5)

    with ThreadPoolExecutor(10) as pool:
        for work in [*(pool.submit(generate, at) for at in range(8)), pool.submit(score), pool.submit(score)]:
            work.result()


def test_a_conversation_is_read_as_the_chat_template_writes_it(client: httpx.Client) -> None:
    talk = [{"role": "user", "content": "hi"}]
    read = client.post(SCORE, json={"messages": talk, "completion": "c", "steering": steering()}).json()
    assert (
        read
        == client.post(SCORE, json={"prompt": "[user]hi[assistant]", "completion": "c", "steering": steering()}).json()
    )


REFUSED = [
    ({}, 400, "invalid_request", "prompt", "missing"),
    ({"prompt": "a", "messages": [{"role": "user", "content": "b"}]}, 400, "invalid_request", "prompt", "both"),
    ({"messages": []}, 400, "invalid_request", "messages", "at least 1"),
    ({"messages": [{"role": "user", "content": " "}]}, 400, "invalid_request", "messages.0.content", "white space"),
    ({"prompt": ""}, 400, "invalid_request", "prompt", "empty"),
    ({"prompt": []}, 400, "invalid_request", "prompt", "not empty"),
    ({"prompt": [10**9]}, 400, "invalid_request", "prompt", "ids from 0 to"),
    ({"prompt": "a", "completion": [-1]}, 400, "invalid_request", "completion", "the completion holds token id -1"),
    ({"prompt": "a", "completion": ""}, 400, "invalid_request", "completion", "the completion is empty"),
    ({"prompt": "a", "completion": "\ud800"}, 400, "invalid_request", "completion", "lone surrogate"),
    ({"prompt": "a" * 300}, 400, "context_length_exceeded", "prompt", "tokens"),
    ({"prompt": "a" * 200, "completion": "b" * 200}, 400, "context_length_exceeded", "prompt", "at most 256"),
    ({"prompt": "a", "steering": {"constraints": []}}, 400, "invalid_request", "steering.constraints", "at least 1"),
    ({"prompt": "a", "steering": steering(upper=7)}, 400, "invalid_bounds", "steering.constraints.0.upper", "[0, 1]"),
    ({"prompt": "a", "steering": "nobody"}, 404, "policy_not_found", "steering", "there is no policy"),
    ({"prompt": "a", "colour": 1}, 400, "invalid_request", "colour", "known are"),
]


@pytest.mark.parametrize(("body", "status", "code", "param", "says"), REFUSED)
def test_a_bad_request_to_score_is_refused_with_its_field(
    client: httpx.Client, body: Any, status: int, code: str, param: str, says: str
) -> None:
    reply = client.post(SCORE, content=json.dumps(body), headers={"content-type": "application/json"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (status, code, param)
    assert says in error["message"]


def test_an_unknown_probe_cannot_score(client: httpx.Client) -> None:
    reply = client.post("/v1/steering/probes/anger/score", json={"prompt": "a"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "probe_not_found")


def test_an_uncalibrated_probe_scores_null(serve: Any, lm: Any, make_probe: Any) -> None:
    probe = make_probe(lm)
    origin = Origin(format="gguf", file="x", sha256="0" * 64, lost=[], bias=False)
    default = probe.manifest.default.model_copy(update={"space": "logit", "upper": 1.0})
    bare = replace(probe, manifest=probe.manifest.model_copy(update={"origin": origin, "default": default}))
    with serve(lm, [bare]) as client:
        read = client.post(SCORE, json={"prompt": "ab"}).json()
    assert read["pre"] == read["post"] == [[None] * 4] * 2


def test_the_examples_of_the_openapi_document_work_as_they_stand(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]

    def examples(path: str, method: str) -> Any:
        content = paths[path][method]["requestBody"]["content"]["application/json"]
        return [example["value"] for example in content["examples"].values()]

    for body in examples("/v1/steering/probes/{probe_id}/score", "post"):
        assert client.post("/v1/steering/probes/toxicity/score", json=body).status_code == 200
    for body in examples("/v1/steering/policies/{name}", "put"):
        assert client.put("/v1/steering/policies/example", json=body).status_code == 201
        assert client.delete("/v1/steering/policies/example").status_code == 200
    assert list(paths["/v1/steering/probes"]["post"]["requestBody"]["content"]) == ["application/octet-stream"]
