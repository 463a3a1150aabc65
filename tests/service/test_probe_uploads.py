"""Probes come and go while the server runs: whole or not at all, never twice under one id, and over restarts."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Loaded, Settings, create_app
from service.resident import start_engine
from steering import LanguageModel, Probe, ProbeStore, save_probe
from steering.artefact import TENSORS, single_file
from steering.tiny import tiny_model

PROBES = "/v1/steering/probes"
BINARY = {"content-type": "application/octet-stream"}
ASK = {"prompt": "It was a dark night", "max_tokens": 6, "temperature": 0}

Make = Callable[..., Probe]


def upload(client: httpx.Client, probe: Probe | bytes) -> httpx.Response:
    """POST a probe as its single file."""
    return client.post(PROBES, content=probe if isinstance(probe, bytes) else single_file(probe), headers=BINARY)


def ids(client: httpx.Client) -> list[str]:
    """The loaded probes."""
    return [probe["id"] for probe in client.get(PROBES).json()["data"]]


def code(reply: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal, which has the one shape and no path in it."""
    assert set(reply.json()) == {"error"}, reply.text
    assert "/tmp" not in reply.text
    assert "Traceback" not in reply.text
    return reply.status_code, reply.json()["error"]["code"]


@pytest.fixture
def server(serve: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path) -> Iterator[httpx.Client]:
    """A server of its own with the shipped probe toxicity@1."""
    with serve(lm, [make_probe(lm)], state=tmp_path, max_uploads=3, max_upload_bytes=100_000) as client:
        yield client


