"""With bare sockets: what is too long, too slow, too many or no HTTP at all is refused in the one shape, or cut."""

from __future__ import annotations

import json
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.protection.connections import protocol
from service.protection.nesting import MAX_DEPTH, nests_too_deeply
from service.settings import Settings

GET = b"GET /version HTTP/1.1\r\nhost: localhost\r\n"


def refusal(reply):
    """Status and code of a reply, which must end its connection."""
    head, _, body = reply.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower(), reply
    assert b"application/json" in head, reply
    error = json.loads(body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return int(head.split()[1]), error["code"]


def ended(sock):
    """Seconds until the server ends a connection that stays silent."""
    began = time.monotonic()
    sock.settimeout(10)
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - began


def answers(server):
    with server.client() as client:
        return client.get("/version").status_code == 200


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"HELO there\r\n\r\n", 400, "invalid_http"),
        (b"GET /version HTTP/1.1\r\n\r\n", 400, "invalid_http"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "invalid_http"),
        (GET + b"content-length: -1\r\n\r\n", 400, "invalid_http"),
        (GET + b"content-length: 1\r\ncontent-length: 2\r\n\r\n", 400, "invalid_http"),
        (GET + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400, "invalid_http"),
        (GET + b"a b: c\r\n\r\n", 400, "invalid_http"),
        (GET + b"transfer-encoding: chunked\r\n\r\nnot a length\r\n", 400, "invalid_http"),
        (GET + b"x: " + b"y" * 300_000, 431, "headers_too_large"),
    ],
)
def test_what_is_no_request_gets_the_one_shape(start, request_, status, code):
    with start() as server:
        assert refusal(server.raw(request_)) == (status, code)
        assert answers(server)


def test_a_head_is_limited_in_size_count_and_url_even_when_it_comes_in_one_piece(start):
    with start() as server:
        for head, status, code in [
            (GET + b"x: " + b"y" * 20_000 + b"\r\n", 431, "headers_too_large"),
            (GET + b"".join(b"h%d: y\r\n" % i for i in range(120)), 431, "headers_too_large"),
            (b"GET /" + b"u" * 9_000 + b" HTTP/1.1\r\nhost: localhost\r\n", 414, "url_too_long"),
            (b"GET /version?" + b"q" * 9_000 + b" HTTP/1.1\r\nhost: localhost\r\n", 414, "url_too_long"),
        ]:
            assert refusal(server.raw(head + b"connection: close\r\n\r\n")) == (status, code)
        assert server.raw(
            GET + b"x: " + b"y" * 10_000 + b"\r\nconnection: close\r\n" + b"a: b\r\n" * 90 + b"\r\n"
        ).startswith(b"HTTP/1.1 200 ")


def test_a_head_that_trickles_ends_in_time_however_it_trickles(start):
    with start(header_seconds=0.5) as server:
        began = time.monotonic()
        with server.connect() as sock:
            reply = b""
            sock.settimeout(0.05)
            for byte in GET * 10:
                try:
                    sock.sendall(bytes([byte]))
                    reply = sock.recv(4096)
                except TimeoutError:
                    continue
                except (BrokenPipeError, ConnectionResetError):
                    break
                if reply:
                    break
        assert refusal(reply) == (408, "head_timeout")
        assert time.monotonic() - began < 3
        with server.connect() as silent:
            assert ended(silent) < 3
        with server.connect() as second:
            second.sendall(GET + b"\r\n" + b"GET /vers")
            assert ended(second) < 6, "the second request of a connection has no more time"


def test_a_body_that_trickles_ends_in_time(start):
    with start(body_seconds=0.5) as server:
        for more in (b"content-length: 1000\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"):
            began = time.monotonic()
            reply = server.raw(b"POST /generate HTTP/1.1\r\nhost: localhost\r\n" + more)
            assert refusal(reply) == (408, "body_timeout")
            assert time.monotonic() - began < 3


