"""Writing, windows and states of look-ahead probes: what is on disk is what the model met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from probes.errors import CorpusError, FitError, HarvestError
from probes.lookahead import writing
from probes.lookahead.prompts import Prompts, read_prompts
from probes.lookahead.states import read_states
from probes.lookahead.windows import NONE, Rule, choose_places, labels, scores, threshold, window
from probes.lookahead.writing import Pen, Written, write
from steering.bounds import Bounds
from steering.constraint import Constraint
from steering.errors import UnsupportedSteering
from steering.hooks import capture, steer
from steering.plan import Plan
from steering.rows import RowSteering
from steering.stepping import Stepper, left_pad
from steering.tiny import tiny_probe

PROMPTS = Prompts(
    tuple(f"{word} and so on"[: 6 + at] for at, word in enumerate(("tide", "reef", "gorge", "cave", "dock")))
)
PEN = Pen(continuations=3, new_tokens=12, batch=4)
LAYERS = (0, 2, 3)


def plan_of(lm) -> Plan:
    """A bound that most tokens break, at two layers."""
    return Plan((Constraint(tiny_probe(lm), Bounds(upper=0.3), layers=(1, 2)),))


class Vowels:
    """A labeller whose score is the share of vowels, so that it can be counted by hand."""

    name = "vowels"

    def scores(self, texts):
        return np.array([sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts])


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_model_continues_every_prompt_and_seeds_make_continuations_differ(lm, tmp_path):
    texts = write(lm, PROMPTS, tmp_path, PEN)
    assert sorted((text.prompt, text.continuation) for text in texts) == [(at, k) for at in range(5) for k in range(3)]
    assert len({text.new_ids for text in texts}) > 10
    assert all(lm.tokenizer.decode(text.prompt_ids) == PROMPTS.texts[text.prompt] for text in texts)
    assert all(lm.tokenizer.eos_token_id not in text.new_ids for text in texts)


def test_an_interrupted_writing_leaves_the_same_files_as_one_that_was_not(lm, tmp_path):
    whole = write(lm, PROMPTS, tmp_path / "whole", PEN)

    def stop(rows: int) -> None:
        if (tmp_path / "torn" / "batch-00001.json").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(lm, PROMPTS, tmp_path / "torn", PEN, advance=stop)
    (tmp_path / "torn" / ".partial-batch-00002.json").write_text("{")
    assert len(files(tmp_path / "torn")) < len(files(tmp_path / "whole"))
    again = write(lm, PROMPTS, tmp_path / "torn", PEN)
    assert files(tmp_path / "torn") == files(tmp_path / "whole")
    assert [text.new_ids for text in again] == [text.new_ids for text in whole]


def test_batches_on_disk_are_not_written_again(lm, tmp_path, monkeypatch):
    write(lm, PROMPTS, tmp_path, PEN)
    monkeypatch.setattr(writing, "generate", lambda lm, requests: pytest.fail("written again"))
    write(lm, PROMPTS, tmp_path, PEN)


@pytest.mark.parametrize("change", ["prompts", "pen", "plan"])
def test_continuations_of_other_inputs_are_refused(lm, tmp_path, change):
    write(lm, PROMPTS, tmp_path, PEN)
    prompts = Prompts(PROMPTS.texts[:-1]) if change == "prompts" else PROMPTS
    pen = Pen(continuations=3, new_tokens=12, batch=4, seed=1) if change == "pen" else PEN
    with pytest.raises(HarvestError, match=change):
        write(lm, prompts, tmp_path, pen, plan=plan_of(lm) if change == "plan" else None)


@pytest.mark.parametrize("steered", [False, True])
def test_states_equal_those_met_while_generating_with_a_cache(lm, tmp_path, steered):
    plan = plan_of(lm) if steered else None
    texts = write(lm, PROMPTS, tmp_path / "texts", PEN, plan=plan)
    places = choose_places(texts, cap=100, seed=0)
    states = read_states(lm, texts, places, tmp_path / "states", LAYERS, plan=plan, batch_tokens=64)
    for at, text in enumerate(texts):
        met = generated_states(lm, text, plan)
        for layer in LAYERS:
            mine = states.layer(layer)[places[:, 0] == at]
            np.testing.assert_allclose(mine, met[layer][: len(mine)], atol=2e-4, rtol=1e-4)
    if steered:
        plain = read_states(lm, texts, places, tmp_path / "plain", LAYERS)
        assert np.abs(plain.layer(2) - states.layer(2)).max() > 0.1
        np.testing.assert_allclose(plain.layer(0), states.layer(0), atol=2e-4)


def generated_states(lm, text: Written, plan: Plan | None) -> dict[int, np.ndarray]:
    """The residuals at offsets -1, 0, 1, ... by the plain cached loop, one token at a time."""
    met: dict[int, list[np.ndarray]] = {layer: [] for layer in LAYERS}
    steering = RowSteering(
        [plan], hidden_size=lm.info.hidden_size, device=lm.device, dtype=lm.dtype, prompt_tokens=[len(text.prompt_ids)]
    )
    stepper = Stepper(lm.model)
    ids, mask = left_pad([text.prompt_ids], pad_token_id=0, device=lm.device)
    with torch.inference_mode(), steer(lm.model, steering.controllers()), capture(lm.model, LAYERS) as seen:
        steering.begin(torch.arange(-len(text.prompt_ids), 0).unsqueeze(0))
        stepper.prefill(ids, mask)
        for offset, token in enumerate([*text.new_ids, None]):
            for layer in LAYERS:
                met[layer].append(seen[layer][0, -1].numpy().copy())
            if token is not None:
                steering.begin(torch.tensor([[offset]]))
                stepper.step(torch.tensor([token]))
    return {layer: np.stack(found) for layer, found in met.items()}


def test_labels_equal_a_loop_over_decoded_windows(lm, tmp_path):
    texts = write(lm, PROMPTS, tmp_path, PEN)
    places = choose_places(texts, cap=100, seed=0)
    for warning in (0, 3):
        found = labels(scores(texts, places, Vowels(), lm.tokenizer, horizon=4, warning=warning), threshold=0.02)
        for (text, offset), label in zip(places.tolist(), found.tolist(), strict=True):
            after = [texts[text].new_ids[at] for at in range(len(texts[text].new_ids)) if at > offset + warning][:4]
            if len(after) < 2:
                assert label == NONE
            else:
                piece = lm.tokenizer.decode(after, skip_special_tokens=True)
                share = sum(letter in "aeiou" for letter in piece) / max(1, len(piece))
                assert label == int(share > 0.02)


@pytest.mark.parametrize(
    ("offset", "warning", "expected"),
    [(-1, 0, [0, 1, 2, 3]), (2, 0, [3, 4, 5]), (3, 0, [4, 5]), (4, 0, None), (0, 3, [4, 5])],
)
def test_a_window_begins_after_the_token_and_needs_half_of_its_length(offset, warning, expected):
    found = window(range(6), offset, horizon=4, warning=warning)
    assert (found if found is None else list(found)) == expected


def test_a_quantile_threshold_leaves_that_share_below(lm):
    found = np.array([np.nan, *np.linspace(0, 1, 101)])
    cut = threshold(found, Rule(quantile=0.8))
    kept = labels(found, threshold=cut)
    assert (kept == 1).sum() == 20
    assert (kept == NONE).sum() == 1


def test_places_are_capped_by_text_and_always_followed_by_a_token():
    texts = [Written(0, at, (1, 2), tuple(range(length))) for at, length in enumerate((0, 1, 5, 40))]
    places = choose_places(texts, cap=4, seed=0)
    assert [int((places[:, 0] == at).sum()) for at in range(4)] == [0, 1, 4, 4]
    assert all(offset + 1 < len(texts[text].new_ids) for text, offset in places.tolist())
    assert np.array_equal(places, choose_places(texts, cap=4, seed=0))
    assert not np.array_equal(places, choose_places(texts, cap=4, seed=1))


def test_half_precision_states_agree_to_its_rounding_and_refuse_what_it_cannot_hold(lm, tmp_path):
    texts = write(lm, PROMPTS, tmp_path / "texts", PEN)
    places = choose_places(texts, cap=5, seed=0)
    wide = read_states(lm, texts, places, tmp_path / "wide", LAYERS)
    narrow = read_states(lm, texts, places, tmp_path / "narrow", LAYERS, dtype="float16")
    np.testing.assert_allclose(narrow.layer(3), wide.layer(3), rtol=1e-3, atol=1e-3)
    embedding = lm.model.get_input_embeddings().weight
    kept = embedding.data.clone()
    try:
        embedding.data *= 1e7
        with pytest.raises(HarvestError, match="layer 0 is not finite in float16"):
            read_states(lm, texts, places, tmp_path / "huge", LAYERS, dtype="float16")
    finally:
        embedding.data.copy_(kept)


def test_states_of_other_texts_are_refused_and_those_there_are_kept(lm, tmp_path):
    texts = write(lm, PROMPTS, tmp_path / "texts", PEN)
    places = choose_places(texts, cap=5, seed=0)
    read_states(lm, texts, places, tmp_path / "states", LAYERS)
    before = files(tmp_path / "states")
    read_states(lm, texts, places, tmp_path / "states", LAYERS)
    assert files(tmp_path / "states") == before
    with pytest.raises(HarvestError, match="other inputs"):
        read_states(lm, texts, places[:-1], tmp_path / "states", LAYERS)


def test_a_prompt_and_its_like_stand_on_one_side_and_in_one_fold():
    prompts = Prompts(tuple(f"Prompt number {at}" for at in range(200)))
    sides = prompts.sides(seed=0)
    everyone = np.concatenate(list(sides.values()))
    assert sorted(everyone.tolist()) == list(range(200))
    assert len(sides["train"]) > len(sides["test"]) > 10
    fewer = Prompts(prompts.texts[:50]).sides(seed=0)
    assert all(set(fewer[side]) == {at for at in sides[side] if at < 50} for side in sides)
    same = Prompts(("The  Same prompt", "the same PROMPT"))
    assert sorted(len(rows) for rows in same.sides(seed=3).values()) == [0, 0, 2]
    assert len(set(same.folds(5, seed=3).tolist())) == 1


def test_prompts_are_cut_and_freed_of_repetitions_and_of_excluded_ones(write_jsonl):
    rows = [
        {"prompt": "The old harbour at night"},
        {"prompt": "the OLD harbour by day"},
        {"text": "A gorge in the hills"},
    ]
    given = write_jsonl([*rows, {"prompt": "Reefs under the small boats"}], "given.jsonl")
    banned = write_jsonl([{"text": "reefs under the waves, and much more"}], "banned.jsonl")
    found = read_prompts([given], words=3, exclude=[banned])
    assert found.texts == ("The old harbour", "A gorge in")
    assert (found.repeated, found.excluded) == (1, 1)
    assert len(read_prompts([given], limit=2)) == 2


def test_prompts_that_cannot_be_used_are_refused(write_jsonl, tmp_path):
    with pytest.raises(CorpusError, match="--prompts"):
        read_prompts([])
    with pytest.raises(CorpusError, match="no file"):
        read_prompts([tmp_path / "absent.jsonl"])
    with pytest.raises(CorpusError, match="row 1: no column"):
        read_prompts([write_jsonl([{"question": "x"}], "a.jsonl")])
    with pytest.raises(CorpusError, match="row 2: 'prompt' is empty"):
        read_prompts([write_jsonl([{"prompt": "x"}, {"prompt": " "}], "b.jsonl")])
    same = write_jsonl([{"prompt": "x"}], "c.jsonl")
    with pytest.raises(CorpusError, match="no prompts are left"):
        read_prompts([same], exclude=[same])


@pytest.mark.parametrize(("field", "value"), [("horizon", 0), ("threshold", 1.0), ("quantile", 0.0)])
def test_rules_outside_their_range_are_refused(field, value):
    with pytest.raises(FitError, match=field):
        Rule(**{field: value})


def test_offsets_on_recurrent_states_are_refused(lm, tmp_path):
    class Moves:
        offset = object()

    class Other:
        constraints = (Moves(),)

    with pytest.raises(UnsupportedSteering, match="one pass"):
        read_states(lm, [], np.zeros((0, 2), dtype=np.int64), tmp_path, LAYERS, plan=Other())


def test_states_go_on_after_a_kill_that_tore_their_index(lm, tmp_path, monkeypatch):
    texts = write(lm, PROMPTS, tmp_path / "texts", PEN)
    places = choose_places(texts, cap=5, seed=0)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        read_states(lm, texts, places, tmp_path / "states", LAYERS)
    monkeypatch.undo()
    assert not (tmp_path / "states" / "index.json").exists()
    assert read_states(lm, texts, places, tmp_path / "states", LAYERS).layer(0).shape == (len(places), 32)


def test_whole_prompts_that_begin_an_excluded_row_are_left_out(write_jsonl):
    given = write_jsonl(
        [{"prompt": "The old harbour"}, {"prompt": "The old harb"}, {"prompt": "A gorge"}], "given.jsonl"
    )
    banned = write_jsonl([{"text": "the  OLD harbour at night"}, {"text": "Gorge"}], "banned.jsonl")
    found = read_prompts([given], exclude=[banned])
    assert found.texts == ("The old harb", "A gorge")
    assert found.excluded == 1
