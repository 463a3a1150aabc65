"""What is asked wrongly is refused before it becomes a job, with the field; what cannot be had is said plainly."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import pytest

from eval.runner.spec import Spec
from service.jobs import checking, launch
from service.jobs.specs import ready_specs
from service.routes import evaluations

LIST = "/v1/steering/evaluations"
WHOLE: dict[str, Any] = {
    "name": "well",
    "prompts": [{"texts": ["To the sea"]}],
    "arms": ["none"],
    "scorers": [{"name": "spanish"}],
}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"spec": "quickly"}, "spec", "there is no ready spec 'quickly'; there are: "),
        ({"spec": "../quick"}, "spec", "there is no ready spec"),
        ({"spec": 3}, "spec", "expected the name of a ready spec, or a spec as an object"),
        ({}, "spec", "spec is missing"),
        ({"spec": "quick", "n": 0}, "n", "expected at least 1"),
        ({"spec": "quick", "m": 1}, "m", "'m' is not a field here"),
        ({"spec": {"prompts": [], "arms": []}}, "spec.scorers", "spec.scorers is missing"),
        ({"spec": WHOLE | {"tempo": 1}}, "spec.tempo", "'tempo' is no key of a spec"),
        ({"spec": WHOLE | {"server": "http://127.0.0.1:1"}}, "spec.server", "for the server to decide"),
        ({"spec": WHOLE | {"model": "/somewhere"}}, "spec.model", "for the server to decide"),
        ({"spec": WHOLE | {"probes": "./probes"}}, "spec.probes", "for the server to decide"),
        ({"spec": WHOLE | {"data": "/"}}, "spec.data", "for the server to decide"),
        ({"spec": WHOLE | {"about": "\ud800"}}, "spec", "lone surrogate"),
        ({"spec": WHOLE | {"name": "refused"}}, "spec.arms.0.upper", "arms.0.upper is 2; expected at most 1"),
        ({"spec": WHOLE | {"name": "bound"}}, "spec.arms", "the server refuses (400): upper is 2"),
    ],
)
def test_a_bad_request_is_400_with_its_field_and_leaves_nothing(
    body: dict[str, Any], param: str, words: str, jobs: httpx.Client
) -> None:
    reply = jobs.post(LIST, content=json.dumps(body), headers={"content-type": "application/json"})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == param
    assert words in error["message"]
    assert jobs.get(LIST).json()["data"] == []
    assert [path for path in jobs.app.state.jobs.launch.home.iterdir() if path.is_dir()] == []  # type: ignore[attr-defined]


def test_a_server_that_is_too_busy_to_check_says_when_to_come_again(jobs: httpx.Client) -> None:
    reply = jobs.post(LIST, json={"spec": WHOLE | {"name": "full"}})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "evaluations_full")
    assert int(reply.headers["retry-after"]) > 0


def test_a_long_queue_and_a_long_line_are_refused(jobs: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_LINE", -1)
    assert "being checked already" in jobs.post(LIST, json={"spec": "quick"}).json()["error"]["message"]
    monkeypatch.setattr(evaluations, "_MOST_WAITING", 0)
    reply = jobs.post(LIST, json={"spec": "quick"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "evaluations_full")


def test_without_the_extra_the_reply_names_it(jobs: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "_NEEDED", ("eval", "no_such_library"))
    reply = jobs.post(LIST, json={"spec": "quick"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "evaluations_not_available")
    assert "pip install 'tiller-lm[eval]'" in reply.json()["error"]["message"]
    assert reply.headers["x-should-retry"] == "false"


def test_an_app_that_does_not_know_its_address_refuses(client: httpx.Client) -> None:
    reply = client.post(LIST, json={"spec": "quick"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "evaluations_not_available")
    assert client.get(LIST).json() == {"object": "list", "data": []}


@pytest.mark.parametrize("path", ["nothing", "..%2f..%2fetc", "eval-1/report", "eval-1/cancel"])
def test_an_unknown_evaluation_is_404(path: str, client: httpx.Client) -> None:
    reply = client.post(f"{LIST}/{path}") if path.endswith("cancel") else client.get(f"{LIST}/{path}")
    assert reply.status_code == 404


def test_several_at_once_are_checked_in_turn(jobs: httpx.Client) -> None:
    replies: list[int] = []
    callers = [
        threading.Thread(target=lambda: replies.append(jobs.post(LIST, json={"spec": "quick"}).status_code))
        for _ in range(4)
    ]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert replies == [202] * 4


def test_the_ready_specs_are_listed_with_what_they_need(client: httpx.Client) -> None:
    found = {one["name"]: one for one in client.get(f"{LIST}/specs").json()["data"]}
    assert found.keys() == ready_specs().keys()
    assert found["quick"]["runnable"]
    assert "five minutes" in found["quick"]["about"]
    assert not found["rtp"]["runnable"]  # its texts are files, and this server has no folder of them


def test_the_keys_known_here_are_those_of_a_spec(jobs: httpx.Client) -> None:
    for name in Spec.model_fields:
        assert "is no key of a spec" not in jobs.post(LIST, json={"spec": {name: None}}).json()["error"]["message"]
