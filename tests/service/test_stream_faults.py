"""Streams that go wrong: refused before they begin, told in band after, and nobody else waits or notices."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

import httpx
import pytest

from service.streaming import stream as streaming
from service.streaming.feed import Feed
from steering import LanguageModel
from steering.engine import News
from steering.writing import Writing

from .streams import ROUTES, events, held_at, put_together, until

HELD = {"constraints": [{"probe": "toxicity@1", "upper": 0.02}]}
ENDLESS: dict[str, Any] = {"max_tokens": 60, "logit_bias": {"258": -100}}
"""End-of-text is banned."""


def drawn(client: httpx.Client) -> int:
    """Tokens the server has drawn since its start."""
    return int(
        float(re.findall(r"^tiller_generation_tokens_total (\S+)", client.get("/metrics").text, re.MULTILINE)[0])
    )


def running(client: httpx.Client) -> int:
    """Rows that are being written."""
    return int(client.get("/ready").json()["running"])


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("ask", "status", "code"),
    [
        ({"temperature": -1}, 400, "invalid_request"),
        ({"max_tokens": 65}, 400, "invalid_request"),
        ({"steering": {"constraints": [{"probe": "no-such"}]}}, 404, "probe_not_found"),
        ({"steering": {"constraints": [{"probe": "toxicity", "lower": 0.5, "upper": 0.4}]}}, 400, "invalid_bounds"),
        ({"logit_bias": {"999": 1}}, 400, "invalid_request"),
    ],
    ids=str,
)
def test_what_is_refused_unstreamed_is_refused_streamed(
    client: httpx.Client, route: str, ask: dict[str, Any], status: int, code: str
) -> None:
    replies = [client.post(route, json=ROUTES[route] | ask | stream) for stream in ({}, {"stream": True})]
    assert [reply.status_code for reply in replies] == [status, status]
    assert replies[0].json() == replies[1].json()
    assert replies[1].json()["error"]["code"] == code
    assert replies[1].headers["content-type"] == "application/json"


def test_a_full_queue_is_a_refusal_and_the_streams_that_were_accepted_go_on(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(lm, [], slots=1, max_queue=2, max_prompts=1) as client, held_at(monkeypatch, 1) as go:
        first = events(client, "/generate", {"prompt": "a", "max_tokens": 4} | ENDLESS)
        next(first)
        told: list[Any] = []

        def ask() -> None:
            with httpx.Client(base_url=client.base_url, timeout=60) as another:
                told.append(put_together(list(events(another, "/generate", {"prompt": "b", "max_tokens": 2}))))

        waiting = [threading.Thread(target=ask) for _ in range(2)]
        for thread in waiting:  # one by one: on its way into the queue a row is counted twice for a moment
            before = client.get("/ready").json()["waiting"]
            thread.start()
            until(lambda before=before: client.get("/ready").json()["waiting"] == before + 1)
        refused = client.post("/generate", json={"prompt": "c", "stream": True})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_unavailable")
        assert int(refused.headers["retry-after"]) >= 1
        go.set()
        list(first)
        for thread in waiting:
            thread.join()
    assert [choice["finish_reason"] for (choice,) in told] == ["length", "length"]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("route", ROUTES)
def test_an_unproved_choice_ends_in_an_error_and_never_in_a_finish(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, route: str, n: int
) -> None:
    ask = ROUTES[route] | ENDLESS | {"max_tokens": 5, "steering": HELD, "n": n}
    monkeypatch.setattr("steering.engine.steered.SlotSteering.report", lambda *args, **kwargs: None)
    with held_at(monkeypatch, 2) as go:
        stream = events(client, route, ask)
        early = next(stream)
        go.set()
        *chunks, last = early, *stream
    assert set(last) == {"error"}
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert last["error"]["code"] == "steering_not_applied"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)


def test_before_anything_was_sent_an_unproved_choice_is_500(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(self: Any, row: int) -> Any:
        return lambda news: None

    monkeypatch.setattr(Feed, "listener", nothing)
    monkeypatch.setattr("steering.engine.steered.SlotSteering.report", lambda *args, **kwargs: None)
    reply = client.post("/generate", json={"prompt": "a", "max_tokens": 3, "steering": HELD, "stream": True})
    assert (reply.status_code, reply.json()["error"]["code"]) == (500, "steering_not_applied")


def test_a_failure_of_a_row_is_told_in_band_without_path_or_trace(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, logged = Writing.take, list[Any]()

    def explode(writing: Writing, *args: Any) -> None:
        if len(writing.token_ids) == 3:
            raise RuntimeError(f"broken in {__file__}")
        original(writing, *args)

    monkeypatch.setattr("service.errors.log.error", lambda *args, **kwargs: logged.append(kwargs))
    with monkeypatch.context() as patched, held_at(monkeypatch, 1) as go:
        patched.setattr(Writing, "take", explode)
        stream = events(client, "/generate", {"prompt": "a"} | ENDLESS)
        early = next(stream)
        go.set()
        *chunks, last = early, *stream
    assert len(chunks) == 3
    assert last["error"]["code"] == "internal_error"
    assert "test_stream" not in str(last)
    assert isinstance(logged[0]["exc_info"], RuntimeError), "the log says why"
    assert client.post("/generate", json={"prompt": "a", "max_tokens": 2}).status_code == 200


@pytest.mark.usefixtures("slow")
def test_a_deadline_before_the_first_token_is_504(serve: Any, lm: LanguageModel) -> None:
    with serve(lm, [], slots=1) as client, httpx.Client(base_url=client.base_url, timeout=60) as another:
        first = events(another, "/generate", {"prompt": "a"} | ENDLESS)
        next(first)
        late = client.post("/generate", json={"prompt": "b", "timeout": 0.5, "stream": True})
        assert late.status_code == 504
        assert late.json()["error"]["code"] == "deadline_exceeded"
        assert late.headers["x-should-retry"] == "false"
        assert len(list(first)) == 60, "the others go on"


@pytest.mark.parametrize("route", ROUTES)
def test_a_deadline_after_the_first_token_is_told_in_band(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch, route: str
) -> None:
    with held_at(monkeypatch, 1) as go:
        stream = events(client, route, ROUTES[route] | ENDLESS | {"timeout": 2})
        next(stream)
        time.sleep(2.2)
        go.set()
        *_, last = stream
    assert last["error"]["code"] == "deadline_exceeded"
    until(lambda: running(client) == 0)


def test_a_server_that_stops_tells_its_streams(serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lm, []) as client, held_at(monkeypatch, 1) as go:
        stream = events(client, "/generate", {"prompt": "a", "n": 2} | ENDLESS)
        next(stream)
        client.app.state.resident.stop()  # type: ignore[attr-defined]
        go.set()
        *_, last = stream
    assert last["error"]["code"] == "engine_unavailable"


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("route", ROUTES)
def test_a_client_that_leaves_takes_its_rows_along_and_no_others(client: httpx.Client, route: str) -> None:
    ask = {"prompt": "stays", "seed": 1} | ENDLESS
    with httpx.Client(base_url=client.base_url, timeout=60) as another:
        stays = events(another, "/generate", ask)
        told = [next(stays)]
        leaves = events(client, route, ROUTES[route] | ENDLESS | {"n": 2})
        next(leaves)
        assert running(client) == 3
        leaves.close()  # closes the connection
        until(lambda: running(client) == 1)  # never so, if those who began later were written to their end
        told += stays
    assert len(told) == 61
    assert put_together(told)[0]["text"] == client.post("/generate", json=ask).json()["choices"][0]["text"]


def test_a_client_that_does_not_read_keeps_nobody_from_writing(client: httpx.Client) -> None:
    """It sends its request and never looks at the answer; the engine is done with it all the same."""
    body = httpx.Request("POST", "http://t/generate", json={"prompt": "a", "n": 4, "stream": True} | ENDLESS).read()
    head = (
        "POST /generate HTTP/1.1\r\nhost: localhost\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection((client.base_url.host, client.base_url.port)) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        before = drawn(client)
        deaf.sendall(head.encode() + body)
        until(lambda: drawn(client) == before + 4 * ENDLESS["max_tokens"])
        assert client.post("/generate", json={"prompt": "b", "max_tokens": 2}).status_code == 200


def test_a_client_that_has_stopped_to_read_is_given_up_with_its_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warnings: list[Any] = []
    monkeypatch.setattr(streaming, "STALLED", 0.05)
    monkeypatch.setattr(streaming.log, "warning", lambda *args: warnings.append(args))
    row: Future[Any] = Future()

    async def events() -> Any:
        while True:
            yield b"data: {}\n\n"

    async def never(*message: Any) -> Any:
        await asyncio.Event().wait()

    reply = streaming.EventStream(events(), [row])
    asyncio.run(asyncio.wait_for(reply({"type": "http", "asgi": {"spec_version": "2.3"}}, never, never), 10))
    assert row.cancelled()
    assert len(warnings) == 1


def test_silence_is_filled_with_comments_that_clients_pass_over(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "KEEP_ALIVE", 0.05)
    ask = {"prompt": "a", "stream": True} | ENDLESS
    with held_at(monkeypatch, -1) as go, client.stream("POST", "/generate", json=ask) as reply:
        assert reply.status_code == 200, "admitted; nothing has been written yet"
        lines = reply.iter_lines()
        assert [next(lines) for _ in range(4)] == [": keep-alive", ""] * 2
        go.set()
        assert [line for line in lines if line][-1] == "data: [DONE]"
    with held_at(monkeypatch, 2) as go:
        stream = events(client, "/generate", {"prompt": "a", "max_tokens": 3})
        threading.Timer(0.3, go.set).start()
        assert len(list(stream)) == 4


def test_a_feed_loses_nothing_however_it_is_told() -> None:
    """Four threads tell while the loop takes, whenever it likes."""
    each = 2000

    async def read() -> list[Any]:
        feed, got = Feed(), []
        tellers = [
            threading.Thread(
                target=lambda row=row: [feed.listener(row)(News(at, "", None, None)) for at in range(each)]
            )
            for row in range(4)
        ]
        for thread in tellers:
            thread.start()
        while len(got) < 4 * each:
            told = await feed.take(5.0)
            assert told, "told, and nobody woken"
            got += told
        assert await feed.take(0.01) == []
        return got

    got = asyncio.run(read())
    for row in range(4):
        assert [news.token_id for at, news in got if at == row] == list(range(each)), "in order"