def test_a_body_that_trickles_without_a_key_ends_in_time_too(start):
    with start(body_seconds=0.5, require_key=True) as server:
        reply = server.raw(b"POST /generate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{")
        assert refusal(reply) == (408, "body_timeout")


def test_a_caller_who_does_not_read_is_cut(start, within):
    with start(write_seconds=0.3) as server:
        with server.connect() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n" * 300)
            assert within(20, lambda: not server.uvicorn.server_state.connections)
        assert answers(server)


def test_connections_over_the_limit_are_told_and_those_far_over_it_cut(start, within):
    with start(max_connections=3, header_seconds=5) as server:
        held = [server.connect() for _ in range(3)]
        try:
            assert within(2, lambda: len(server.uvicorn.server_state.connections) == 3)
            assert refusal(server.raw(GET + b"\r\n")) == (503, "too_many_connections")
            flood = [server.connect() for _ in range(200)]
            assert within(2, lambda: len(server.uvicorn.server_state.connections) <= 3 + 64)
            for sock in flood:
                sock.close()
            held.pop().close()
            assert within(3, lambda: answers(server)), "a place that is left is given away"
        finally:
            for sock in held:
                sock.close()


def test_slots_of_connections_come_back_after_a_storm_of_bad_ones(start, within):
    with start(max_connections=60, header_seconds=0.5, body_seconds=0.5) as server:
        storms = [GET[:9], b"\xff" * 50, GET + b"content-length: 10\r\n\r\nabc", b"", GET + b"\r\n"]
        socks = [server.connect() for _ in range(50)]
        for index, sock in enumerate(socks):
            sock.sendall(storms[index % len(storms)])
        time.sleep(0.1)
        for sock in socks[::2]:
            sock.close()
        assert within(8, lambda: not server.uvicorn.server_state.connections)
        assert not server.uvicorn.server_state.tasks
        assert answers(server)
        for sock in socks:
            sock.close()


def test_json_is_measured_before_it_is_parsed(start):
    assert not nests_too_deeply(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH)
    assert nests_too_deeply(b"[" * (MAX_DEPTH + 1))
    assert not nests_too_deeply(b'{"prompt": "' + b"[{" * 1000 + b'\\"[[[[", "a": [[]]}')
    assert not nests_too_deeply(b"[]" * 1000)
    with start() as server, server.client() as client:
        for opening in (b'{"a": ', b"["):
            reply = client.post("/generate", content=opening * 500, headers={"content-type": "application/json"})
            assert reply.status_code == 400
            assert f"over {MAX_DEPTH} levels" in reply.json()["error"]["message"]


@pytest.mark.parametrize("document", [b"[]," * 300_000, b'"' * 900_000, b'"\\' * 450_000, b"a" * 900_000])
def test_measuring_takes_time_in_proportion_to_the_body(document):
    began = time.process_time()
    nests_too_deeply(document)
    assert time.process_time() - began < 2


def test_each_server_has_limits_of_its_own():
    one, two = protocol(Settings(max_connections=1)), protocol(Settings(max_connections=2))
    assert (one.limits.connections, two.limits.connections) == (1, 2)


@given(
    st.recursive(
        st.text(alphabet='[]{}"\\a', max_size=6) | st.integers(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet='[}"\\', max_size=3), inner),
    ),
    st.integers(0, 2 * MAX_DEPTH),
)
@settings(max_examples=100, deadline=None)
def test_the_measure_of_json_is_its_depth(inside, wrapped):
    document = inside
    for level in range(wrapped):
        document = [document] if level % 2 else {"[": document, "b": 1}
    assert nests_too_deeply(json.dumps(document).encode()) == (depth(document) > MAX_DEPTH)


def depth(document):
    if not isinstance(document, (dict, list)):
        return 0
    return 1 + max(map(depth, document.values() if isinstance(document, dict) else document), default=0)
