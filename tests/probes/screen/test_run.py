"""A screen finds the direction that was planted and no other, survives a kill, and fills the artefact."""

from __future__ import annotations

import json
import math

import pytest

from probes.errors import ScreenError
from probes.screen.adopt import with_screen
from probes.screen.figures import choose, require_power, summarise
from probes.screen.keeping import ARMS, Kept, Measured
from probes.screen.question import Arm
from probes.screen.run import RESULT, expected_arms, run
from probes.screen.sets import compounds
from probes.screen.texts import Where, choose_neutral, choose_prompts, excluded_keys, read_texts
from probes.training.selection import default_layers
from steering import Bounds, Probe, load_probe
from steering.artefact import content_sha256, save_probe
from steering.manifest import Screen, ScreenRow


@pytest.fixture(scope="module")
def planted(ask, planted_probe, tmp_path_factory):
    """The screen of the planted probe, and its folder."""
    folder = tmp_path_factory.mktemp("planted")
    return run(ask(planted_probe), [0, 1, 2], folder), folder


def test_steering_along_the_letter_writes_the_letter_and_its_placebo_does_not(planted):
    rows = {(row.role, *row.layers): row for row in planted[0].screen.rows}
    last = rows["single", 2]
    assert last.beats_placebo
    assert last.effect > 0.2
    assert abs(last.placebo_effect) < 0.1
    assert last.difference == pytest.approx(last.effect - last.placebo_effect)
    assert last.per_kl == pytest.approx(last.effect / last.kl)
    assert last.effect_interval[0] < last.effect < last.effect_interval[1]
    assert last.per_kl_interval[0] < last.per_kl < last.per_kl_interval[1]


def test_every_role_is_tried(planted, planted_probe):
    roles = [(row.role, row.layers) for row in planted[0].screen.rows]
    assert roles[:3] == [("single", [0]), ("single", [1]), ("single", [2])]
    assert ("all", [0, 1, 2]) in roles
    assert ("rule", default_layers(3, [0, 1, 2])) in roles
    assert [len(layers) for role, layers in roles if role == "growing"] == [2]
    assert [len(layers) for role, layers in roles if role == "best AUROC"] == [1]


def test_effects_are_plain_means_of_what_was_kept(planted):
    """Written out as a loop over prompts, from the lines on disk."""
    screened, folder = planted
    lines = [json.loads(line) for line in (folder / ARMS).read_text(encoding="utf-8").splitlines()]
    kept = {(line["arm"], *line["layers"]): line for line in lines}
    before = kept["unsteered",]["scores"]
    for row in screened.screen.rows:
        for kind, effect, kl in (("steered", row.effect, row.kl), ("placebo", row.placebo_effect, row.placebo_kl)):
            line = kept[(kind, *row.layers)]
            pairs = zip(line["scores"], before, strict=True)
            changes = [0.0 if after is None else after - was for after, was in pairs]
            assert effect == pytest.approx(sum(changes) / len(changes), abs=1e-12)
            assert kl == pytest.approx(sum(line["kl"]) / len(line["kl"]), abs=1e-12)


def test_a_lower_score_is_an_effect_of_an_upper_bound_and_a_higher_one_of_a_lower_bound(planted, ask, planted_probe):
    rising, kept = ask(planted_probe), Kept(planted[1], ask(planted_probe))
    falling = ask(planted_probe, Bounds(upper=30.0, space="logit"))
    (up,), (down,) = (summarise(question, kept, [("single", (2,))]) for question in (rising, falling))
    assert up.row.effect == -down.row.effect > 0
    assert up.row.beats_placebo
    assert not down.row.beats_placebo


def test_a_probe_at_right_angles_to_the_letter_beats_no_placebo(ask, idle_probe, tmp_path):
    screen = run(ask(idle_probe), [0, 1, 2], tmp_path).screen
    assert not any(row.beats_placebo for row in screen.rows)
    assert screen.chosen == []
    marked = with_screen(idle_probe, screen).manifest
    assert marked.causal is False
    assert marked.default.layers == idle_probe.manifest.default.layers


def test_the_artefact_carries_the_screen_and_its_defaults(planted, planted_probe, tmp_path):
    screen = planted[0].screen
    made = load_probe(save_probe(with_screen(planted_probe, screen, version=2), tmp_path))
    assert made.manifest.causal is True
    assert made.manifest.screen == screen
    assert made.manifest.default.layers == screen.chosen
    assert (made.manifest.default.lower, made.manifest.default.space) == (30.0, "logit")
    assert content_sha256(made) == content_sha256(planted_probe)


def test_the_result_on_disk_is_the_screen_with_p_values_and_no_text(planted):
    screened, folder = planted
    document = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    assert Screen.model_validate(document["screen"]) == screened.screen
    assert len(document["details"]) == len(document["screen"]["rows"])
    assert all(0 < detail["p"] <= detail["p_holm"] <= 1 for detail in document["details"])
    lines = [json.loads(line) for line in (folder / ARMS).read_text(encoding="utf-8").splitlines()]
    assert {key for line in lines for key in line} == {"arm", "layers", "scores", "kl"}
    assert len(lines) <= expected_arms([0, 1, 2])


