"""Detoxify from a local checkpoint of its own shape, against the model's own sigmoid; nothing is downloaded."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertTokenizer

from steering.errors import InvalidRequest, ModelError
from steering.scorers import make_scorer
from steering.scorers.detoxified import TRAINED_ON

CLASSES = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]
TEXTS = ["the sea is calm", "rough storm", "the boat and the sun and the sea"]


def checkpoint(model: Any, folder: Path, *, classes: list[str] = CLASSES, **extra: Any) -> Path:
    """What Detoxify's release files hold, with the model type of the Hub that they name."""
    args = {
        "num_classes": len(classes),
        "model_type": "bert-base-uncased",
        "model_name": "BertForSequenceClassification",
        "tokenizer_name": "BertTokenizer",
    }
    config = {"dataset": {"args": {"classes": classes}}, "arch": {"args": args}}
    path = folder / "tiny.ckpt"
    torch.save({"config": config, "state_dict": model.state_dict(), **extra}, path)
    return path


@pytest.fixture
def bert(save_bert, tmp_path):
    """A model of six labels whose config and tokenizer lie in `tmp_path`."""
    return save_bert(tmp_path, CLASSES)


@pytest.mark.parametrize("model", list(TRAINED_ON))
def test_the_score_is_the_sigmoid_of_the_first_class(model, bert, tmp_path):
    scorer = make_scorer(f"detoxify:{model}@{checkpoint(bert, tmp_path)}")
    tokenizer = BertTokenizer.from_pretrained(tmp_path)
    with torch.no_grad():
        expected = [bert(**tokenizer(text, return_tensors="pt")).logits.sigmoid()[0, 0].item() for text in TEXTS]
    assert scorer.score(TEXTS) == pytest.approx(expected, abs=1e-6)
    assert scorer.score(TEXTS[:1]) == pytest.approx(expected[:1], abs=1e-6)
    assert scorer.score([]) == []


def test_the_card_states_package_checkpoint_and_training_data_but_no_path(bert, tmp_path):
    card = make_scorer(f"detoxify:unbiased@{checkpoint(bert, tmp_path)}").card
    assert (card.name, card.higher_is) == ("detoxify:unbiased", "toxic")
    assert "checkpoint" in card.revision
    assert "Civil Comments" in card.trained_on
    assert str(tmp_path) not in str(card)


def test_without_config_and_tokenizer_beside_it_the_error_says_to_lay_them_there(bert, tmp_path):
    (tmp_path / "config.json").unlink()
    with pytest.raises(ModelError, match=r"bert-base-uncased.*lay config\.json and the tokenizer"):
        make_scorer(f"detoxify:original@{checkpoint(bert, tmp_path)}")


class _Code:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_code_in_a_checkpoint_is_refused_and_not_run(bert, tmp_path, capsys):
    path = checkpoint(bert, tmp_path, extra=_Code())
    with pytest.raises(ModelError, match="no Detoxify checkpoint"):
        make_scorer(f"detoxify:original@{path}")
    assert "this must not run" not in capsys.readouterr().out


def test_what_is_no_checkpoint_is_refused(bert, tmp_path):
    with pytest.raises(ModelError, match="there is no checkpoint"):
        make_scorer(f"detoxify:original@{tmp_path / 'absent.ckpt'}")
    (tmp_path / "odd.ckpt").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(ModelError, match=r"odd\.ckpt is no Detoxify checkpoint"):
        make_scorer(f"detoxify:original@{tmp_path / 'odd.ckpt'}")
    torch.save({"state_dict": {}}, tmp_path / "half.ckpt")
    with pytest.raises(ModelError, match=r"half\.ckpt is no Detoxify checkpoint"):
        make_scorer(f"detoxify:original@{tmp_path / 'half.ckpt'}")
    with pytest.raises(ModelError, match="no class 'toxicity'"):
        make_scorer(f"detoxify:original@{checkpoint(bert, tmp_path, classes=['a', 'b', 'c', 'd', 'e', 'f'])}")


def test_an_unknown_model_is_answered_with_those_there_are():
    with pytest.raises(InvalidRequest, match="original, unbiased, multilingual"):
        make_scorer("detoxify:gentle")


def test_a_download_that_fails_says_how_to_do_without(monkeypatch):
    import detoxify

    def unreachable(model: str) -> None:
        raise OSError("no route")

    monkeypatch.setattr(detoxify, "Detoxify", unreachable)
    with pytest.raises(ModelError, match=r"no route.*detoxify:original@/path"):
        make_scorer("detoxify:original")
