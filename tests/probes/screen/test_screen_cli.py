"""`tiller probe screen` from the command line: files in, table and artefact out, errors on one line."""

from __future__ import annotations

import json

import pytest

import probes.screen.run
from probes.__main__ import main
from steering import Probe, load_probe
from steering.artefact import save_probe
from steering.manifest import Lookahead
from steering.scorers import table


@pytest.fixture
def arguments(model, planted_probe, write_jsonl, tmp_path, monkeypatch, ask) -> list[str]:
    """A command line that works, on the tiny model and a scorer of letters."""
    monkeypatch.setattr("steering.models.load_model", lambda name, **options: model)
    monkeypatch.setitem(table.SCORERS, "letters", lambda: ask(planted_probe).scorer)
    folder = save_probe(planted_probe, tmp_path / "probes")
    prompts = write_jsonl([{"prompt": f"prompt {at}"} for at in range(16)], "prompts.jsonl")
    neutral = write_jsonl(
        [{"text": f"an ordinary line {at}\nand another one {at}"} for at in range(4)], "neutral.jsonl"
    )
    return [
        "screen", str(folder), "--prompts", str(prompts), "--neutral", str(neutral), "--scorer", "letters",
        "--lower", "30", "--space", "logit", "--n", "12", "--neutral-n", "4", "--new-tokens", "5",
        "--out", str(tmp_path / "screen"),
    ]  # fmt: skip


def test_a_screen_prints_its_table_and_saves_the_next_version(arguments, tmp_path, capsys):
    assert main([*arguments, "--save", str(tmp_path / "probes")]) == 0
    out, err = capsys.readouterr()
    assert "difference" in out
    assert "12 prompts, 5 tokens, judged by letters 1" in out
    assert "prompt 1" not in out + err, "texts are never printed"
    made = load_probe(tmp_path / "probes" / "toxicity" / "2")
    assert made.manifest.screen is not None
    assert made.manifest.causal is bool(made.manifest.screen.chosen)
    document = json.loads((tmp_path / "screen" / "screen.json").read_text(encoding="utf-8"))
    assert document["screen"]["prompts"] == 12


def test_interrupting_keeps_finished_arms_and_says_how_to_go_on(arguments, tmp_path, capsys, monkeypatch):
    write, arms = probes.screen.run.Writer.write, []

    def interrupted(self, arm):
        arms.append(arm)
        if len(arms) > 3:
            raise KeyboardInterrupt
        return write(self, arm)

    monkeypatch.setattr(probes.screen.run.Writer, "write", interrupted)
    assert main(arguments) == 130
    assert "run the same command again" in capsys.readouterr().err
    assert len((tmp_path / "screen" / "arms.jsonl").read_text(encoding="utf-8").splitlines()) == 3
    monkeypatch.setattr(probes.screen.run.Writer, "write", write)
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"--scorer": "perspective"}, "no scorer 'perspective'"),
        ({"--prompts": "absent.jsonl"}, "no file absent.jsonl"),
        ({"--n": "17"}, "16 usable prompts"),
        ({"--layers": "7"}, "layer 7"),
        ({"--upper": "40"}, "band"),
        ({"--where": "label"}, "COLUMN=VALUE"),
    ],
)
def test_what_cannot_be_screened_is_refused_before_anything_is_written(changes, said, arguments, tmp_path, capsys):
    for flag, value in changes.items():
        if flag in arguments:
            arguments[arguments.index(flag) + 1] = value
        else:
            arguments += [flag, value]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "screen").exists()


def test_a_space_without_a_bound_does_not_reread_the_default_in_it(arguments, tmp_path, capsys):
    at = arguments.index("--lower")
    assert main(arguments[:at] + arguments[at + 2 :]) == 2
    assert "--space is 'logit' but no bound is given" in capsys.readouterr().err
    assert not (tmp_path / "screen").exists()


def test_where_the_probe_is_saved_is_checked_before_the_screen(arguments, tmp_path, capsys):
    assert main([*arguments, "--version", "2"]) == 2
    assert "add --save" in capsys.readouterr().err
    assert main([*arguments, "--save", str(tmp_path / "probes"), "--version", "1"]) == 2
    assert "toxicity@1 already exists" in capsys.readouterr().err
    assert not (tmp_path / "screen").exists()


def test_paths_are_printed_as_they_are(arguments, tmp_path, capsys):
    arguments[arguments.index("--out") + 1] = str(tmp_path / "[bold]x:train:")
    assert main(arguments) == 0
    assert str(tmp_path / "[bold]x:train:" / "screen.json") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("labeller", "code"), [("letters 1", 2), ("tf-idf words and letters-in-words, fitted on letters", 2),
                           ("tf-idf, fitted on letters", 0)]
)  # fmt: skip
def test_who_labelled_may_not_judge_and_a_corpus_of_the_same_name_is_nobody(
    labeller, code, arguments, planted_probe, tmp_path, capsys
):
    ahead = Lookahead(
        horizon=5,
        labeller=labeller,
        threshold=0.5,
        prompts=1,
        continuations=1,
        tokens=1,
        corpus_share=0.5,
        iterations=1,
    )
    manifest = planted_probe.manifest.model_copy(update={"lookahead": ahead, "version": 3})
    arguments[1] = str(save_probe(Probe(manifest=manifest, layers=planted_probe.layers), tmp_path / "ahead"))
    assert main(arguments) == code
    assert ("may not judge" in capsys.readouterr().err) is (code == 2)
