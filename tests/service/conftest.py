"""A real server (uvicorn in a thread, a free port of this machine) around a tiny random model."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

import service.resident
from service import Loaded, Settings, create_app
from service.cli import main
from service.resident import start_engine
from steering import LanguageModel, Probe, ProbeStore, save_probe

from .streams import slow_down

Serve = Callable[..., Any]


@contextmanager
def run_app(app: FastAPI) -> Iterator[httpx.Client]:
    """A client of `app`, which runs until the block ends."""
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        with httpx.Client(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=60) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()


def wait_until_ready(client: httpx.Client) -> None:
    """Return when /ready answers 200; fail after half a minute."""
    for _ in range(3000):
        if client.get("/ready").status_code == 200:
            return
        time.sleep(0.01)
    raise AssertionError("the server did not become ready")


@contextmanager
def serve_model(lm: LanguageModel, probes: list[Probe], **settings: Any) -> Iterator[httpx.Client]:
    """A ready server of `lm`."""
    with tempfile.TemporaryDirectory() as state:
        chosen = Settings(**{"state": state, **settings})
        app = create_app(lambda: Loaded(start_engine(lm, chosen), ProbeStore(probes)), chosen)
        with _ready(app) as client:
            yield client


@contextmanager
def _ready(app: FastAPI) -> Iterator[httpx.Client]:
    with run_app(app) as client:
        wait_until_ready(client)
        client.app = app  # type: ignore[attr-defined]
        yield client


@pytest.fixture(scope="session")
def serve() -> Serve:
    """`serve_model`, for tests that need a server of their own."""
    return serve_model


@pytest.fixture(scope="session")
def run() -> Serve:
    """`run_app`, for tests that bring their own app."""
    return run_app


@pytest.fixture(scope="session")
def ready() -> Callable[[httpx.Client], None]:
    """`wait_until_ready`, beside `run`."""
    return wait_until_ready


@pytest.fixture(scope="session")
def folder_app() -> Callable[..., FastAPI]:
    """An app whose shipped probes are those of a folder, now and at every reload: `(lm, folder, state)`."""

    def make(lm: LanguageModel, folder: Path, state: Path) -> FastAPI:
        chosen = Settings(state=state, probes=folder)

        def reopen() -> ProbeStore:
            return ProbeStore.open(folder, lm)

        return create_app(lambda: Loaded(start_engine(lm, chosen), reopen(), reopen), chosen)

    return make


@pytest.fixture(scope="session")
def client(lm: LanguageModel, make_probe: Callable[..., Probe]) -> Iterator[httpx.Client]:
    """One server for all tests that leave it as it was: tiny-llama with the probes toxicity@1, @2 and sentiment@1."""
    probes = [
        make_probe(lm),
        make_probe(lm, version=2, layers=[1, 3], seed=5),
        make_probe(lm, name="sentiment", layers=[0, 2], seed=6),
    ]
    with serve_model(lm, probes, max_new_tokens=64, max_prompts=8, max_body_bytes=20_000) as client:
        yield client


@pytest.fixture
def serving(
    lm: LanguageModel,
    tmp_path: Path,
    make_probe: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Callable[..., list[dict[str, Any]]]:
    """`tiller serve` on the tiny model while `visit(client)` runs; the lines it logged, of JSON each.

    It is ended with SIGTERM, unless `stops` says that the visit does so.
    """
    monkeypatch.setattr(service.resident, "load_model", lambda name, **_: lm)
    save_probe(make_probe(lm), tmp_path)

    def serve(visit: Callable[[httpx.Client], None], *flags: str, stops: bool = False) -> list[dict[str, Any]]:
        failures: list[BaseException] = []

        def come() -> None:
            said = ""
            try:
                while "docs:" not in said:
                    time.sleep(0.02)
                    said += capfd.readouterr().out
                url = said.split("listens on ")[1].split()[0]
                with httpx.Client(base_url=url, timeout=60) as client:
                    visit(client)
            except BaseException as failure:
                failures.append(failure)
            finally:
                if not stops:
                    os.kill(os.getpid(), signal.SIGTERM)

        visitor = threading.Thread(target=come)
        visitor.start()
        own = ["--port", "0", "--probes", str(tmp_path), "--log-format", "json", "--max-body-bytes", "5000"]
        assert main(["serve", "--model", "tiny", *own, *flags]) == 0
        visitor.join()
        for failure in failures:
            raise failure
        return [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    return serve


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass of the model takes some time."""
    slow_down(monkeypatch, 0.015)
