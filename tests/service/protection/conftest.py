"""Servers as `tiller serve` makes them, with all limits on connections; most without a model, which they never need."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from service import Loaded, Settings, create_app
from service.database import Database
from service.protection.keys import KeyStore
from service.resident import start_engine
from service.serve import configuration
from steering import LanguageModel, Probe, ProbeStore

Start = Callable[..., Any]


@dataclass(frozen=True)
class Server:
    """One that runs."""

    app: FastAPI
    port: int
    state: Path
    uvicorn: uvicorn.Server

    @property
    def keys(self) -> KeyStore:
        """What `tiller keys` works on: another process would see the same."""
        return KeyStore(Database(self.state))

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        """A client, with a key or without."""
        sent = headers if key is None else {"authorization": f"Bearer {key}", **headers}
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, headers=sent)

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def raw(self, *pieces: bytes, pause: float = 0.0) -> bytes:
        """All that comes back for these bytes until the server closes."""
        with self.connect() as sock:
            for piece in pieces:
                sock.sendall(piece)
                time.sleep(pause)
            return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Until the peer closes or cuts."""
    found = b""
    try:
        while piece := sock.recv(1 << 16):
            found += piece
    except ConnectionResetError:
        pass
    return found


@contextmanager
def _run(load: Callable[[Settings], Loaded], settings: Settings, state: Path) -> Iterator[Server]:
    app = create_app(lambda: load(settings), settings)
    server = uvicorn.Server(configuration(app, settings))
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield Server(app, listening.getsockname()[1], state, server)
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """A server that is loading for as long as the test lasts; what needs no model works."""

    @contextmanager
    def started(**settings: Any) -> Iterator[Server]:
        ended = threading.Event()

        def load(settings: Settings) -> Loaded:
            ended.wait(60)
            raise RuntimeError("not needed any more")

        chosen = Settings(**{"state": tmp_path / "state", "log_level": "critical", **settings})
        with _run(load, chosen, chosen.state_folder()) as server:
            yield server
            ended.set()

    return started


@pytest.fixture
def start_tiny(tmp_path: Path, lm: LanguageModel, make_probe: Callable[..., Probe]) -> Start:
    """A ready server of the tiny model and the probe toxicity@1."""

    @contextmanager
    def started(**settings: Any) -> Iterator[Server]:
        chosen = Settings(**{"state": tmp_path / "state", "log_level": "critical", **settings})

        def load(settings: Settings) -> Loaded:
            return Loaded(start_engine(lm, settings), ProbeStore([make_probe(lm)]))

        with _run(load, chosen, chosen.state_folder()) as server, server.client() as client:
            while client.get("/ready").status_code != 200:
                time.sleep(0.01)
            yield server

    return started


def _within(seconds: float, holds: Callable[[], bool]) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


@pytest.fixture
def within() -> Callable[[float, Callable[[], bool]], bool]:
    """Whether something comes to hold in time."""
    return _within
