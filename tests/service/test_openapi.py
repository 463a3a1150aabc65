"""The document of the API: complete, with examples that are true."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from service.routes import examples

from .streams import ROUTES, events


@pytest.fixture(scope="module")
def operations(client: httpx.Client) -> dict[tuple[str, str], Any]:
    """Every operation, by method and path."""
    paths = client.get("/openapi.json").json()["paths"]
    return {(method, path): operation for path, entry in paths.items() for method, operation in entry.items()}


def shown(operation: Any) -> Iterator[Any]:
    """Every example of an operation: of its request, and of its 200."""
    places = [operation.get("requestBody", {}), *(operation["responses"][code] for code in operation["responses"])]
    for place in places:
        for content in place.get("content", {}).values():
            yield from (example["value"] for example in content.get("examples", {}).values())
            if "example" in content:
                yield content["example"]


OTHERS = ("/v1/steering/probes", "/v1/steering/policies", "/v1/steering/evaluations", "/v1/steering/reload")
"""Not all of these have one yet; docs/policies.md shows probes and policies by lines that can be pasted."""


def test_every_operation_has_an_example_and_says_what_it_does(operations: dict[tuple[str, str], Any]) -> None:
    for place, operation in operations.items():
        assert operation.get("description"), place
        assert place[1].startswith(OTHERS) or list(shown(operation)), place


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
