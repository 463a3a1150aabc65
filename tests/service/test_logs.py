"""One line per request, with its id and numbers, and never a word of what was asked or answered unless wanted."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import httpx
import pytest

from service.operations.logs import logging_to
from service.settings import Settings
from steering import LanguageModel
from steering.engine.runner import Runner

CANARY = "kookaburra"
Serving = Callable[..., list[dict[str, Any]]]
"""As the fixture `serving` is"""


def test_no_word_of_a_prompt_or_an_answer_is_logged_at_any_level_even_when_things_go_wrong(
    serving: Serving, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = type(lm.tokenizer)
    works = tokenizer.__call__

    def visit(client: httpx.Client) -> None:
        body = {"prompt": f"A {CANARY} sat", "max_tokens": 3, "temperature": 0}
        steering = {"constraints": [{"probe": "toxicity", "upper": 0.5}]}
        assert client.post("/generate", json=body | {"steering": steering}).status_code == 200
        chat = {"messages": [{"role": "user", "content": CANARY}], "max_tokens": 2}
        assert client.post("/v1/chat/completions", json=chat).status_code == 200
        wrong: list[Any] = [
            {"content": f'{{"prompt": "{CANARY}'},
            {"content": f'{{"prompt": "{CANARY}", "max_tokens": NaN}}'},
            {"content": b'{"prompt": "' + CANARY.encode() + b'\xff"}'},
            {"content": f'{{"prompt": "{CANARY}'.ljust(6000, "x")},
            {"json": body | {CANARY: CANARY}},
            {"json": body | {"temperature": CANARY}},
            {"json": body | {"prompt": {CANARY: CANARY}}},
            {"json": body | {"stop": [CANARY] * 99}},
            {"json": body | {"steering": CANARY}},
            {"json": body | {"steering": {"constraints": [{"probe": CANARY}]}}},
            {"json": body | {"prompt": f"{CANARY} \ud800"}},
            {"json": body | {"prompt": CANARY * 400}},
        ]
        for request in wrong:
            if "json" in request:
                request = {"content": json.dumps(request["json"])}
            reply = client.post("/generate", headers={"content-type": "application/json"}, **request)
            assert 400 <= reply.status_code < 500, reply.text
        client.get(f"/{CANARY}?q={CANARY}")
        client.get(f"/v1/steering/probes/{CANARY}")
        client.post("/generate", json=body, headers={"x-request-id": f"{CANARY} {CANARY}", "user-agent": CANARY})

        def stumbles(self: Any, text: Any, *args: Any, **options: Any) -> Any:
            raise ValueError(f"cannot read {text}")

        monkeypatch.setattr(tokenizer, "__call__", stumbles)
        crash = client.post("/generate", json=body)
        assert (crash.status_code, crash.json()["error"]["code"]) == (500, "internal_error")
        assert crash.headers["x-request-id"]
        monkeypatch.setattr(tokenizer, "__call__", works)

        def breaks(*args: Any, **options: Any) -> Any:
            raise KeyError(CANARY)

        monkeypatch.setattr(Runner, "read", breaks)
        assert client.post("/generate", json=body).status_code == 503

    lines = serving(visit, "--log-level", "debug")
    assert CANARY not in json.dumps(lines)
    assert len([line for line in lines if line["event"] == "request" and line["level"] == "info"]) == 19
    (crash,) = [line for line in lines if line.get("error") == "ValueError"]
    assert any("in encode" in place for place in crash["places"])
    assert crash["request_id"]


def test_every_request_is_one_line_with_its_id_and_numbers(serving: Serving) -> None:
    replies: dict[str, httpx.Response] = {}

    def visit(client: httpx.Client) -> None:
        def ask(name: str, method: str, path: str, **options: Any) -> None:
            replies[name] = client.request(method, path, headers={"x-request-id": name}, **options)

        steering = {"constraints": [{"probe": "toxicity", "upper": 0.1}], "baseline": True}
        ask("steered", "POST", "/generate", json={"prompt": "Once", "max_tokens": 5, "n": 2, "steering": steering})
        ask("wrong", "POST", "/v1/completions", json={"prompt": "Once", "n": "two"})
        ask("lost", "GET", "/nowhere")
        ask("probe", "GET", "/v1/steering/probes/toxicity")
        ask("health", "GET", "/health")

    lines = serving(visit, "--log-level", "info")
    by_id = {line["request_id"]: line for line in lines if line["event"] == "request"}
    for name, reply in replies.items():
        assert reply.headers["x-request-id"] == name
    assert set(by_id) == {"steered", "wrong", "lost", "probe"}, "what probes of the machine ask is for level debug"
    steered, choices = by_id["steered"], replies["steered"].json()["choices"]
    assert (steered["route"], steered["method"], steered["status"]) == ("/generate", "POST", 200)
    assert (steered["mode"], steered["probes"], steered["rows"]) == ("enforce", ["toxicity@1"], 4)
    assert steered["tokens"] == sum(len(choice["token_ids"]) for choice in choices)
    assert sum(steered["finish_reasons"].values()) == 4
    assert 0 < steered["milliseconds"] < 60_000
    assert (by_id["wrong"]["status"], by_id["wrong"]["code"]) == (400, "invalid_request")
    assert (by_id["lost"]["route"], by_id["lost"]["status"]) == ("unmatched", 404)
    assert by_id["probe"]["route"] == "/v1/steering/probes/{probe_id}"
    for line in lines:
        assert {"event", "level", "logger", "timestamp"} <= set(line)


def test_prompts_and_answers_are_logged_when_wanted(serving: Serving) -> None:
    def visit(client: httpx.Client) -> None:
        client.post("/generate", json={"prompt": CANARY, "max_tokens": 2})

    (line,) = [line for line in serving(visit, "--log-prompts") if line["event"] == "request"]
    assert line["prompts"] == [CANARY]
    assert len(line["completions"]) == 1


def test_a_stream_is_one_line_with_what_was_streamed_and_the_name_of_its_key(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILLER_API_KEY", "made-up-key-for-a-test-0123456789")

    def visit(client: httpx.Client) -> None:
        body = {"prompt": "Once", "max_tokens": 4, "stream": True, "logit_bias": {"258": -100}}
        assert client.post("/v1/completions", json=body).status_code == 401
        client.headers["authorization"] = "Bearer made-up-key-for-a-test-0123456789"
        with client.stream("POST", "/v1/completions", json=body) as reply:
            assert reply.headers["x-request-id"]
            assert "[DONE]" in "".join(reply.iter_text())

    refused, streamed = [line for line in serving(visit) if line["event"] == "request"]
    assert (refused["status"], refused["code"], "key" in refused) == (401, "invalid_api_key", False)
    assert (streamed["status"], streamed["tokens"], streamed["key"]) == (200, 4, "environment")
    assert streamed["finish_reasons"] == {"length": 1}


@pytest.mark.parametrize("given", ["a b", "x" * 129, "", "ü", "a\tb", '{"a": 1}'])
def test_a_request_id_that_is_not_sane_is_replaced(given: str, client: httpx.Client) -> None:
    reply = client.get("/version", headers={"x-request-id": given.encode()})
    assert re.fullmatch("[0-9a-f]{32}", reply.headers["x-request-id"])


def test_every_reply_has_a_request_id_errors_included(client: httpx.Client) -> None:
    replies = [
        client.get("/version"),
        client.get("/nowhere"),
        client.post("/generate", content=b"{", headers={"content-type": "application/json"}),
        client.post("/generate", content=b"x" * 30_000),
        client.delete("/generate"),
    ]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == len(replies)


def test_lines_are_text_at_a_terminal_and_json_elsewhere() -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    for stream, flags, as_json in (
        (StringIO(), {}, True),
        (Terminal(), {}, False),
        (StringIO(), {"log_format": "text"}, False),
        (Terminal(), {"log_format": "json"}, True),
    ):
        with logging_to(stream, Settings(**flags)):  # type: ignore[arg-type]
            logging.getLogger("tiller").info("hello", extra={"rows": 3})
        text = stream.getvalue()
        assert text.startswith("{") == as_json
        assert "hello" in text
        assert "rows" in text


def test_logging_leaves_the_process_as_it_was() -> None:
    root, library = logging.getLogger(), logging.getLogger("uvicorn.error")
    before = list(root.handlers), root.level, list(library.handlers), library.level, library.propagate
    with logging_to(StringIO(), Settings(log_level="debug")):
        assert library.propagate
    assert (list(root.handlers), root.level, list(library.handlers), library.level, library.propagate) == before
