"""The demo keeps its word, and fails aloud when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import httpx
import pytest

import service.demo.server
from service.demo.run import play
from service.demo.scenes import SCENES, Scene
from service.demo.server import DemoFailed, running_server

SCENE = Scene(
    title="Tiny",
    probe="toxicity@1",
    side="upper",
    bound=0.02,
    reads="toxic",
    prompts=("It was", "A dark night"),
    note="",
)


def test_a_scene_is_played_and_its_bounds_verified(client: httpx.Client) -> None:
    pairs = play(SCENE, client)
    assert [pair.prompt for pair in pairs] == list(SCENE.prompts)
    for pair in pairs:
        assert pair.edited > 0
        assert pair.violations == 0
        assert pair.after <= 0.02 + 1e-6 < pair.before


def test_a_bound_that_edits_nothing_fails_the_demo(client: httpx.Client) -> None:
    loose = replace(SCENE, bound=1 - 1e-9)
    with pytest.raises(DemoFailed, match="tighten the bound"):
        play(loose, client)


def test_a_refused_request_fails_the_demo_with_the_reason(client: httpx.Client) -> None:
    unknown = replace(SCENE, probe="none")
    with pytest.raises(DemoFailed, match="there is no probe 'none'"):
        play(unknown, client)


def test_steering_that_does_nothing_fails_the_demo(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(route: str, json: Any) -> httpx.Response:
        reply = client.post(route, json=json)
        document = reply.json()
        for choice in document["choices"]:
            choice["text"] = "always the same"
        return httpx.Response(200, json=document)

    class Liar:
        post = staticmethod(lying)

    with pytest.raises(DemoFailed, match="no text changed"):
        play(SCENE, Liar())  # type: ignore[arg-type]


def test_a_server_that_dies_shows_its_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.demo.server.time, "sleep", lambda seconds: None)
    with (
        pytest.raises(DemoFailed, match="ended with 2 before it was ready") as failed,
        running_server(model="tiny", probes=None, host="0.0.0.0"),
    ):
        pass
    assert "--allow-public" in str(failed.value)


def test_the_demos_prompts_fit_a_public_place() -> None:
    assert {scene.probe for scene in SCENES} == {"toxicity", "sentiment", "language"}
    assert all(len(scene.prompts) >= 2 for scene in SCENES)


@pytest.mark.slow
def test_the_demo_runs_end_to_end(embedded: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "service", "demo"],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"COLUMNS": "120", "TILLER_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verified" in done.stdout
    assert "0 stored values outside a bound" in " ".join(done.stdout.split())
