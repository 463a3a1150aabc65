"""Keys are shown once and stored as digests; what ended is unknown; the command says what it did, and where."""

from __future__ import annotations

import hmac
import time

import pytest

import service.protection.keys as keys_module
from service.cli import main
from service.database import Database
from service.protection.keyring import Keyring, environment_key
from service.protection.keys import KeyStore
from steering.errors import InvalidRequest


@pytest.fixture
def store(tmp_path):
    return KeyStore(Database(tmp_path))


def ring(store):
    found = Keyring()
    found.replace(*store.read())
    return found


def test_a_key_is_nowhere_on_the_disk(store, tmp_path):
    key = store.add("alice")
    assert len(key) > 43, "256 bits in base64"
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"alice" in written
    assert key.encode() not in written
    assert key.removeprefix("tiller-").encode() not in written


def test_every_key_is_different_and_known_by_its_name(store):
    made = {name: store.add(name) for name in ("alice", "bob", "a.b-c_9")}
    assert len(set(made.values())) == 3
    assert all(ring(store).find(key).name == name for name, key in made.items())
    assert ring(store).find("tiller-guess") is None


def test_a_rotated_key_has_ended_unless_it_was_given_a_grace(store):
    first = store.add("alice", tokens_per_day=5)
    second = store.rotate("alice")
    assert ring(store).find(first) is None
    third = store.rotate("alice", grace=60)
    keyring = ring(store)
    assert keyring.find(second).tokens_per_day == keyring.find(third).tokens_per_day == 5
    store.rotate("alice", grace=60)
    assert ring(store).find(second) is None, "only the newest of the old ones is kept"


def test_a_grace_ends_by_itself(store):
    first = store.add("alice")
    store.rotate("alice", grace=0.2)
    keyring = ring(store)
    assert keyring.find(first) is not None
    time.sleep(0.25)
    assert keyring.find(first) is None


def test_an_expired_key_is_unknown(store):
    key = store.add("alice", expires=time.time() + 0.2)
    keyring = ring(store)
    assert keyring.find(key) is not None
    time.sleep(0.25)
    assert keyring.find(key) is None
    assert [known.state(time.time()) for known in store.all()] == ["expired"]


def test_a_revoked_key_leaves_nothing_to_compare_with(store):
    key = store.add("alice")
    assert store.revoke("alice") == 0
    keyring = ring(store)
    assert keyring.find(key) is None
    assert store.read()[1] == []
    assert keyring.closed, "the last key's end does not open the doors"


def test_a_forgotten_key_is_as_if_it_had_never_been(store):
    store.add("alice")
    store.forget("alice")
    assert store.all() == []
    assert not ring(store).closed
    with pytest.raises(InvalidRequest, match=r"no key 'alice'.*tiller keys add"):
        store.forget("alice")


def test_the_name_of_a_revoked_key_may_be_used_again(store):
    old = store.add("alice")
    store.revoke("alice")
    new = store.add("alice")
    assert ring(store).find(old) is None
    assert ring(store).find(new).name == "alice"


@pytest.mark.parametrize("kind", ["good", "revoked", "expired", "unknown", "empty", "long"])
def test_as_much_is_compared_for_every_key_that_is_sent(store, kind, monkeypatch):
    store.add("first")
    sent = {
        "good": store.add("alice"),
        "revoked": store.add("bob"),
        "expired": store.add("carol", expires=time.time() + 0.01),
        "unknown": "tiller-" + "x" * 43,
        "empty": "",
        "long": "x" * 100_000,
    }
    store.revoke("bob")
    time.sleep(0.02)
    keyring, compared = ring(store), []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((len(a), len(b))) or compare(a, b))
    assert (keyring.find(sent[kind]) is not None) == (kind == "good")
    assert compared == [(32, 32)] * 3, "all three stored digests, in constant time, whatever was sent"


