"""Policies: put, pinned, applied, kept over restarts; a policy that cannot be carried out is never unsteered text."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Settings
from steering import LanguageModel, Probe, save_probe
from steering.artefact import single_file

POLICIES = "/v1/steering/policies"
PROBES = "/v1/steering/probes"
BINARY = {"content-type": "application/octet-stream"}
ASK = {"prompt": "It was a dark night", "max_tokens": 6, "temperature": 0, "seed": 1}
TIGHT = {"constraints": [{"probe": "toxicity", "upper": 0.02}]}
OFF = {"mode": "off"}

Make = Callable[..., Probe]


def put(client: httpx.Client, name: str, steering: Any = TIGHT, **more: Any) -> httpx.Response:
    """PUT a policy."""
    return client.put(f"{POLICIES}/{name}", json={"steering": steering, **more})


def choice(client: httpx.Client, **more: Any) -> Any:
    """The one choice of a request that must succeed."""
    reply = client.post("/generate", json=ASK | more)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]


def code(reply: httpx.Response) -> tuple[int, str, str | None]:
    """Status, code and field of a refusal."""
    error = reply.json()["error"]
    return reply.status_code, error["code"], error["param"]


@pytest.fixture
def server(serve: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server of its own with toxicity@1, without a default policy."""
    with serve(lm, [make_probe(lm)], state=tmp_path) as client:
        yield client


def test_a_request_by_name_is_answered_as_by_the_same_object_on_every_route(server: httpx.Client) -> None:
    reply = put(server, "tight", about="for tests")
    assert reply.status_code == 201
    assert reply.json()["steering"] == {"constraints": [{"probe": "toxicity@1", "upper": 0.02}]}
    assert reply.json()["probes"] == ["toxicity@1"]
    assert (reply.json()["default"], reply.json()["certificate"], reply.json()["problem"]) == (False, None, None)
    named, told = choice(server, steering="tight"), choice(server, steering=TIGHT)
    assert named["text"] == told["text"] != choice(server)["text"]
    assert named["steering"] == told["steering"] | {"policy": "tight"}
    assert told["steering"]["policy"] is None
    for route, prompt in (
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
    ):
        answer = server.post(route, json=prompt | {"max_tokens": 3, "steering": "tight"}).json()
        assert answer["choices"][0]["steering"]["policy"] == "tight"


def test_policies_are_listed_replaced_and_deleted(server: httpx.Client) -> None:
    assert server.get(POLICIES).json() == {"object": "list", "data": []}
    put(server, "b", about="one")
    put(server, "a")
    assert [policy["name"] for policy in server.get(POLICIES).json()["data"]] == ["a", "b"]
    first = server.get(f"{POLICIES}/b").json()
    again = put(server, "b", {"constraints": [{"probe": "toxicity@1", "upper": 0.5}]}, about="two")
    assert (again.status_code, again.json()["about"]) == (200, "two")
    assert again.json()["created"] == first["created"] <= again.json()["updated"]
    assert server.delete(f"{POLICIES}/b").json()["deleted"] is True
    assert code(server.delete(f"{POLICIES}/b")) == (404, "policy_not_found", "name")
    assert code(server.get(f"{POLICIES}/b")) == (404, "policy_not_found", "name")
    assert code(server.post("/generate", json=ASK | {"steering": "b"})) == (404, "policy_not_found", "steering")
    assert "there are: a" in server.post("/generate", json=ASK | {"steering": "b"}).json()["error"]["message"]


def test_what_could_not_be_carried_out_is_not_kept(server: httpx.Client) -> None:
    bad = [
        ({"constraints": [{"probe": "anger"}]}, 404, "probe_not_found", "steering.constraints.0.probe"),
        ({"constraints": [{"probe": "toxicity", "upper": 2}]}, 400, "invalid_bounds", "steering.constraints.0.upper"),
        ({"constraints": [{"probe": "toxicity", "uper": 1}]}, 400, "invalid_request", "steering.constraints.0.uper"),
        ({}, 400, "invalid_request", "steering.constraints"),
        ("other", 400, "invalid_request", "steering"),
        (None, 400, "invalid_request", "steering"),
    ]
    for steering, status, what, param in bad:
        assert code(put(server, "bad", steering)) == (status, what, param)
    assert code(put(server, "bad", TIGHT, colour="red")) == (400, "invalid_request", "colour")
    assert code(put(server, "Bad%20Name")) == (400, "invalid_request", "name")
    assert server.get(POLICIES).json()["data"] == []


def test_a_policy_means_the_same_after_a_new_version_and_its_probe_stays(
    server: httpx.Client, lm: LanguageModel, make_probe: Make
) -> None:
    put(server, "tight")
    before = choice(server, steering="tight")
    newer = single_file(make_probe(lm, version=2, seed=5))
    assert server.post(PROBES, content=newer, headers=BINARY).status_code == 201
    assert choice(server, steering="tight") == before
    assert list(choice(server, steering=TIGHT)["steering"]["probes"]) == ["toxicity@2"]
    put(server, "tight")
    assert server.get(f"{PROBES}/toxicity@2").json()["policies"] == ["tight"]
    refused = server.delete(f"{PROBES}/toxicity@2")
    assert code(refused) == (409, "probe_in_use", "probe_id")
    assert "tight" in refused.json()["error"]["message"]
    server.delete(f"{POLICIES}/tight")
    assert server.delete(f"{PROBES}/toxicity@2").status_code == 200


