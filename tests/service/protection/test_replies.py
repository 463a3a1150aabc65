"""What every reply says to browsers, and what none of them says to anybody."""

from __future__ import annotations

import time

from starlette.responses import HTMLResponse

from service.protection.shell import BARE


def test_replies_are_not_stored_or_guessed_at_and_show_no_build(start):
    with start() as server, server.client() as client:
        for path in ("/version", "/v1/models", "/nowhere", "/openapi.json", "/metrics"):
            reply = client.get(path)
            assert reply.headers["cache-control"] == "no-store"
            assert reply.headers["x-content-type-options"] == "nosniff"
            assert not {"server", "x-powered-by"} & set(reply.headers)
            told = " ".join(f"{name}: {value}" for name, value in reply.headers.items()).lower()
            assert "uvicorn" not in told
            assert "python" not in told


def test_a_page_runs_only_what_is_ours_and_stands_in_no_frame(start):
    with start() as server, server.client() as client:
        server.app.add_route("/page", lambda request: HTMLResponse("<p>hello"))
        server.app.add_route("/own", lambda request: HTMLResponse("", headers={"content-security-policy": "sandbox"}))
        assert client.get("/page").headers["content-security-policy"] == BARE
        assert client.get("/own").headers["content-security-policy"] == "sandbox"
        for path in ("/", "/reports", "/docs", "/page"):
            reply = client.get(path)
            policy = reply.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy
            assert "script-src 'self'" in policy or policy.startswith(("default-src 'self'", "default-src 'none'"))
            assert "://" not in policy
            assert reply.headers["x-frame-options"] == "DENY"
            assert reply.headers["referrer-policy"] == "no-referrer"
        assert "content-security-policy" not in client.get("/version").headers


def test_a_fault_of_ours_tells_neither_path_nor_trace(start):
    def fail(request):
        raise RuntimeError(f"secret of {__file__}")

    with start() as server, server.client() as client:
        server.app.add_route("/fail", fail)
        reply = client.get("/fail")
        assert reply.status_code == 500
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
        assert reply.headers["cache-control"] == "no-store"
        assert reply.headers["x-content-type-options"] == "nosniff"
        for word in ("secret", ".py", "Traceback", "RuntimeError", "/"):
            assert word not in reply.text


def test_no_refusal_tells_where_the_server_keeps_anything(start):
    with start() as server:
        key = server.keys.add("alice", tokens_per_day=1, requests_per_minute=3)
        time.sleep(0.9)
        replies = []
        with server.client(key) as client, server.client() as anybody:
            for _ in range(5):
                replies.append(client.post("/generate", json={"prompt": "a"}))
                replies.append(anybody.get("/../../etc/passwd"))
                replies.append(anybody.get("/static/..%2f..%2fsettings.py"))
        assert {401, 429, 503} <= {reply.status_code for reply in replies}
        for reply in replies:
            assert set(reply.json()) == {"error"}
            assert str(server.state) not in reply.text
            assert "site-packages" not in reply.text
            assert key not in reply.text


def test_a_key_is_in_no_line_of_the_log(start, caplog):
    with start(log_level="debug") as server:
        key = server.keys.add("alice")
        wrong = "tiller-" + "w" * 43
        time.sleep(0.9)
        for sent in (key, wrong):
            with server.client(sent) as client:
                client.get("/v1/models")
                client.post("/generate", content=b"{", headers={"content-type": "application/json"})
    assert key not in caplog.text
    assert wrong not in caplog.text
