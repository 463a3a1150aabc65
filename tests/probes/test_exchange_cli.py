"""show, verify, diff, export and import from the command line: what they print, what they refuse, how they exit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from probes.__main__ import main
from probes.exchange.comparison import ABSENT, compare
from steering.artefact import content_sha256, load_probe, save_probe
from steering.manifest import LayerMetrics, LayerReport, Lookahead, PairMetrics, Screen, ScreenRow


@pytest.fixture
def folder(make_fitted, lm, tmp_path) -> Path:
    """A saved probe with statistics at every layer."""
    return save_probe(make_fitted(lm), tmp_path / "made")


@pytest.fixture
def loaded(lm, monkeypatch):
    """The tiny model in place of a loaded one."""
    monkeypatch.setattr("steering.models.load_model", lambda name, **options: lm)


def words(text: str) -> str:
    return " ".join(text.split())


def rich_manifest(manifest):
    """Every part a manifest may have."""
    metrics = LayerMetrics(
        n=100, auroc=0.91, accuracy=0.8, brier=0.1, ece=0.02, brier_uncalibrated=0.2, ece_uncalibrated=0.1,
        auroc_interval=(0.88, 0.94), ece_interval=(0.01, 0.05), brier_isotonic=0.1, ece_isotonic=0.02,
    )  # fmt: skip
    pairs = {"paradetox": PairMetrics(n=50, accuracy=0.77, interval=(0.7, 0.84))}
    report = LayerReport(test=metrics, pairs=pairs, random_label_auroc=0.5, random_direction_auroc=0.51)
    row = ScreenRow(
        layers=[1, 2], role="growing", effect=0.2, effect_interval=(0.1, 0.3), kl=0.5, per_kl=0.4,
        per_kl_interval=(0.2, 0.6), placebo_effect=0.01, placebo_kl=0.5, difference=0.19,
        difference_interval=(0.1, 0.28), beats_placebo=True,
    )  # fmt: skip
    screen = Screen(
        scorer="judge", metric="euclidean", lower=None, upper=0.1, space="probability", prompts=40, neutral=40,
        new_tokens=20, seed=0, prompts_sha256="0" * 64, rows=[row], chosen=[1, 2],
    )  # fmt: skip
    ahead = Lookahead(
        horizon=10, labeller="labeller", threshold=0.5, prompts=10, continuations=20, tokens=300, corpus_share=0.5,
        iterations=2, auroc_by_warning={0: {"this probe": 0.7}, 5: {"this probe": 0.65, "end of text": 0.6}},
    )  # fmt: skip
    fit = manifest.fit.model_copy(update={"method": "lda", "shrinkage": 0.3, "coordinates": 16, "C": None})
    changes = {"screen": screen, "causal": True, "lookahead": ahead, "fit": fit, "token_rule": "lookahead"}
    changes |= {"cosines": {"sentiment": {0: 0.1, 1: -0.2}}, "metrics": dict.fromkeys(manifest.metrics, report)}
    return manifest.model_copy(update=changes)


def test_show_prints_every_part_of_the_manifest(probe, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    made = save_probe(replace(probe, manifest=rich_manifest(probe.manifest)), tmp_path)
    assert main(["show", str(made)]) == 0
    shown = capsys.readouterr().out
    for part in (
        "fit      lda, shrinkage 0.3, sparse: 16 of 32 coordinates",
        "causal   yes: steering it changes the text more than a placebo of the same norm (judged by judge)",
        "ahead    labelled by the next 10 tokens (labeller above 0.5): 300 states of 20 continuations of 10 prompts",
        "cosine   with sentiment: -0.200 to +0.100 over 2 layers",
        "0.910 (0.880, 0.940)",
        "paradetox 0.770",
        "causal screen: judge, 40 prompts, 20 tokens",
        "+0.190 (0.100, 0.280)",
        "tokens of warning",
        "0.650",
        f"content  SHA-256 {content_sha256(probe)}",
    ):
        assert part in shown
    assert main(["show", str(made), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["screen"]["chosen"] == [1, 2]
    assert document["lookahead"]["auroc_by_warning"]["5"]["end of text"] == 0.6
    assert document["content_sha256"] == content_sha256(probe)
    assert (document["id"], document["calibrated"], document["carries"]) == ("toxicity@1", True, {})


def test_a_probe_that_is_not_causal_is_shown_as_such(probe, tmp_path, capsys):
    manifest = probe.manifest.model_copy(update={"causal": False})
    assert main(["show", str(save_probe(replace(probe, manifest=manifest), tmp_path))]) == 0
    assert "causal   NO: no set of layers" in capsys.readouterr().out


def test_verify_checks_a_folder_of_probes_one_line_each(lm, make_probe, tmp_path, capsys):
    for name in ("apples", "pears"):
        save_probe(make_probe(lm, name=name), tmp_path)
    assert main(["verify", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" is sound")[0] for line in lines] == ["apples@1", "pears@1"]
    tensors = tmp_path / "pears" / "1" / "probe.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1])
    (tmp_path / "apples" / "1").rename(tmp_path / "apples" / "2")
    assert main(["verify", str(tmp_path)]) == 2
    out, err = map(words, capsys.readouterr())
    assert "apples/2: holds apples@1; a probe's folder is <name>/<version>" in out
    assert "pears/1:" in out
    assert "SHA-256" in out
    assert "2 of the probes" in err


def test_verify_needs_something_to_verify(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "no probe below" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "absent")]) == 2
    assert "no probe at" in capsys.readouterr().err


@pytest.mark.parametrize(("level", "code"), [("exact", 2), ("architecture", 0), ("width", 0)])
def test_verify_asks_whether_it_fits_a_model(level, code, folder, lm, monkeypatch, capsys):
    other = replace(lm, info=lm.info.model_copy(update={"revision": "another"}))
    monkeypatch.setattr("steering.models.load_model", lambda name, **options: other)
    assert main(["verify", str(folder), "--model", "tiny", "--compat", level]) == code
    out, err = map(words, capsys.readouterr())
    assert (f"fits tiny-llama ({level})" in out) == (code == 0)
    assert ("revision" in err) == (code == 2)


def test_diff_of_a_probe_with_itself_is_nothing(folder, capsys):
    assert main(["diff", str(folder), str(folder)]) == 0
    assert "are the same" in capsys.readouterr().out
    assert main(["diff", str(folder), str(folder / "probe.safetensors"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["same"], document["fields"]) == (True, {})


def test_diff_names_each_field_and_number_that_differs(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    probe = load_probe(folder)
    layer = probe.at(2)
    changed = replace(layer, bias=layer.bias + 0.5, calibration=(1.25, -0.2), weight=-2 * layer.weight)
    default = probe.manifest.default.model_copy(update={"upper": 0.2})
    other = replace(
        probe,
        manifest=probe.manifest.model_copy(update={"version": 2, "default": default}),
        layers={**probe.layers, 2: changed},
    )
    second = save_probe(other, tmp_path / "other")
    assert main(["diff", str(folder), str(second), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["fields"] == {"default.upper": [0.1, 0.2], "version": [1, 2]}
    assert [row["layer"] for row in document["layers"] if row["tensors"]] == [2]
    row = document["layers"][2]
    assert (row["cosine"], row["norm_ratio"]) == (pytest.approx(-1), pytest.approx(2))
    assert (row["bias"], row["scale"], row["shift"]) == (0.5, -0.25, 0.0)
    assert row["tensors"] == ["bias", "calibration", "weight"]
    assert main(["diff", str(folder), str(second)]) == 1
    shown = capsys.readouterr().out
    assert "numbers  differ" in shown
    assert "default.upper" in shown
    assert "-1.000000" in shown


def test_diff_sees_layers_and_statistics_that_one_has_alone(lm, make_probe, make_fitted):
    fitted, short = make_fitted(lm), make_probe(lm, layers=[1, 2])
    found = compare(fitted, short)
    assert found.only == ([0, 3], [])
    assert "metric.factor" in found.layers[0].tensors
    assert found.fields["metrics.0.test.n"] == (0, ABSENT)
    weights = [probe.at(1).weight.double().numpy() for probe in (fitted, short)]
    cosine = weights[0] @ weights[1] / np.linalg.norm(weights[0]) / np.linalg.norm(weights[1])
    assert found.layers[0].cosine == pytest.approx(cosine, abs=1e-12)


def test_a_single_bit_makes_a_difference(probe):
    weight = probe.at(1).weight.clone()
    weight[5] = torch.nextafter(weight[5], torch.tensor(9.0))
    other = replace(probe, layers={**probe.layers, 1: replace(probe.at(1), weight=weight)})
    found = compare(probe, other)
    assert not found.same
    assert [layer.tensors for layer in found.layers] == [[], ["weight"], [], []]


def test_diff_of_what_cannot_be_read_is_2(folder, tmp_path, capsys):
    assert main(["diff", str(folder), str(tmp_path / "absent")]) == 2
    assert "no probe at" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["v.gguf", "v.pt", "folder"])
def test_export_then_import(name, folder, loaded, tmp_path, capsys):
    assert main(["export", str(folder), "--out", str(tmp_path / name), "--layers", "1-2"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / name)
    assert "lost on the way:" in err
    assert "the calibration and the quantiles" in err
    arguments = ["import", str(tmp_path / name), "--model", "tiny", "--concept", "seas", "--out", str(tmp_path / "got")]
    assert (
        main([*arguments, "--name", "wet", "--positive-is", "about the sea", "--licence", "MIT", "--version", "4"]) == 0
    )
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "got" / "wet" / "4")
    assert "figures" in err
    probe = load_probe(tmp_path / "got" / "wet" / "4")
    assert sorted(probe.layers) == [1, 2]
    assert (probe.manifest.positive_is, probe.manifest.dataset.licence) == ("about the sea", "MIT")
    assert (probe.manifest.default.upper, probe.manifest.default.space) == (0.0, "logit")
    assert main(["show", str(tmp_path / "got" / "wet" / "4")]) == 0
    shown = capsys.readouterr().out
    assert "origin   imported from" in shown
    assert "never calibrated" in shown
    assert main([*arguments, "--name", "wet", "--version", "4"]) == 2
    assert "already exists" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--out", "v.onnx"], "ends in .onnx, which tells no format"),
        (["--out", "v.gguf", "--layers", "0"], "layer 0 has no place"),
        (["--out", "v.gguf", "--layers", "9"], "0 to 3"),
        (["--out", "v.gguf", "--layers", "two"], "cannot be read"),
        (["--out", "v", "--format", "liseco", "--direction", "mean"], "read-outs, not vectors"),
    ],
)
def test_what_cannot_be_exported_is_refused(options, reason, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["export", str(folder), *options]) == 2
    assert reason in words(capsys.readouterr().err)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("source", "options", "reason"),
    [
        ("absent.gguf", [], "there is no file"),
        ("absent.gguf", ["--format", "gguf"], "there is no file"),
        ("absent*", [], "matches no .pt file"),
        ("text.txt", [], "ends in '.txt'"),
        ("text.txt", ["--format", "gguf"], "not a whole GGUF file"),
        ("text.txt", ["--format", "steering-vectors"], "was not opened"),
        ("good.gguf", ["--lower", "-1", "--upper", "1"], "one allowed side"),
        ("good.gguf", ["--lower", "nan"], "lower is nan"),
        ("good.gguf", ["--name", "Sea Side"], "'Sea Side' cannot name a probe"),
        ("good.gguf", ["--version", "0"], "versions count from 1"),
        ("qwen.gguf", [], "type 'qwen2'"),
    ],
)
def test_what_cannot_be_imported_is_refused_and_leaves_nothing(
    source, options, reason, loaded, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("neither of these")
    for name, hint in (("good.gguf", "llama"), ("qwen.gguf", "qwen2")):
        writer = gguf.GGUFWriter(name, "controlvector")
        writer.add_string("controlvector.model_hint", hint)
        writer.add_tensor("direction.1", np.ones(32, np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    assert main(["import", source, "--model", "tiny", "--concept", "seas", "--out", "got", *options]) == 2
    assert reason in words(capsys.readouterr().err)
    assert not Path("got").exists()


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("show", "verify", "diff", "export", "import", "push", "pull"))


def test_names_that_look_like_markup_are_shown_as_they_are(probe, tmp_path, capsys, monkeypatch):
    """`[/x]` closes nothing: taken as markup it would end in a trace."""
    monkeypatch.setenv("COLUMNS", "300")
    manifest = rich_manifest(probe.manifest)
    report = manifest.metrics[1]
    odd = report.model_copy(
        update={"out_of_domain": {"o[/x]": report.test}, "pairs": {"p[/x]": report.pairs["paradetox"]}}
    )
    row = manifest.screen.rows[0].model_copy(update={"role": "r[/x]"})
    changes = {
        "metrics": dict.fromkeys(manifest.metrics, odd),
        "screen": manifest.screen.model_copy(update={"scorer": "s[/x]", "rows": [row]}),
        "lookahead": manifest.lookahead.model_copy(update={"auroc_by_warning": {0: {"w[/x]": 0.7}}}),
    }
    made = save_probe(replace(probe, manifest=manifest.model_copy(update=changes)), tmp_path / "odd")
    assert main(["show", str(made)]) == 0
    shown = capsys.readouterr().out
    assert all(f"{name}[/x]" in shown for name in "oprsw")
    plain = save_probe(probe, tmp_path / "plain")
    assert main(["diff", str(plain), str(made)]) == 1
    assert "w[/x]" in capsys.readouterr().out
