"""`tiller probe train`: several concepts, pairs and methods from the command line, and what does not go together."""

from __future__ import annotations

import pytest

from probes.__main__ import main
from steering.artefact import load_probe


@pytest.fixture
def given(lm, planted, write_jsonl, tmp_path, monkeypatch) -> list[str]:
    """`train` on planted texts with two label columns and a class column, with the tiny model."""
    monkeypatch.setattr("steering.models.load_model", lambda name, **options: lm)
    monkeypatch.setenv("TILLER_HOME", str(tmp_path / "home"))
    records = [
        {
            "text": record["text"],
            "label": record["label"],
            "calm": int("quiet" in record["text"]),
            "topic": "sea" if record["label"] else ("hill, high" if "old" in record["text"] else "hill, low"),
        }
        for record in planted(300)
    ]
    data = write_jsonl(records)
    return [
        *("train", "--model", "tiny", "--data", str(data), "--concept", "seas", "--out", str(tmp_path / "out")),
        *("--layers", "1,3", "--max-tokens", "64", "--C", "0.01"),
    ]


@pytest.fixture
def twins(planted, write_jsonl) -> str:
    """NAME=FILE of ten pairs that the training texts do not have."""
    known = {record["text"] for record in planted(300)}
    fresh = [record for record in planted(120, seed=12) if record["text"] not in known]
    sides = [[record["text"] for record in fresh if record["label"] == label][:10] for label in (0, 1)]
    path = write_jsonl([{"dry": dry, "wet": wet} for dry, wet in zip(*sides, strict=True)], "twins.jsonl")
    return f"twins={path}"


def test_several_label_columns_make_a_probe_each(given, tmp_path, capsys):
    assert main([*given, "--label-columns", "label,calm"]) == 0
    folders = [tmp_path / "out" / name / "1" for name in ("seas-label", "seas-calm")]
    assert capsys.readouterr().out.split() == [str(folder) for folder in folders]
    first, second = (load_probe(folder).manifest for folder in folders)
    assert first.cosines.keys() == {"seas-calm"}
    assert second.concept == "seas: calm"
    assert second.labels == {"0": "not calm", "1": "calm"}
    assert not list((tmp_path / "home" / "harvest").iterdir())


def test_each_class_makes_a_probe_each(given, tmp_path):
    assert main([*given, "--label-column", "topic", "--each-class"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "seas-hill-high",
        "seas-hill-low",
        "seas-sea",
    ]
    assert len(load_probe(tmp_path / "out" / "seas-sea" / "1").manifest.cosines) == 2


def test_pairs_methods_and_sparse_probes(given, twins, tmp_path):
    options = [
        *given[:-2],
        "--pairs",
        f"{twins}:wet,dry",
        "--method",
        "lda",
        "--shrinkage",
        "0.2",
        "--coordinates",
        "8",
    ]
    assert main(options) == 0
    manifest = load_probe(tmp_path / "out" / "seas" / "1").manifest
    assert manifest.metrics[3].pairs["twins"].n == 10
    assert (manifest.fit.method, manifest.fit.shrinkage, manifest.fit.coordinates) == ("lda", 0.2, 8)
    assert main([*given, "--pairs", twins, "--pair-columns", "wet,dry", "--version", "2"]) == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--pairs", "twins"], "--pairs twins is not NAME=FILE"),
        (["--label-columns", "label,calm", "--pairs", "a=b.jsonl"], "--pairs are of one concept"),
        (["--label-columns", "label,calm", "--each-class"], "give one"),
        (["--label-columns", "label,calm", "--positive-is", "wet"], "--positive-is"),
        (["--method", "lda"], "C is the penalty of logistic"),
        (["--shrinkage", "much"], "--shrinkage much is neither"),
        (["--coordinates", "5000"], "from 1 to"),
        (["--ood", "a=b.jsonl", "--ood", "a=c.jsonl"], "--ood a=... is given twice"),
        (["--pairs", "a=b.jsonl", "--pairs", "a=c.jsonl"], "--pairs a=... is given twice"),
        (["--tokens-per-text", "4"], "--tokens-per-text is of --pooling all"),
        (["--batch-tokens", "0"], "at least one token (--batch-tokens)"),
        (["--on-policy", "--prompts", "p.jsonl", "--calibration", "c.jsonl"], "--calibration is not available"),
        (["--on-policy", "--prompts", "p.jsonl", "--shard-dtype", "float16"], "--shard-dtype is not available"),
    ],
)
def test_options_that_do_not_go_together_are_refused(given, capsys, options, said):
    assert main([*given, *options]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_a_folder_with_brackets_in_its_name_is_printed_whole(given, tmp_path, capsys):
    out = tmp_path / "[bold]probes"
    assert main([*given, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    assert printed.out == f"{out / 'seas' / '1'}\n"
    assert str(out / "seas" / "1" / "card.html") in printed.err
