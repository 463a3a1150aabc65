"""Any text classifier: the named label's probability, checked against the pipeline of Transformers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import BertConfig, BertModel, pipeline

from steering.errors import ModelError
from steering.scorers import make_scorer

TEXTS = ["the sea is calm", "rough", "storm and storm and storm and sun today the boat is rough", "the sun"]


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_the_score_is_the_pipelines_probability_of_the_named_label(kind, save_bert, tmp_path):
    save_bert(tmp_path / "weather", ["calm", "rough", "other"], problem_type=kind)
    scorer = make_scorer(f"hf:{tmp_path / 'weather'}#Rough")
    reference = pipeline("text-classification", model=str(tmp_path / "weather"), top_k=None)
    expected = [{found["label"]: found["score"] for found in reference([text])[0]}["rough"] for text in TEXTS]
    assert scorer.score(TEXTS) == pytest.approx(expected, abs=1e-6)
    assert len({round(value, 4) for value in expected}) == len(TEXTS)


def test_a_score_does_not_depend_on_the_batch_it_is_in(save_bert, tmp_path):
    save_bert(tmp_path, ["calm", "rough"])
    scorer = make_scorer(f"hf:{tmp_path}#rough")
    alone = [scorer.score([text])[0] for text in TEXTS * 9]
    assert scorer.score(TEXTS * 9) == pytest.approx(alone, abs=1e-6)
    assert scorer.score([]) == []


def test_a_text_longer_than_the_model_is_cut_and_one_without_a_word_has_no_score(save_bert, tmp_path):
    save_bert(tmp_path, ["calm", "rough"])
    scorer = make_scorer(f"hf:{tmp_path}#rough")
    long, nothing = scorer.judge(["storm " * 200, " ... "])
    assert 0 <= long.value <= 1
    assert long.reason == ""
    assert math.isnan(nothing.value)
    assert "no letter" in nothing.reason


def test_its_card_names_the_folder_the_label_and_the_weights_but_no_path(save_bert, tmp_path):
    save_bert(tmp_path / "weather", ["calm", "rough"])
    card = make_scorer(f"hf:{tmp_path / 'weather'}#rough").card
    assert (card.name, card.higher_is) == ("hf:weather#rough", "rough")
    assert card.revision.startswith("weights-")
    assert card.trained_on.startswith("not stated")
    assert str(tmp_path) not in str(card)


@pytest.mark.parametrize("wrong", ["", "#stormy"])
def test_a_label_that_is_missing_or_unknown_is_answered_with_those_there_are(wrong, save_bert, tmp_path):
    save_bert(tmp_path, ["calm", "rough"])
    with pytest.raises(ModelError, match="#calm, #rough"):
        make_scorer(f"hf:{tmp_path}{wrong}")


def test_a_model_without_a_trained_classification_head_is_refused(save_bert, tmp_path):
    save_bert(tmp_path, ["calm", "rough"])
    torch.manual_seed(0)
    BertModel(BertConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="would score at random"):
        make_scorer(f"hf:{tmp_path}#rough")


def test_a_model_that_is_not_there_is_refused_with_the_way_out(tmp_path):
    with pytest.raises(ModelError, match=r"hf:nobody/nothing cannot be loaded .* folder"):
        make_scorer("hf:nobody/nothing#rough")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        make_scorer(f"hf:{tmp_path}#rough")
