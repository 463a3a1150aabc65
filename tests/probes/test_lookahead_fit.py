"""Look-ahead probes end to end: a planted future is found, chance is not, and what cannot work is refused."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from probes.__main__ import main
from probes.errors import FitError
from probes.lookahead.comparison import OTHER, OWN
from probes.lookahead.labeller import Labeller
from probes.lookahead.mixture import fit_weighted, mixture_weights
from probes.lookahead.prompts import SIDES, Prompts
from probes.lookahead.recipe import Ahead
from probes.lookahead.samples import Round, Sample
from probes.lookahead.states import read_states
from probes.lookahead.train import FIGURES, run_ahead
from probes.lookahead.windows import Rule, choose_places, labels
from probes.lookahead.writing import Pen, write
from probes.measure.metrics import auroc
from probes.methods.fit import fit_affine
from probes.texts.corpus import Corpus, Row
from probes.training.recipe import Parts, Recipe, arrange
from steering.artefact import load_probe
from steering.bounds import Bounds
from steering.errors import InvalidRequest, ProbeMismatch
from steering.tiny import tiny_model, tiny_probe

EARLY, LATE = "abcdefghijklm", "nopqrstuvwxyz"
AHEAD = Ahead(pen=Pen(continuations=4, new_tokens=16, batch=64), rule=Rule(horizon=4, quantile=0.5), states=8)
RECIPE = Recipe(name="early-ahead", concept="early", positive_is="early letters", C=0.01, bounds=Bounds(upper=0.4))


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Texts of early letters (1) and of late ones (0)."""
    generator = random.Random(0)
    rows = (Row(at, "".join(generator.choices(EARLY if at % 2 else LATE, k=20)), at % 2) for at in range(300))
    return arrange(Corpus("letters", tuple(rows)))


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    generator = random.Random(1)
    return Prompts(tuple("".join(generator.choices(EARLY + LATE, k=6)) + str(at) for at in range(120)))


