"""What a server must not forget: policies and probes, stored one after another until it is gone, and an evaluation."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from load_server import Server

from steering.artefact import single_file
from steering.models import load_model
from steering.tiny import tiny_probe

BASE = "/v1/steering"
MOST = 200
"""Of each kind"""
SPEC: dict[str, Any] = {
    "name": "kept",
    "prompts": [{"name": "places", "texts": ["To the sea", "Up the hill"]}],
    "decoding": {"max_tokens": 8},
    "arms": ["none"],
    "scorers": [{"name": "spanish"}],
}
"""An evaluation any model can be asked for"""


class Keeping:
    """Threads that store while the block runs, or until the server is gone, and remember what was acknowledged.

    `model` is the folder of the tiny model, of which probes are made; without it none are uploaded.
    """

    def __init__(self, server: Server, *, model: Path | None) -> None:
        self._url = f"http://127.0.0.1:{server.port}{BASE}"
        self._over = threading.Event()
        self._lm = None if model is None else load_model(str(model), device="cpu", threads=1)
        self._probe = httpx.get(f"{self._url}/probes", timeout=60).json()["data"][0]["id"]
        self.kept: dict[str, dict[str, str]] = {"policies": {}, "probes": {}, "evaluations": {}}
        """By name, what should be found"""
        self.asked = threading.Event()
        """Set when the evaluation has been answered"""
        self.refusal = ""
        """What was answered instead"""
        stores = [self._policy, self._evaluation, *([] if model is None else [self._upload])]
        self._threads = [threading.Thread(target=self._until_gone, args=(store,)) for store in stores]

    @property
    def counts(self) -> dict[str, int]:
        """How many of each were acknowledged."""
        return {kind: len(found) for kind, found in self.kept.items() if kind != "probes" or self._lm is not None}

    def __enter__(self) -> Keeping:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _until_gone(self, store: Callable[[httpx.Client, int], bool]) -> None:
        with httpx.Client(timeout=120) as http:
            for number in range(MOST):
                try:
                    if self._over.is_set() or not store(http, number):
                        return
                except httpx.TransportError:
                    return

    def _policy(self, http: httpx.Client, number: int) -> bool:
        name, about = f"kept-{number}", f"number {number}"
        body = {"about": about, "steering": {"constraints": [{"probe": self._probe, "upper": 0.2}]}}
        if http.put(f"{self._url}/policies/{name}", json=body).status_code == 201:
            self.kept["policies"][name] = about
        return True

    def _upload(self, http: httpx.Client, number: int) -> bool:
        assert self._lm is not None
        probe = tiny_probe(self._lm, name="kept", version=number + 1, seed=number)
        data = single_file(probe)
        headers = {"content-type": "application/octet-stream"}
        if http.post(f"{self._url}/probes", content=data, headers=headers).status_code == 201:
            self.kept["probes"][probe.id] = hashlib.sha256(data).hexdigest()
        return True

    def _evaluation(self, http: httpx.Client, number: int) -> bool:
        """One is enough: it begins to run."""
        reply = http.post(f"{self._url}/evaluations", json={"spec": SPEC})
        if reply.status_code == 202:
            self.kept["evaluations"][reply.json()["id"]] = SPEC["name"]
        else:
            self.refusal = f"({reply.status_code} {reply.text[:200]})"
        self.asked.set()
        return False

    def missing(self) -> list[str]:
        """What was acknowledged and is not there now as it was; evaluations are cancelled after they were found."""
        missed = []
        with httpx.Client(timeout=60) as http:
            policies = {policy["name"]: policy for policy in self._listed(http, "policies")}
            for name, about in self.kept["policies"].items():
                if name not in policies or policies[name]["about"] != about or policies[name]["problem"]:
                    missed.append(f"policy {name}")
            for probe, digest in self.kept["probes"].items():
                file = http.get(f"{self._url}/probes/{probe}/export")
                if hashlib.sha256(file.content).hexdigest() != digest:
                    missed.append(f"probe {probe}")
            evaluations = {job["id"] for job in self._listed(http, "evaluations")}
            for job in self.kept["evaluations"]:
                if job not in evaluations:
                    missed.append(f"evaluation {job}")
                http.post(f"{self._url}/evaluations/{job}/cancel")
        return [f"{what} was acknowledged and is gone" for what in missed]

    def _listed(self, http: httpx.Client, kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = http.get(f"{self._url}/{kind}").json()["data"]
        return found