def test_an_uploaded_probe_steers_the_next_request_and_is_handed_back_byte_for_byte(
    server: httpx.Client, lm: LanguageModel, make_probe: Make
) -> None:
    file = single_file(make_probe(lm, name="calm", seed=3))
    reply = upload(server, file)
    assert reply.status_code == 201
    assert (reply.json()["id"], reply.json()["uploaded"]) == ("calm@1", True)
    choice = server.post("/generate", json=ASK | {"steering": {"constraints": [{"probe": "calm", "upper": 0.05}]}})
    report = choice.json()["choices"][0]["steering"]["probes"]["calm@1"]
    assert report["max_post"] <= 0.05 < report["max_pre"]
    back = server.get(f"{PROBES}/calm/export")
    assert back.content == file
    assert back.headers["etag"] == f'"{hashlib.sha256(file).hexdigest()}"'
    assert "calm@1.safetensors" in back.headers["content-disposition"]
    again = server.get(f"{PROBES}/calm/export", headers={"if-none-match": back.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_a_version_never_changes_the_same_bytes_are_welcome_twice_and_others_refused(
    server: httpx.Client, lm: LanguageModel, make_probe: Make
) -> None:
    assert upload(server, make_probe(lm, name="calm")).status_code == 201
    assert upload(server, make_probe(lm, name="calm")).status_code == 200
    assert code(upload(server, make_probe(lm, name="calm", seed=9))) == (409, "probe_exists")
    assert upload(server, make_probe(lm)).status_code == 200  # the shipped one
    assert code(upload(server, make_probe(lm, seed=9))) == (409, "probe_exists")
    assert ids(server) == ["toxicity@1", "calm@1"] or ids(server) == ["calm@1", "toxicity@1"]


def test_a_deleted_probe_is_unknown_and_shipped_ones_and_bare_names_are_refused(
    server: httpx.Client, lm: LanguageModel, make_probe: Make
) -> None:
    upload(server, make_probe(lm, name="calm"))
    assert code(server.delete(f"{PROBES}/calm")) == (404, "probe_not_found")
    assert server.delete(f"{PROBES}/calm@1").json() == {
        "object": "steering.probe.deleted",
        "id": "calm@1",
        "deleted": True,
    }
    assert code(server.get(f"{PROBES}/calm@1")) == (404, "probe_not_found")
    assert code(server.get(f"{PROBES}/calm@1/export")) == (404, "probe_not_found")
    assert code(server.delete(f"{PROBES}/calm@1")) == (404, "probe_not_found")
    refused = server.delete(f"{PROBES}/toxicity@1")
    assert code(refused) == (409, "probe_shipped")
    assert "/v1/steering/reload" in refused.json()["error"]["message"]
    assert ids(server) == ["toxicity@1"]
    assert upload(server, make_probe(lm, name="calm")).status_code == 201


def test_only_so_many_are_kept_and_none_over_its_size(
    server: httpx.Client, lm: LanguageModel, make_probe: Make
) -> None:
    for version in (1, 2, 3):
        assert upload(server, make_probe(lm, name="calm", version=version)).status_code == 201
    assert code(upload(server, make_probe(lm, name="calm", version=4))) == (409, "too_many_probes")
    assert code(upload(server, b"\0" * 100_001)) == (413, "body_too_large")
    assert code(server.post(PROBES, content=b"{}", headers={"content-type": "text/plain"})) == (
        415,
        "unsupported_media_type",
    )
    assert code(server.get(f"{PROBES}/toxicity/export?format=gguf")) == (400, "invalid_request")
    # the larger limit is that of this route alone
    big = server.post("/generate", content=b"{" + b" " * (1 << 20) + b"}", headers={"content-type": "application/json"})
    assert code(big) == (413, "body_too_large")


def test_a_probe_of_another_model_is_refused_and_says_what_differs(server: httpx.Client, make_probe: Make) -> None:
    for other in (tiny_model(hidden_size=48), tiny_model(layers=5)):
        reply = upload(server, make_probe(other, name="calm"))
        assert code(reply) == (409, "probe_model_mismatch")
        assert reply.headers["x-should-retry"] == "false"
        assert "does not fit" in reply.json()["error"]["message"]
    assert ids(server) == ["toxicity@1"]


def test_a_restart_keeps_probes_as_they_were_uploaded(
    serve: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path
) -> None:
    file = single_file(make_probe(lm, name="calm", seed=3))
    with serve(lm, [make_probe(lm)], state=tmp_path) as client:
        upload(client, file)
        upload(client, make_probe(lm, name="gone"))
        client.delete(f"{PROBES}/gone@1")
    with serve(lm, [make_probe(lm)], state=tmp_path) as client:
        assert sorted(ids(client)) == ["calm@1", "toxicity@1"]
        assert client.get(f"{PROBES}/calm@1").json()["uploaded"] is True
        assert client.get(f"{PROBES}/calm@1/export").content == file
    other = tiny_model(seed=1, hidden_size=48)
    with serve(other, [], state=tmp_path) as client:  # the same folder under another model
        assert ids(client) == []


def test_a_damaged_upload_is_not_served_after_a_restart(
    run: Any, ready: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path
) -> None:
    chosen = Settings(state=tmp_path)
    app = create_app(lambda: Loaded(start_engine(lm, chosen), ProbeStore()), chosen)
    with run(app) as client:
        ready(client)
        upload(client, make_probe(lm, name="calm"))
        (file,) = tmp_path.glob(f"probes/*/calm/1/{TENSORS}")
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
        assert code(client.get(f"{PROBES}/calm/export")) == (500, "internal_error")
    app = create_app(lambda: Loaded(start_engine(lm, chosen), ProbeStore()), chosen)
    with run(app) as client:
        for _ in range(500):
            if (reply := client.get("/ready")).json()["error"]["code"] != "loading":
                break
        assert code(reply) == (503, "engine_failed")


def test_eight_clients_generate_with_probes_that_come_and_go(
    server: httpx.Client, lm: LanguageModel, make_probe: Make
) -> None:
    """Each answer was steered by a version that existed, within its bound, or is a clean 404."""
    files = {version: single_file(make_probe(lm, name="calm", version=version, seed=version)) for version in (1, 2)}
    url, done = str(server.base_url), threading.Event()
    outcomes: list[str] = []

    def generate(at: int) -> None:
        asked = ["calm", "calm@1", "calm@2"][at % 3]
        with httpx.Client(base_url=url, timeout=60) as client:
            while not done.is_set():
                body = ASK | {"seed": at, "steering": {"constraints": [{"probe": asked, "upper": 0.05}]}}
                reply = client.post("/generate", json=body)
                if reply.status_code == 404:
                    assert reply.json()["error"]["code"] == "probe_not_found"
                    outcomes.append("404")
                    continue
                assert reply.status_code == 200, reply.text
                ((used, report),) = reply.json()["choices"][0]["steering"]["probes"].items()
                assert used == asked or (asked == "calm" and used in ("calm@1", "calm@2"))
                assert report["max_post"] <= 0.05
                assert report["violations"] == 0
                outcomes.append(used)

    def churn() -> None:
        for turn in range(16):
            version = 1 + turn % 2
            assert upload(server, files[version]).status_code in (200, 201)
            assert {probe["id"] for probe in server.get(PROBES).json()["data"]} <= {"toxicity@1", "calm@1", "calm@2"}
            assert server.get(f"{PROBES}/calm@{version}/export").content == files[version]
            if turn % 3:
                assert server.delete(f"{PROBES}/calm@{version}").status_code == 200

    with ThreadPoolExecutor(9) as pool:
        clients = [pool.submit(generate, at) for at in range(8)]
        try:
            churn()
        finally:
            done.set()
        for client in clients:
            client.result()
    assert {"404", "calm@1", "calm@2"} <= set(outcomes)


def test_a_reload_takes_new_probes_and_a_bad_artefact_leaves_the_old_set_serving(
    run: Any, ready: Any, folder_app: Any, lm: LanguageModel, make_probe: Make, tmp_path: Path
) -> None:
    folder, state = tmp_path / "probes", tmp_path / "state"
    save_probe(make_probe(lm), folder)
    with run(folder_app(lm, folder, state)) as client:
        ready(client)
        upload(client, make_probe(lm, name="calm"))
        save_probe(make_probe(lm, version=2, seed=2), folder)
        done = client.post("/v1/steering/reload").json()
        assert (done["added"], done["removed"]) == (["toxicity@2"], [])
        assert done["probes"] == ["calm@1", "toxicity@1", "toxicity@2"]
        assert client.get(f"{PROBES}/toxicity").json()["version"] == 2
        assert client.get(f"{PROBES}/toxicity@2/export").content == (folder / "toxicity/2" / TENSORS).read_bytes()

        broken = save_probe(make_probe(lm, version=3), folder)
        (broken / TENSORS).write_bytes(b"cut short")
        reply = client.post("/v1/steering/reload")
        assert reply.status_code == 409
        assert reply.json()["error"]["code"] == "reload_refused"
        assert "toxicity/3" in reply.json()["error"]["message"]
        assert str(tmp_path) not in reply.text
        assert "SHA-256" in reply.json()["error"]["message"]
        assert sorted(ids(client)) == ["calm@1", "toxicity@1", "toxicity@2"]

        shutil.rmtree(broken)
        shutil.rmtree(folder / "toxicity/2")
        save_probe(make_probe(lm, version=2, seed=77), folder)
        assert "other numbers" in client.post("/v1/steering/reload").json()["error"]["message"]
        shutil.rmtree(folder / "toxicity/2")
        assert client.post("/v1/steering/reload").json()["removed"] == ["toxicity@2"]
