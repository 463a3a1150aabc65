"""The commands: what they print, what they leave, and how they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from eval.__main__ import main
from eval.runner import commands
from eval.runner.local import LocalWriter
from eval.runner.reading import ready_specs
from eval.runner.rows import Continuation, Row
from eval.runner.spec import Decoding
from steering import LanguageModel


@pytest.fixture(autouse=True)
def _tiny(monkeypatch: pytest.MonkeyPatch, lm: LanguageModel) -> None:
    monkeypatch.setattr(commands, "load_model", lambda name, *, threads: lm)


def test_a_run_ends_with_a_table_and_leaves_its_samples(
    write_spec: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", str(write_spec()), "--out", str(out), "--threads", "1"]) == 0
    said = capsys.readouterr().out
    for word in (
        "arm",
        "perplexity",
        "spanish",
        "tokens/s",
        "random as slab p<=0.2",
        "note: no arm instructs the model",
    ):
        assert word in said
    assert pq.read_table(out / "samples.parquet").num_rows == 50
    assert "nothing may be claimed" in said
    for name in ("report.html", "report.md", "report.json"):
        assert (out / name).is_file()
    command = json.loads((out / "provenance.json").read_text(encoding="utf-8"))["sessions"][0]["command"]
    assert command.startswith("tiller eval run ")
    assert command.endswith("--threads 1")


def test_rescore_judges_a_finished_run_by_another_scorer(
    write_spec: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", str(write_spec()), "--out", str(out)]) == 0
    before = pq.read_table(out / "samples.parquet").column("continuation")
    assert main(["rescore", str(out), "--scorer", "vader"]) == 0
    table = pq.read_table(out / "samples.parquet")
    assert table.column_names[-2:] == ["score.spanish", "score.vader"]
    assert table.column("continuation") == before
    assert "vader" in capsys.readouterr().out
    assert "by vader" in (out / "report.md").read_text(encoding="utf-8")
    (noted,) = json.loads((out / "provenance.json").read_text(encoding="utf-8"))["rescored"]
    assert noted["command"].endswith("--scorer vader")
    assert noted["scorers"]["vader"]["name"] == "vader"
    assert "vader" in json.loads((out / "report.json").read_text(encoding="utf-8"))["thresholds"]


def test_rescoring_what_is_no_finished_run_is_refused(
    write_spec: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["rescore", str(tmp_path), "--scorer", "vader"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["run", str(write_spec()), "--out", str(tmp_path / "out")]) == 0
    assert main(["rescore", str(tmp_path / "out"), "--scorer", "veder"]) == 2
    assert "there is no scorer 'veder'" in capsys.readouterr().err


def test_n_takes_fewer_prompts_of_every_set(write_spec: Callable[..., Path], tmp_path: Path) -> None:
    assert main(["run", str(write_spec()), "--out", str(tmp_path / "out"), "--n", "2"]) == 0
    assert pq.read_table(tmp_path / "out/prompts.parquet").num_rows == 2
    assert main(["run", str(write_spec()), "--out", str(tmp_path / "more"), "--n", "99"]) == 0
    assert pq.read_table(tmp_path / "more/prompts.parquet").num_rows == 5


def test_probes_of_the_command_line_are_found_where_it_was_typed(
    write_spec: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(probes="./nowhere")
    monkeypatch.chdir(tmp_path)
    assert main(["run", str(spec), "--out", "out", "--probes", "probes"]) == 0


def test_a_mistake_is_one_line_and_code_2(
    write_spec: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["run", str(write_spec(arms=["salb"])), "--out", str(out)]) == 2
    said = capsys.readouterr().err.strip()
    assert said == "error: arm 1 (salb): 'salb' is no controller; did you mean 'slab'?"
    assert not out.exists()


def test_ctrl_c_says_that_what_is_finished_is_kept_and_so_it_is(
    write_spec: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, out, real, written = str(write_spec()), str(tmp_path / "out"), LocalWriter.write, []

    def interrupted(self: LocalWriter, rows: Sequence[Row], decoding: Decoding) -> Iterator[Continuation]:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(rows)
        return real(self, rows, decoding)

    monkeypatch.setattr(LocalWriter, "write", interrupted)
    assert main(["run", spec, "--out", out]) == 130
    assert "what is finished is kept, the same command goes on from there" in capsys.readouterr().err
    assert len(list((tmp_path / "out/samples").glob("part-*.parquet"))) == 2
    monkeypatch.setattr(LocalWriter, "write", real)
    assert main(["run", spec, "--out", out]) == 0


def test_the_ready_specs_are_listed_and_can_be_copied(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["specs"]) == 0
    listed = capsys.readouterr().out
    assert set(ready_specs()) == {
        "quick",
        "paper-toxicity",
        "paper-sentiment",
        "paper-language",
        "rtp",
        "toxic-prompts",
        "neutral-prompts",
    }
    assert all(name in listed for name in ready_specs())
    assert main(["specs", "--show", "quick"]) == 0
    assert capsys.readouterr().out == ready_specs()["quick"].read_text(encoding="utf-8")
    assert main(["specs", "--show", "slow"]) == 2


def test_data_that_is_not_shipped_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "paper-sentiment", "--out", str(tmp_path / "out")]) == 2
    assert "these texts are not shipped: give the folder that holds them with --data" in capsys.readouterr().err
