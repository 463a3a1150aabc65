"""The document of the API: complete, with examples that are true."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.routes import examples, steering_replies
from service.routes.evaluations import Evaluation
from steering import LanguageModel
from steering.artefact import single_file

from .streams import ROUTES, events


@pytest.fixture(scope="module")
def operations(client: httpx.Client) -> dict[tuple[str, str], Any]:
    """Every operation, by method and path."""
    paths = client.get("/openapi.json").json()["paths"]
    return {(method, path): operation for path, entry in paths.items() for method, operation in entry.items()}


def bodies(operation: Any) -> Iterator[tuple[str, str, Any]]:
    """Everything an operation takes or answers with success, as (`asked` or the status, media type, content)."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield "asked", kind, content
    for status, reply in operation["responses"].items():
        for kind, content in reply.get("content", {}).items() if status.startswith("2") else ():
            yield status, kind, content


def shown(operation: Any) -> list[Any]:
    """Every example of what an operation answers with success."""
    return [content["example"] for where, _, content in bodies(operation) if where != "asked"]


def test_everything_asked_or_answered_has_an_example_and_every_operation_says_what_it_does(
    operations: dict[tuple[str, str], Any],
) -> None:
    for place, operation in operations.items():
        assert operation.get("description"), place
        for where, kind, content in bodies(operation):
            binary = kind == "application/octet-stream"
            assert binary or content.get("example") or content.get("examples"), (place, where, kind)
        for parameter in operation.get("parameters", []):
            known = parameter["schema"]
            assert parameter["in"] != "path" or known.get("examples"), (place, parameter["name"])


@pytest.mark.parametrize("route", ROUTES)
def test_a_streams_document_shows_the_chunks_it_sends(
    client: httpx.Client, operations: dict[tuple[str, str], Any], route: str
) -> None:
    content = operations["post", route]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    *told, end, nothing = content["text/event-stream"]["example"].split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    documented = [json.loads(event.removeprefix("data: ")) for event in told]
    body = ROUTES[route] | {"max_tokens": 2, "logit_bias": {"258": -100}, "seed": 1}
    body |= {"steering": {"constraints": [{"probe": "toxicity"}]}}
    for mine, theirs in zip(events(client, route, body), documented, strict=True):
        assert keys(mine) == keys(theirs)
    true = client.post(route, json=body).json()
    assert keys(without_nulls(true)) == keys(content["application/json"]["example"])


@pytest.mark.parametrize(
    "path", ["/health", "/ready", "/version", "/v1/models", "/v1/models/tiny-llama", "/v1/steering/capabilities"]
)
def test_a_documented_reply_has_the_fields_of_the_true_one(
    client: httpx.Client, operations: dict[tuple[str, str], Any], path: str
) -> None:
    documented = path.replace("tiny-llama", "{model_id}")
    (example,) = shown(operations["get", documented])
    true = without_nulls(client.get(path).json())
    assert set(true) == set(example)
    for name, value in true.items():
        if name in {"model", "limits", "self_test"} and isinstance(value, dict):
            assert set(value) == set(example[name])


def test_documented_replies_of_probes_and_policies_have_the_fields_of_the_true_ones(
    serve: Any, lm: LanguageModel, make_probe: Any, operations: dict[tuple[str, str], Any]
) -> None:
    root = "/v1/steering"
    policy, probe = f"{root}/policies/{{name}}", f"{root}/probes/{{probe_id}}"
    body = {"json": examples.POLICY["polite"]["value"]}
    upload = {
        "content": single_file(make_probe(lm, name="mine")),
        "headers": {"content-type": "application/octet-stream"},
    }
    asked: list[tuple[str, str, str, dict[str, Any]]] = [
        ("get", f"{root}/probes", "", {}),
        ("post", f"{root}/probes", "", upload),
        ("post", f"{root}/probes", "", upload),
        ("get", probe, "toxicity@1", {}),
        ("post", f"{probe}/score", "toxicity@1", {"json": examples.SCORE["plain"]["value"]}),
        ("delete", probe, "mine@1", {}),
        ("put", policy, "polite", body),
        ("put", policy, "polite", body),
        ("get", policy, "polite", {}),
        ("get", f"{root}/policies", "", {}),
        ("post", f"{root}/reload", "", {}),
        ("delete", policy, "polite", {}),
        ("get", f"{root}/evaluations/specs", "", {}),
    ]
    with serve(lm, [make_probe(lm)]) as client:
        for method, path, name, sent in asked:
            reply = client.request(method.upper(), re.sub(r"\{\w+\}", name, path), **sent)
            assert reply.is_success, reply.text
            content = operations[method, path]["responses"][str(reply.status_code)]["content"]["application/json"]
            true, told = reply.json(), content["example"]
            assert fields(without_nulls(true)) <= fields(told) <= fields(true), (method, path)


def fields(document: Any) -> set[str]:
    """The keys of a document, and of the first entry of its list."""
    first = document["data"][0] if isinstance(document.get("data"), list) else {}
    return {*document, *(f"data.{key}" for key in first)}


def test_documented_evaluations_are_evaluations() -> None:
    for documented in (steering_replies.ASKED, steering_replies.EVALUATION, steering_replies.CANCELLED):
        (reply,) = documented.values()
        example = reply["content"]["application/json"]["example"]
        assert Evaluation.model_validate(example).model_dump() == example


def test_the_requests_that_are_shown_are_understood(client: httpx.Client) -> None:
    """On the tiny model some ask for more than it has; none for what the API does not know."""
    shown_for = {
        "/generate": examples.GENERATE,
        "/v1/completions": examples.COMPLETION,
        "/v1/chat/completions": examples.CHAT,
        "/tokenize": examples.TOKENIZE,
        "/detokenize": examples.DETOKENIZE,
    }
    for route, requests in shown_for.items():
        for name, request in requests.items():
            reply = client.post(route, json=request["value"])
            code = None if reply.status_code == 200 else reply.json()["error"]["message"]
            assert code is None or "there is no token" in code, (route, name, code)


def without_nulls(document: Any) -> Any:
    """A document as FastAPI shows examples: without what is null."""
    if isinstance(document, dict):
        return {key: without_nulls(value) for key, value in document.items() if value is not None}
    return [without_nulls(entry) for entry in document] if isinstance(document, list) else document


def keys(document: Any) -> Any:
    """The shape of a document: its keys at every depth, and of a list the first entry."""
    if isinstance(document, dict):
        return {key.replace("toxicity@2", "toxicity@1"): keys(value) for key, value in document.items()}
    if isinstance(document, list) and document and isinstance(document[0], dict):
        return [keys(document[0])]
    return None