def test_a_restart_keeps_policies_and_one_whose_probe_is_gone_is_refused_until_it_is_back(
    serve: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path
) -> None:
    with serve(lm, [make_probe(lm), make_probe(lm, name="calm")], state=tmp_path) as client:
        put(client, "tight")
        put(client, "calm", {"constraints": [{"probe": "calm"}]})
    with serve(lm, [make_probe(lm)], state=tmp_path, default_policy="calm") as client:
        assert choice(client, steering="tight")["steering"]["policy"] == "tight"
        listed = {policy["name"]: policy for policy in client.get(POLICIES).json()["data"]}
        assert listed["tight"]["problem"] is None
        assert "no probe 'calm@1'" in listed["calm"]["problem"]
        for more in ({"steering": "calm"}, {}, {"steering": None}):
            reply = client.post("/generate", json=ASK | more)
            assert code(reply) == (409, "policy_broken", "steering")
            assert reply.headers["x-should-retry"] == "false"
        back = client.post(PROBES, content=single_file(make_probe(lm, name="calm")), headers=BINARY)
        assert back.status_code == 201
        assert choice(client)["steering"]["policy"] == "calm"


def test_the_default_policy_answers_requests_without_steering_and_can_be_left(
    serve: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path
) -> None:
    with serve(lm, [make_probe(lm)], state=tmp_path) as client:
        free = choice(client)
    with serve(lm, [make_probe(lm)], state=tmp_path, default_policy="tight") as client:
        missing = client.post("/generate", json=ASK)
        assert code(missing) == (409, "policy_broken", "steering")
        assert "PUT /v1/steering/policies/tight" in missing.json()["error"]["message"]
        put(client, "tight")
        for more in ({}, {"steering": None}, {"steering": "tight"}):
            held = choice(client, **more)
            assert held["steering"]["policy"] == "tight"
            assert held["text"] != free["text"]
        assert choice(client, steering=OFF) == free
        assert choice(client, steering=TIGHT | {"mode": "off"}) == free
        assert client.get(f"{POLICIES}/tight").json()["default"] is True
        assert code(client.delete(f"{POLICIES}/tight")) == (409, "policy_in_use", "name")
        assert client.get("/v1/steering/capabilities").json()["default_policy"] == "tight"


def test_where_nobody_may_opt_out_every_text_is_held_to_the_default(
    serve: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path
) -> None:
    with serve(lm, [make_probe(lm)], state=tmp_path, default_policy="tight", allow_opt_out=False) as client:
        put(client, "tight")
        put(client, "loose", {"constraints": [{"probe": "toxicity", "upper": 0.99}]})
        for more in ({}, {"steering": None}, {"steering": "tight"}):
            assert choice(client, **more)["steering"]["policy"] == "tight"
        for steering in (OFF, TIGHT, TIGHT | {"mode": "monitor"}, TIGHT | {"baseline": True}, "loose", "unknown"):
            for route in ("/generate", "/v1/completions"):
                reply = client.post(route, json={"prompt": "a", "steering": steering})
                assert code(reply) == (403, "opt_out_not_allowed", "steering")
        assert code(put(client, "tight", OFF)) == (409, "policy_in_use", "name")
        assert code(client.delete(f"{POLICIES}/tight")) == (409, "policy_in_use", "name")
    with pytest.raises(ValueError, match="give --default-policy"):
        Settings(allow_opt_out=False)


def test_only_another_body_loses_the_certificate(server: httpx.Client) -> None:
    put(server, "tight")
    database = server.app.state.database  # type: ignore[attr-defined]
    with database.connect() as connection:
        connection.execute("""UPDATE policies SET certificate = '{"alpha": 0.1}'""")
    server.post("/v1/steering/reload")
    assert server.get(f"{POLICIES}/tight").json()["certificate"] == {"alpha": 0.1}
    assert put(server, "tight", about="reworded").json()["certificate"] == {"alpha": 0.1}
    assert put(server, "tight", {"constraints": [{"probe": "toxicity"}]}).json()["certificate"] is None


def test_a_policy_of_another_build_is_kept_and_refused(server: httpx.Client) -> None:
    database = server.app.state.database  # type: ignore[attr-defined]
    with database.connect() as connection:
        connection.execute(
            "INSERT INTO policies (name, body, created, updated) VALUES ('new', '{\"novelty\": 1}', 0, 0)"
        )
    put(server, "tight")  # reads all of them again
    listed = {policy["name"]: policy for policy in server.get(POLICIES).json()["data"]}
    assert "novelty" in listed["new"]["problem"]
    assert code(server.post("/generate", json=ASK | {"steering": "new"})) == (409, "policy_broken", "steering")


def test_a_reload_that_would_break_a_policy_is_refused(
    run: Any, ready: Any, folder_app: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path
) -> None:
    folder = tmp_path / "probes"
    save_probe(make_probe(lm), folder)
    moved = save_probe(make_probe(lm, name="calm"), folder)
    with run(folder_app(lm, folder, tmp_path / "state")) as client:
        ready(client)
        put(client, "calm", {"constraints": [{"probe": "calm"}]})
        moved.rename(tmp_path / "elsewhere")
        reply = client.post("/v1/steering/reload")
        assert code(reply) == (409, "reload_refused", None)
        assert "policy 'calm'" in reply.json()["error"]["message"]
        assert choice(client, steering="calm")["steering"]["policy"] == "calm"
        client.delete(f"{POLICIES}/calm")
        assert client.post("/v1/steering/reload").json()["removed"] == ["calm@1"]


def test_the_document_says_what_steering_may_be_and_405_all_that_a_path_takes(server: httpx.Client) -> None:
    document = server.get("/openapi.json").json()
    field = document["components"]["schemas"]["GenerateRequest"]["properties"]["steering"]
    kinds = [kind.get("type") or kind["$ref"].rsplit("/")[-1] for kind in field["anyOf"]]
    assert kinds == ["SteeringField", "string", "null"]
    reply = server.post(f"{POLICIES}/x")
    assert (reply.status_code, reply.headers["allow"]) == (405, "DELETE, GET, PUT")
