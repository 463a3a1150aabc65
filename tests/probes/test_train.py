"""End to end on a planted concept: the artefact loads, separates, is reproducible, and its card says what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from probes.errors import CorpusError, FitError
from probes.fitting.erase import fit_erase
from probes.fitting.means import fit_means
from probes.fitting.metric import fit_metric
from probes.fitting.state import fit_state_offsets
from probes.fitting.table import ALWAYS, FITS, SHIPPED_GROUPS, by_class
from probes.fitting.transport import fit_transport
from probes.fitting.with_model import WITH_MODEL
from probes.harvest.activations import Reading, harvest
from probes.measure.baseline import LENGTH, NAME, measure_baselines
from probes.texts.corpus import Corpus, Row
from probes.training import train as module
from probes.training.recipe import Parts, Recipe, arrange
from probes.training.selection import default_layers, parse_layers
from probes.training.train import Progress, run
from steering.artefact import content_sha256, load_probe
from steering.bounds import Bounds
from steering.errors import InvalidBounds, InvalidRequest
from steering.fitted import GROUPS
from steering.hooks import capture

RECIPE = Recipe(name="seas", concept="seas", positive_is="about the sea", labels=("hills", "seas"), max_tokens=64)


@pytest.fixture(scope="module")
def parts(make_corpus) -> Parts:
    other = make_corpus(60, seed=3, name="other")
    return arrange(make_corpus(400), out_of_domain={"other": other}, drop_leaks=True)


@pytest.fixture(scope="module")
def made(lm, parts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    return run(lm, parts, replace(RECIPE, poolings=("last", "mean")), out=folder / "out", work=folder / "work")


def test_a_planted_concept_is_found_at_every_layer_and_out_of_domain(made):
    manifest = load_probe(made).manifest
    assert made.parts[-2:] == ("seas", "1")
    for report in manifest.metrics.values():
        assert report.test.auroc > 0.9
        assert report.out_of_domain["other"].auroc > 0.9
        assert report.random_label_auroc < 0.85
    assert manifest.baselines[NAME].keys() == {"test", "other"}
    assert manifest.dataset.counts["train"]["1"] > 100


def test_the_stored_probe_gives_the_logits_that_were_measured(lm, made, parts):
    probe = load_probe(made)
    text = parts.test.rows[0].text
    with torch.inference_mode(), capture(lm.model, probe.layers) as seen:
        lm.model(input_ids=torch.tensor([lm.tokenizer(text)["input_ids"]]))
    for layer, fitted in probe.layers.items():
        resid = seen[layer][0, -1] if probe.manifest.token_rule == "last" else seen[layer][0, 1:].mean(dim=0)
        probability = float(fitted.probability(resid))
        assert 0 < probability < 1
        assert (probability > 0.5) == (parts.test.rows[0].label == 1)


def test_quantiles_and_norms_are_those_of_the_calibration_and_training_texts(made):
    for fitted in load_probe(made).layers.values():
        assert fitted.quantiles_negative is not None
        assert fitted.quantiles_positive is not None
        assert fitted.quantiles_negative.median() < fitted.quantiles_positive.median()
        assert fitted.resid_norm > 0


@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize(("bounds", "toward"), [(Bounds(upper=0.1), "negative"), (Bounds(lower=0.9), "positive")])
def test_what_is_carried_is_fitted_on_the_training_texts_with_the_chosen_pooling(
    lm, parts, tmp_path, pooling, bounds, toward
):
    recipe = replace(RECIPE, layers="1,3", poolings=(pooling,), C=0.01, bounds=bounds, carry=("transport", "erase"))
    probe = load_probe(run(lm, parts, recipe, out=tmp_path / "out", work=tmp_path / "work"))
    assert probe.toward == recipe.toward == toward
    reading = Reading(layers=(1, 3), poolings=(pooling,), max_tokens=64)
    taken = harvest(lm, parts.train, tmp_path / "again", reading)
    for layer, read in probe.layers.items():
        resid, labels = taken.layer(layer, pooling), parts.train.labels
        negative, positive = resid[labels == 0], resid[labels == 1]
        expected = fit_means(negative, positive) | fit_metric(negative, positive) | fit_erase(negative, positive)
        expected |= fit_transport(negative, positive, toward=toward)
        assert read.fitted.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_array_equal(read.fitted[name].numpy(), value, err_msg=name)


def test_groups_that_need_the_model_are_fitted_on_the_training_texts(lm, mamba_lm, parts, tmp_path):
    recipe = replace(RECIPE, layers="0-3", poolings=("last",), C=0.01, carry=("lqr",))
    folder = run(lm, parts, recipe, out=tmp_path / "out", work=tmp_path / "work")
    probe = load_probe(folder)
    layers = probe.layers_with("lqr")
    assert layers == probe.manifest.default.layers
    assert "- `lqr`: feedback gains" in (folder / "card.md").read_text(encoding="utf-8")
    last = probe.group("lqr", layers[-1])["gain"]
    unit = torch.nn.functional.normalize(
        probe.at(layers[-1]).fitted["mean.negative"] - probe.at(layers[-1]).fitted["mean.positive"], dim=0
    )
    torch.testing.assert_close(last, unit / 2)  # after the last layer nothing follows: q / (q + r), both 1

    recipe = replace(RECIPE, layers="1,2", poolings=("last",), C=0.01, carry=("state",))
    probe = load_probe(run(mamba_lm, parts, recipe, out=tmp_path / "mamba", work=tmp_path / "states"))
    for layer, groups in fit_state_offsets(mamba_lm, parts.train, toward="negative", layers=[1, 2]).items():
        np.testing.assert_array_equal(probe.group("state", layer)["offset"].numpy(), groups["state.offset"])


def test_every_probe_carries_means_and_metric_and_no_more_unasked(made):
    probe = load_probe(made)
    assert [group for group in GROUPS if probe.carries(group)] == ["mean", "metric"]
    assert "- `metric`: the covariance within classes" in (made / "card.md").read_text(encoding="utf-8")


def test_pairs_are_compared_with_their_own_counterparts(make_corpus):
    rows = make_corpus(8).rows
    pairs = [replace(row, group=f"pair {index // 2}") for index, row in enumerate(rows)]
    corpus = Corpus("pairs", tuple(pairs[index] for index in (6, 1, 3, 0, 7, 5, 2, 4)))
    negative, positive = by_class(corpus, paired=True)
    assert len(negative) == 4
    assert [corpus.rows[at].group for at in negative] == [corpus.rows[at].group for at in positive]
    assert {corpus.rows[at].label for at in negative} == {0}
    for broken in (corpus.rows[:-1], (*corpus.rows, replace(rows[0], group="pair 0")), tuple(rows)):
        with pytest.raises(FitError, match="not pairs"):
            by_class(Corpus("broken", tuple(broken)), paired=True)


def test_training_twice_gives_the_same_numbers(lm, made, parts, tmp_path):
    again = run(lm, parts, replace(RECIPE, poolings=("last", "mean")), out=tmp_path / "out", work=tmp_path / "work")
    assert content_sha256(load_probe(again)) == content_sha256(load_probe(made))


def test_an_interrupted_run_resumed_gives_the_identical_artefact(lm, made, parts, tmp_path, monkeypatch):
    recipe = replace(RECIPE, poolings=("last", "mean"))
    harvest, calls = module.harvest, []

    def interrupted(*arguments: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return harvest(*arguments, **options)

    monkeypatch.setattr(module, "harvest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(lm, parts, recipe, out=tmp_path / "out", work=tmp_path / "work")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(module, "harvest", harvest)
    resumed = run(lm, parts, recipe, out=tmp_path / "out", work=tmp_path / "work")
    assert content_sha256(load_probe(resumed)) == content_sha256(load_probe(made))


def test_a_version_is_never_overwritten_and_refused_before_any_work(lm, made, parts, tmp_path):
    with pytest.raises(InvalidRequest, match="never overwritten"):
        run(lm, parts, RECIPE, out=made.parent.parent, work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_card_reports_every_layer_and_no_text(made, parts):
    card = (made / "card.md").read_text(encoding="utf-8")
    assert (made / "layers.png").read_bytes().startswith(b"\x89PNG")
    assert "## All layers" in card
    assert "The algebra guarantees the probe, not the text" in card
    assert "Pooling `mean`" in card
    assert "eats the lexical baseline" in card
    for corpus in parts.named().values():
        assert not any(row.text in card for row in corpus.rows)


def test_artefacts_hold_no_text(made, parts):
    content = b"".join(path.read_bytes() for path in made.iterdir())
    assert not any(row.text.encode() in content for corpus in parts.named().values() for row in corpus.rows)


def test_a_probe_that_loses_to_the_words_says_so(lm, make_corpus, tmp_path):
    late = tuple(replace(row, text=f"{row.text} as it was") for row in make_corpus(400).rows)
    recipe = replace(RECIPE, layers="0", C=0.01)
    made = run(lm, arrange(Corpus("late", late)), recipe, out=tmp_path / "out", work=tmp_path / "work")
    assert "**Does not beat the lexical baseline** on test by" in (made / "card.md").read_text(encoding="utf-8")


def test_layers_that_do_not_read_the_concept_are_left_out_and_named(lm, parts, tmp_path, monkeypatch):
    fit_layer, said = module.fit_layer, []

    def picky(data: Any, layer: int, pooling: Any, **options: Any) -> Any:
        if layer == 0:
            raise FitError("the calibration slope is negative")
        return fit_layer(data, layer, pooling, **options)

    monkeypatch.setattr(module, "fit_layer", picky)
    made = run(lm, parts, RECIPE, out=tmp_path / "out", work=tmp_path / "work", progress=Progress(say=said.append))
    assert sorted(load_probe(made).layers) == [1, 2, 3]
    assert any(line.startswith("layer 0 is left out") for line in said)
    assert "Layer 0 was left out" in (made / "card.md").read_text(encoding="utf-8")


def test_labels_inverted_in_the_calibration_file_end_in_an_error(lm, make_corpus, tmp_path):
    inverted = Corpus("inverted", tuple(replace(row, label=1 - row.label) for row in make_corpus(60, seed=4).rows))
    parts = arrange(make_corpus(300), calibration=inverted, drop_leaks=True)
    with pytest.raises(FitError, match=r"no layer gave a usable probe .* labels are inverted"):
        run(lm, parts, RECIPE, out=tmp_path / "out", work=tmp_path / "work")
    assert not (tmp_path / "out").exists()


def test_the_lexical_baseline_sees_words(make_corpus):
    found = measure_baselines(make_corpus(200), {"test": make_corpus(40, seed=8)})
    assert found[NAME]["test"] == 1.0
    assert found[LENGTH]["test"] < 0.8


def test_texts_without_words_have_no_lexical_baseline():
    wordless = Corpus("signs", (Row(1, "?!", 0), Row(2, "...", 1)))
    with pytest.raises(CorpusError, match="no text holds a word"):
        measure_baselines(wordless, {})


def test_default_layers_are_those_of_the_orientation_experiment():
    assert default_layers(30, range(30)) == [10, 13, 16, 19, 22, 25, 28]
    assert default_layers(30, [10, 11, 28]) == [10, 28]
    assert default_layers(30, [2, 5]) == [5]
    assert all(default_layers(depth, range(depth)) for depth in range(1, 100))


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", (0, 1, 2, 3, 4, 5)), ("3", (3,)), ("0-5:2", (0, 2, 4)), ("4, 1-2,4", (1, 2, 4)), ("0-5:3,5", (0, 3, 5))],
)
def test_layers_are_parsed(text, layers):
    assert parse_layers(text, num_hidden_layers=6) == layers


@pytest.mark.parametrize("text", ["", "a", "3-1", "1-", "-1", "0-5:0", "1,,2", "1.5"])
def test_layers_that_cannot_be_read_are_refused(text):
    with pytest.raises(FitError, match="cannot be read"):
        parse_layers(text, num_hidden_layers=6)


def test_layers_beyond_the_model_are_refused():
    with pytest.raises(InvalidRequest, match="0 to 5"):
        parse_layers("0-6", num_hidden_layers=6)


@pytest.mark.parametrize(
    "change", [{"name": "No Name"}, {"version": 0}, {"C": -1.0}, {"C": float("inf")}, {"seed": -1}]
)
def test_recipes_that_cannot_be_are_refused(change):
    with pytest.raises(FitError):
        replace(RECIPE, **change)


def test_reversed_default_bounds_are_refused():
    with pytest.raises(InvalidBounds):
        replace(RECIPE, bounds=Bounds(lower=0.9, upper=0.1))


def test_random_controls_use_the_seed(made):
    reports = load_probe(made).manifest.metrics
    assert len({report.random_direction_auroc for report in reports.values()}) == len(reports)
    assert all(np.isfinite(report.random_label_auroc) for report in reports.values())


def test_the_table_of_fits_is_a_part_of_what_an_artefact_may_hold():
    assert FITS.keys() <= GROUPS.keys()
    assert WITH_MODEL.keys() <= GROUPS.keys() - FITS.keys()
    assert {*ALWAYS, *SHIPPED_GROUPS} <= FITS.keys() | WITH_MODEL.keys()
    generator = np.random.default_rng(0)
    negative, positive = generator.standard_normal((2, 30, 5)).astype(np.float32)
    for name, entry in FITS.items():
        found = entry.fit(negative, positive + 1, toward="negative")
        assert found.keys() == {f"{name}.{part}" for part in GROUPS[name]}
