"""The command line: one line trains a probe; refusals go to stderr with exit code 2, Ctrl-C with 130 and the way on."""

from __future__ import annotations

from typing import Any

import pytest

from probes.__main__ import main
from probes.fitting.table import ALWAYS, FITS
from probes.fitting.with_model import WITH_MODEL
from probes.harvest.shards import ShardFolder
from steering.artefact import load_probe


@pytest.fixture
def arguments(lm, planted, write_jsonl, tmp_path, monkeypatch) -> list[str]:
    """`train` on a planted concept, with the tiny model in place of a loaded one."""
    monkeypatch.setattr("steering.models.load_model", lambda name, **options: lm)
    monkeypatch.setenv("TILLER_HOME", str(tmp_path / "home"))
    data = write_jsonl(planted(300))
    elsewhere = write_jsonl([r for r in planted(80, seed=5) if r not in planted(300)], "elsewhere.jsonl")
    return [
        *("train", "--model", "tiny", "--data", str(data), "--concept", "seas", "--out", str(tmp_path / "out")),
        *("--ood", f"elsewhere={elsewhere}", "--layers", "1-3:2", "--max-tokens", "64"),
    ]


def test_train_show_and_verify(arguments, tmp_path, capsys):
    assert main(arguments) == 0
    folder = tmp_path / "out" / "seas" / "1"
    out, err = capsys.readouterr()
    assert out.strip() == str(folder)
    assert "card.html" in err
    manifest = load_probe(folder).manifest
    assert sorted(manifest.metrics) == [1, 3]
    assert manifest.metrics[3].test.auroc > 0.9
    assert manifest.metrics[3].out_of_domain.keys() == {"elsewhere"}
    assert (manifest.default.lower, manifest.default.upper) == (None, 0.1)
    assert not (tmp_path / "home" / "harvest" / "seas-1").exists()
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert "tiller probe train --model tiny --data data.jsonl" in card
    assert str(tmp_path) not in card

    assert main(["show", str(folder)]) == 0
    assert "a high logit means seas" in capsys.readouterr().out
    assert main(["verify", str(folder)]) == 0
    assert "is sound" in capsys.readouterr().out


def test_the_manifest_says_what_was_asked_for(arguments, tmp_path):
    options = ["--name", "wet", "--version", "3", "--lower", "0.8", "--licence", "CC0", "--pooling", "best"]
    options += ["--positive-is", "about the sea", "--positive-label-name", "sea", "--negative-label-name", "hill"]
    assert main([*arguments, *options, "--C", "0.01", "--work", str(tmp_path / "kept")]) == 0
    manifest = load_probe(tmp_path / "out" / "wet" / "3").manifest
    assert manifest.positive_is == "about the sea"
    assert manifest.labels == {"0": "hill", "1": "sea"}
    assert manifest.dataset.licence == "CC0"
    assert manifest.fit.C == 0.01
    assert (manifest.default.lower, manifest.default.upper) == (0.8, None)
    assert (tmp_path / "kept" / "train" / "index.json").exists()


def test_verify_refuses_a_damaged_probe(arguments, tmp_path, capsys):
    main(arguments)
    tensors = tmp_path / "out" / "seas" / "1" / "probe.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    assert main(["verify", str(tensors.parent)]) == 2
    assert "SHA-256" in capsys.readouterr().err


def test_a_training_file_that_shares_texts_with_a_test_file_is_refused(arguments, planted, write_jsonl, capsys):
    leaky = write_jsonl(planted(300)[:40], "leaky.jsonl")
    assert main([*arguments, "--test", str(leaky)]) == 2
    assert "shares 40 texts" in capsys.readouterr().err
    assert main([*arguments, "--test", str(leaky), "--drop-leaks"]) == 0


def test_a_training_file_with_duplicates_is_refused(arguments, planted, write_jsonl, capsys):
    double = write_jsonl(planted(300) + planted(10), "double.jsonl")
    arguments[arguments.index("--data") + 1] = str(double)
    assert main(arguments) == 2
    assert "repetition" in capsys.readouterr().err
    assert main([*arguments, "--drop-duplicates"]) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--label-column", "toxic"], "no column 'toxic'"),
        (["--ood", "nameless.jsonl"], "NAME=FILE"),
        (["--upper", "1.5"], "probability lies in [0, 1]"),
        (["--lower", "0.9", "--upper", "0.1"], "lower 0.9 is above upper 0.1"),
        (["--layers", "1-9"], "0 to 3"),
        (["--name", "Sea Side"], "cannot name a probe"),
        (["--calibration", "absent.jsonl"], "there is no file"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(arguments, change, reason, capsys):
    assert main([*arguments, *change]) == 2
    assert reason in capsys.readouterr().err


def test_interrupting_leaves_the_shards_and_says_how_to_resume(arguments, tmp_path, capsys, monkeypatch):
    write, calls = ShardFolder.write, []

    def interrupted(*given: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*given)

    monkeypatch.setattr(ShardFolder, "write", interrupted)
    assert main([*arguments, "--batch-tokens", "512"]) == 130
    err = capsys.readouterr().err
    assert "run the same command again to resume" in err
    assert (tmp_path / "home" / "harvest" / "seas-1").is_dir()
    assert main([*arguments, "--batch-tokens", "512"]) == 0


def test_a_missing_extra_names_its_installation(arguments, capsys, monkeypatch):
    monkeypatch.setattr("probes.commands.train.find_spec", lambda package: None if package == "sklearn" else object())
    assert main(arguments) == 2
    assert "pip install 'tiller-lm[probes]'" in capsys.readouterr().err


def test_help_teaches(capsys):
    assert main(["train", "--help"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--model", "--data", "--concept", "--ood", "--pooling", "--work"):
        assert flag in shown


def test_missing_options_are_a_usage_error():
    assert main(["train"]) == 2


def test_show_and_the_card_list_what_a_probe_carries(arguments, tmp_path, capsys):
    assert main([*arguments, "--carry", "transport, affine,erase,reading"]) == 0
    folder = tmp_path / "out" / "seas" / "1"
    probe = load_probe(folder)
    assert all(probe.carries(group) for group in ("mean", "metric", "transport", "affine", "erase", "reading"))
    assert not probe.carries("contrast")
    capsys.readouterr()
    assert main(["show", str(folder)]) == 0
    assert "carries  mean, metric, reading, transport, affine, erase\n" in capsys.readouterr().out
    card = (folder / "card.md").read_text(encoding="utf-8")
    assert "## What every layer carries" in card
    assert "- `affine`: mean and covariance matched" in card
    assert "`contrast`" not in card


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--carry", "transport,rotate"], "carry 'rotate'; known are mean, metric, transport, affine, erase, reading"),
        (["--carry", "state"], "no recurrent state at any layer"),
        (["--carry", "transport", "--lower", "0.1", "--upper", "0.9"], "'transport' leads from one class to the other"),
        (["--carry", "contrast"], "the texts are not pairs"),
    ],
)
def test_what_cannot_be_carried_is_refused_before_any_work(arguments, tmp_path, options, reason, capsys):
    work = tmp_path / "work"
    assert main([*arguments, *options, "--work", str(work)]) == 2
    assert reason in " ".join(capsys.readouterr().err.split())
    assert not work.exists()


def test_help_names_every_group_that_can_be_carried(capsys):
    main(["train", "--help"])
    shown = capsys.readouterr().out
    assert all(group in shown for group in (FITS.keys() | WITH_MODEL.keys()) - set(ALWAYS))
