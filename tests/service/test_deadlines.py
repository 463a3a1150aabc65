"""Time and turn of a request: deadlines, priorities, and clients that leave while their row is being written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from service.errors import describe
from steering import LanguageModel
from steering.errors import DeadlineExceeded, NotEnoughMemory

LONG = {"prompt": "a", "max_tokens": 200, "temperature": 0, "logit_bias": {"258": -100}}
"""End-of-text is banned, so that it takes its time."""


@pytest.fixture
def slowly(lm: LanguageModel) -> Iterator[Callable[[float], Any]]:
    """`with slowly(seconds)`: every pass of the model takes that much longer."""

    @contextmanager
    def slow(seconds: float) -> Iterator[None]:
        def wait(*args: Any, **kwargs: Any) -> None:
            time.sleep(seconds)

        handle = lm.model.register_forward_pre_hook(wait)
        try:
            yield
        finally:
            handle.remove()

    return slow  # type: ignore[return-value]


def until(happened: Callable[[], bool]) -> None:
    """Return once it has; fail after ten seconds."""
    for _ in range(1000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within ten seconds")


ROUTES = {
    "/generate": {},
    "/v1/completions": {},
    "/v1/chat/completions": {"prompt": None, "messages": [{"role": "user", "content": "a"}]},
}


def body(route: str, **fields: Any) -> dict[str, Any]:
    """A long request for `route`."""
    return {name: value for name, value in (LONG | ROUTES[route] | fields).items() if value is not None}


@pytest.mark.parametrize("route", ROUTES)
def test_an_answer_that_is_late_is_504_and_its_row_ends(serve: Any, lm: LanguageModel, slowly: Any, route: str) -> None:
    with serve(lm, [], slots=1) as client, slowly(0.05):
        began = time.monotonic()
        late = client.post(route, json=body(route, timeout=0.3))
        assert time.monotonic() - began < 5
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        assert "0.3 seconds" in late.json()["error"]["message"]
        assert late.headers["x-should-retry"] == "false"
        until(lambda: client.get("/ready").json()["running"] == 0)
        assert client.post(route, json=body(route, max_tokens=2)).status_code == 200


def test_the_servers_own_deadline_holds_for_who_gives_none_and_bounds_who_gives_one(
    serve: Any, lm: LanguageModel, slowly: Any
) -> None:
    with serve(lm, [], deadline_seconds=0.3) as client, slowly(0.05):
        assert client.post("/generate", json=LONG).status_code == 504
        refused = client.post("/generate", json=LONG | {"timeout": 0.4})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "timeout"
        assert "--deadline-seconds" in refused.json()["error"]["message"]


def test_who_waits_too_long_is_told_before_his_turn_comes(serve: Any, lm: LanguageModel, slowly: Any) -> None:
    with serve(lm, [], slots=1) as client, slowly(0.02):
        first = threading.Thread(target=lambda: client.post("/generate", json=LONG | {"max_tokens": 100}))
        first.start()
        until(lambda: client.get("/ready").json()["running"] == 1)
        assert client.post("/generate", json=LONG | {"timeout": 0.2}).status_code == 504
        assert client.get("/ready").json()["running"] == 1
        first.join()


@pytest.mark.parametrize("route", ROUTES)
def test_a_client_that_leaves_frees_its_slot_between_two_steps(
    serve: Any, lm: LanguageModel, slowly: Any, route: str
) -> None:
    with serve(lm, [], slots=2, max_prompts=2) as client, slowly(0.05):  # 200 tokens would take ten seconds
        with pytest.raises(httpx.ReadTimeout):
            client.post(route, json=body(route, n=2), timeout=0.5)
        left = time.monotonic()
        until(lambda: client.get("/ready").json()["running"] == 0)
        assert time.monotonic() - left < 2
        assert client.post(route, json=body(route, n=2, max_tokens=2)).status_code == 200


def test_background_requests_wait_until_no_live_one_does(serve: Any, lm: LanguageModel, slowly: Any) -> None:
    ended: list[str] = []
    with serve(lm, [], slots=1) as client, slowly(0.02):

        def ask(name: str, **fields: Any) -> threading.Thread:
            def run() -> None:
                reply = httpx.post(f"{client.base_url}/generate", json=LONG | fields, timeout=60)
                assert reply.status_code == 200
                ended.append(name)

            thread = threading.Thread(target=run)
            thread.start()
            return thread

        threads = [ask("first", max_tokens=100)]
        until(lambda: client.get("/ready").json()["running"] == 1)
        threads.append(ask("background", max_tokens=10, priority="background"))
        until(lambda: client.get("/ready").json()["waiting"] == 1)
        threads.append(ask("live", max_tokens=10))
        until(lambda: client.get("/ready").json()["waiting"] == 2)
        for thread in threads:
            thread.join()
    assert ended == ["first", "live", "background"]


def test_a_short_answer_does_not_wait_for_a_long_one(serve: Any, lm: LanguageModel, slowly: Any) -> None:
    with serve(lm, [], slots=2) as client, slowly(0.02):
        long = threading.Thread(target=lambda: client.post("/generate", json=LONG))
        long.start()
        until(lambda: client.get("/ready").json()["running"] == 1)
        assert client.post("/generate", json=LONG | {"max_tokens": 3}).status_code == 200
        assert client.get("/ready").json()["running"] == 1
        assert client.get("/health").status_code == 200
        long.join()


def test_a_row_that_can_never_fit_is_refused_with_the_flag_that_helps(serve: Any, lm: LanguageModel) -> None:
    with serve(lm, [], row_tokens=32, chunk_tokens=16) as client:
        limits = client.get("/v1/steering/capabilities").json()["limits"]
        assert (limits["row_tokens"], limits["cache_tokens"], limits["chunk_tokens"]) == (32, 512, 16)
        for prompts, param in (("a" * 30, "prompt"), (["a", "a" * 30], "prompt.1")):
            reply = client.post("/generate", json={"prompt": prompts, "max_tokens": 3})
            assert reply.status_code == 400
            error = reply.json()["error"]
            assert (error["code"], error["param"]) == ("context_length_exceeded", param)
            assert "--row-tokens" in error["message"]
        assert client.post("/generate", json={"prompt": "a" * 29, "max_tokens": 3}).status_code == 200


def test_the_engines_new_errors_have_their_status_and_advice() -> None:
    late = describe(DeadlineExceeded("late"))
    assert (late.kind.status, late.kind.code) == (504, "deadline_exceeded")
    full = describe(NotEnoughMemory("full", retry_after=5.0))
    assert (full.kind.status, full.kind.code, full.headers["retry-after"]) == (503, "not_enough_memory", "5")


@pytest.mark.parametrize(
    ("field", "param"),
    [({"priority": "urgent"}, "priority"), ({"timeout": 0}, "timeout"), ({"timeout": "5"}, "timeout")],
)
def test_a_bad_priority_or_timeout_is_refused(client: httpx.Client, field: dict[str, Any], param: str) -> None:
    reply = client.post("/generate", json={"prompt": "a"} | field)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param
