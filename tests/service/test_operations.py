"""Alive, ready, full, broken: what an operator and a load balancer see."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

import service.answering
from service import Loaded, Settings, create_app
from steering import Engine, LanguageModel, ProbeStore, TillerError
from steering.engine.runner import Runner
from steering.errors import ModelError

from .streams import hold_reading


def test_health_answers_while_the_model_loads_and_ready_waits_for_it(run: Any, lm: LanguageModel) -> None:
    go = threading.Event()

    def load() -> Loaded:
        assert go.wait(30)
        return Loaded(Engine(lm), ProbeStore())

    with run(create_app(load, Settings())) as client:
        assert client.get("/health").status_code == 200
        for reply in (client.get("/ready"), client.post("/generate", json={"prompt": "a"}), client.get("/v1/models")):
            assert reply.status_code == 503
            assert reply.json()["error"]["code"] == "loading"
            assert int(reply.headers["retry-after"]) > 0
        go.set()
        while (ready := client.get("/ready")).status_code != 200:
            time.sleep(0.01)
    assert ready.json()["self_test"] == {"layers": 4, "rows": 8, "violations": 0}
    assert ready.json()["probes"] == []


def test_a_model_that_cannot_be_loaded_is_503_without_its_path(run: Any) -> None:
    def load() -> Loaded:
        raise ModelError("cannot load /secret/place/model")

    announced: list[Any] = []
    with run(create_app(load, Settings(), announce=announced.append)) as client:
        while not announced:
            time.sleep(0.01)
        for route in ("/health", "/ready"):
            reply = client.get(route)
            assert reply.status_code == 503
            assert reply.json()["error"]["code"] == "engine_failed"
            assert "secret" not in reply.text
    assert isinstance(announced[0].failure, TillerError)


def test_a_dead_engine_turns_health_to_503_and_no_request_hangs(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    with serve(lm, []) as client:
        assert client.get("/health").status_code == 200
        monkeypatch.setattr(Runner, "read", die)
        running = client.post("/generate", json={"prompt": "a"})
        assert running.status_code == 503
        for reply in (client.get("/health"), client.get("/ready"), client.post("/generate", json={"prompt": "a"})):
            assert reply.status_code == 503
            assert reply.json()["error"]["code"] == "engine_failed"
            assert reply.headers["x-should-retry"] == "false"


def test_a_full_queue_is_503_with_retry_after_and_the_accepted_ones_finish(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(lm, [], max_queue=2, max_prompts=1, slots=1) as client:
        started, hold = hold_reading(monkeypatch)
        replies: list[httpx.Response] = []
        url = str(client.base_url)

        def ask() -> None:
            replies.append(httpx.post(f"{url}/generate", json={"prompt": "a", "max_tokens": 2}, timeout=60))

        first = threading.Thread(target=ask)
        first.start()
        assert started.wait(30)
        waiting = [threading.Thread(target=ask) for _ in range(2)]
        for thread in waiting:
            thread.start()
        while client.get("/ready").json()["waiting"] < 2:
            time.sleep(0.01)
        refused = client.post("/generate", json={"prompt": "a"})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "engine_unavailable"
        assert int(refused.headers["retry-after"]) >= 1
        hold.set()
        for thread in (first, *waiting):
            thread.join()
    assert [reply.status_code for reply in replies] == [200, 200, 200]


def test_who_is_too_many_is_refused_at_once_and_not_behind_those_being_admitted(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, hold, started = service.answering.encode, threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> Any:
        started.set()
        assert hold.wait(30)
        return original(*args, **options)

    with serve(lm, [], max_queue=4, max_prompts=2) as client, ThreadPoolExecutor(2) as callers:
        monkeypatch.setattr(service.answering, "encode", slow)
        url, ask = f"{client.base_url}/generate", {"prompt": ["a", "b"], "max_tokens": 2}
        accepted = [callers.submit(httpx.post, url, json=ask, timeout=60) for _ in range(2)]
        assert started.wait(30)
        while client.app.state.resident.coming < 4:
            time.sleep(0.01)
        refused = client.post("/generate", json={"prompt": "c"})
        assert not any(reply.done() for reply in accepted)
        hold.set()
        assert [reply.result().status_code for reply in accepted] == [200, 200]
        assert client.post("/generate", json={"prompt": "c", "max_tokens": 2}).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
    assert int(refused.headers["retry-after"]) >= 1


def test_a_client_that_leaves_takes_its_waiting_request_back(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, hold, started = Runner.read, threading.Event(), threading.Event()
    ran: list[str] = []

    def slow(runner: Runner, first: int, rows: Any, lengths: Any, offsets: Any, **options: Any) -> Any:
        ran.extend(lm.tokenizer.decode(row) for row, offset in zip(rows, offsets, strict=True) if offset < 0)
        started.set()
        assert hold.wait(30)
        return original(runner, first, rows, lengths, offsets, **options)

    with serve(lm, [], slots=1) as client:
        monkeypatch.setattr(Runner, "read", slow)
        url = f"{client.base_url}/generate"
        first = threading.Thread(target=lambda: httpx.post(url, json={"prompt": "first"}, timeout=60))
        first.start()
        assert started.wait(30)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json={"prompt": "leaver"}, timeout=0.3)
        time.sleep(0.3)
        hold.set()
        first.join()
        assert client.post("/generate", json={"prompt": "last"}).status_code == 200
    assert ran == ["first", "last"]


def test_a_client_that_leaves_while_its_text_is_written_makes_room(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, passes = Runner.read, []

    def slow(runner: Runner, *args: Any, **options: Any) -> Any:
        passes.append(args)
        time.sleep(0.02)
        return original(runner, *args, **options)

    with serve(lm, [], slots=1) as client:
        monkeypatch.setattr(Runner, "read", slow)
        url = f"{client.base_url}/generate"
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json={"prompt": "leaver", "max_tokens": 200, "logit_bias": {"258": -100}}, timeout=0.5)
        assert client.post("/generate", json={"prompt": "last", "max_tokens": 2}).status_code == 200
    assert len(passes) < 150, "it was written to its end though nobody waited"


def test_closing_the_server_answers_what_was_accepted(serve: Any, lm: LanguageModel) -> None:
    replies: list[httpx.Response] = []
    # One client, made before: four that load their certificates at once may need longer than the wait below.
    with httpx.Client(timeout=60) as caller:
        with serve(lm, []) as client:
            url = f"{client.base_url}/generate"

            def ask() -> None:
                replies.append(caller.post(url, json={"prompt": "a", "max_tokens": 200}))

            threads = [threading.Thread(target=ask) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(0.3)
        for thread in threads:
            thread.join()
    assert [reply.status_code for reply in replies] == [200] * 4


def test_what_can_be_steered_is_told(client: httpx.Client) -> None:
    told = client.get("/v1/steering/capabilities").json()
    assert told["model"]["id"] == "tiny-llama"
    assert {"slab", "capping", "additive", "state-offset", "random"} < set(told["controllers"])
    assert told["metrics"] == ["euclidean", "whitened"]
    assert told["probes"] == ["toxicity@1", "toxicity@2", "sentiment@1"]
    assert told["limits"]["max_prompts"] == 8
    listed = client.get("/v1/steering/probes").json()["data"]
    assert [probe["id"] for probe in listed] == told["probes"]
    one = client.get("/v1/steering/probes/toxicity@2").json()
    assert one == listed[1]
    assert one["layers"] == [1, 3]
    assert one["default"]["upper"] == 0.1
    assert set(one["metrics"]) == {"1", "3"}
    assert len(one["sha256"]) == 64
    assert client.get("/v1/steering/probes/toxicity").json() == one
    assert client.get("/version").json()["version"]


def test_the_openapi_document_has_the_routes_examples_and_one_shape_of_error(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    for route in ("/generate", "/v1/completions", "/v1/chat/completions"):
        operation = document["paths"][route]["post"]
        assert "422" not in operation["responses"]
        assert operation["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith("ErrorBody")
        for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
            body = example["value"] | {"max_tokens": 2}
            reply = client.post(route, json=body)
            assert reply.status_code == 200, reply.text
    assert client.get("/docs").status_code == 200
