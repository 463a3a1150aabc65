"""Tiny classifiers of the right shape: random weights, a vocabulary of a few harmless words."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

WORDS = ["the", "sea", "is", "calm", "rough", "today", "storm", "sun", "and", "boat"]


@pytest.fixture(scope="session")
def save_bert() -> Callable[..., BertForSequenceClassification]:
    """Write a two-layer BERT classifier with its tokenizer to a folder, and return it."""

    def save(folder: Path, labels: list[str], **settings: str) -> BertForSequenceClassification:
        folder.mkdir(parents=True, exist_ok=True)
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
        (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
        BertTokenizer(str(folder / "vocab.txt"), model_max_length=16).save_pretrained(folder)
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
            initializer_range=0.5,
            id2label=dict(enumerate(labels)),
            label2id={label: at for at, label in enumerate(labels)},
            **settings,
        )
        model = BertForSequenceClassification(config).eval()
        model.save_pretrained(folder)
        return model

    return save
