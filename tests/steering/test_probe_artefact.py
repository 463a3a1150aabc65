"""The artefact: what is loaded is bit for bit what was saved, and what is damaged is refused with the reason."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import steering.artefact
from steering import LayerProbe, Probe, load_probe, save_probe
from steering.artefact import MANIFEST, TENSORS, content_sha256
from steering.errors import CorruptProbe, InvalidRequest, UnknownProbe


@pytest.fixture
def folder(probe, tmp_path):
    return save_probe(probe, tmp_path)


def contents(folder):
    with safe_open(folder / TENSORS, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def rewrite(folder, tensors=None, header=None, manifest=None):
    """Change a saved probe as a careful forger would: the manifest states the SHA-256 of what is there."""
    old, metadata = contents(folder)
    bare = json.loads(metadata["manifest"]) | (header or {})
    save_file(old if tensors is None else tensors(dict(old)), folder / TENSORS, {"manifest": json.dumps(bare)})
    files = {TENSORS: hashlib.sha256((folder / TENSORS).read_bytes()).hexdigest()}
    full = bare | {"files": files} | (manifest or {})
    (folder / MANIFEST).write_text(json.dumps(full), encoding="utf-8")


def without(name):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def replaced(name, value):
    return lambda tensors: tensors | {name: value}


def test_a_round_trip_is_bit_exact(probe, folder):
    for path in (folder, folder / TENSORS):  # the lone file is self-contained
        loaded = load_probe(path)
        assert loaded.manifest == probe.manifest
        assert content_sha256(loaded) == content_sha256(probe)
        assert list(loaded.layers) == list(probe.layers)
        for layer, fitted in probe.layers.items():
            same = loaded.layers[layer]
            assert torch.equal(same.weight, fitted.weight)
            assert torch.equal(same.quantiles_negative, fitted.quantiles_negative)
            assert torch.equal(same.quantiles_positive, fitted.quantiles_positive)
            assert same.bias == fitted.bias
            assert same.calibration == pytest.approx(fitted.calibration, rel=1e-7)


def test_a_forger_who_changes_nothing_is_let_through(folder):
    rewrite(folder)
    load_probe(folder)


def test_quantiles_are_optional(lm, make_probe, tmp_path):
    probe = make_probe(lm, layers=[1])
    bare = dataclasses.replace(probe.layers[1], quantiles_negative=None, quantiles_positive=None)
    loaded = load_probe(save_probe(Probe(probe.manifest, {1: bare}), tmp_path))
    assert loaded.layers[1].quantiles_negative is None


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_a_truncated_file_is_refused(folder, keep):
    path = folder / TENSORS
    path.write_bytes(path.read_bytes()[:keep])
    for which in (folder, path):
        with pytest.raises(CorruptProbe):
            load_probe(which)


def test_any_flipped_byte_is_refused(folder):
    path = folder / TENSORS
    whole = path.read_bytes()
    for at in (0, 9, 500, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptProbe, match="SHA-256"):
            load_probe(folder)


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (without("layers.2.weight"), "missing"),
        (without("layers.0.bias"), "missing"),
        (replaced("layers.0.extra", torch.zeros(2)), "unknown"),
        (replaced("layers.9.weight", torch.zeros(32)), "unknown"),
        (replaced("layers.0.weight", torch.ones(31)), "hidden_size 32"),
        (replaced("layers.0.weight", torch.ones(32, dtype=torch.float16)), "float32"),
        (replaced("layers.0.weight", torch.full((32,), math.nan)), "NaN"),
        (replaced("layers.0.weight", torch.zeros(32)), "zero"),
        (replaced("layers.0.bias", torch.tensor(math.inf)), "NaN or infinity"),
        (replaced("layers.0.bias", torch.zeros(1)), "expected float32"),
        (replaced("layers.0.resid_norm", torch.tensor(math.nan)), "NaN"),
        (replaced("layers.0.calibration", torch.tensor([-1.0, 0.0])), "polarity"),
        (replaced("layers.0.calibration", torch.tensor([1.0, 0.0, 0.0])), "expected float32"),
        (replaced("layers.0.quantiles.negative", torch.zeros(100)), "101 rising"),
        (replaced("layers.0.quantiles.negative", torch.linspace(1, 0, 101)), "101 rising"),
    ],
)
def test_unsound_numbers_are_refused_even_with_a_matching_hash(folder, tensors, reason):
    rewrite(folder, tensors=tensors)
    for path in (folder, folder / TENSORS):
        with pytest.raises(CorruptProbe, match=reason):
            load_probe(path)


@pytest.mark.parametrize(
    "header",
    [
        {"schema_version": 2},
        {"surprise": 1},
        {"name": "../../etc"},
        {"version": 0},
        {"metrics": {}},
        {"metrics": {"7": None}},
    ],
    ids=str,
)
def test_an_unknown_schema_key_or_value_is_refused(folder, header):
    rewrite(folder, header=header)
    for path in (folder, folder / TENSORS):
        with pytest.raises(CorruptProbe):
            load_probe(path)


def test_a_header_that_disagrees_with_the_manifest_is_refused(folder):
    rewrite(folder, manifest={"positive_is": "the opposite"})
    with pytest.raises(CorruptProbe, match="disagree"):
        load_probe(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", b"\xff\xfe{}"])
def test_a_manifest_that_is_no_manifest_is_refused(folder, text):
    (folder / MANIFEST).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CorruptProbe):
        load_probe(folder)


def test_absent_files_are_named(folder, tmp_path):
    with pytest.raises(UnknownProbe, match="no probe at"):
        load_probe(tmp_path / "nowhere")
    (folder / TENSORS).rename(folder / "aside")
    with pytest.raises(CorruptProbe, match=TENSORS):
        load_probe(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(CorruptProbe, match=MANIFEST):
        load_probe(folder)


def test_a_manifest_that_states_no_hash_is_refused(folder):
    rewrite(folder, manifest={"files": {}})
    with pytest.raises(CorruptProbe, match="SHA-256"):
        load_probe(folder)


def test_safetensors_that_are_no_probe_and_files_that_are_no_safetensors_are_refused(tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"PK\x03\x04 not tensors")
    for name in ("other", "junk"):
        with pytest.raises(CorruptProbe):
            load_probe(tmp_path / f"{name}.safetensors")


def test_a_version_is_never_written_twice(probe, folder, tmp_path):
    before = (folder / TENSORS).read_bytes()
    with pytest.raises(InvalidRequest, match="never overwritten"):
        save_probe(probe, tmp_path)
    assert (folder / TENSORS).read_bytes() == before


@pytest.mark.parametrize("failure", [OSError("No space left on device"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("step", ["save_file", "_sha256", "os.rename"])
def test_an_interrupted_save_leaves_nothing_and_can_be_repeated(probe, tmp_path, monkeypatch, failure, step):
    def fail(*args, **kwargs):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(f"steering.artefact.{step}", fail)
        with pytest.raises(InvalidRequest if isinstance(failure, OSError) else type(failure)):
            save_probe(probe, tmp_path)
    assert list((tmp_path / probe.manifest.name).iterdir()) == []
    load_probe(save_probe(probe, tmp_path))


def test_what_is_saved_appears_at_once_and_whole(probe, tmp_path, monkeypatch):
    seen = []
    rename = steering.artefact.os.rename

    def watch(source, target):
        seen.append((target.exists(), sorted(path.name for path in source.iterdir())))
        rename(source, target)

    monkeypatch.setattr(steering.artefact.os, "rename", watch)
    save_probe(probe, tmp_path)
    assert seen == [(False, sorted([MANIFEST, TENSORS]))]


def test_a_moved_folder_still_loads(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    load_probe(tmp_path / "elsewhere")


def test_a_probe_made_in_memory_is_held_to_the_same(probe):
    layers = dict(probe.layers)
    with pytest.raises(CorruptProbe, match="no layers"):
        Probe(probe.manifest, {})
    with pytest.raises(CorruptProbe, match="manifest reports"):
        Probe(probe.manifest, {0: layers[0]})
    with pytest.raises(CorruptProbe, match="hidden_size"):
        Probe(probe.manifest, layers | {0: LayerProbe(torch.ones(7), 0.0)})


def test_the_read_out_is_the_affine_map_and_its_calibrated_sigmoid(probe):
    fitted = probe.at(2)
    resid = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    logit = resid.double() @ fitted.weight.double() + fitted.bias
    torch.testing.assert_close(fitted.logit(resid).double(), logit, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        fitted.probability(resid).double(), torch.sigmoid(1.5 * logit - 0.2), rtol=1e-5, atol=1e-6
    )
    assert fitted.logit(resid.bfloat16()).dtype == torch.float32
    assert float(fitted.direction.norm()) == pytest.approx(1.0)
