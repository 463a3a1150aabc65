"""What `tiller probe train` takes as data: dataset folders, scores, pairs; and what it says of them."""

from __future__ import annotations

import pytest

from probes.__main__ import main
from steering.artefact import load_probe


@pytest.fixture
def train(lm, tmp_path, monkeypatch):
    """train(data, *options): its exit code, with the tiny model in place of a loaded one."""
    monkeypatch.setattr("steering.models.load_model", lambda name, **options: lm)
    monkeypatch.setenv("TILLER_HOME", str(tmp_path / "home"))

    def run(data: object, *options: str) -> int:
        command = ["train", "--model", "tiny", "--concept", "seas", "--layers", "3", "--C", "0.01"]
        return main([*command, "--out", str(tmp_path / "out"), "--data", str(data), *options])

    return run


def test_a_probe_is_trained_on_scores_from_one_split_of_a_folder(train, planted, write_jsonl, tmp_path, capsys):
    (tmp_path / "hub").mkdir()
    records = [{"text": record["text"], "score": 0.2 + 0.5 * record["label"]} for record in planted(300)]
    write_jsonl([*records, records[0]], "hub/train.jsonl")
    write_jsonl(records[:5], "hub/test.jsonl")
    options = ["--label-column", "score", "--threshold", "0.6", "--drop-duplicates"]
    assert train(f"{tmp_path / 'hub'}:train", *options) == 0
    assert "hub:train: 1 repeated texts left out" in capsys.readouterr().err
    manifest = load_probe(tmp_path / "out" / "seas" / "1").manifest
    assert manifest.dataset.name == "hub:train"
    assert sum(counts["1"] for counts in manifest.dataset.counts.values()) == 150
    assert manifest.metrics[3].test is not None
    assert manifest.metrics[3].test.auroc > 0.9


def test_a_probe_is_trained_on_pairs_and_noise_is_told(train, planted, write_jsonl, tmp_path, capsys):
    records = planted(300)
    pairs = [{"sea": records[at + 1]["text"], "hill": [records[at]["text"]]} for at in range(0, 300, 2)]
    data = write_jsonl([*pairs, {"sea": "both", "hill": "Both"}])
    options = ["--pair-columns", "sea,hill"]
    assert train(data, *options) == 2
    assert "--max-label-noise" in capsys.readouterr().err
    assert train(data, *options, "--max-label-noise", "0.01") == 0
    assert "data: 1 texts under both labels left out" in capsys.readouterr().err
    manifest = load_probe(tmp_path / "out" / "seas" / "1").manifest
    assert all(counts["0"] == counts["1"] for counts in manifest.dataset.counts.values()), "pairs stay together"


def test_an_error_about_a_split_is_printed_as_it_was_written(train, write_jsonl, tmp_path, capsys):
    (tmp_path / "hub").mkdir()
    write_jsonl([{"text": "one", "label": "x"}], "hub/train.jsonl")
    assert train(f"{tmp_path / 'hub'}:train") == 2
    assert "hub:train, row 1: 'label' is neither" in capsys.readouterr().err
    assert train(f"{tmp_path / 'hub'}:train", "--positive", "y") == 2
    assert "hub:train: no row has" in capsys.readouterr().err