@pytest.mark.parametrize("whole", [0, 1, 4])
def test_a_killed_screen_goes_on_to_identical_files(whole, planted, ask, planted_probe, tmp_path):
    """After `whole` arms and half a line of the next, as a kill leaves it; finished arms are not written again."""
    _, folder = planted
    for name in ("question.json", ARMS):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    lines = (folder / ARMS).read_bytes().splitlines(keepends=True)
    (tmp_path / ARMS).write_bytes(b"".join(lines[:whole]) + lines[whole][:37])
    question = ask(planted_probe)
    judged = []

    class Counting(type(question.scorer)):  # type: ignore[misc]
        def score(self, texts):
            judged.append(len(texts))
            return super().score(texts)

    run(ask(planted_probe, scorer=Counting()), [0, 1, 2], tmp_path)
    assert len(judged) == len(lines) - whole
    for name in (ARMS, RESULT):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_a_folder_of_another_screen_is_refused(planted, ask, planted_probe):
    with pytest.raises(ScreenError, match="another screen") as refused:
        run(ask(planted_probe, Bounds(lower=7.0, space="logit")), [0, 1, 2], planted[1])
    assert refused.value.param == "out"


def test_silence_counts_as_no_change_and_an_unscored_prompt_is_left_out(ask, planted_probe, tmp_path):
    class Choosy:
        """Cannot score the first prompt of the unsteered arm, and nothing of any later arm."""

        card = ask(planted_probe).scorer.card
        calls = 0

        def score(self, texts):
            self.calls += 1
            return [math.nan if self.calls > 1 or not at else 0.5 for at, _ in enumerate(texts)]

    screened = run(ask(planted_probe, prompts=12, scorer=Choosy()), [2], tmp_path)
    assert screened.unscored == 1
    assert {row.effect for row in screened.screen.rows} == {0.0}
    assert {figures.unscored for figures in screened.figures} == {12}
    assert screened.screen.chosen == []


def test_a_scorer_that_is_blind_to_most_texts_is_refused(ask, planted_probe, tmp_path):
    class Blind:
        card = ask(planted_probe).scorer.card

        def score(self, texts):
            return [math.nan for _ in texts]

    with pytest.raises(ScreenError, match="0 of 12"):
        run(ask(planted_probe, prompts=12, scorer=Blind()), [2], tmp_path)


def test_a_band_has_no_allowed_side(ask, planted_probe):
    with pytest.raises(ScreenError, match="band"):
        ask(planted_probe, Bounds(lower=-1.0, upper=1.0, space="logit"))


def row(layers, *, effect, low, beats=True):
    """A row of which only what `choose` reads matters."""
    return ScreenRow(
        layers=layers,
        role="single",
        effect=effect,
        effect_interval=(0, 1),
        kl=1.0,
        per_kl=low,
        per_kl_interval=(low, 9),
        placebo_effect=0.0,
        placebo_kl=1.0,
        difference=effect,
        difference_interval=(0, 1),
        beats_placebo=beats,
    )


def test_growing_sets_take_the_best_layers_first_and_ties_by_auroc(planted_probe):
    metrics = dict(planted_probe.manifest.metrics)
    best = metrics[1].model_copy(update={"test": metrics[1].test.model_copy(update={"auroc": 0.99})})
    manifest = planted_probe.manifest.model_copy(update={"metrics": metrics | {1: best}})
    probe = Probe(manifest=manifest, layers=planted_probe.layers)

    def pair(lows: list[float]) -> list[int]:
        rows = [row([layer], effect=0.0, low=low) for layer, low in enumerate(lows)]
        return next(list(layers) for role, layers in compounds(probe, rows) if role == "growing")

    assert pair([0.1, 0.2, 0.3]) == [1, 2]
    assert pair([0.3, 0.1, 0.2]) == [0, 2]
    assert pair([0.0, 0.0, 0.0]) == [0, 1]
    assert pair([-1.0, -1.0, 0.0]) == [1, 2]
    assert [layers for role, layers in compounds(probe, [row([at], effect=0, low=0) for at in range(3)])][-1] == (1,)


def test_the_choice_is_the_cheapest_set_within_a_standard_error_of_the_best():
    wide = {"effect_interval": (0.4 - 1.96 * 0.1, 0.4 + 1.96 * 0.1)}
    strong = row([1], effect=0.4, low=1.0).model_copy(update=wide)
    cheap, weak = row([2], effect=0.31, low=3.0), row([3], effect=0.29, low=8.0)
    chance = row([4], effect=0.9, low=9.0, beats=False)
    assert choose([strong, cheap, weak, chance]) == [2]
    assert choose([strong, weak]) == [1]
    assert choose([chance]) == []


