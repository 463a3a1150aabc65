"""The plots show the numbers of the run, each arm where its figures are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from matplotlib.colors import to_hex

from eval.report.content import page_of
from eval.report.model import RunReport
from eval.report.plots import doses, family, frontier, layer_map
from eval.report.words import number, p_value, points
from eval.statistics import Estimate
from steering.page.theme import LIGHT

Report = Callable[..., RunReport]


def marks(axes: Any) -> dict[tuple[float, float], Any]:
    """Marked points -> their lines."""
    return {
        (line.get_xdata()[0], line.get_ydata()[0]): line
        for line in axes.lines
        if line.get_marker() not in ("None", "") and len(line.get_xdata()) == 1
    }


def test_every_arm_stands_at_its_perplexity_and_mean_score(planted_report: Report) -> None:
    run = planted_report()
    (axes,) = frontier(run, run.judges[0]).axes
    found = marks(axes)
    for arm in run.arms:
        assert (arm.summary.perplexity.value, arm.summary.scores["judge"].mean.value) in found
    assert {text.get_text() for text in axes.texts} == {"1", "2", "3", "4"}


def test_a_placebo_is_hollow_and_joined_to_its_arm(planted_report: Report) -> None:
    run = planted_report()
    (axes,) = frontier(run, run.judges[0]).axes
    slab, sham = (run.arm(name).summary.scores["judge"].mean.value for name in ("slab", "random as slab"))
    perplexity = run.arm("slab").summary.perplexity.value
    assert to_hex(marks(axes)[perplexity, sham].get_markerfacecolor()) == LIGHT["paper"]
    joins = [line for line in axes.lines if list(line.get_ydata()) == [slab, sham]]
    assert len(joins) == 1


def crowded(run: RunReport, *, arms: int) -> RunReport:
    """`run` with so many arms like `slab`, close to one another."""
    slab, held = run.arm("slab"), next(arm for arm in run.identity["arms"] if arm["name"] == "slab")
    more, known = [], []
    for at in range(arms):
        summary, scores = slab.summary, slab.summary.scores["judge"]
        x = summary.perplexity.value * (1.1 + 0.02 * (at % 5))
        y = scores.mean.value + 0.004 * (at // 5)
        moved = replace(scores, mean=Estimate(y, y - 0.02, y + 0.02))
        summary = replace(summary, perplexity=Estimate(x, x, x), scores={"judge": moved})
        more.append(replace(slab, number=5 + at, name=f"slab {at}", placebo=None, summary=summary))
        known.append({**held, "name": f"slab {at}"})
    return replace(run, arms=(*run.arms, *more), identity={**run.identity, "arms": [*run.identity["arms"], *known]})


def test_numbers_of_many_arms_are_read_apart_and_placebos_leave_them_room(planted_report: Report) -> None:
    run = crowded(planted_report(), arms=14)
    figure = frontier(run, run.judges[0])
    (axes,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axes.texts]
    assert {text.get_text() for text in axes.texts} == {str(number) for number in range(1, 19) if number != 4}
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])


def test_the_layer_map_is_as_full_as_the_probability(planted_report: Report) -> None:
    run = planted_report()
    before, after = layer_map(run, run.layers[0].probe).axes
    assert sorted({patch.get_alpha() for patch in before.patches}) == [0.4]
    assert sorted({patch.get_alpha() for patch in after.patches}) == [0.1, 0.4]
    assert [tick.get_text() for tick in after.get_yticklabels()] == ["1 none", "3 slab", "4 placebo of 3"]


def test_the_histogram_counts_every_continuation_that_was_moved(planted_report: Report) -> None:
    (axes,) = doses(planted_report()).axes
    assert sum(patch.get_height() for patch in axes.patches if hasattr(patch, "get_height")) == 80


def test_a_run_that_steers_nothing_has_no_plot_of_doses_or_layers(planted_report: Report) -> None:
    run = planted_report()
    bare = replace(run, arms=run.arms[:2], layers=(), verdicts=())
    keys = [section.key for section in page_of(bare).sections]
    assert "doses" not in keys
    assert "layers" not in keys
    assert "comparisons" not in keys


def test_a_series_is_a_controller_with_its_metric(planted_report: Report) -> None:
    run = planted_report()
    assert family(run, run.arm("slab")) == "slab euclidean"


def test_figures_that_cannot_be_said_are_a_dash() -> None:
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    assert (number(float("nan")), p_value(float("nan")), points(nothing)) == ("-", "-", ("-",))
    assert p_value(0.0004) == "<0.001"
    assert points(Estimate(-0.1, -0.2, 0.0))[0] == "-10 "