def planted_sample(lm, prompts: Prompts, folder: Path, *, shuffle: bool = False) -> Sample:
    """Greedy states labelled by whether the token to come is one of the common ones: the state decides it."""
    texts = write(lm, prompts, folder / "texts", Pen(continuations=1, new_tokens=12, temperature=0.0))
    places = choose_places(texts, cap=12, seed=0)
    states = read_states(lm, texts, places, folder / "states", (3,))
    coming = np.array([texts[text].new_ids[offset + 1] for text, offset in places.tolist()])
    common = np.argsort(-np.bincount(coming))[:30]
    found = labels(np.isin(coming, common).astype(np.float64), threshold=0.5)
    if shuffle:
        found = np.random.default_rng(0).permutation(found)
    prompt = np.array([texts[text].prompt for text in places[:, 0]])
    return Sample((Round(states, prompt, {0: found}, len(texts)),), prompts, seed=0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_a_future_that_the_state_decides_is_found_and_shuffled_labels_are_not(lm, prompts, tmp_path, shuffle):
    sample = planted_sample(lm, prompts, tmp_path, shuffle=shuffle)
    resid, found = sample.layer(3), sample.labels()
    train, test = sample.rows("train"), sample.rows("test")
    affine = fit_weighted(resid[train], found[train], np.ones(len(train)), c=0.01)
    reached = auroc(affine.logit(resid[test]), found[test])
    assert abs(reached - 0.5) < 0.12 if shuffle else reached > 0.68


def test_no_prompt_has_states_on_two_sides(lm, prompts, tmp_path):
    sample = planted_sample(lm, prompts, tmp_path)
    both = Sample((sample.rounds[0], sample.rounds[0]), prompts, seed=0)
    seen = [set(both.prompt[both.rows(side)].tolist()) for side in SIDES]
    assert all(seen)
    assert sum(map(len, seen)) == len(set.union(*seen))
    assert len(both.rows("test", turn=0)) == len(both.rows("test", turn=1)) == len(both.rows("test")) / 2
    by_prompt = {(prompt, fold) for prompt, fold in zip(both.prompt.tolist(), both.folds(3).tolist(), strict=True)}
    assert len(by_prompt) == len(set(both.prompt.tolist()))


def test_a_row_of_weight_k_counts_as_k_rows_and_one_of_weight_0_as_none(blobs):
    resid, found = blobs
    weights = np.arange(len(found)) % 4
    repeated = np.repeat(np.arange(len(found)), weights)
    weighted = fit_weighted(resid, found, weights.astype(np.float64), c=0.05)
    plain = fit_affine(resid[repeated], found[repeated], c=0.05)
    np.testing.assert_allclose(weighted.logit(resid), plain.logit(resid), atol=1e-3)
    unit = fit_weighted(resid, found, np.ones(len(found)), c=0.05)
    np.testing.assert_allclose(unit.logit(resid), fit_affine(resid, found, c=0.05).logit(resid), atol=1e-3)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_mixture_gives_each_source_its_share_and_makes_it_say_nothing_of_the_label(share):
    own, corpus = np.array([1] * 5 + [0] * 45), np.array([1, 0] * 10)
    weights, theirs = mixture_weights(own, corpus, share=share)
    total = (share < 1) * 50 + (share > 0) * 20
    assert weights.sum() == pytest.approx((1 - share) * total)
    assert theirs.sum() == pytest.approx(share * total)
    assert weights[own == 1].sum() == pytest.approx(weights[own == 0].sum())
    assert theirs[corpus == 1].sum() == pytest.approx(theirs[corpus == 0].sum())


def test_a_share_that_is_none_or_a_source_without_a_class_is_refused():
    with pytest.raises(FitError, match=r"share is 1\.5"):
        mixture_weights(np.array([0, 1]), np.array([0, 1]), share=1.5)
    with pytest.raises(FitError, match="own states hold no row with label 1"):
        mixture_weights(np.array([0, 0]), np.array([0, 1]), share=0.5)
    mixture_weights(np.array([0, 0]), np.array([0, 1]), share=1.0)


def test_the_labeller_knows_its_classes_and_says_how_well(parts):
    labeller = Labeller.fit(parts.train, parts.test)
    assert labeller.auroc > 0.99
    early, late = labeller.scores(["abcabc abcabc", "xyzxyz xyzxyz"])
    assert 0 <= late < 0.5 < early <= 1
    assert labeller.scores([]).shape == (0,)


@pytest.fixture(scope="module")
def made(lm, parts, prompts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("ahead")
    return run_ahead(
        lm, parts, RECIPE, replace(AHEAD, iterations=2), prompts,
        out=folder / "out", work=folder / "work", compare=tiny_probe(lm),
    )  # fmt: skip


def test_the_artefact_says_how_it_was_labelled_and_carries_what_whitened_steering_needs(made, lm):
    probe = load_probe(made)
    ahead = probe.manifest.lookahead
    assert probe.manifest.token_rule == "lookahead"
    assert ahead is not None
    assert (ahead.horizon, ahead.iterations, ahead.corpus_share) == (4, 2, 0.5)
    assert ahead.labeller.startswith("tf-idf")
    assert ahead.continuations == 2 * 120 * 4
    assert set(ahead.auroc_by_warning) == {0, 5, 10}
    assert set(ahead.auroc_by_warning[0]) == {OWN, OTHER}
    assert probe.carries("metric")
    assert probe.carries("mean")
    report = probe.manifest.metrics[max(probe.layers)]
    assert report.test.auroc_interval is not None
    assert (made / "card.md").exists()


def test_every_figure_stands_beside_the_artefact_and_the_steered_states_are_told_apart(made):
    figures = json.loads((made / FIGURES).read_text(encoding="utf-8"))
    assert len(figures["base_rates"]) == 2
    before, after = (figures["iteration"][f"probe {at} on states of round 2"] for at in (1, 2))
    assert before["predicted"] <= 0.4 + 1e-4
    assert before["happens"] == after["happens"]
    gained = figures["iteration"]["probe 2 less probe 1 on states of round 2"]
    assert gained["auroc"] == pytest.approx(after["auroc"] - before["auroc"])
    assert gained["low"] < gained["auroc"] < gained["high"]
    assert set(figures["auroc"][OWN]) >= set(figures["auroc"][OTHER])


def test_every_compared_figure_has_an_interval_and_the_difference_is_paired(made):
    figures = json.loads((made / FIGURES).read_text(encoding="utf-8"))
    assert 0 < figures["test_prompts"] < 120
    for warning in ("0", "5", "10"):
        own, other = (figures["auroc"][name][str(figures["best_layer"][name])][warning] for name in (OWN, OTHER))
        low, high = figures["auroc_interval"][warning][OWN]
        assert low < own < high
        gain, (least, most) = figures["gain"][warning]
        assert gain == pytest.approx(own - other)
        assert least < gain < most


def test_the_same_run_again_gives_the_same_numbers(made, lm, parts, prompts, tmp_path):
    work = made.parents[2] / "work"
    again = run_ahead(
        lm, parts, RECIPE, replace(AHEAD, iterations=2), prompts, out=tmp_path, work=work, compare=tiny_probe(lm)
    )
    assert (again / "probe.safetensors").stat().st_size == (made / "probe.safetensors").stat().st_size
    for layer, read in load_probe(made).layers.items():
        assert read.weight.equal(load_probe(again).at(layer).weight)


def test_windows_of_one_class_too_few_prompts_and_existing_versions_are_refused(lm, parts, prompts, made, tmp_path):
    one_class = replace(AHEAD, rule=Rule(horizon=4, threshold=0.999999))
    with pytest.raises(FitError, match="labelled states, 0 of them"):
        run_ahead(lm, parts, RECIPE, one_class, prompts, out=tmp_path / "out", work=tmp_path / "a")
    with pytest.raises(FitError, match="Give more prompts"):
        run_ahead(lm, parts, RECIPE, AHEAD, Prompts(prompts.texts[:3]), out=tmp_path / "out", work=tmp_path / "b")
    with pytest.raises(InvalidRequest, match="already exists"):
        run_ahead(lm, parts, RECIPE, AHEAD, prompts, out=made.parents[1], work=tmp_path / "c")
    assert not (tmp_path / "out").exists()


def test_a_probe_of_another_model_cannot_be_compared_with(lm, parts, prompts, tmp_path):
    other = tiny_probe(tiny_model(hidden_size=16))
    with pytest.raises(ProbeMismatch, match="hidden_size 16"):
        run_ahead(lm, parts, RECIPE, AHEAD, prompts, out=tmp_path / "out", work=tmp_path / "work", compare=other)


@pytest.mark.parametrize(
    ("field", "value"), [("corpus_share", -0.1), ("iterations", 3), ("states", 0), ("pen", Pen(new_tokens=4))]
)
def test_choices_outside_their_range_are_refused(field, value):
    with pytest.raises(FitError):
        replace(AHEAD, **{field: value})


def test_options_of_look_ahead_probes_alone_are_refused(write_jsonl, planted, tmp_path, capsys):
    data = write_jsonl(planted(60))
    line = ["train", "--model", "x", "--data", str(data), "--concept", "seas", "--out", str(tmp_path / "out")]
    assert main([*line, "--horizon", "5"]) == 2
    assert "--horizon belongs to a look-ahead probe" in " ".join(capsys.readouterr().err.split())
    assert main([*line, "--corpus-share", "0"]) == 2
    assert "--corpus-share belongs" in " ".join(capsys.readouterr().err.split())
    assert main([*line, "--on-policy", "--carry", "erase"]) == 2
    assert "--carry is not available with --on-policy" in " ".join(capsys.readouterr().err.split())


def test_the_command_line_makes_a_look_ahead_probe(lm, parts, prompts, write_jsonl, tmp_path, capsys):
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    rows = [row for corpus in (parts.train, parts.calibration, parts.test) for row in corpus.rows]
    data = write_jsonl([{"text": row.text, "label": row.label} for row in rows], "data.jsonl")
    given = write_jsonl([{"prompt": text} for text in prompts.texts], "prompts.jsonl")
    line = ["train", "--model", str(tmp_path / "model"), "--data", str(data), "--concept", "early", "--C", "0.01"]
    line += ["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), "--threads", "1", "--on-policy"]
    assert main(line) == 2
    assert "give a file with --prompts" in " ".join(capsys.readouterr().err.split())
    line += ["--prompts", str(given), "--new-tokens", "16", "--horizon", "4", "--window-quantile", "0.5"]
    assert main([*line, "--states", "8", "--corpus-share", "0.25"]) == 0
    ahead = load_probe(tmp_path / "out" / "early" / "1").manifest.lookahead
    assert ahead is not None
    assert (ahead.horizon, ahead.corpus_share, ahead.prompts) == (4, 0.25, 120)


def test_warnings_longer_than_the_text_have_no_figure_and_leave_a_readable_artefact(lm, parts, prompts, tmp_path):
    short = replace(AHEAD, pen=Pen(continuations=4, new_tokens=11))
    made = run_ahead(lm, parts, RECIPE, short, prompts, out=tmp_path / "out", work=tmp_path / "work")
    ahead = load_probe(made).manifest.lookahead
    assert ahead is not None
    assert set(ahead.auroc_by_warning[0]) == {OWN}
    assert ahead.auroc_by_warning[10] == {}

    def no_number(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    figures = json.loads((made / FIGURES).read_text(encoding="utf-8"), parse_constant=no_number)
    assert {by_warning["10"] for by_warning in figures["auroc"][OWN].values()} == {None}


def test_a_probe_without_a_layer_in_common_is_refused_before_anything_is_written(lm, parts, prompts, tmp_path):
    asked = replace(RECIPE, layers="3")
    with pytest.raises(FitError, match=r"no read-out at any of the layers.*0-1"):
        run_ahead(
            lm, parts, asked, AHEAD, prompts,
            out=tmp_path / "out", work=tmp_path / "work", compare=tiny_probe(lm, layers=[0, 1]),
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []
