"""Whatever is uploaded: a refusal of the one shape with its reason, a store as it was, and no work beyond the bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from steering import LanguageModel, Probe
from steering.artefact import single_file
from steering.errors import CorruptProbe
from steering.tiny import tiny_model, tiny_probe
from steering.untrusted import MAX_HEADER, read_untrusted

PROBES = "/v1/steering/probes"
BINARY = {"content-type": "application/octet-stream"}
SOUND = single_file(tiny_probe(tiny_model(), layers=[1, 3], name="calm"))
"""Of a model like `lm` in all but its tokenizer's identity, so it is parsed in full."""


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header: dict[str, Any] | str | bytes, tensors: bytes, *, claim: int | None = None) -> bytes:
    """A file of them, whose header may claim another length."""
    text = json.dumps(header) if isinstance(header, dict) else header
    raw = text if isinstance(text, bytes) else text.encode()
    return (len(raw) if claim is None else claim).to_bytes(8, "little") + raw + tensors


def with_header(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The sound file with its header changed in place."""
    header, tensors = split(SOUND)
    change(header)
    return joined(header, tensors)


def with_manifest(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The sound file with its manifest changed in place."""

    def inside(header: dict[str, Any]) -> None:
        manifest = json.loads(header["__metadata__"]["manifest"])
        change(manifest)
        header["__metadata__"]["manifest"] = json.dumps(manifest)

    return with_header(inside)


def with_numbers(name: str, value: bytes) -> bytes:
    """The sound file with the first number of a tensor replaced, as little-endian float32."""
    header, tensors = split(SOUND)
    begin, _ = header[name]["data_offsets"]
    return joined(header, tensors[:begin] + value + tensors[begin + 4 :])


def entry(**fields: Any) -> Callable[[dict[str, Any]], None]:
    """A change of the entry of one tensor."""
    return lambda header: header["layers.1.weight"].update(fields)


TEXT = json.dumps(split(SOUND)[0])
TENSORS = split(SOUND)[1]
MANIFEST = split(SOUND)[0]["__metadata__"]["manifest"]
NAN, INFINITY, HUGE, TINY = b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f", b"\1\0\0\0"

HOSTILE = {
    "nothing at all": (b"", "0 bytes"),
    "a few bytes": (SOUND[:5], "5 bytes"),
    "half of it": (SOUND[: len(SOUND) // 2], "at most"),
    "one byte less": (SOUND[:-1], "cut short or altered"),
    "one byte more": (SOUND + b"\0", "cut short or altered"),
    "a header of 16 exabytes": (b"\xff" * 8 + SOUND[8:], "claims a header of"),
    "a header of 8 exabytes": (joined(TEXT, TENSORS, claim=2**63 - 1), "claims a header of"),
    "a header over its limit": (joined(b" " * (MAX_HEADER + 1), b""), "claims a header of"),
    "a header longer than the file": (joined(TEXT, b"", claim=len(TEXT) + 1), "claims a header of"),
    "a header of no UTF-8": (joined(b"\xff\xfe", b""), "UTF-8"),
    "a header of no JSON": (joined(b"{" + b" " * 50, b""), "not sound JSON"),
    "a header that is a list": (joined(b"[]", b""), "no JSON object"),
    "a header that nests too deeply": (joined(b"[" * 100_000, b""), "not sound JSON"),
    "a number of thousands of digits": (joined(b'{"a": ' + b"9" * 9000 + b"}", b""), "not sound JSON"),
    "a pickle": (b"\x80\x04\x95\x1a\0\0\0\0\0\0\0\x8c\x08builtins", "claims a header of"),
    "an empty safetensors file": (joined({}, b""), "no manifest"),
    "metadata beside the manifest": (with_header(lambda h: h["__metadata__"].update(x="y")), "no manifest"),
    "a manifest that is no text": (with_header(lambda h: h["__metadata__"].update(manifest={})), "no manifest"),
    "a tensor named twice": (joined(TEXT[:-1] + ', "layers.1.bias": {}}', TENSORS), "a key twice"),
    "a manifest key twice": (
        with_header(lambda h: h["__metadata__"].update(manifest=MANIFEST[:-1] + ', "version": 7}')),
        "a key twice",
    ),
    "NaN in the manifest": (
        with_header(lambda h: h["__metadata__"].update(manifest=MANIFEST.replace("0.25", "NaN", 1))),
        "NaN",
    ),
    "a lone surrogate": (with_header(lambda h: h["__metadata__"].update(manifest='"\ud800"')), "sound JSON"),
    "infinity by a large exponent": (
        with_header(lambda h: h["__metadata__"].update(manifest=MANIFEST.replace("0.25", "1e999", 1))),
        "beyond all bounds",
    ),
    "a shape of petabytes": (with_header(entry(shape=[2**40, 2**10])), "do not fit each other"),
    "a shape that overflows": (with_header(entry(shape=[2**63, 2**63])), "float32 tensor"),
    "a negative shape": (with_header(entry(shape=[-1])), "float32 tensor"),
    "a shape of a million sizes": (with_header(entry(shape=[1] * 100_000)), "float32 tensor"),
    "a shape of no numbers": (with_header(entry(shape="32")), "float32 tensor"),
    "a shape with true": (with_header(entry(shape=[True])), "float32 tensor"),
    "another dtype": (with_header(entry(dtype="F64")), "float32 tensor"),
    "offsets beyond the file": (with_header(entry(data_offsets=[2**40, 2**40 + 128])), "belong to none"),
    "offsets backwards": (with_header(entry(data_offsets=[128, 0])), "do not fit each other"),
    "offsets that overlap": (with_header(entry(data_offsets=[0, 128])), "overlap"),
    "an offset too many": (with_header(entry(data_offsets=[0, 128, 256])), "float32 tensor"),
    "an entry with surplus keys": (with_header(entry(colour="red")), "something else"),
    "an entry that is text": (with_header(lambda h: h.update(x="y")), "something else"),
    "a tensor too few": (with_header(lambda h: h.pop("layers.1.weight")), "belong to none"),
    "a tensor nobody knows": (with_header(lambda h: h.update({"x" * 5000: h.pop("layers.1.weight")})), "do not fit"),
    "twenty thousand empty tensors": (
        with_header(
            lambda h: h.update(
                {f"x{at}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for at in range(20_000)}
            )
        ),
        "do not fit the manifest",
    ),
    "another schema version": (with_manifest(lambda m: m.update(schema_version=2)), "schema"),
    "an unknown key": (with_manifest(lambda m: m.update(colour="red")), "colour"),
    "a name that leaves the folder": (with_manifest(lambda m: m.update(name="../../etc")), "name"),
    "an absolute name": (with_manifest(lambda m: m.update(name="/etc/passwd")), "name"),
    "a name with a NUL": (with_manifest(lambda m: m.update(name="calm\0")), "name"),
    "a name with a line end": (with_manifest(lambda m: m.update(name="calm\n")), "name"),
    "a version that is a path": (with_manifest(lambda m: m.update(version="../1")), "version"),
    "version 0": (with_manifest(lambda m: m.update(version=0)), "version"),
    "a version of a thousand digits": (with_manifest(lambda m: m.update(version=10**999)), "version"),
    "files in a single file": (with_manifest(lambda m: m.update(files={"../x": "0" * 64})), "names files"),
    "layers the manifest lacks": (with_manifest(lambda m: m["metrics"].pop("1")), "do not fit the manifest"),
    "default layers it lacks": (with_manifest(lambda m: m["default"].update(layers=[0])), "default layers"),
    "default bounds that mean nothing": (with_manifest(lambda m: m["default"].update(upper=7)), "default bounds"),
    "another width than its own": (with_manifest(lambda m: m["base_model"].update(hidden_size=33)), "hidden_size 33"),
    "NaN in a weight": (with_numbers("layers.1.weight", NAN), "NaN"),
    "infinity in a weight": (with_numbers("layers.1.weight", INFINITY), "infinity"),
    "a weight whose square overflows": (with_numbers("layers.1.weight", HUGE), "overflow"),
    "NaN in a bias": (with_numbers("layers.3.bias", NAN), "NaN"),
    "a bias beyond all streams": (with_numbers("layers.3.bias", HUGE), "overflow"),
    "a calibration of slope 0": (with_numbers("layers.1.calibration", b"\0" * 4), "not positive"),
    "a calibration of almost slope 0": (with_numbers("layers.1.calibration", TINY), "overflow"),
    "a negative norm": (with_numbers("layers.1.resid_norm", b"\0\0\x80\xbf"), "negative"),
    "quantiles that fall": (with_numbers("layers.1.quantiles.negative", b"\0\0\x80\x42"), "rising"),
}


@pytest.fixture(scope="module")
def server(serve: Any, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with the sound probe uploaded, which nothing here may change."""
    state = tmp_path_factory.mktemp("state")
    with serve(lm, [], state=state) as client:
        client.state = state
        assert client.post(PROBES, content=single_file(tiny_probe(lm, name="calm")), headers=BINARY).status_code == 201
        yield client


def everything(client: Any) -> Any:
    """What the server tells of its probes, and every file of its state folder."""
    files = {path: path.stat().st_size for path in Path(client.state).glob("probes/**/*")}
    return client.get(PROBES).json(), files


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_file_is_refused_with_its_reason_and_changes_nothing(server: httpx.Client, case: str) -> None:
    data, says = HOSTILE[case]
    before, began = everything(server), time.monotonic()
    reply = server.post(PROBES, content=data, headers=BINARY)
    assert reply.status_code == 400, reply.text
    assert time.monotonic() - began < 10
    error = reply.json()["error"]
    assert error["code"] == "invalid_probe"
    assert says in error["message"]
    assert len(error["message"]) < 1000
    assert "/tmp" not in reply.text
    assert everything(server) == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda manifest: manifest["base_model"].update(revision="other"), "probe_model_mismatch"),
        (lambda manifest: manifest["tokenizer"].update(sha256="0" * 64), "probe_model_mismatch"),
        (lambda manifest: manifest["base_model"].update(num_hidden_layers=5), "probe_model_mismatch"),
    ],
)
def test_a_sound_probe_of_another_model_is_a_conflict(server: httpx.Client, change: Any, code: str) -> None:
    before = everything(server)
    reply = server.post(PROBES, content=with_manifest(change), headers=BINARY)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, code)
    assert everything(server) == before


def altered(data: bytes, draw: Any) -> bytes:
    """`data` with a few bytes changed, taken out, put in or cut off, mostly where the header is."""
    kind = draw(st.sampled_from(["flip", "flip", "cut", "insert", "remove", "length", "digit"]))
    header = 8 + int.from_bytes(data[:8], "little")
    at = draw(st.integers(0, draw(st.sampled_from([16, header, len(data)])) - 1))
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ draw(st.integers(1, 255))]) + data[at + 1 :]
    if kind == "cut":
        return data[:at]
    if kind == "insert":
        return data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:]
    if kind == "remove":
        return data[:at] + data[at + draw(st.integers(1, 64)) :]
    if kind == "length":
        return draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + data[8:]
    digits = [place for place in range(8, header) if data[place : place + 1].isdigit()]
    place = draw(st.sampled_from(digits))
    return data[:place] + str(draw(st.integers(0, 99999))).encode() + data[place + 1 :]


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_corrupted_bytes_are_a_probe_or_a_reason_and_never_another_error(data: Any) -> None:
    file = altered(SOUND, data.draw)
    with suppress(CorruptProbe):
        assert isinstance(read_untrusted(file), Probe)


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_corrupted_uploads_are_refused_in_the_one_shape_and_change_nothing(server: httpx.Client, data: Any) -> None:
    """A change inside a number or a word may leave another sound probe; under the same id it is still refused."""
    before = everything(server)
    (here,) = before[0]["data"]
    file = server.get(f"{PROBES}/{here['id']}/export").content
    other = altered(file, data.draw)
    assume(other != file)
    reply = server.post(PROBES, content=other, headers=BINARY)
    if reply.status_code == 201:  # its name or version was hit
        assert reply.json()["id"] != here["id"]
        assert server.delete(f"{PROBES}/{reply.json()['id']}").status_code == 200
    else:
        assert 400 <= reply.status_code < 500, reply.text
        assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert everything(server)[0] == before[0]


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300))
def test_random_bytes_are_refused(server: httpx.Client, data: bytes) -> None:
    reply = server.post(PROBES, content=data, headers=BINARY)
    assert (reply.status_code, reply.json()["error"]["code"]) == (400, "invalid_probe")