def test_a_lent_key_is_good_while_keys_come_and_go_and_closes_no_doors(store):
    keyring = Keyring()
    keyring.lend("jobs", "of this process alone")
    assert not keyring.closed
    store.add("alice")
    keyring.replace(*store.read())
    assert keyring.closed
    assert keyring.find("of this process alone").name == "jobs"


@pytest.mark.parametrize("name", ["", "Alice", "a b", "-a", "a/b", "x" * 65, "environment", "jobs", "a\n", "ä"])
def test_a_name_that_could_mislead_is_refused(store, name):
    with pytest.raises(InvalidRequest, match="cannot name a key"):
        store.add(name)


def test_a_taken_name_and_an_unknown_one_are_refused_with_the_way_out(store):
    store.add("alice")
    with pytest.raises(InvalidRequest, match="tiller keys rotate alice"):
        store.add("alice")
    for change in (store.rotate, store.revoke):
        with pytest.raises(InvalidRequest, match="known are: alice"):
            change("bob")


def test_there_is_an_end_to_keys(store, monkeypatch):
    monkeypatch.setattr(keys_module, "MAX_KEYS", 2)
    store.add("a")
    store.add("b")
    with pytest.raises(InvalidRequest, match="revoke some"):
        store.add("c")


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_day": -1}, {"expires": 5.0}])
def test_a_limit_that_lets_nothing_through_is_refused(store, limits):
    with pytest.raises(InvalidRequest):
        store.add("alice", **limits)
    assert store.all() == []


@pytest.mark.parametrize("text", ["short", "with a space in its middle", "zeichen-über-zeichen", "tab\tin the middle"])
def test_a_weak_key_in_the_environment_is_refused_and_not_shown(text, monkeypatch):
    monkeypatch.setenv("TILLER_API_KEY", text)
    with pytest.raises(InvalidRequest, match="openssl rand -hex 32") as caught:
        environment_key()
    assert text not in str(caught.value)


def test_the_command_prints_the_key_alone_and_once(tmp_path, capsys):
    state = ["--state", str(tmp_path)]
    assert main(["keys", "list", *state]) == 0
    assert "tiller keys add NAME" in capsys.readouterr().out
    limits = ["--requests-per-minute", "9", "--tokens-per-day", "77", "--expires", "2"]
    assert main(["keys", "add", "alice", *limits, *state]) == 0
    said = capsys.readouterr()
    key = said.out.strip()
    assert key.startswith("tiller-")
    assert " " not in key
    assert key not in said.err
    assert main(["keys", "list", *state]) == 0
    table = capsys.readouterr().out
    assert key not in table
    for word in ("alice", "active", " 9 ", " 77 ", "UTC"):
        assert word in table


def test_the_command_makes_keys_of_two_scopes_and_the_lesser_by_itself(tmp_path, capsys):
    state = ["--state", str(tmp_path)]
    main(["keys", "add", "alice", *state])
    main(["keys", "add", "operator", "--scope", "admin", *state])
    capsys.readouterr()
    assert {key.name: key.scope for key in KeyStore(Database(tmp_path)).all()} == {
        "alice": "generate",
        "operator": "admin",
    }
    assert main(["keys", "add", "bob", "--scope", "root", *state]) == 2
    assert "expected generate or admin" in capsys.readouterr().err


def test_the_command_rotates_and_revokes(tmp_path, capsys):
    state = ["--state", str(tmp_path)]
    main(["keys", "add", "alice", *state])
    first = capsys.readouterr().out
    assert main(["keys", "rotate", "alice", "--grace-hours", "1", *state]) == 0
    assert capsys.readouterr().out not in ("", first)
    assert main(["keys", "revoke", "alice", *state]) == 0
    assert "no keys are left" in capsys.readouterr().out
    assert main(["keys", "revoke", "alice", *state]) == 2
    assert "there is no key 'alice'" in capsys.readouterr().err
    main(["keys", "list", *state])
    assert "revoked" in capsys.readouterr().out
    assert main(["keys", "revoke", "alice", "--forget", *state]) == 0
    assert main(["keys", "add", "No Name", *state]) == 2
    assert "cannot name a key" in capsys.readouterr().err
