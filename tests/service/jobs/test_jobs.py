"""An evaluation as a job: accepted, run one at a time, watched, cancelled, taken up again, and its report served."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from service import Settings
from service.database import Database
from service.jobs import Checker, JobQueue, JobTable, Launch
from service.jobs.records import LIVES
from steering import LanguageModel, Probe

from .conftest import COMMAND, spec

LIST = "/v1/steering/evaluations"

Ask = Callable[[str], str]
WaitFor = Callable[..., dict[str, Any]]


def folder_of(jobs: httpx.Client, job_id: str) -> Path:
    found: Path = jobs.app.state.jobs.launch.folder(job_id)  # type: ignore[attr-defined]
    return found


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_job_is_accepted_with_its_address_and_ends_with_a_report_in_three_forms(
    jobs: httpx.Client, wait_for: WaitFor
) -> None:
    reply = jobs.post(LIST, json={"spec": "quick", "n": 4})
    assert reply.status_code == 202
    asked = reply.json()
    assert (asked["state"], asked["name"], asked["n"], asked["report"]) == ("queued", "quick", 4, None)
    assert reply.headers["location"] == f"{LIST}/{asked['id']}"
    job = wait_for(asked["id"], "done")
    assert job["progress"] == {"stage": "judge", "done": 8, "total": 8, "eta_seconds": 0.0}
    assert job["created"] <= job["started"] <= job["ended"]
    assert [one["id"] for one in jobs.get(LIST).json()["data"]] == [job["id"]]
    for form, kind in {"html": "text/html", "json": "application/json", "md": "text/markdown"}.items():
        report = jobs.get(job["report"], params={"format": form})
        assert report.status_code == 200
        assert report.headers["content-type"].startswith(kind)
        assert "sandbox" in report.headers["content-security-policy"]
        assert "script" not in report.headers["content-security-policy"]
        assert report.headers["x-content-type-options"] == "nosniff"
        assert "quick" in report.text
        assert str(folder_of(jobs, "").parent) not in report.text  # the report names its folder; a reader may not
    assert jobs.get(job["report"], params={"format": "pdf"}).json()["error"]["param"] == "format"


def test_its_process_gets_the_key_by_its_environment_alone(jobs: httpx.Client, ask: Ask, wait_for: WaitFor) -> None:
    job = wait_for(ask("well"), "done")
    seen = json.loads((folder_of(jobs, job["id"]) / "seen.json").read_text())
    assert len(seen["key"]) >= 32
    assert seen["key"] == jobs.app.state.jobs.launch.key  # type: ignore[attr-defined]
    assert not any(seen["key"] in word for word in seen["argv"])
    assert "--confined" in seen["argv"]
    assert not any(str(folder_of(jobs, "")) in word for word in seen["argv"][1:])
    stored = (folder_of(jobs, "").parent / "tiller.db").read_bytes()
    assert seen["key"].encode() not in stored


def test_a_job_comes_in_where_keys_are_needed_and_its_key_is_nobody_elses(
    serve: Callable[..., Any], lm: LanguageModel, make_probe: Callable[..., Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILLER_API_KEY", "made-up-key-of-a-test")
    with serve(lm, [make_probe(lm)]) as client:
        state = client.app.state
        launch = replace(state.jobs.launch, url=str(client.base_url).rstrip("/"), command=COMMAND)
        state.jobs, state.checker = JobQueue(JobTable(state.database), launch), Checker(launch)
        state.jobs.begin()
        assert client.post(LIST, json={"spec": spec("asks")}).status_code == 401
        client.headers["authorization"] = "Bearer made-up-key-of-a-test"
        place = client.post(LIST, json={"spec": spec("asks")}).headers["location"]
        deadline = time.monotonic() + 60
        while (job := client.get(place).json())["state"] in {"queued", "running"} and time.monotonic() < deadline:
            time.sleep(0.02)
        state.checker.close()
        state.jobs.close()
    assert (job["state"], job["error"]) == ("done", None)


def test_one_runs_at_a_time_and_a_cancelled_one_leaves_neither_process_nor_files(
    jobs: httpx.Client, ask: Ask, wait_for: WaitFor
) -> None:
    first, second = ask("held"), ask("well")
    running = wait_for(first, "running", stage="writing")
    assert running["progress"] == {"stage": "writing", "done": 3, "total": 8, "eta_seconds": 1.5}
    pid = json.loads((folder_of(jobs, first) / "seen.json").read_text())["pid"]
    assert jobs.get(f"{LIST}/{second}").json()["state"] == "queued"
    assert jobs.post(f"{LIST}/{first}/cancel").json()["state"] == "cancelled"
    wait_for(second, "done")
    assert not alive(pid)
    assert not folder_of(jobs, first).exists()
    assert jobs.post(f"{LIST}/{first}/cancel").json()["state"] == "cancelled"
    report = jobs.get(f"{LIST}/{first}/report")
    assert (report.status_code, report.json()["error"]["code"]) == (410, "evaluation_cancelled")


def test_a_job_that_waits_is_cancelled_before_it_begins(jobs: httpx.Client, ask: Ask, wait_for: WaitFor) -> None:
    first, second = ask("held"), ask("well")
    wait_for(first, "running")
    early = jobs.get(f"{LIST}/{second}/report")
    assert (early.status_code, early.json()["error"]["code"]) == (409, "evaluation_not_done")
    assert jobs.post(f"{LIST}/{second}/cancel").json()["state"] == "cancelled"
    assert not folder_of(jobs, second).exists()
    jobs.post(f"{LIST}/{first}/cancel")
    third = ask("well")
    wait_for(third, "done")
    late = jobs.post(f"{LIST}/{third}/cancel")
    assert (late.status_code, late.json()["error"]["code"]) == (409, "evaluation_over")
    assert jobs.get(f"{LIST}/{second}").json()["started"] is None


@pytest.mark.parametrize(("name", "why"), [("fails", "jobs/eval-"), ("crash", "ended with code 1 and gave no reason")])
def test_a_failed_job_says_why_and_names_no_path_of_the_server(
    name: str, why: str, jobs: httpx.Client, ask: Ask, wait_for: WaitFor, tmp_path: Path
) -> None:
    job = wait_for(ask(name), "failed")
    assert why in job["error"]["message"]
    assert str(tmp_path) not in json.dumps(job)
    report = jobs.get(f"{LIST}/{job['id']}/report")
    assert report.status_code == 409
    assert why in report.json()["error"]["message"]


def test_a_job_that_is_over_can_be_removed_and_no_other(jobs: httpx.Client, ask: Ask, wait_for: WaitFor) -> None:
    done, held = ask("well"), ask("held")
    wait_for(done, "done")
    wait_for(held, "running")
    assert jobs.delete(f"{LIST}/{held}").status_code == 409
    assert jobs.delete(f"{LIST}/{done}").status_code == 204
    assert not folder_of(jobs, done).exists()
    for reply in (jobs.get(f"{LIST}/{done}"), jobs.delete(f"{LIST}/{done}"), jobs.get(f"{LIST}/{done}/report")):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "evaluation_not_found")


def test_a_server_that_ends_puts_its_job_back_and_the_next_one_takes_it_up(
    jobs: httpx.Client, ask: Ask, wait_for: WaitFor
) -> None:
    held = ask("held")
    wait_for(held, "running", stage="writing")
    state = jobs.app.state  # type: ignore[attr-defined]
    pid = json.loads((folder_of(jobs, held) / "seen.json").read_text())["pid"]
    state.jobs.close()
    assert not alive(pid)
    assert jobs.get(f"{LIST}/{held}").json()["state"] == "queued"
    state.jobs = JobQueue(state.jobs.table, state.jobs.launch)
    state.jobs.begin()
    wait_for(held, "running", stage="writing")


def test_of_two_servers_with_one_state_folder_one_runs_the_jobs(
    jobs: httpx.Client, ask: Ask, wait_for: WaitFor
) -> None:
    queue = jobs.app.state.jobs  # type: ignore[attr-defined]
    held = ask("held")
    wait_for(held, "running")
    other = JobQueue(queue.table, queue.launch)
    other.begin()
    time.sleep(0.3)
    assert jobs.get(f"{LIST}/{held}").json()["state"] == "running"  # the other did not take it for a leftover
    other.close()


def test_a_job_under_which_servers_keep_dying_is_given_up(tmp_path: Path) -> None:
    table = JobTable(Database(tmp_path))
    table.add("eval-1", {"spec": "quick", "n": None})
    for _ in range(LIVES - 1):
        assert table.claim() is not None
        table.recover()
        found = table.find("eval-1")
        assert found is not None
        assert found.state == "queued"
    table.claim()
    table.recover()
    found = table.find("eval-1")
    assert found is not None
    assert found.state == "failed"
    assert f"ended {LIVES} times" in str(found.error)


def test_a_change_that_comes_too_late_changes_nothing(tmp_path: Path) -> None:
    table = JobTable(Database(tmp_path))
    table.add("eval-1", {"spec": "quick", "n": None})
    table.claim()
    table.cancel("eval-1")
    table.end("eval-1", error=None)
    table.put_back("eval-1")
    found = table.find("eval-1")
    assert found is not None
    assert found.state == "cancelled"


def test_paths_of_this_machine_are_words_in_what_others_read(tmp_path: Path) -> None:
    model, data = tmp_path / "model", tmp_path / "texts"
    model.mkdir()
    launch = Launch(Settings(state=tmp_path / "state", data=data, model=str(model)), None)
    assert launch.without_paths(f"{tmp_path}/state/jobs/a, {data}/b, {model}") == "jobs/a, data/b, model"
    assert launch.without_paths(f"{tmp_path}/texts-2") == f"{tmp_path}/texts-2"


def test_what_a_killed_check_left_is_swept_and_nothing_else(tmp_path: Path) -> None:
    launch = Launch(Settings(state=tmp_path), None)
    for name in ("eval-old", "eval-new", "eval-known"):
        launch.lay_out(name, {})
    for name in ("eval-old", "eval-known"):
        os.utime(launch.folder(name), (0, 0))
    launch.sweep({"eval-known"})
    assert sorted(path.name for path in launch.home.iterdir()) == ["eval-known", "eval-new"]
