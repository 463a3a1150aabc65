"""Any Hugging Face text-classification model, by Hub id or folder: the probability of one named label.

    one label per text    P(label) = softmax(logits)[label]
    several, or only one  P(label) = sigmoid(logits)[label]        (config.problem_type: multi_label_classification)

as in the pipeline of Transformers. Texts beyond the model's length are cut. No code from the Hub is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steering.errors import ModelError
from steering.identity import weights_fingerprint
from steering.scorers.base import Score, Scorer, ScorerCard, judge_words

BATCH = 16


class Classifier(Scorer):
    """`hf:ID-OR-FOLDER#LABEL`, or `hf:ID@REVISION#LABEL` to pin a commit.

    Raises ModelError when the model cannot be loaded, is no classifier, or has no such label; the labels it has are
    named.
    """

    def __init__(self, source: str, *, label: str | None = None, revision: str | None = None) -> None:
        self._model, self._tokenizer = _load(source, revision)
        config = self._model.config
        self._column = _column(config, label, source)
        self._sigmoid = config.num_labels == 1 or config.problem_type == "multi_label_classification"
        self._length = _length(self._tokenizer, config)
        chosen = config.id2label[self._column]
        short = Path(source).resolve().name if Path(source).is_dir() else source
        self.card = ScorerCard(
            name=f"hf:{short}#{chosen}",
            family=f"fine-tuned transformer ({config.model_type})",
            revision=getattr(config, "_commit_hash", None) or weights_fingerprint(source),
            trained_on=f"not stated in its files; see the model card of {short}",
            higher_is=chosen,
        )

    @torch.inference_mode()
    def judge(self, texts: Sequence[str]) -> list[Score]:
        order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
        values = [0.0] * len(texts)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            read = self._tokenizer(
                [texts[row] for row in rows],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=self._length,
            ).to(self._model.device)
            logits: Tensor = self._model(**read).logits.float()
            chances = logits.sigmoid() if self._sigmoid else logits.softmax(dim=-1)
            for row, chance in zip(rows, chances[:, self._column].tolist(), strict=True):
                values[row] = chance
        return judge_words(texts, values)


def _load(source: str, revision: str | None) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            source, revision=revision, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"the scorer hf:{source} cannot be loaded ({reason}); give the id of a text-classification model that can "
            "be fetched or is in the cache, or a folder with its config.json, weights and tokenizer"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ModelError(
            f"hf:{source} has no weights for {missing[0]} and would score at random; give a model that was trained for "
            "text classification"
        )
    return model.eval(), tokenizer


def _column(config: Any, label: str | None, source: str) -> int:
    labels: dict[int, str] = config.id2label
    if config.problem_type == "regression":
        raise ModelError(f"the scorer hf:{source} is a regression model; its output is no probability of a label")
    if label is None and len(labels) == 1:
        return 0
    known = ", ".join(f"#{name}" for name in labels.values())
    if label is None:
        raise ModelError(f"hf:{source} has several labels and none is named; write hf:{source} with one of {known}")
    found = [at for at, name in labels.items() if name.casefold() == label.casefold()]
    if len(found) != 1:
        raise ModelError(f"hf:{source} has {'no' if not found else 'several'} '{label}'; its labels are {known}")
    return found[0]


def _length(tokenizer: Any, config: Any) -> int:
    """Tokens a text may have; RoBERTa's positions begin behind the padding index."""
    positions = getattr(config, "max_position_embeddings", None) or 512
    offset = config.pad_token_id + 1 if config.model_type in ("roberta", "xlm-roberta", "camembert") else 0
    return int(min(tokenizer.model_max_length, positions - offset))
