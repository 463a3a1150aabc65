"""Streams read by httpx-sse, and put together again."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from httpx_sse import connect_sse

from steering.engine.runner import Runner

ROUTES: dict[str, dict[str, Any]] = {
    "/generate": {"prompt": "It was a dark night"},
    "/v1/completions": {"prompt": "It was a dark night"},
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "It was dark"}]},
}
"""Every route that streams, and what it is asked to continue."""


def events(client: httpx.Client, route: str, body: dict[str, Any]) -> Iterator[Any]:
    """The documents of a stream as they come; fails unless it is one and ends with `[DONE]`."""
    with connect_sse(client, "POST", route, json=body | {"stream": True}) as source:
        assert source.response.status_code == 200, source.response.read()
        ended = False
        for event in source.iter_sse():
            assert not ended, "nothing comes behind [DONE]"
            ended = event.data == "[DONE]"
            if not ended:
                yield json.loads(event.data)
        assert ended


def put_together(documents: list[Any]) -> list[dict[str, Any]]:
    """The choices the chunks of a stream amount to, each as the unstreamed answer has it, in order."""
    choices: dict[int, dict[str, Any]] = defaultdict(dict)
    for document in documents:
        for chunk in document["choices"]:
            _add(choices[chunk["index"]], chunk)
    return [choices[index] for index in sorted(choices)]


@contextmanager
def held_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Iterator[threading.Event]:
    """While it lasts the model stops before it reads generated token `step`, until the event is set."""
    original, go = Runner.read, threading.Event()

    def read(runner: Runner, first: int, rows: Any, lengths: Any, offsets: Any, **options: Any) -> Any:
        if max(offsets) >= step:
            assert go.wait(30)
        return original(runner, first, rows, lengths, offsets, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Runner, "read", read)
        try:
            yield go
        finally:
            go.set()


def hold_reading(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """From now on every pass of the model waits: the first event says that one does, and setting the second lets go."""
    original, started, hold = Runner.read, threading.Event(), threading.Event()

    def read(*args: Any, **options: Any) -> Any:
        started.set()
        assert hold.wait(30)
        return original(*args, **options)

    monkeypatch.setattr(Runner, "read", read)
    return started, hold


def slow_down(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """From now on every pass of the model takes so much longer."""
    original = Runner.read

    def read(*args: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return original(*args, **options)

    monkeypatch.setattr(Runner, "read", read)


def until(happened: Callable[[], bool]) -> None:
    """Return once it has; fail after a minute."""
    for _ in range(6000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within a minute")


def alike(one: Any, other: Any) -> bool:
    """Whether two documents are the same, numbers up to the order in which a batch sums its products."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-4)
    return bool(one == other)


def _add(choice: dict[str, Any], chunk: dict[str, Any]) -> None:
    assert choice.get("finish_reason") is None, "nothing comes behind the last chunk"
    delta = chunk.get("delta")
    told = (chunk.get("steering") or {}).get("tokens") if chunk["finish_reason"] is None else None
    if not choice:
        choice |= {key: chunk[key] for key in ("index", "seed", "baseline")} | {"text": "", "token_ids": []}
        choice |= {"logprobs": None, "scores": None, "role": delta["role"] if delta else None}
    else:
        assert delta is None or "role" not in delta
    choice["text"] += chunk["text"] if delta is None else delta["content"]
    choice["token_ids"] += chunk["token_ids"]
    choice["logprobs"] = _joined(choice["logprobs"], chunk["logprobs"])
    choice["scores"] = _joined(choice["scores"], told)
    choice["finish_reason"] = chunk["finish_reason"]
    if chunk["finish_reason"] is not None:
        choice["steering"] = chunk["steering"]


def _joined(one: Any, other: Any) -> Any:
    """Lists end to end; objects of lists, key by key."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, dict):
        return {key: None if value is None else value + other[key] for key, value in one.items()}
    return one + other
