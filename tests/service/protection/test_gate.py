"""Who is let in, who is not, and that a running server sees every change within a second."""

from __future__ import annotations

import time

import pytest
from starlette.responses import Response

from service.cli import main
from service.protection.gate import manages
from service.settings import Settings
from steering.errors import InvalidRequest

CLOSED = [
    "/v1/models",
    "/v1/steering/capabilities",
    "/openapi.json",
    "/metrics",
    "/nowhere",
    "/health/",
    "/static",
]
OPEN = ["/", "/reports", "/docs", "/health", "/ready", "/version", "/favicon.ico", "/static/nothing.js"]


def error_of(reply):
    assert set(reply.json()) == {"error"}
    return reply.json()["error"]


@pytest.fixture
def closed(start):
    """A server with the keys alice and bob."""
    with start(require_key=True) as server:
        yield server


def test_without_a_key_only_open_routes_answer(closed):
    with closed.client() as client:
        for path in CLOSED:
            reply = client.get(path)
            assert (path, reply.status_code) == (path, 401)
            assert reply.headers["www-authenticate"] == "Bearer"
            assert error_of(reply)["code"] == "invalid_api_key"
            assert "Authorization: Bearer" in error_of(reply)["message"]
        for path in OPEN:
            assert client.get(path).status_code != 401


@pytest.mark.parametrize("header", ["", "Bearer", "Basic dXNlcjpwYXNz", "tiller-key", "Bearer\ttiller-x"])
def test_what_is_no_bearer_key_is_told_how_to_send_one(closed, header):
    with closed.client(authorization=header) as client:
        reply = client.get("/v1/models")
    assert reply.status_code == 401
    assert "send it as the header" in error_of(reply)["message"]


def test_unknown_revoked_expired_and_rotated_keys_get_the_same_reply_to_the_byte(closed, within):
    store = closed.keys
    sent = {
        "revoked": store.add("alice"),
        "expired": store.add("bob", expires=time.time() + 0.01),
        "rotated": store.add("carol"),
        "unknown": "tiller-" + "x" * 43,
    }
    store.revoke("alice")
    good = store.rotate("carol")
    with closed.client(good) as client:
        assert within(1, lambda: client.get("/v1/models").status_code != 401)
    replies = {}
    for kind, key in sent.items():
        with closed.client(key) as client:
            reply = client.get("/v1/models")
        assert reply.status_code == 401
        replies[kind] = (
            reply.content,
            sorted((k, v) for k, v in reply.headers.items() if k not in ("date", "x-request-id")),
        )
    assert len(set(map(repr, replies.values()))) == 1


def test_a_running_server_sees_new_rotated_and_revoked_keys_within_a_second(start, within):
    with start() as server, server.client() as anybody:
        assert anybody.get("/v1/models").status_code == 503, "open, and loading"
        first = server.keys.add("alice")
        assert within(1, lambda: anybody.get("/v1/models").status_code == 401), "the first key closes the doors"
        with server.client(first) as client:
            assert client.get("/v1/models").status_code == 503
            second = server.keys.rotate("alice")
            assert within(1, lambda: client.get("/v1/models").status_code == 401)
        with server.client(second) as client:
            assert client.get("/v1/models").status_code == 503
            server.keys.revoke("alice")
            assert within(1, lambda: client.get("/v1/models").status_code == 401)
        server.keys.forget("alice")
        time.sleep(0.9)
        assert anybody.get("/v1/models").status_code == 401, "what was closed does not open by itself"


def test_a_server_whose_last_key_was_revoked_is_closed_after_a_restart_too(start):
    with start() as server:
        server.keys.add("alice")
        server.keys.revoke("alice")
    with start() as server, server.client() as client:
        assert client.get("/v1/models").status_code == 401
        server.keys.forget("alice")
    with start() as server, server.client() as client:
        assert client.get("/v1/models").status_code == 503


def test_the_key_of_the_environment_is_enough(start, monkeypatch):
    key = "0123456789abcdef-from-a-secret-store"
    monkeypatch.setenv("TILLER_API_KEY", key)
    with start() as server, server.client() as anybody, server.client(key) as client:
        assert anybody.get("/v1/models").status_code == 401
        assert client.get("/v1/models").status_code == 503
        assert key.encode() not in b"".join(path.read_bytes() for path in server.state.rglob("*") if path.is_file())


def test_a_key_of_scope_generate_changes_nothing_and_one_of_scope_admin_may(start, within):
    with start(require_key=True) as server:
        alice, operator = server.keys.add("alice"), server.keys.add("operator", scope="admin")
        with server.client(alice) as client, server.client(operator) as admin:
            assert within(2, lambda: client.get("/v1/models").status_code != 401)
            assert within(2, lambda: admin.get("/v1/models").status_code != 401)
            for method, path in (
                ("PUT", "/v1/steering/policies/polite"),
                ("DELETE", "/v1/steering/probes/toxicity@1"),
                ("POST", "/v1/steering/probes"),
                ("POST", "/v1/steering/evaluations"),
                ("POST", "/v1/steering/reload"),
            ):
                refused = client.request(method, path, json={})
                assert (path, refused.status_code, error_of(refused)["code"]) == (path, 403, "forbidden")
                assert "--scope admin" in error_of(refused)["message"]
                assert admin.request(method, path, json={}).status_code not in {401, 403}
            assert client.post("/v1/steering/probes/toxicity/score", json={}).status_code not in {401, 403}
            assert client.post("/generate", json={"prompt": "a"}).status_code not in {401, 403}