def test_prompts_are_a_fair_sample_without_what_is_excluded(model, write_jsonl):
    records = [{"prompt": f"text number {at}", "label": "ab"[at % 2]} for at in range(40)]
    file = write_jsonl(records)
    texts = read_texts(file, "prompt", where=[Where.parse("label=a")], flag="--prompts")
    assert texts == [f"text number {at}" for at in range(0, 40, 2)]
    keys = excluded_keys([write_jsonl([{"other": ["TEXT  number 4", "x"]}], "held.jsonl")])
    chosen = choose_prompts(model, texts, n=19, new_tokens=5, seed=0, excluded=keys)
    assert chosen.excluded == 1
    decoded = {model.tokenizer.decode(ids) for ids in chosen.ids}
    assert decoded == set(texts) - {"text number 4"}
    again = choose_prompts(model, texts[::-1], n=8, new_tokens=5, seed=0, excluded=keys)
    assert again.ids == chosen.ids[:8]
    with pytest.raises(ScreenError, match="19 usable prompts"):
        choose_prompts(model, texts, n=20, new_tokens=5, seed=0, excluded=keys)


def test_neutral_text_is_cut_to_equal_length_and_short_paragraphs_are_left_out(model):
    chosen = choose_neutral(
        model, ["a long enough line\nshort\n", "another line that is long"], n=2, tokens=12, seed=0, excluded=()
    )
    assert {len(ids) for ids in chosen.ids} == {12}
    with pytest.raises(ScreenError, match="2 neutral paragraphs"):
        choose_neutral(
            model, ["a long enough line\nshort\n", "another line that is long"], n=3, tokens=12, seed=0, excluded=()
        )


def test_a_wrong_column_is_named_by_row_and_never_quoted(write_jsonl):
    with pytest.raises(ScreenError, match=r"row 1: no column 'prompt'; the columns are: text") as refused:
        read_texts(write_jsonl([{"text": "private"}]), "prompt", flag="--prompts")
    assert "private" not in str(refused.value)
    with pytest.raises(ScreenError, match="COLUMN=VALUE"):
        Where.parse("label")


def measured(question, folder, steered, placebo):
    """What was kept of one set of layers when the scores of its two arms are these constants."""
    kept = Kept(folder, question)
    for arm, level in ((Arm("unsteered"), 0.5), (Arm("steered", (2,)), steered), (Arm("placebo", (2,)), placebo)):
        kept.add(arm, Measured([level] * len(question.prompts), [0.1] * len(question.neutral)))
    return kept


def test_a_placebo_that_does_harm_makes_no_effect_of_none(ask, planted_probe, tmp_path):
    question = ask(planted_probe)
    for steered, placebo, beats in ((0.5, 0.2, False), (0.4, 0.2, False), (0.6, 0.2, True)):
        kept = measured(question, tmp_path / str(steered), steered, placebo)
        (found,) = summarise(question, kept, [("single", (2,))])
        assert found.row.difference > 0
        assert found.p_holm < 0.05
        assert found.row.beats_placebo is beats
        assert choose([found.row]) == ([2] if beats else [])


def test_too_few_prompts_for_any_finding_are_refused_and_enough_are_not(ask, planted_probe, tmp_path):
    question = ask(planted_probe, prompts=8)
    kept = measured(question, tmp_path, 1.0, 0.0)
    require_power(question, kept, sets=12)
    with pytest.raises(ScreenError, match=r"8 of 8 prompts.*up to 13 sets") as refused:
        require_power(question, kept, sets=13)
    assert refused.value.param == "n"
    with pytest.raises(ScreenError, match="too few"):
        run(ask(planted_probe, prompts=5), [0, 1, 2], tmp_path / "run")
    assert len((tmp_path / "run" / ARMS).read_text(encoding="utf-8").splitlines()) == 1


def test_figures_without_the_question_they_answer_are_refused(planted, ask, planted_probe, tmp_path):
    (tmp_path / ARMS).write_bytes((planted[1] / ARMS).read_bytes())
    with pytest.raises(ScreenError, match=r"no question\.json"):
        Kept(tmp_path, ask(planted_probe))


def test_resuming_does_not_write_the_question_again(planted, ask, planted_probe):
    """A kill between emptying and filling it would make the finished arms unusable."""
    marker = planted[1] / "question.json"
    before = marker.stat().st_mtime_ns, marker.stat().st_ino
    Kept(planted[1], ask(planted_probe))
    assert (marker.stat().st_mtime_ns, marker.stat().st_ino) == before


def test_a_full_disk_says_so_and_keeps_what_is_finished(ask, planted_probe, tmp_path, monkeypatch):
    question = ask(planted_probe)
    kept = measured(question, tmp_path, 0.6, 0.5)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ScreenError, match="No space left on device"):
        kept.add(Arm("steered", (1,)), kept[Arm("steered", (2,))])
    assert Arm("steered", (1,)) not in kept


def test_neutral_lines_of_excluded_texts_are_left_out(model, write_jsonl):
    texts = ["a long enough first line\na long enough second line", "another line that is long"]
    keys = excluded_keys([write_jsonl([{"text": texts[0]}])])
    chosen = choose_neutral(model, texts, n=1, tokens=12, seed=0, excluded=keys)
    assert chosen.excluded == 2
    assert model.tokenizer.decode(chosen.ids[0]) == "another line"
