"""A server writes the same rows as the library: same text, same seeds, same format; and its failures are resumable."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from eval.runner.errors import RunStopped, SpecError
from eval.runner.folder import RunFolder
from eval.runner.listener import Silent
from eval.runner.prepare import Prepared, prepare
from eval.runner.reading import ReadSpec
from eval.runner.remote import HttpWriter
from eval.runner.rows import Row
from eval.runner.run import run
from eval.runner.spec import Decoding
from service import Loaded, Settings, create_app
from steering import Engine, LanguageModel, ProbeStore

Read = Callable[..., ReadSpec]
Run = Callable[[Prepared, Path], dict[str, Any]]
Rows = Callable[[Path], list[dict[str, Any]]]
ARMS = [
    "none",
    {"controller": "prompt", "instruction": "write Spanish"},
    {"controller": "slab", "upper": 0.3, "metric": "whitened"},
    {"controller": "setpoint", "gains": [0.5, 0.1, 0], "generation": [0, 3]},
    {"controller": "capping", "upper": 75, "space": "percentile", "layers": [1, 2]},
]


class Served:
    """A real server in a thread; `end` is what a machine that goes down looks like from outside."""

    def __init__(self, lm: LanguageModel, folder: Path, **settings: Any) -> None:
        store = ProbeStore.open(folder, lm)
        app = create_app(lambda: Loaded(Engine(lm), store), Settings(**settings))
        listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", ws="none", access_log=False))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listening]})
        self._thread.start()
        while httpx.get(f"{self.url}/ready").status_code != 200:
            time.sleep(0.01)

    def end(self) -> None:
        self._server.should_exit = True
        self._thread.join()


@contextmanager
def serving(lm: LanguageModel, folder: Path) -> Iterator[Served]:
    server = Served(lm, folder)
    try:
        yield server
    finally:
        server.end()


def ready(read: ReadSpec, lm: LanguageModel) -> Prepared:
    return prepare(read, load=lambda name: lm, patience=0.5)


def test_a_server_writes_the_rows_the_library_writes(
    read: Read, do_run: Run, rows_of: Rows, lm: LanguageModel, tmp_path: Path
) -> None:
    do_run(ready(read(arms=ARMS), lm), tmp_path / "here")
    with serving(lm, tmp_path / "probes") as server:
        prepared = ready(read(arms=ARMS, server=server.url, probes=None), lm)
        do_run(prepared, tmp_path / "there")
        prepared.writer.close()
    here, there = rows_of(tmp_path / "here"), rows_of(tmp_path / "there")
    assert len(here) == len(there) == (2 + 2 * 3) * 10
    for mine, theirs in zip(here, there, strict=True):
        steering, report = mine.pop("steering"), theirs.pop("steering")
        assert mine.pop("logprob_sum") == pytest.approx(theirs.pop("logprob_sum"))
        assert mine == theirs
        assert (steering is None) == (report is None)
        if steering:
            left, right = json.loads(steering), json.loads(report)
            assert left.keys() == right.keys()
            assert left["probes"]["toxicity@1"] == pytest.approx(right["probes"]["toxicity@1"], rel=1e-4, abs=1e-6)
    assert (tmp_path / "there/report.json").is_file()


def test_without_a_model_the_server_says_how_likely_a_text_is_and_no_arm_can_instruct(
    read: Read, do_run: Run, rows_of: Rows, lm: LanguageModel, tmp_path: Path
) -> None:
    with serving(lm, tmp_path / "probes") as server:
        prepared = ready(read(server=server.url, probes=None, model=None), lm)
        do_run(prepared, tmp_path / "out")
        prepared.writer.close()
        do_run(ready(read(), lm), tmp_path / "here")
        for mine, theirs in zip(rows_of(tmp_path / "here"), rows_of(tmp_path / "out"), strict=True):
            assert mine["logprob_tokens"] == theirs["logprob_tokens"]
            assert mine["logprob_sum"] == pytest.approx(theirs["logprob_sum"], rel=1e-4, abs=1e-4)
        with pytest.raises(SpecError, match=r"arm 'prompt .*' goes through the chat template"):
            ready(read(server=server.url, probes=None, model=None, arms=[ARMS[1]]), lm)
        with pytest.raises(SpecError, match="probes names a folder, but the server brings its own"):
            ready(read(server=server.url), lm)


def test_a_server_that_dies_half_way_is_one_clear_error_and_another_one_finishes(
    read: Read, do_run: Run, rows_of: Rows, lm: LanguageModel, tmp_path: Path
) -> None:
    do_run(ready(read(samples=6), lm), tmp_path / "whole")
    server = Served(lm, tmp_path / "probes")
    prepared = ready(read(samples=6, server=server.url, probes=None), lm)

    class Ending(Silent):
        """Ends the server after the third part."""

        parts = 0

        def advance(self, rows: int) -> None:
            self.parts += 1
            if self.parts == 3:
                server.end()

    with pytest.raises(RunStopped, match="does not answer"):
        run(prepared, RunFolder(tmp_path / "out"), listener=Ending())
    prepared.writer.close()
    assert len(list((tmp_path / "out/samples").glob("part-*.parquet"))) == 3
    with serving(lm, tmp_path / "probes") as other:
        prepared = ready(read(samples=6, server=other.url, probes=None), lm)
        do_run(prepared, tmp_path / "out")
        prepared.writer.close()
    keys = ("arm", "prompt_id", "sample", "seed", "token_ids", "continuation")
    for mine, theirs in zip(rows_of(tmp_path / "out"), rows_of(tmp_path / "whole"), strict=True):
        assert [mine[key] for key in keys] == [theirs[key] for key in keys]


def test_what_the_server_refuses_is_said_before_anything_is_written(
    read: Read, lm: LanguageModel, tmp_path: Path
) -> None:
    with serving(lm, tmp_path / "probes") as server:
        with pytest.raises(SpecError, match=r"arm 'none': the server refuses \(400\): .*presence_penalty"):
            ready(read(server=server.url, probes=None, decoding={"presence_penalty": 3.0}), lm)
        with pytest.raises(SpecError, match=r"arm 'slab p<=2': the server refuses \(400\): upper is 2"):
            ready(read(server=server.url, probes=None, arms=[{"controller": "slab", "upper": 2}]), lm)


def test_nobody_at_the_address_is_said_after_the_patience_asked_for(read: Read, lm: LanguageModel) -> None:
    began = time.monotonic()
    with pytest.raises(RunStopped, match=r"the server at http://127.0.0.1:9 does not answer"):
        ready(read(server="http://127.0.0.1:9", probes=None), lm)
    assert time.monotonic() - began < 5


def answering(reply: Callable[[httpx.Request], httpx.Response], **options: Any) -> HttpWriter:
    """A writer whose server has no probes and answers POST /generate with `reply`."""

    def handle(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/steering/capabilities":
            model = {"id": "m", "revision": "r", "num_hidden_layers": 4, "dtype": "float32"}
            return httpx.Response(200, json={"version": "1", "model": model})
        if request.url.path == "/v1/steering/probes":
            return httpx.Response(200, json={"data": []})
        return reply(request)

    return HttpWriter("http://server", transport=httpx.MockTransport(handle), **options)


def written(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    choice = {"text": " ok", "token_ids": [1], "finish_reason": "stop", "seed": body["seed"], "steering": None}
    return httpx.Response(200, json={"choices": [choice], "usage": {"prompt_tokens": 2}})


def rows(count: int, make_ready: Callable[..., Prepared]) -> list[Row]:
    chunks = make_ready(arms=["none"], samples=count).chunks
    return [row for chunk in chunks for row in chunk.rows][:count]


def test_a_full_server_is_asked_again_when_it_says(make_ready: Callable[..., Prepared]) -> None:
    times: list[float] = []

    def busy(request: httpx.Request) -> httpx.Response:
        times.append(time.monotonic())
        if len(times) == 1:
            error = {"message": "256 requests are waiting already", "param": None}
            return httpx.Response(503, json={"error": error}, headers={"retry-after": "1"})
        return written(request)

    writer = answering(busy, concurrency=1)
    (done,) = writer.write(rows(1, make_ready), Decoding())
    writer.close()
    assert done.text == " ok"
    assert times[1] - times[0] >= 1.0


@pytest.mark.parametrize(
    ("status", "headers", "kind", "message"),
    [
        (503, {}, RunStopped, r"answers 503 \(why\), also after 0.3 s"),
        (429, {}, RunStopped, r"answers 429 \(why\), also after 0.3 s"),
        (503, {"x-should-retry": "false"}, RunStopped, r"fails \(503\): why"),
        (500, {}, RunStopped, r"fails \(500\): why"),
        (400, {}, SpecError, r"refuses \(400\): why"),
    ],
)
def test_what_will_not_change_is_not_asked_again(
    make_ready: Callable[..., Prepared], status: int, headers: dict[str, str], kind: type[Exception], message: str
) -> None:
    asked: list[int] = []

    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(status)
        return httpx.Response(status, json={"error": {"message": "why"}}, headers=headers)

    writer = answering(refuse, concurrency=1, patience=0.3)
    with pytest.raises(kind, match=message):
        list(writer.write(rows(3, make_ready), Decoding()))
    writer.close()
    assert len(asked) <= 3


def test_no_more_requests_are_in_flight_than_asked_for(make_ready: Callable[..., Prepared]) -> None:
    running, most = [0], [0]
    lock = threading.Lock()

    def slow(request: httpx.Request) -> httpx.Response:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.02)
        with lock:
            running[0] -= 1
        return written(request)

    writer = answering(slow, concurrency=3)
    assert len(list(writer.write(rows(10, make_ready), Decoding()))) == 10
    writer.close()
    assert most[0] == 3


def test_only_settings_that_ask_for_something_are_sent(make_ready: Callable[..., Prepared]) -> None:
    bodies: list[dict[str, Any]] = []

    def note(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        return written(request)

    writer = answering(note)
    (row,) = rows(1, make_ready)
    list(writer.write([row], Decoding(max_tokens=5, repetition_penalty=1.2, top_p=0.3)))
    writer.close()
    sampling = {"max_tokens": 5, "temperature": 1.0, "repetition_penalty": 1.2, "top_p": 0.3}
    unsteered = {"steering": {"mode": "off"}, "priority": "background"}
    assert bodies == [{"prompt": "To the sea", "seed": row.seed, **unsteered, **sampling}]


def test_an_answer_with_another_seed_is_not_taken_for_ours(make_ready: Callable[..., Prepared]) -> None:
    def other(request: httpx.Request) -> httpx.Response:
        answer = json.loads(written(request).content)
        answer["choices"][0]["seed"] += 1
        return httpx.Response(200, json=answer)

    writer = answering(other)
    with pytest.raises(RunStopped, match="with another seed or without steering"):
        list(writer.write(rows(1, make_ready), Decoding()))
    writer.close()


def test_what_is_no_tiller_server_is_refused() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json={"hello": "world"}))
    with pytest.raises(SpecError, match="answers, but not as a Tiller server"):
        HttpWriter("http://server", transport=transport)


def test_what_is_written_waits_for_live_traffic_and_shows_the_key(
    read: Read, do_run: Run, lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILLER_API_KEY", "a-key-of-the-server")
    asked: list[httpx.Request] = []
    send = httpx.Client.send

    def note(client: httpx.Client, request: httpx.Request, **options: Any) -> httpx.Response:
        asked.append(request)
        return send(client, request, **options)

    with serving(lm, tmp_path / "probes") as server:
        monkeypatch.setattr(httpx.Client, "send", note)
        prepared = ready(read(server=server.url, probes=None), lm)
        checked = len(asked)
        do_run(prepared, tmp_path / "out")
        prepared.writer.close()
    assert {request.headers["authorization"] for request in asked} == {"Bearer a-key-of-the-server"}
    priorities = [json.loads(request.content)["priority"] for request in asked if request.method == "POST"]
    assert set(priorities[: checked - 2]) == {"live"}
    assert set(priorities[checked - 2 :]) == {"background"}
    monkeypatch.setenv("TILLER_API_KEY", "a\nkey")
    with pytest.raises(SpecError, match="holds a letter that no key has"):
        HttpWriter("http://127.0.0.1:9")
