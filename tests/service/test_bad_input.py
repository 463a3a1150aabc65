"""Every bad input that reaches HTTP: its status, its code, the field it names, and the way out in its message."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

JSON = {"content-type": "application/json"}


def steered(**constraint: Any) -> dict[str, Any]:
    """A request with one constraint."""
    return {"prompt": "hello", "steering": {"constraints": [{"probe": "toxicity", **constraint}]}}


def refused(reply: httpx.Response, *, status: int, code: str, param: str | None, says: str) -> None:
    """Assert the one shape, and that the message names the way out."""
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert says in error["message"]
    assert "/" + "work" not in error["message"]
    assert "Traceback" not in error["message"]


FIELDS = [
    ({}, "invalid_request", "prompt", "missing"),
    ({"prompt": ""}, "invalid_request", "prompt", "give the text"),
    ({"prompt": " \n\t"}, "invalid_request", "prompt", "only white space"),
    ({"prompt": []}, "invalid_request", "prompt", "a list of strings that is not empty"),
    ({"prompt": ["fine", ""]}, "invalid_request", "prompt.1", "empty"),
    ({"prompt": 5}, "invalid_request", "prompt", "expected a string"),
    ({"prompt": "\ud800"}, "invalid_request", "prompt", "send valid UTF-8"),
    ({"prompt": "x" * 300}, "context_length_exceeded", "prompt", "shorten the prompt or lower max_tokens"),
    ({"prompt": ["a"] * 9}, "invalid_request", "prompt", "--max-prompts"),
    ({"prompt": "a", "max_token": 5}, "invalid_request", "max_token", "did you mean max_tokens?"),
    ({"prompt": "a", "steering": 4}, "invalid_request", "steering", "the name of a policy"),
    ({"prompt": "a", "steering": []}, "invalid_request", "steering", "the name of a policy"),
    ({"prompt": "a", "max_tokens": 0}, "invalid_request", "max_tokens", "at least 1"),
    ({"prompt": "a", "max_tokens": -3}, "invalid_request", "max_tokens", "at least 1"),
    ({"prompt": "a", "max_tokens": 65}, "invalid_request", "max_tokens", "--max-new-tokens"),
    ({"prompt": "a", "max_tokens": 1.5}, "invalid_request", "max_tokens", "a whole number"),
    ({"prompt": "a", "max_tokens": "5"}, "invalid_request", "max_tokens", "a whole number"),
    ({"prompt": "a", "max_tokens": True}, "invalid_request", "max_tokens", "a whole number"),
    ({"prompt": "a", "temperature": -1}, "invalid_request", "temperature", "at least 0"),
    ({"prompt": "a", "top_p": 0}, "invalid_request", "top_p", "above 0"),
    ({"prompt": "a", "top_k": -1}, "invalid_request", "top_k", "at least 0"),
    ({"prompt": "a", "top_k": 2**40}, "invalid_request", "top_k", "below"),
    ({"prompt": "a", "min_p": 1.5}, "invalid_request", "min_p", "at most 1"),
    ({"prompt": "a", "repetition_penalty": 0}, "invalid_request", "repetition_penalty", "above 0"),
    ({"prompt": "a", "presence_penalty": 2.5}, "invalid_request", "presence_penalty", "at most 2"),
    ({"prompt": "a", "frequency_penalty": -3}, "invalid_request", "frequency_penalty", "at least -2"),
    ({"prompt": "a", "frequency_penalty": "1"}, "invalid_request", "frequency_penalty", "a number"),
    ({"prompt": "a", "stream": 1}, "invalid_request", "stream", "true or false"),
    ({"prompt": "a", "stream_options": {}}, "invalid_request", "stream_options", "set stream: true"),
    ({"prompt": "a", "stream": True, "max_tokens": 0}, "invalid_request", "max_tokens", "at least 1"),
    ({"prompt": "", "stream": True}, "invalid_request", "prompt", "give the text"),
    ({"prompt": "a", "logit_bias": [5]}, "invalid_request", "logit_bias", "an object"),
    ({"prompt": "a", "logit_bias": {"cat": 1}}, "invalid_request", "logit_bias", "token ids as strings"),
    ({"prompt": "a", "logit_bias": {"-5": 1}}, "invalid_request", "logit_bias", "token ids as strings"),
    ({"prompt": "a", "logit_bias": {"05": 1}}, "invalid_request", "logit_bias", "token ids as strings"),
    ({"prompt": "a", "logit_bias": {"5": 101}}, "invalid_request", "logit_bias.5", "at most 100"),
    ({"prompt": "a", "logit_bias": {"5": None}}, "invalid_request", "logit_bias.5", "a number"),
    ({"prompt": "a", "logit_bias": {"300": 1}}, "invalid_request", "logit_bias", "ids from 0 to 299"),
    ({"prompt": "a", "stop_token_ids": [-1]}, "invalid_request", "stop_token_ids.0", "at least 0"),
    ({"prompt": "a", "stop_token_ids": 5}, "invalid_request", "stop_token_ids", "a list"),
    ({"prompt": "a", "stop_token_ids": [2**70]}, "invalid_request", "stop_token_ids", "ids from 0 to 299"),
    ({"prompt": "a", "n": 0}, "invalid_request", "n", "at least 1"),
    ({"prompt": "a", "n": 9}, "invalid_request", "n", "--max-prompts"),
    ({"prompt": "a", "seed": -1}, "invalid_request", "seed", "at least 0"),
    ({"prompt": "a", "seed": 2**63}, "invalid_request", "seed", "at most"),
    ({"prompt": "a", "stop": [""]}, "invalid_request", "stop", "not empty"),
    ({"prompt": "a", "stop": ["x"] * 17}, "invalid_request", "stop", "at most 16"),
    ({"prompt": "a", "temprature": 1}, "invalid_request", "temprature", "known are: temperature"),
    ({"prompt": "a", "\ud800": 1}, "invalid_request", "\\ud800", "known are"),
]

STEERING = [
    (3, "invalid_request", "steering", "an object"),
    ({}, "invalid_request", "steering.constraints", "missing"),
    ({"constraints": []}, "invalid_request", "steering.constraints", "at least 1"),
    ({"constraints": [{"probe": "toxicity"}] * 17}, "invalid_request", "steering.constraints", "at most 16"),
    ({"constraints": [{"probe": "toxicity"}], "colour": 1}, "invalid_request", "steering.colour", "known are: mode"),
    ({"constraints": [{"probe": "toxicity"}], "mode": "on"}, "invalid_request", "steering.mode", "'monitor'"),
    ({"constraints": [{"probe": "toxicity"}], "combine": "sequential"}, "invalid_request", "steering.combine", "joint"),
    (
        {"constraints": [{"probe": "toxicity", "layers": [1]}, {"probe": "toxicity", "layers": [3]}]},
        "invalid_request",
        "steering.constraints",
        "into one constraint",
    ),
]

CONSTRAINTS = [
    ({"uper": 0.1}, "invalid_request", "uper", "known are: probe"),
    ({"upper": 1.5}, "invalid_bounds", "upper", "lies in [0, 1]"),
    ({"lower": -0.1}, "invalid_bounds", "lower", "lies in [0, 1]"),
    ({"lower": 0.9, "upper": 0.1}, "invalid_bounds", "lower", "swap them"),
    ({"upper": 0}, "invalid_bounds", "upper", "strictly between"),
    ({"lower": 1}, "invalid_bounds", "lower", "strictly between"),
    ({"lower": 101, "space": "percentile"}, "invalid_bounds", "lower", "[0, 100]"),
    ({"upper": 1e30, "space": "logit"}, "invalid_request", "upper", "at most"),
    ({"upper": "0.1"}, "invalid_request", "upper", "a number"),
    ({"upper": 0.1, "space": "odds"}, "invalid_request", "space", "'percentile'"),
    ({"space": "logit"}, "unsupported", "space", "give lower or upper"),
    ({"layers": [77]}, "unsupported", "layers", "it has layers"),
    ({"layers": []}, "invalid_request", "layers", "a list of block numbers"),
    ({"layers": [-1]}, "invalid_request", "layers", "block numbers from 0"),
    ({"layers": [1, 1]}, "invalid_request", "layers", "distinct"),
    ({"layers": "some"}, "invalid_request", "layers", "'default', 'all'"),
    ({"generation": [3]}, "invalid_request", "generation", "[start, stop]"),
    ({"generation": [5, 2]}, "invalid_request", "generation", "start <= stop"),
    ({"generation": [0, 0], "prompt": "none"}, "invalid_request", "generation", "mode 'off'"),
    ({"generation": [0, 10**12]}, "invalid_request", "generation", "[start, stop]"),
    ({"prompt": "middle"}, "invalid_request", "prompt", "'last'"),
    ({"strength": 0}, "invalid_request", "strength", "(0, 1]"),
    ({"strength": 1.1}, "invalid_request", "strength", "(0, 1]"),
    ({"max_dose": -1}, "invalid_request", "max_dose", "null for no cap"),
    ({"metric": "whitened"}, "unsupported_steering", "metric", "carries no 'metric' statistics"),
    ({"controller": "additive"}, "unsupported_steering", "controller", "carries no 'mean' statistics"),
    ({"controller": "erase", "upper": 0.1}, "invalid_bounds", "upper", "holds no bounds"),
    ({"controller": "capping"}, "invalid_bounds", "space", "percentile"),
    ({"controller": "state-offset"}, "invalid_request", "prompt", "say prompt 'none'"),
    ({"shadow": "additive"}, "invalid_request", "shadow", "for controller 'random'"),
    ({"coefficient": 2}, "invalid_request", "coefficient", "has no coefficient"),
    ({"gains": [1, 2]}, "invalid_request", "gains", "three numbers"),
    ({"controller": "prompt"}, "invalid_request", "controller", "'slab'"),
    ({"lower": 0.5, "upper": 0.5 + 1e-12}, "invalid_bounds", "lower", "widen them"),
]


@pytest.mark.parametrize(("body", "code", "param", "says"), FIELDS)
def test_a_bad_field_is_named(client: httpx.Client, body: Any, code: str, param: str, says: str) -> None:
    reply = client.post("/generate", content=json.dumps(body), headers=JSON)
    refused(reply, status=400, code=code, param=param, says=says)


@pytest.mark.parametrize(("steering", "code", "param", "says"), STEERING)
def test_a_bad_steering_field_is_named(client: httpx.Client, steering: Any, code: str, param: str, says: str) -> None:
    for route in ("/generate", "/v1/completions"):
        reply = client.post(route, json={"prompt": "hello", "steering": steering})
        refused(reply, status=400, code=code, param=param, says=says)


@pytest.mark.parametrize(("constraint", "code", "param", "says"), CONSTRAINTS)
def test_a_bad_constraint_is_named(client: httpx.Client, constraint: Any, code: str, param: str, says: str) -> None:
    reply = client.post("/generate", json=steered(**constraint))
    refused(reply, status=400, code=code, param=f"steering.constraints.0.{param}", says=says)


def test_bounds_are_checked_even_in_mode_off(client: httpx.Client) -> None:
    body = {"prompt": "a", "steering": {"mode": "off", "constraints": [{"probe": "toxicity", "upper": 2}]}}
    reply = client.post("/generate", json=body)
    refused(reply, status=400, code="invalid_bounds", param="steering.constraints.0.upper", says="[0, 1]")


@pytest.mark.parametrize("name", ["tox", "toxicity@9", "", "../toxicity"])
def test_an_unknown_probe_is_404_and_the_known_ones_are_listed(client: httpx.Client, name: str) -> None:
    reply = client.post("/generate", json={"prompt": "a", "steering": {"constraints": [{"probe": name}]}})
    refused(reply, status=404, code="probe_not_found", param="steering.constraints.0.probe", says="toxicity@1")


def test_two_probes_at_one_layer_are_held_together(client: httpx.Client) -> None:
    body = {"prompt": "a", "max_tokens": 4, "steering": {"constraints": [
        {"probe": "toxicity@1", "layers": [2], "upper": 0.2}, {"probe": "sentiment", "layers": [2], "lower": 0.8},
    ]}}  # fmt: skip
    probes = client.post("/generate", json=body).raise_for_status().json()["choices"][0]["steering"]["probes"]
    assert all(probe["promised"] and probe["violations"] == probe["infeasible"] == 0 for probe in probes.values())
    assert probes["toxicity@1"]["max_post"] <= 0.2
    assert probes["sentiment@1"]["min_post"] >= 0.8


RAW = [
    (b"", None, "send one"),
    (b"{", "invalid_json", "not JSON"),
    (b"[]", "invalid_json", "no object"),
    (b'"text"', "invalid_json", "no object"),
    (b"null", "invalid_json", "no object"),
    (b'{"prompt": "\xff"}', "invalid_json", "encode it as UTF-8"),
    (b'{"prompt": "a", "temperature": NaN}', "invalid_json", "NaN"),
    (b'{"prompt": "a", "temperature": -Infinity}', "invalid_json", "-Infinity"),
    (b"[" * 9000, "invalid_json", "nests too deeply"),
    (b'{"prompt": ' + b"9" * 9000 + b"}", "invalid_json", "thousands of digits"),
]


@pytest.mark.parametrize(("body", "code", "says"), RAW)
def test_a_body_that_is_no_json_object_is_refused(client: httpx.Client, body: bytes, code: str, says: str) -> None:
    for route in ("/generate", "/v1/completions", "/v1/chat/completions"):
        reply = client.post(route, content=body, headers=JSON)
        refused(reply, status=400, code=code or "invalid_request", param=None, says=says)


def test_an_overflowing_number_is_no_bound(client: httpx.Client) -> None:
    body = b'{"prompt": "a", "steering": {"constraints": [{"probe": "toxicity", "upper": 1e999}]}}'
    reply = client.post("/generate", content=body, headers=JSON)
    refused(reply, status=400, code="invalid_request", param="steering.constraints.0.upper", says="finite")


def test_json_without_its_header_is_told_which_header(client: httpx.Client) -> None:
    for sent, found in (({"content-type": "application/x-www-form-urlencoded"}, "urlencoded"), ({}, "without a")):
        reply = client.post("/generate", content=b'{"prompt": "a"}', headers=sent)
        refused(reply, status=415, code="unsupported_media_type", param="content-type", says=found)
        assert "content-type: application/json" in reply.json()["error"]["message"]
    empty = client.post("/generate", content=b"", headers=JSON)
    refused(empty, status=400, code="invalid_request", param=None, says="content-type: application/json")


def test_a_body_over_the_limit_is_413_by_its_header_and_by_its_bytes(client: httpx.Client) -> None:
    large = json.dumps({"prompt": "x" * 40_000}).encode()
    told = client.post("/generate", content=large, headers=JSON)
    refused(told, status=413, code="body_too_large", param=None, says="--max-body-bytes")
    chunked = client.post("/generate", content=iter([large[:500], large[500:]]), headers=JSON)
    assert "content-length" not in chunked.request.headers
    refused(chunked, status=413, code="body_too_large", param=None, says="--max-body-bytes")
    enough = json.dumps({"prompt": "x" * 19_900}).encode()
    refused(
        client.post("/generate", content=enough, headers=JSON),
        status=400,
        code="context_length_exceeded",
        param="prompt",
        says="context",
    )


def test_unknown_routes_and_methods_have_the_same_shape(client: httpx.Client) -> None:
    refused(client.get("/nowhere"), status=404, code="route_not_found", param=None, says="/openapi.json")
    slash = client.post("/generate/", json={"prompt": "a"})
    refused(slash, status=404, code="route_not_found", param=None, says="ends in a slash")
    refused(client.get("/generate"), status=405, code="method_not_allowed", param=None, says="it takes POST")
    assert client.get("/generate").headers["allow"] == "POST"
    refused(client.get("/v1/models/other"), status=404, code="model_not_found", param="model", says="tiny-llama")
    refused(
        client.get("/v1/steering/probes/none"), status=404, code="probe_not_found", param="probe_id", says="toxicity@1"
    )


OPENAI = [
    ({"suffix": "z"}, "suffix", "leave it out"),
    ({"best_of": 4}, "best_of", "leave it out"),
    ({"best_of": True}, "best_of", "leave it out"),
    ({"store": 0}, "store", "leave it out"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "leave"),
]


def test_zero_is_not_false(client: httpx.Client) -> None:
    reply = client.post("/generate", json={"prompt": "a", "stream": True, "stream_options": {"include_obfuscation": 0}})
    refused(reply, status=400, code="invalid_request", param="stream_options.include_obfuscation", says="true or false")


@pytest.mark.parametrize(("field", "param", "says"), OPENAI)
def test_an_openai_field_we_lack_is_refused_unless_neutral(
    client: httpx.Client, field: dict[str, Any], param: str, says: str
) -> None:
    reply = client.post("/v1/completions", json={"prompt": "a", **field})
    refused(reply, status=400, code="unsupported", param=param, says=says)


CHAT = [
    ({"messages": []}, "invalid_request", "messages", "at least 1"),
    ({"messages": [{"role": "user", "content": " "}]}, "invalid_request", "messages.0.content", "give the text"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "invalid_request", "messages.0.role", "'assistant'"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "u"}}]}]},
        "invalid_request",
        "messages.0.content",
        "text only",
    ),
    (
        {"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]},
        "unsupported",
        "messages.0.tool_calls",
        "lea",
    ),
    ({"messages": [{"role": "user", "content": "a"}], "tools": [{}]}, "unsupported", "tools", "leave it out"),
    (
        {"messages": [{"role": "user", "content": "a"}], "max_completion_tokens": 999},
        "invalid_request",
        "max_completion_tokens",
        "--max-new-tokens",
    ),
    ({"messages": [{"role": "user", "content": "x" * 300}]}, "context_length_exceeded", "messages", "shorten"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, "invalid_request", "messages.0.content", "UTF-8"),
]


@pytest.mark.parametrize(("body", "code", "param", "says"), CHAT)
def test_a_bad_conversation_is_refused(client: httpx.Client, body: Any, code: str, param: str, says: str) -> None:
    reply = client.post("/v1/chat/completions", content=json.dumps(body), headers=JSON)
    refused(reply, status=400, code=code, param=param, says=says)
