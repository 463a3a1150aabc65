"""Who may judge what a probe did: not the scorer that labelled its data; weaker ties are said."""

from __future__ import annotations

from pathlib import Path

import pytest

from steering import load_probe
from steering.manifest import Lookahead, Screen
from steering.scorers import AltProfanity, ScorerCard, relate

CARD = ScorerCard("letters", "ruler", "1", "nothing", "full of letters")
JIGSAW = ScorerCard("judge", "ruler", "1", "Jigsaw comments", "toxic", data=("jigsaw toxic", "davidson"))


def lookahead(labeller: str) -> Lookahead:
    return Lookahead(
        horizon=8,
        labeller=labeller,
        threshold=0.5,
        prompts=1,
        continuations=1,
        tokens=1,
        corpus_share=0.0,
        iterations=1,
    )


@pytest.fixture
def manifest(probe):
    """Of a random probe, with a data set of the given name."""

    def make(dataset: str = "made up", **changes: object):
        found = probe.manifest
        return found.model_copy(update={"dataset": found.dataset.model_copy(update={"name": dataset}), **changes})

    return make


def test_strangers_have_nothing_in_common(manifest):
    relation = relate(CARD, manifest())
    assert not relation.labelled
    assert relation.reason == ""


@pytest.mark.parametrize(
    ("labeller", "labelled"),
    [
        ("letters 1", True),
        ("letters 1, fitted on pages", True),
        ("tf-idf words and letters-in-words, fitted on letters", True),
        ("tf-idf, fitted on letters", False),
    ],
)
def test_who_labelled_the_states_of_a_look_ahead_probe_may_not_judge_it(labeller, labelled, manifest):
    relation = relate(CARD, manifest(lookahead=lookahead(labeller)))
    assert relation.labelled == labelled
    assert ("labelled the states" in relation.reason) == labelled


def test_who_labelled_a_data_set_may_not_judge_what_was_fitted_on_it(manifest):
    assert relate(CARD, manifest("Own pages, labelled by letters 1")).labelled
    assert not relate(CARD, manifest("Own pages, labelled by three people")).labelled


def test_training_on_the_same_data_is_said_and_a_shared_test_set_is_not(manifest):
    relation = relate(JIGSAW, manifest("Jigsaw Toxic Comments (balanced subset); tests: LiSeCo 500, Davidson"))
    assert not relation.labelled
    assert "both trained on jigsaw toxic data" in relation.reason
    assert "davidson" not in relation.reason


def test_the_judge_of_the_screen_is_said(manifest):
    screen = Screen(
        scorer="letters 1",
        metric="euclidean",
        lower=None,
        upper=0.1,
        space="probability",
        prompts=1,
        neutral=1,
        new_tokens=2,
        seed=0,
        prompts_sha256="0" * 64,
        rows=[],
        chosen=[],
    )
    assert "chose the layers" in relate(CARD, manifest(screen=screen)).reason
    assert relate(JIGSAW, manifest(screen=screen)).reason == ""


def test_a_scorer_of_unstated_training_is_no_proven_stranger(manifest):
    unknown = ScorerCard("hf:x#toxic", "transformer", "1", "not stated in its files", "toxic")
    assert "not stated" in relate(unknown, manifest()).reason


def test_the_shipped_toxicity_probe_and_the_packaged_scorer_know_the_same_comments():
    folder = Path(__file__).parents[3] / "probes/pretrained/smollm2-135m-instruct/toxicity/1"
    relation = relate(AltProfanity().card, load_probe(folder).manifest)
    assert not relation.labelled
    assert "both trained on jigsaw toxic data" in relation.reason
    assert "chose the layers" in relation.reason
