"""Rates and budgets: never overspent, charged by what was written, kept over restarts."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.database import Database
from service.errors import ApiError
from service.protection.keys import Key
from service.protection.ledger import Account, Ledger
from service.protection.rates import Rates
from steering.engine import News

NEWS = News(1, "", None, None)


def budget(tokens):
    return Key("alice", tokens_per_day=tokens)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=30), st.integers(1, 200))
@settings(max_examples=50, deadline=None)
def test_charged_and_reserved_never_exceed_the_budget(requests, limit):
    ledger, key, open_accounts, spent = Ledger(), budget(limit), [], 0
    for most, written in requests:
        account = Account(ledger, key)
        try:
            account.reserve(most)
        except ApiError:
            refused_rightly = spent + sum(held for _, held in open_accounts) + most > limit
            assert refused_rightly
            continue
        account.charge(min(written, most))
        spent += min(written, most)
        open_accounts.append((account, most - min(written, most)))
        if len(open_accounts) > 3:
            open_accounts.pop(0)[0].close()
        assert ledger.spent("alice") == spent <= limit


def test_a_burst_of_threads_cannot_overspend():
    ledger, key = Ledger(), budget(1000)

    def spend(_):
        account = Account(ledger, key)
        try:
            account.reserve(70)
        except ApiError:
            return 0
        listener = account.counted()
        for _ in range(70):
            listener(NEWS)
        account.close()
        return 70

    with ThreadPoolExecutor(16) as threads:
        assert sum(threads.map(spend, range(60))) == 980 == ledger.spent("alice")


def test_what_was_not_written_is_given_back_and_late_tokens_still_count():
    ledger, key, told = Ledger(), budget(100), []
    account = Account(ledger, key)
    account.reserve(100)
    listener = account.counted(told.append)
    listener(NEWS)
    account.close()
    listener(NEWS)
    assert ledger.spent("alice") == 2
    assert told == [NEWS, NEWS]
    Account(ledger, key).reserve(98)
    with pytest.raises(ApiError, match="left before"):
        account.reserve(1)


def test_a_budget_survives_a_restart_and_is_shared_by_servers_of_one_folder(tmp_path):
    first, second, database = Ledger(), Ledger(), Database(tmp_path)
    for ledger, tokens in ((first, 30), (second, 40), (first, 5)):
        Account(ledger, budget(100)).charge(tokens)
        ledger.sync(database)
    second.sync(database)
    assert (first.spent("alice"), second.spent("alice")) == (75, 75)
    restarted = Ledger()
    restarted.sync(Database(tmp_path))
    with pytest.raises(ApiError, match=r"up to 26 tokens.*has 25 left of its 100 a day"):
        Account(restarted, budget(100)).reserve(26)


def test_what_could_not_be_written_is_kept_and_written_later(tmp_path, monkeypatch):
    ledger, database = Ledger(), Database(tmp_path)
    Account(ledger, budget(100)).charge(30)
    with monkeypatch.context() as broken:
        broken.setattr(database, "path", tmp_path / "no" / "file")
        with pytest.raises(Exception, match="unable to open"):
            ledger.sync(database)
    assert ledger.spent("alice") == 30
    ledger.sync(database)
    ledger.sync(database)
    assert ledger.spent("alice") == 30


def test_a_new_day_begins_at_nothing(monkeypatch):
    ledger = Ledger()
    Account(ledger, budget(100)).charge(100)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_400)
    assert ledger.spent("alice") == 0
    Account(ledger, budget(100)).reserve(100)


def test_a_bucket_lets_a_minute_s_worth_through_and_then_one_at_a_time():
    now = [0.0]
    rates, key = Rates(max_running=1000, clock=lambda: now[0]), Key("alice", requests_per_minute=30)

    def let_in():
        try:
            rates.enter(key)
        except ApiError as refused:
            return int(refused.headers["retry-after"])
        return 0

    assert [let_in() for _ in range(31)] == [0] * 30 + [2]
    now[0] += 2
    assert [let_in(), let_in()] == [0, 2], "who waits as long as he was told is let in"
    now[0] += 3600
    assert [let_in() for _ in range(31)] == [0] * 30 + [2], "an hour's rest is worth no more than a minute's"
    assert [Rates(max_running=9).enter(Key("bob")) for _ in range(5)] == [None] * 5


def test_requests_of_a_key_at_a_time_are_counted_and_end():
    rates, alice, bob = Rates(max_running=2), Key("alice"), Key("bob")
    rates.enter(alice)
    rates.enter(alice)
    with pytest.raises(ApiError, match="--max-requests-per-key"):
        rates.enter(alice)
    rates.enter(bob)
    rates.leave(alice)
    rates.enter(alice)


def test_over_http_tokens_are_charged_as_usage_tells_and_kept(start_tiny):
    ask = {"prompt": "hello", "max_tokens": 8, "temperature": 0, "n": 2}
    with start_tiny() as server:
        key = server.keys.add("alice", tokens_per_day=60)
        other = server.keys.add("bob", requests_per_minute=2)
        time.sleep(0.9)
        with server.client(key) as client, server.client(other) as second:
            used = client.post("/generate", json=ask).raise_for_status().json()["usage"]["total_tokens"]
            refused = client.post("/generate", json=ask | {"max_tokens": 40})
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "insufficient_quota"
            assert f"has {60 - used} left" in refused.json()["error"]["message"]
            assert 0 < int(refused.headers["retry-after"]) <= 86_400
            assert client.post("/generate", json={"prompt": ""}).status_code == 400
            statuses = [second.post("/generate", json={"prompt": ""}).status_code for _ in range(3)]
            assert statuses == [400, 400, 429]
            assert client.get("/v1/models").status_code == 200, "what costs no tokens is still answered"
    assert {known.name: known.tokens_today for known in server.keys.all()} == {"alice": used, "bob": 0}
    with start_tiny() as server, server.client(key) as client:
        refused = client.post("/generate", json=ask | {"max_tokens": 40})
        assert f"has {60 - used} left" in refused.json()["error"]["message"]


def test_a_request_that_is_left_pays_for_what_was_written_and_no_more(start_tiny, within):
    with start_tiny() as server:
        key = server.keys.add("alice", tokens_per_day=4000)
        time.sleep(0.9)
        ledger = server.app.state.guards.ledger
        body = b'{"prompt": "hello", "max_tokens": 240, "n": 16, "logit_bias": {"2": -100}}'
        with server.connect() as sock:
            sock.sendall(
                b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
                + f"authorization: Bearer {key}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            assert within(10, lambda: ledger.spent("alice") > 10)
        engine = server.app.state.resident.get().engine
        assert within(10, lambda: engine.running == 0)
        spent = ledger.spent("alice")
        assert 10 < spent < 16 * 240
        with server.client(key) as client:
            reply = client.post("/generate", json={"prompt": "a", "max_tokens": 2})
            assert reply.status_code == 200, "the rest was given back"


def test_a_stream_that_is_left_pays_for_what_was_written(start_tiny, within):
    with start_tiny() as server:
        key = server.keys.add("alice", tokens_per_day=4000)
        time.sleep(0.9)
        ask = {"prompt": "hello", "max_tokens": 200, "n": 8, "stream": True, "logit_bias": {"2": -100}}
        ledger = server.app.state.guards.ledger
        with server.client(key) as client, client.stream("POST", "/generate", json=ask) as reply:
            lines = [line for line, _ in zip(reply.iter_lines(), range(20), strict=False)]
        assert reply.status_code == 200
        engine = server.app.state.resident.get().engine
        assert within(10, lambda: engine.running == 0)
        read = len([line for line in lines if line.startswith("data: ")])
        assert read + 5 <= ledger.spent("alice") < 8 * 200
        with server.client(key) as client:
            body = {"prompt": "hello", "max_tokens": 8, "stream": True, "n": 2, "logit_bias": {"2": -100}}
            before = ledger.spent("alice")
            assert client.post("/generate", json=body).text.rstrip().endswith("[DONE]")
            assert ledger.spent("alice") - before == len(b"hello") + 16, "a byte is a token here"


def test_scoring_a_text_is_charged_for_reading_it(start_tiny):
    with start_tiny() as server:
        key = server.keys.add("alice", tokens_per_day=30)
        time.sleep(0.9)
        with server.client(key) as client:
            score = "/v1/steering/probes/toxicity/score"
            assert client.post(score, json={"prompt": "x" * 20}).status_code == 200
            refused = client.post(score, json={"prompt": "x" * 20})
            assert refused.json()["error"]["code"] == "insufficient_quota"
            assert "has 10 left" in refused.json()["error"]["message"]


def test_the_openai_client_understands_both_refusals(start_tiny):
    with start_tiny(max_requests_per_key=1) as server:
        key = server.keys.add("alice", tokens_per_day=20)
        time.sleep(0.9)
        url = f"http://127.0.0.1:{server.port}/v1"
        with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
            with pytest.raises(openai.RateLimitError) as caught:
                client.completions.create(model="tiny-llama", prompt="hello", max_tokens=50)
            assert caught.value.code == "insufficient_quota"
        with (
            openai.OpenAI(base_url=url, api_key="tiller-wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


def test_more_requests_at_a_time_than_a_key_may_have_are_429_and_the_others_finish(start_tiny):
    with start_tiny(max_requests_per_key=2, max_new_tokens=200) as server:
        key = server.keys.add("alice")
        time.sleep(0.9)
        begin, statuses = threading.Barrier(8), []

        def ask():
            with server.client(key) as client:
                begin.wait()
                ask = {"prompt": "hello", "max_tokens": 200, "logit_bias": {"2": -100}}
                statuses.append(client.post("/generate", json=ask).status_code)

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 2
        with server.client(key) as client:
            assert client.post("/generate", json={"prompt": "hello", "max_tokens": 1}).status_code == 200
