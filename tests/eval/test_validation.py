"""What a scorer's number is worth: against scipy and scikit-learn, and the stored figures against the data."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from eval import validated
from eval.validation import (
    Reference,
    auroc,
    read_labelled,
    read_naturalness,
    read_rated_generations,
    read_scored_generations,
    read_translations,
    spearman,
    validate,
)
from steering.errors import InvalidRequest
from steering.scorers import SCORERS, Score, Scorer, ScorerCard, make_scorer
from steering.scorers.base import unscored

DATA = Path(__file__).parents[3] / "shared" / "data"


class Numbers(Scorer):
    """Reads the number that stands in the text."""

    card = ScorerCard("numbers", "ruler", "1", "nothing", "high")

    def judge(self, texts: Sequence[str]) -> list[Score]:
        return [Score(float(text)) if text else unscored("it is empty") for text in texts]


def reference(texts: list[str], values: list[float], groups: list[int] | None = None) -> Reference:
    return Reference(
        "made-up", "made-up.jsonl", "0" * 64, "a die", "high", tuple(texts), np.asarray(values),
        tuple(groups or range(len(texts))),
    )  # fmt: skip


def test_both_figures_agree_with_the_libraries_with_ties() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.integers(0, 9, 300) / 8, rng.integers(0, 9, 300) / 8
    assert spearman(ours, theirs) == pytest.approx(stats.spearmanr(ours, theirs).statistic)
    assert auroc(ours, theirs >= 0.5) == pytest.approx(roc_auc_score(theirs >= 0.5, ours))


def test_agreement_by_hand() -> None:
    found = validate(Numbers(), reference(["1", "2", "", "3"], [0.1, 0.6, 0.9, 0.9]))
    assert (found.n, found.unscored, found.positives, found.prompts) == (3, 1, 2, 3)
    assert (found.spearman.value, found.auroc.value) == (1.0, 1.0)
    assert (found.scorer, found.reference, found.sha256) == ("numbers", "made-up", "0" * 64)


def test_what_the_reference_did_not_judge_is_left_out() -> None:
    found = validate(Numbers(), reference(["1", "2", "3"], [0.1, math.nan, 0.9]))
    assert (found.n, found.unscored) == (2, 1)


def test_the_interval_holds_the_figure_and_copies_of_a_prompts_texts_do_not_narrow_it() -> None:
    rng = np.random.default_rng(1)
    theirs = rng.uniform(size=60)
    texts = [str(value) for value in theirs + rng.normal(0, 0.4, 60)]
    single = validate(Numbers(), reference(texts, theirs.tolist()))
    copies = validate(Numbers(), reference(texts * 5, theirs.tolist() * 5, [*range(60)] * 5))
    assert single.spearman.low < single.spearman.value < single.spearman.high
    assert copies.prompts == 60
    for one, many in ((single.spearman, copies.spearman), (single.auroc, copies.auroc)):
        assert many.value == pytest.approx(one.value)
        assert many.high - many.low == pytest.approx(one.high - one.low, rel=0.15)


def test_without_both_classes_there_is_no_auroc() -> None:
    found = validate(Numbers(), reference(["1", "2"], [0.1, 0.2]))
    assert math.isnan(found.auroc.value)
    assert found.spearman.value == 1.0
    assert math.isnan(validate(Numbers(), reference([""], [0.1])).spearman.value)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_every_kind_of_file_is_read(tmp_path: Path) -> None:
    scored = read_scored_generations(
        write(
            tmp_path / "a.jsonl.gz",
            [{"prompt": "p", "generations": [{"text": "one", "toxicity": 0.1}, {"text": "two", "toxicity": None}]}],
        )
    )
    assert scored.texts == ("one", "two")
    assert scored.values[0] == 0.1
    assert math.isnan(scored.values[1])
    assert scored.groups == ("p", "p")
    rows: list[dict[str, object]] = [
        {"prompt": "p", "text": "p one", "p_toxic": 0.7, "naturalness": 5},
        {"prompt": "q", "text": "q two", "p_toxic": 0.2, "naturalness": None},
    ]
    path = write(tmp_path / "b.jsonl.gz", rows)
    assert read_rated_generations(path).values.tolist() == [0.7, 0.2]
    assert read_naturalness(path).values.tolist() == [1.0]
    plain = tmp_path / "c.jsonl"
    plain.write_text(
        '{"text": "fine", "label": 1}\n{"en": "x", "es": "y", "text": "bad", "label": 0}\n', encoding="utf-8"
    )
    assert read_labelled(plain, name="n", judge="j", higher_is="good").values.tolist() == [1.0, 0.0]
    pairs = read_translations(write(tmp_path / "d.jsonl.gz", [{"es": "hola", "en": "hello"}]))
    assert (pairs.texts, pairs.values.tolist(), pairs.groups) == (("hola", "hello"), [1.0, 0.0], (0, 0))


def test_a_file_that_is_absent_empty_or_of_another_shape_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"no absent\.jsonl"):
        read_rated_generations(tmp_path / "absent.jsonl")
    with pytest.raises(InvalidRequest, match="holds no text"):
        read_rated_generations(write(tmp_path / "empty.jsonl.gz", []))
    with pytest.raises(InvalidRequest, match="without 'p_toxic'"):
        read_rated_generations(write(tmp_path / "odd.jsonl.gz", [{"prompt": "p", "text": "t"}]))


def test_every_shipped_scorer_has_stored_figures_that_say_what_they_are_of() -> None:
    for name in SCORERS:
        found = validated.published(name)
        assert found
        for row in found:
            assert row.spearman.low <= row.spearman.value <= row.spearman.high
            assert row.auroc.low <= row.auroc.value <= row.auroc.high
            assert row.n > 100
            assert len(row.sha256) == 64
            assert name in validated.sentence(row)
    assert validated.published("nobody") == []


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside this checkout (../shared/data)")
@pytest.mark.parametrize("name", list(validated.SHIPPED))
def test_the_stored_figures_are_those_of_the_data(name: str) -> None:
    make, references = validated.SHIPPED[name]
    scorer = make()
    stored = validated.published(name)
    if stored[0].revision != scorer.card.revision:
        pytest.skip(f"stored for {name} {stored[0].revision}, {scorer.card.revision} is installed")
    for read, was in zip(references, stored, strict=True):
        now = validate(scorer, read(DATA))
        assert replace(now, date=was.date, spearman=was.spearman, auroc=was.auroc) == was
        assert now.spearman == pytest.approx(was.spearman, abs=1e-4)
        assert now.auroc == pytest.approx(was.auroc, abs=1e-4)


def test_the_command_prints_figures_and_no_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows: list[dict[str, object]] = [
        {"prompt": f"private prompt {at}", "text": f"private text {at} el", "p_toxic": at / 10, "naturalness": 3}
        for at in range(10)
    ]
    path = write(tmp_path / "rated.jsonl.gz", rows)
    references = (lambda _: read_rated_generations(path),)
    monkeypatch.setattr(validated, "SHIPPED", {"spanish": (lambda: make_scorer("spanish"), references)})
    monkeypatch.setattr(validated, "TOXIC", references)
    monkeypatch.setattr(validated, "__file__", str(tmp_path / "validated.py"))
    assert validated.main(["--data", str(tmp_path), "--write"]) == 0
    assert validated.main(["--data", str(tmp_path), "--scorer", "vader"]) == 0
    out = capsys.readouterr().out
    assert "spanish 1" in out
    assert "10 texts of 10 prompts" in out
    stored = (tmp_path / validated.STORE).read_text(encoding="utf-8")
    assert "private" not in out + stored
    assert json.loads(stored)[0]["scorer"] == "spanish"
    assert validated.main(["--data", str(tmp_path), "--scorer", "vader", "--write"]) == 2
    assert validated.main(["--data", str(tmp_path), "--scorer", "perspective"]) == 2
