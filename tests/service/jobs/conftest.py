"""A server whose evaluations are played by runner.py, so that a test of the queue takes milliseconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.jobs import Checker, JobQueue, JobTable, Launch
from steering import LanguageModel, Probe

LIST = "/v1/steering/evaluations"
COMMAND = (sys.executable, "-S", str(Path(__file__).with_name("runner.py")))


@pytest.fixture
def jobs(
    serve: Callable[..., Any], lm: LanguageModel, make_probe: Callable[..., Probe], tmp_path: Path
) -> Iterator[httpx.Client]:
    """Its client; `client.app.state.jobs` is the queue."""
    with serve(lm, [make_probe(lm)], state=tmp_path / "state", max_queue=64) as client:
        state = client.app.state
        launch = Launch(state.settings, str(client.base_url), command=COMMAND)
        state.jobs, state.checker = JobQueue(JobTable(state.database), launch), Checker(launch)
        state.jobs.begin()
        try:
            yield client
        finally:
            state.checker.close()
            state.jobs.close()


def spec(name: str) -> dict[str, Any]:
    """A whole spec that goes as its name says."""
    return {
        "name": name,
        "prompts": [{"name": "places", "texts": ["To the sea"]}],
        "arms": ["none"],
        "scorers": [{"name": "spanish"}],
    }


@pytest.fixture
def ask(jobs: httpx.Client) -> Callable[[str], str]:
    """Ask for an evaluation of that name and return its id."""

    def post(name: str) -> str:
        reply = jobs.post(LIST, json={"spec": spec(name)})
        assert reply.status_code == 202, reply.text
        return str(reply.json()["id"])

    return post


@pytest.fixture
def wait_for(jobs: httpx.Client) -> Callable[..., dict[str, Any]]:
    """Wait until a job is in a state (and, if asked, in a stage), and return it."""

    def wait(job_id: str, state: str, *, stage: str | None = None) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            job: dict[str, Any] = jobs.get(f"{LIST}/{job_id}").json()
            if job["state"] == state and stage in (None, job["progress"]["stage"]):
                return job
            time.sleep(0.02)
        raise AssertionError(job)

    return wait
