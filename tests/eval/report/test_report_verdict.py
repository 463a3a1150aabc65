"""The first page: a planted effect is claimed, and everything that speaks against a claim is said there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from eval.report.asked import aim_of
from eval.report.model import RunReport
from eval.report.verdict import verdict_section
from eval.report.words import plain
from steering import LanguageModel, Probe
from steering.page.document import Bullets, Findings
from steering.scorers import ScorerCard

Report = Callable[..., RunReport]


def page(run: RunReport) -> tuple[dict[str, list[str]], list[str]]:
    """Findings by side, and the lines on what may not be claimed."""
    said: dict[str, list[str]] = {"for": [], "against": [], "unknown": []}
    refused: list[str] = []
    for block in verdict_section(run).blocks:
        if isinstance(block, Findings):
            for item in block.items:
                said[item.finding].append(plain(item.words))
        elif isinstance(block, Bullets):
            refused += [plain(words) for words in block.items]
    return said, refused


def test_a_planted_effect_is_claimed_with_both_comparisons(planted_report: Report) -> None:
    said, refused = page(planted_report())
    (claim, bounds) = said["for"]
    assert claim.startswith("Slab makes the text less toxic by judge: -")
    assert "against its placebo; 80 prompts" in claim
    assert bounds.startswith("Every promised bound held at all 640 tokens")
    assert "what the text says is not bounded" in bounds
    assert refused == []


def test_no_effect_is_no_claim_and_the_reasons_stand_there(planted_report: Report) -> None:
    said, refused = page(planted_report(relieved=0.0))
    assert said["against"][0].startswith("Nothing may be claimed.")
    assert "not evidence of no effect" in said["against"][0]
    (line,) = refused
    assert line.startswith("slab: By judge (")
    assert "does not beat its placebo" in line


def test_broken_text_costs_the_claim_and_is_a_finding(planted_report: Report) -> None:
    said, refused = page(planted_report(loops=True))
    assert any("Degenerate text: slab (repetition" in line for line in said["against"])
    assert "the text is degenerate" in refused[0]


def test_of_many_broken_arms_the_first_page_names_the_steered_and_counts_the_placebos(planted_report: Report) -> None:
    run = planted_report(loops=True)
    slab, sham = run.arm("slab"), replace(run.arm("random as slab"), degenerate=("length 6.0 -> 1.0",))
    more = [replace(slab, name=f"slab {at}", placebo=None) for at in range(4)]
    identities = [*run.identity["arms"], *({**run.identity["arms"][2], "name": arm.name} for arm in more)]
    many = replace(run, arms=(*run.arms[:3], sham, *more), identity={**run.identity, "arms": identities})
    (said,) = [line for line in page(many)[0]["against"] if line.startswith("Degenerate text")]
    assert "slab, slab 0, slab 1, slab 2, slab 3 and 1 placebo; why is in 'Is it still text?'" in said
    assert "repetition" not in said


def test_a_violated_bound_stands_on_the_first_page(planted_report: Report) -> None:
    said, _ = page(planted_report(violations=3))
    assert any(line.startswith("A promised bound was violated: slab at 3 tokens.") for line in said["against"])
    assert not any("Every promised bound held" in line for line in said["for"])


def test_without_the_manifest_of_a_probe_nothing_is_claimed_of_it(planted_report: Report) -> None:
    said, refused = page(planted_report(manifests=False))
    assert said["against"][0].startswith("Nothing may be claimed.")
    assert "is not with the run, so judge may have labelled its data" in refused[0]


def test_few_prompts_and_a_single_kind_of_judge_are_said(planted_report: Report) -> None:
    said, _ = page(planted_report(prompts=20))
    assert any(line.startswith("Only 20 prompts") for line in said["unknown"])
    assert any(line.startswith("One kind of judge says what is toxic") for line in said["unknown"])


def test_a_judge_of_which_nothing_can_be_asked_makes_no_comparison(planted_report: Report) -> None:
    run = planted_report(card=ScorerCard("stranger", "ruler", "1", "nothing", "LABEL_7"))
    assert run.verdicts == ()
    assert any("Nothing is asked of stranger" in line for line in page(run)[0]["unknown"])


def test_the_instruction_is_compared_and_never_claimed_to_be_steering(planted_report: Report) -> None:
    said, refused = page(planted_report())
    assert any(line.startswith("An instruction alone (prompt) changed the share by -") for line in said["unknown"])
    assert not any(line.startswith("prompt") for line in refused)


@pytest.mark.parametrize(
    ("high", "bounds", "aim"),
    [
        ("warm", {"upper": 0.1}, "lower"),
        ("warm", {"lower": 0.9}, "higher"),
        ("warm", {"lower": 0.2, "upper": 0.3}, None),
        ("toxic", {"lower": 0.9}, "lower"),
        ("positive", {"upper": 0.1}, "higher"),
        ("LABEL_1", {"upper": 0.1}, None),
    ],
)
def test_bounds_on_the_judges_concept_say_which_way_is_better(
    high: str, bounds: dict[str, float], aim: str | None, lm: LanguageModel, make_probe: Callable[..., Probe]
) -> None:
    manifest = make_probe(lm).manifest.model_copy(update={"positive_is": "warm words"})
    constraint = {"probe": manifest.id, "controller": "slab", "shadow": "slab", "lower": None, "upper": None} | bounds
    card = ScorerCard("judge", "ruler", "1", "nothing", high)
    assert aim_of(card, [constraint], {manifest.id: manifest}) == aim


def test_a_controller_without_bounds_goes_where_the_default_points(
    lm: LanguageModel, make_probe: Callable[..., Probe]
) -> None:
    manifest = make_probe(lm).manifest.model_copy(update={"positive_is": "warm"})
    wanted = "lower" if manifest.default.lower is None else "higher"
    constraint = {"probe": manifest.id, "controller": "additive", "shadow": "slab", "lower": None, "upper": None}
    card = ScorerCard("judge", "ruler", "1", "nothing", "warm")
    assert aim_of(card, [constraint], {manifest.id: manifest}) == wanted