def test_every_route_that_changes_the_server_takes_scope_admin(start):
    with start() as server, server.client() as client:
        paths = client.get("/openapi.json").json()["paths"]
    told = {(method, path): about["tags"][0] for path, methods in paths.items() for method, about in methods.items()}
    for (method, path), tag in told.items():
        changes = method != "get" and tag in {"probes", "policies", "evaluations"} and not path.endswith("/score")
        assert manages(method.upper(), path) == changes, (method, path)


def test_the_request_carries_the_name_of_the_key_and_never_the_key(start):
    seen = {}
    with start() as server:
        key = server.keys.add("alice")

        def look(request):
            seen.update(name=request.state.key, state=repr(request.state._state))
            return Response()

        server.app.add_route("/look", look)
        time.sleep(0.9)
        with server.client(key) as client:
            client.get("/look").raise_for_status()
    assert seen["name"] == "alice"
    assert key not in seen["state"]


def test_a_public_bind_needs_a_key_or_the_word(tmp_path, capsys, monkeypatch):
    for host in ("0.0.0.0", "::", "example.org"):
        with pytest.raises(InvalidRequest, match=r"tiller keys add.*--allow-public"):
            Settings(host=host).check_bind()
        Settings(host=host).check_bind(closed=True)
        Settings(host=host, allow_public=True).check_bind()
    state = ["--state", str(tmp_path)]
    assert main(["serve", "--host", "0.0.0.0", *state]) == 2
    assert "this server has no keys" in capsys.readouterr().err
    monkeypatch.setenv("TILLER_API_KEY", "weak")
    assert main(["serve", "--host", "0.0.0.0", *state]) == 2
    assert "TILLER_API_KEY is no good key" in capsys.readouterr().err


def test_a_body_without_a_key_is_dropped_and_its_sender_told(closed):
    with closed.client() as client:
        reply = client.post("/generate", content=b"x" * 500_000, headers={"content-type": "application/json"})
        assert reply.status_code == 401
        assert "connection" not in reply.headers
    endless = closed.raw(
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 900000000\r\n\r\n" + b"x" * 2_000_000
    )
    assert endless.startswith(b"HTTP/1.1 401 ") or endless == b"", "told, unless the cut was faster"
    waiting = closed.raw(
        b"POST /generate HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n"
    )
    assert waiting.startswith(b"HTTP/1.1 401 "), "it is not asked for its body first"


def test_a_foreign_page_cannot_spend_what_an_open_server_has(start):
    with start(cors_origin=("https://good.example",)) as server, server.client() as client:
        own = f"http://127.0.0.1:{server.port}"
        for origin, status in [
            ("https://evil.example", 403),
            ("null", 403),
            (own, 503),
            ("https://good.example", 503),
        ]:
            reply = client.post("/generate", json={"prompt": "a"}, headers={"origin": origin})
            assert (origin, reply.status_code) == (origin, status)
        reply = client.post("/generate", json={"prompt": "a"}, headers={"origin": "https://evil.example"})
        assert error_of(reply)["code"] == "origin_not_allowed"
        assert client.get("/version", headers={"origin": "https://evil.example"}).status_code == 200


def test_cross_origin_is_off_unless_asked_for(start):
    ask = {"origin": "https://good.example", "access-control-request-method": "POST"}
    with start(require_key=True) as server, server.client() as client:
        reply = client.options("/generate", headers=ask)
        assert reply.status_code == 401
        assert not [name for name in reply.headers if name.startswith("access-control")]
    with start(require_key=True, cors_origin=("https://good.example",)) as server, server.client() as client:
        reply = client.options("/generate", headers=ask | {"access-control-request-headers": "authorization"})
        assert reply.status_code == 200
        assert reply.headers["access-control-allow-origin"] == "https://good.example"
        refused = client.get("/v1/models", headers={"origin": "https://good.example"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://good.example", "so that the page can read it"
        assert "access-control-allow-credentials" not in refused.headers
        evil = client.options("/generate", headers=ask | {"origin": "https://evil.example"})
        assert "access-control-allow-origin" not in evil.headers


@pytest.mark.parametrize(
    "origin", ["good.example", "https://good.example/", "https://good.example/page", "ftp://a", ""]
)
def test_an_origin_no_browser_sends_is_refused_at_the_start(origin, capsys):
    assert main(["serve", "--cors-origin", origin]) == 2
    assert "such as https://example.org" in capsys.readouterr().err


def test_a_name_that_is_not_ours_gets_nothing_so_rebinding_reads_nothing(start):
    with start(allowed_host=("tiller.example",)) as server, server.client() as client:
        for host, status in [
            ("evil.example", 403),
            ("evil.example:8000", 403),
            ("localhost.evil.example", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost", 200),
            ("LOCALHOST:1", 200),
            ("a.localhost:8000", 200),
            ("[::1]:8000", 200),
            ("192.0.2.7", 200),
            ("tiller.example:443", 200),
        ]:
            reply = client.get("/version", headers={"host": host})
            assert (host, reply.status_code) == (host, status)
        reply = client.get("/", headers={"host": "evil.example"})
        assert error_of(reply)["code"] == "host_not_allowed"
        assert "--allowed-host" in error_of(reply)["message"]
    with start(host="0.0.0.0") as server, server.client() as client:  # the test's own socket is of this machine alone
        assert client.get("/version", headers={"host": "any.example"}).status_code == 200
