"""Several concepts from one harvest, pairs, methods, sparse probes and all-token pooling, through to the artefact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from probes.errors import FitError
from probes.measure.baseline import LENGTH, NAME
from probes.texts.corpus import Corpus, Row
from probes.training import train as module
from probes.training.recipe import Parts, Recipe, arrange
from probes.training.train import run, run_concepts
from steering.artefact import load_probe

RECIPE = Recipe(name="seas", concept="seas", positive_is="about the sea", layers="1,3", max_tokens=64, C=0.01)


@pytest.fixture(scope="module")
def twins(make_corpus) -> Corpus:
    rows = make_corpus(60, seed=11).rows
    sides = [[row for row in rows if row.label == label] for label in (0, 1)]
    return Corpus("twins", tuple(replace(row, group=f"pair {at}") for side in sides for at, row in enumerate(side)))


@pytest.fixture(scope="module")
def parts(make_corpus, twins) -> Parts:
    return arrange(make_corpus(300), out_of_domain={"twins": twins}, pairs={"twins": twins}, drop_leaks=True)


def relabelled(corpus: Corpus) -> Corpus:
    """The same texts, label 1 where the text has the word 'quiet' or 'small'."""
    return replace(
        corpus, rows=tuple(replace(r, label=int("quiet" in r.text or "small" in r.text)) for r in corpus.rows)
    )


def test_every_figure_has_its_intervals_controls_and_pairs(lm, parts, tmp_path):
    folder = run(lm, parts, RECIPE, out=tmp_path / "out", work=tmp_path / "work")
    manifest = load_probe(folder).manifest
    for report in manifest.metrics.values():
        for found in (report.test, report.out_of_domain["twins"]):
            assert found.auroc_interval[0] <= found.auroc <= found.auroc_interval[1]
            assert found.ece_interval[0] <= found.ece_interval[1]
            assert 0 <= found.brier_isotonic <= 0.3
            assert found.ece_isotonic is not None
        assert report.pairs["twins"].n == len(parts.pairs["twins"]) // 2
        assert report.pairs["twins"].accuracy > 0.8
        assert report.random_label_auroc is not None
    assert manifest.baselines.keys() == {NAME, LENGTH}
    assert manifest.baselines[NAME].keys() == {"test", "twins", "pairs-twins"}
    assert manifest.cosines == {}
    assert not (tmp_path / "work" / "pairs-twins").exists()  # its texts were read as out-of-domain ones


def test_concepts_share_one_harvest_and_report_their_cosines(lm, make_corpus, tmp_path, monkeypatch):
    data = make_corpus(400)
    concepts = [
        (arrange(data), replace(RECIPE, name="seas")),
        (arrange(relabelled(data)), replace(RECIPE, name="calm", concept="calm")),
    ]
    harvest, read = module.harvest, []

    def counted(*arguments: Any, **options: Any) -> Any:
        read.append(arguments[1].name)
        return harvest(*arguments, **options)

    monkeypatch.setattr(module, "harvest", counted)
    folders = run_concepts(lm, concepts, out=tmp_path / "out", work=tmp_path / "work")
    assert len(read) == 3
    seas, calm = map(load_probe, folders)
    for layer in (1, 3):
        weights = [probe.layers[layer].weight.double() for probe in (seas, calm)]
        expected = float(torch.dot(*weights) / (weights[0].norm() * weights[1].norm()))
        assert seas.manifest.cosines["calm"][layer] == pytest.approx(expected, abs=1e-9)
        assert calm.manifest.cosines["seas"][layer] == pytest.approx(expected, abs=1e-9)
    alone = run(lm, concepts[1][0], concepts[1][1], out=tmp_path / "alone", work=tmp_path / "again")
    np.testing.assert_array_equal(load_probe(alone).layers[1].weight, calm.layers[1].weight)


@pytest.mark.parametrize(
    ("change", "solver"),
    [
        ({"method": "mean-difference", "C": None}, "difference of class means"),
        ({"method": "lda", "C": None, "shrinkage": "auto"}, "linear discriminant"),
        ({"method": "lda", "C": None}, "linear discriminant"),
        ({"coordinates": 6}, "6 coordinates"),
    ],
)
def test_other_methods_leave_a_probe_that_says_how_it_was_made(lm, parts, tmp_path, change, solver):
    folder = run(lm, parts, replace(RECIPE, **change), out=tmp_path / "out", work=tmp_path / "work")
    probe = load_probe(folder)
    fit = probe.manifest.fit
    assert solver in fit.solver
    assert fit.method == change.get("method", "logistic")
    assert (fit.C is None) == (fit.method != "logistic")
    assert (fit.shrinkage is None) == (fit.method != "lda")
    assert fit.coordinates == change.get("coordinates")
    assert probe.manifest.metrics[3].test.auroc > 0.8
    if fit.coordinates:
        assert all(int((found.weight != 0).sum()) == 6 for found in probe.layers.values())


def test_a_probe_of_all_tokens_is_fitted_and_measured_on_tokens(lm, parts, tmp_path):
    recipe = replace(RECIPE, poolings=("all",), C=None, tokens_per_text=4)
    manifest = load_probe(run(lm, parts, recipe, out=tmp_path / "out", work=tmp_path / "work")).manifest
    assert manifest.token_rule == "all"
    report = manifest.metrics[3]
    assert len(parts.test) < report.test.n <= 4 * len(parts.test)
    assert report.pairs["twins"].n == len(parts.pairs["twins"]) // 2
    low, high = report.test.auroc_interval
    assert low < report.test.auroc < high


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "lda"}, "leave it off"),
        ({"shrinkage": 0.1}, "leave it off"),
        ({"method": "lda", "C": None, "shrinkage": 1.5}, "from 0 to 1"),
        ({"coordinates": 0}, "read nothing"),
        ({"poolings": ("all",), "carry": ("contrast",)}, "make no pairs"),
        ({"template": "chat", "carry": ("lqr",)}, "runs the model on the bare texts"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(change, said):
    with pytest.raises(FitError, match=said):
        replace(RECIPE, **change)


def test_more_coordinates_than_there_are_is_refused_before_the_harvest(lm, parts, tmp_path):
    with pytest.raises(FitError, match="--coordinates from 1 to"):
        run(lm, parts, replace(RECIPE, coordinates=10_000), out=tmp_path / "out", work=tmp_path / "work")
    assert not (tmp_path / "work").exists()


def test_the_hash_of_the_texts_does_not_see_labels(parts):
    rows = tuple(Row(row.number, row.text, row.label, row.group) for row in parts.pairs["twins"].rows)
    assert Corpus("again", rows).texts_sha256 == parts.pairs["twins"].texts_sha256
    assert relabelled(Corpus("again", rows)).texts_sha256 == parts.pairs["twins"].texts_sha256


@pytest.mark.parametrize("shrinkage", [0, 1, 0.5])
def test_a_shrinkage_that_is_given_is_the_only_one_tried(shrinkage):
    settings = replace(RECIPE, method="lda", C=None, shrinkage=shrinkage).settings
    assert [setting.shrinkage for setting in settings] == [shrinkage]
