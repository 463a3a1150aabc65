"""The store: every probe of a folder is sound and fits the model, or the server does not start."""

from __future__ import annotations

import pytest

from steering import ProbeStore, save_probe
from steering.artefact import MANIFEST, TENSORS, content_sha256
from steering.errors import CorruptProbe, ModelError, ProbeMismatch, UnknownProbe


@pytest.fixture
def folder(lm, make_probe, tmp_path):
    for name, version in (("toxicity", 2), ("toxicity", 10), ("sentiment", 1)):
        save_probe(make_probe(lm, name=name, version=version, seed=version), tmp_path / "probes")
    return tmp_path / "probes"


def test_a_name_means_its_highest_version_by_number_and_an_id_that_very_one(lm, folder):
    store = ProbeStore.open(folder, lm)
    assert store.get("toxicity").id == "toxicity@10"
    assert store.get("toxicity@2").id == "toxicity@2"
    assert len(store) == len({probe.id for probe in store}) == 3


def test_an_unknown_probe_is_refused_with_those_there_are(lm, folder):
    for name in ("anger", "toxicity@3", ""):
        with pytest.raises(UnknownProbe, match=r"loaded are: .*sentiment@1"):
            ProbeStore.open(folder, lm).get(name)
    with pytest.raises(UnknownProbe, match="none"):
        ProbeStore().get("toxicity")


def test_hashes_are_those_of_the_numbers(lm, folder):
    store = ProbeStore.open(folder, lm)
    assert store.sha256("toxicity@2") == content_sha256(store.get("toxicity@2")) != store.sha256("toxicity@10")


def test_an_absent_folder_is_an_error_and_an_empty_one_is_not(lm, tmp_path):
    with pytest.raises(ModelError, match="no probe folder"):
        ProbeStore.open(tmp_path / "nowhere", lm)
    assert len(ProbeStore.open(tmp_path, lm)) == 0


def test_one_damaged_or_foreign_probe_stops_the_start(lm, mamba_lm, folder):
    with pytest.raises(ProbeMismatch, match="does not fit"):
        ProbeStore.open(folder, mamba_lm)
    ProbeStore.open(folder, mamba_lm, level="width")
    path = folder / "sentiment" / "1" / TENSORS
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(CorruptProbe, match="SHA-256"):
        ProbeStore.open(folder, lm)


def test_a_probe_of_another_width_is_refused_at_every_level(lm, make_probe, tmp_path):
    from dataclasses import replace

    wider = replace(lm, info=lm.info.model_copy(update={"hidden_size": 48}))
    save_probe(make_probe(wider), tmp_path)
    for level in ("exact", "architecture", "width"):
        with pytest.raises(ProbeMismatch, match="hidden_size 48, here 32"):
            ProbeStore.open(tmp_path, lm, level=level)


def test_what_an_interrupted_save_might_leave_is_not_taken_for_a_probe(lm, folder):
    partial = folder / "toxicity" / ".partial-x"
    partial.mkdir()
    (partial / MANIFEST).write_text("{")
    assert len(ProbeStore.open(folder, lm)) == 3


def test_a_version_without_its_manifest_is_an_error_and_not_a_missing_probe(lm, folder):
    (folder / "sentiment" / "1" / MANIFEST).unlink()
    with pytest.raises(CorruptProbe, match=MANIFEST):
        ProbeStore.open(folder, lm)


def test_a_folder_that_holds_something_else_is_not_taken_for_an_empty_one(lm, folder):
    for wrong in (folder.parent, folder / "toxicity", folder / "toxicity" / "2"):
        with pytest.raises(ModelError, match="the folder above the names"):
            ProbeStore.open(wrong, lm)


def test_a_probe_in_a_folder_of_another_name_or_version_is_refused(lm, folder):
    (folder / "toxicity" / "2").rename(folder / "toxicity" / "3")
    with pytest.raises(CorruptProbe, match=r"holds toxicity@2"):
        ProbeStore.open(folder, lm)
