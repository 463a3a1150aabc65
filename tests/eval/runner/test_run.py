"""A run writes what the engine writes, with paired seeds, and measures what was written and nothing else."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from eval.runner import local
from eval.runner.errors import SpecError
from eval.runner.folder import RunFolder
from eval.runner.listener import Silent
from eval.runner.prepare import Prepared
from eval.runner.rows import sample_seed
from eval.runner.run import finish, measure_samples, run, sizes_of
from eval.runner.schema import LOGPROBS, SAMPLES
from eval.runner.scorers import load_scorers
from eval.runner.spec import Decoding
from steering import Bounds, Constraint, LanguageModel, Plan, Request, Sampling, generate
from steering.controllers.prompt import instructed
from steering.generation import encode
from steering.scorers import Spanish

Ready = Callable[..., Prepared]
Run = Callable[[Prepared, Path], dict[str, Any]]
Rows = Callable[[Path], list[dict[str, Any]]]


def engines() -> set[threading.Thread]:
    """Those of servers of other tests included."""
    return {thread for thread in threading.enumerate() if thread.name == "tiller-engine"}


def test_every_row_is_what_the_engine_writes_for_it_alone(
    make_ready: Ready, do_run: Run, rows_of: Rows, lm: LanguageModel, tmp_path: Path
) -> None:
    arms = [{"controller": "prompt", "instruction": "write Spanish"}, {"controller": "slab", "upper": 0.2}]
    prepared = make_ready(arms=arms)
    do_run(prepared, tmp_path / "out")
    probe = prepared.writer._store.get("toxicity")  # type: ignore[attr-defined]
    texts = RunFolder(tmp_path / "out").prompt_texts()
    rows = rows_of(tmp_path / "out")
    assert len(rows) == 4 * 5 * 2
    for row in rows:
        text = texts[row["prompt_set"], row["prompt_id"]]
        plan, given = None, text
        if row["arm"].startswith("prompt"):
            given = instructed(text, "Write in Spanish only.", tokenizer=lm.tokenizer)
        if "slab" in row["arm"]:
            sham = {"controller": "random", "shadow": "slab"} if row["arm"].startswith("random") else {}
            plan = Plan((Constraint(probe, Bounds(upper=0.2), metric="euclidean", seed=row["seed"], **sham),))
        (alone,) = generate(lm, [Request(given, Sampling(max_tokens=6, top_p=0.9, seed=row["seed"]), plan)])
        assert (row["token_ids"], row["continuation"]) == (alone.token_ids, alone.text)
        assert (row["finish_reason"], row["prompt_tokens"]) == (alone.finish_reason, alone.prompt_tokens)
        assert (row["steering"] is None) == (plan is None)
        if plan is not None:
            assert (
                json.loads(row["steering"])["probes"][probe.id]["violations"]
                == alone.steering.probes[probe.id].violations
            )


def test_seeds_are_paired_over_arms_and_follow_from_the_text_and_the_number_alone(
    make_ready: Ready, do_run: Run, rows_of: Rows, tmp_path: Path
) -> None:
    do_run(make_ready(), tmp_path / "out")
    by_arm: dict[str, list[int]] = {}
    for row in rows_of(tmp_path / "out"):
        by_arm.setdefault(row["arm"], []).append(row["seed"])
    (first, *others) = by_arm.values()
    assert all(seeds == first for seeds in others)
    assert len(set(first)) == 10
    assert first[:2] == [sample_seed(3, "To the sea", 0), sample_seed(3, "To the sea", 1)]
    turned = make_ready(prompts=[{"texts": ["At home", "To the sea"]}], arms=["none"])
    assert {row.seed for chunk in turned.chunks for row in chunk.rows} <= set(first)
    assert sample_seed(4, "To the sea", 0) != first[0]


def test_the_table_has_the_promised_columns_in_the_promised_order(
    make_ready: Ready, do_run: Run, tmp_path: Path
) -> None:
    prepared = make_ready()
    do_run(prepared, tmp_path / "out")
    table = RunFolder(tmp_path / "out").table()
    assert table.column_names == [*SAMPLES.names, *LOGPROBS.names, "score.spanish"]
    assert all(table.schema.field(field.name).type == field.type for field in [*SAMPLES, *LOGPROBS])
    keys = list(zip(*(table.column(name).to_pylist() for name in ("arm", "prompt_id", "sample")), strict=True))
    assert keys == [
        (arm.name, str(prompt), sample) for arm in prepared.arms for prompt in range(1, 6) for sample in range(2)
    ]
    assert all(seconds > 0 for seconds in table.column("seconds").to_pylist())


def test_log_probabilities_are_those_of_one_plain_forward_pass_behind_the_plain_prompt(
    make_ready: Ready, do_run: Run, rows_of: Rows, lm: LanguageModel, tmp_path: Path
) -> None:
    import torch

    do_run(make_ready(arms=[{"controller": "prompt", "instruction": "write Spanish"}, "slab"]), tmp_path / "out")
    texts = RunFolder(tmp_path / "out").prompt_texts()
    for row in rows_of(tmp_path / "out"):
        prompt = encode(lm, texts[row["prompt_set"], row["prompt_id"]], max_tokens=6)
        with torch.inference_mode():
            logits = lm.model(torch.tensor([[*prompt, *row["token_ids"]]])).logits[0].double().log_softmax(-1)
        expected = sum(float(logits[len(prompt) - 1 + at, token]) for at, token in enumerate(row["token_ids"]))
        assert row["logprob_sum"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
        assert row["logprob_tokens"] == len(row["token_ids"])


def test_only_the_continuation_is_scored(make_ready: Ready, do_run: Run, rows_of: Rows, tmp_path: Path) -> None:
    do_run(make_ready(), tmp_path / "out")
    for row in rows_of(tmp_path / "out"):
        (expected,) = Spanish().score([row["continuation"]])
        assert row["score.spanish"] == (None if math.isnan(expected) else expected)


def test_chunks_and_batches_change_no_row(make_ready: Ready, do_run: Run, rows_of: Rows, tmp_path: Path) -> None:
    do_run(make_ready(), tmp_path / "a")
    do_run(make_ready(chunk=7, batch=5), tmp_path / "b")
    for a, b in zip(rows_of(tmp_path / "a"), rows_of(tmp_path / "b"), strict=True):
        for name in ("arm", "prompt_id", "sample", "seed", "token_ids", "continuation"):
            assert a[name] == b[name]


def test_the_engine_has_the_model_only_while_rows_are_written(make_ready: Ready, tmp_path: Path) -> None:
    others, at_work = engines(), dict[str, bool]()

    class Watching(Silent):
        def begin(self, stage: str, *, total: int, done: int) -> None:
            at_work[stage] = engines() > others

        def advance(self, rows: int) -> None:
            at_work.setdefault("first rows", engines() > others)

    run(make_ready(), RunFolder(tmp_path / "out"), listener=Watching())
    assert at_work == {"writing": False, "first rows": True, "logprob": False, "spanish": False, "layers": False}


def test_a_chunk_written_again_is_the_same_to_the_last_bit_whatever_was_written_before_it(make_ready: Ready) -> None:
    decoding, arms = Decoding(max_tokens=20, top_p=0.9), [{"controller": "slab", "upper": 0.2}]
    prepared = make_ready(arms=arms, decoding=decoding.model_dump(), samples=6, chunk=30, batch=4)
    writer = prepared.writer
    wanted = [chunk for chunk in prepared.chunks if chunk.rows[0].arm.steered]
    with writer.writing():
        before = [list(writer.write(chunk.rows, decoding)) for chunk in prepared.chunks][-len(wanted) :]
    with writer.writing():
        again = [list(writer.write(chunk.rows, decoding)) for chunk in reversed(wanted)]
    assert before == again[::-1]  # the means and doses of the reports included


def test_writing_that_is_interrupted_leaves_no_engine_behind(make_ready: Ready) -> None:
    prepared, others = make_ready(), engines()

    def interrupted() -> None:
        with prepared.writer.writing():
            next(iter(prepared.writer.write(prepared.chunks[0].rows, prepared.read.spec.decoding)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert engines() == others


def test_a_scorer_that_cannot_load_stops_the_run_before_anything_is_written(make_ready: Ready, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="scorer 'judge': there is no scorer 'judge'; expected one of"):
        make_ready(scorers=[{"name": "judge"}])
    with pytest.raises(SpecError, match="stands twice"):
        make_ready(scorers=[{"name": "spanish"}, {"name": "spanish"}])
    assert not (tmp_path / "out").exists()


def test_a_setting_this_build_does_not_sample_by_is_refused_unless_neutral(
    make_ready: Ready, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "fields", lambda kind: [field for field in fields(kind) if "penalty" not in field.name])
    with pytest.raises(SpecError, match=r"decoding\.repetition_penalty is 1\.2, but this build samples without it"):
        make_ready(decoding={"repetition_penalty": 1.2})
    make_ready(decoding={"repetition_penalty": 1.0})


def test_a_prompt_too_long_for_the_model_is_refused_by_line(make_ready: Ready) -> None:
    with pytest.raises(SpecError, match="arm 'none', prompts-1 line 2: the prompt has 300 tokens"):
        make_ready(prompts=[{"texts": ["short", "a" * 300]}])


def test_rescoring_adds_a_column_and_changes_no_other(
    make_ready: Ready, do_run: Run, rows_of: Rows, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    do_run(make_ready(), out)
    before = rows_of(out)
    folder = RunFolder(out)
    for measure in load_scorers(["vader"]).values():
        measure_samples(measure, folder, sizes_of(folder.identity()), listener=Silent())
    report = finish(folder)
    assert set(report["thresholds"]) == {"spanish", "vader"}
    after = rows_of(out)
    assert all(row["score.vader"] is None or 0 <= row["score.vader"] <= 1 for row in after)
    assert [{name: row[name] for name in before[0]} for row in after] == before


def test_scores_made_by_another_revision_of_a_scorer_are_made_again(
    make_ready: Ready, do_run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    prepared = make_ready()
    do_run(prepared, out)
    (measure,) = prepared.scorers.values()
    measure.card = measure.card | {"revision": "2"}
    told: list[tuple[str, int, int]] = []

    class Listening(Silent):
        def begin(self, stage: str, *, total: int, done: int) -> None:
            told.append((stage, total, done))

    folder = RunFolder(out)
    measure_samples(measure, folder, sizes_of(folder.identity()), listener=Listening())
    measure_samples(measure, folder, sizes_of(folder.identity()), listener=Listening())
    assert told == [("spanish", 50, 0), ("spanish", 50, 50)]


def test_progress_counts_every_row_of_every_stage_and_begins_where_it_was(make_ready: Ready, tmp_path: Path) -> None:
    stages: dict[str, list[int]] = {}

    class Counting(Silent):
        def begin(self, stage: str, *, total: int, done: int) -> None:
            self.stage = stages.setdefault(stage, [])
            self.stage[:] = [total, done]

        def advance(self, rows: int) -> None:
            self.stage[1] += rows

    run(make_ready(), RunFolder(tmp_path / "out"), listener=Counting())
    assert stages == {"writing": [50, 50], "logprob": [50, 50], "spanish": [50, 50], "layers": [5, 5]}


def test_provenance_says_what_made_it(make_ready: Ready, do_run: Run, lm: LanguageModel, tmp_path: Path) -> None:
    prepared = make_ready()
    do_run(prepared, tmp_path / "out")
    found = json.loads((tmp_path / "out/provenance.json").read_text(encoding="utf-8"))
    assert found["identity"]["model"]["revision"] == lm.info.revision
    assert found["identity"]["probes"] == prepared.probes
    assert found["spec"]["decoding"]["seed"] == 3
    (session,) = found["sessions"]
    assert session["started"] <= session["ended"]
    assert session["hardware"]["torch_threads"] == 1
    assert session["versions"]["torch"]
    assert "not checked" in found["prompts_compared_with_training_data"]


def test_prompts_are_kept_beside_the_samples(make_ready: Ready, do_run: Run, tmp_path: Path) -> None:
    do_run(make_ready(), tmp_path / "out")
    table = pq.read_table(tmp_path / "out/prompts.parquet")
    assert table.column("text").to_pylist() == ["To the sea", "In the hills", "By a lake", "Over there", "At home"]
