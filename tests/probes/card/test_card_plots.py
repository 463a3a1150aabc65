"""The plots show the numbers they are given, and look readable on either ground."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest

from probes.card.model import Card
from probes.card.plots import PANELS, auroc_by_layer, ece_by_layer, reliability_panels, shown_panels
from probes.card.steering_plots import auroc_by_warning, effect_by_layer, effect_by_set
from steering.page.theme import DARK, LIGHT, svg


def lines(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines}


def points(axes: Any) -> dict[str, tuple[list[float], list[float]]]:
    """The marks of each errorbar series, by its label."""
    return {bars.get_label(): tuple(map(list, bars.lines[0].get_data())) for bars in axes.containers}


def contrast(one: str, other: str) -> float:
    """WCAG 2: (L1 + 0.05) / (L2 + 0.05) of the relative luminances."""

    def luminance(colour: str) -> float:
        channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_auroc_lines_are_the_manifests_figures_and_their_bands_the_intervals(full_card):
    (axes,) = auroc_by_layer(full_card.manifest).axes
    assert lines(axes)["test"] == ([0, 1, 2, 3], pytest.approx([0.90, 0.91, 0.92, 0.93]))
    assert lines(axes)["elsewhere"][1] == pytest.approx([0.80, 0.81, 0.82, 0.83])
    assert lines(axes)["random direction"][1] == [0.56] * 4
    flat = {line.get_ydata()[0] for line in axes.lines if len(set(line.get_ydata())) == 1}
    assert {0.85, 0.75, 0.55} <= flat
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == pytest.approx((0.88, 0.948))


def test_calibration_lines_are_the_figures_before_after_and_isotonic(full_card):
    (axes,) = ece_by_layer(full_card.manifest).axes
    drawn = [line.get_ydata()[0] for line in axes.lines if len(line.get_ydata())]
    assert drawn == [0.061, 0.082, 0.053] * 2
    assert axes.get_ylim()[0] == 0


def test_a_reliability_panel_shows_each_bin_with_its_wilson_bar(full_card):
    figure = reliability_panels(full_card)
    axes = figure.axes[0]
    assert [panel.get_title() for panel in figure.axes] == ["layer 1", "layer 2"]
    (bars,) = axes.containers
    assert [list(side) for side in bars.lines[0].get_data()] == [[0.1, 0.5, 0.9], [0.1, 0.7, 1.0]]
    ends = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
    assert np.allclose(ends, [(0.04, 0.21), (0.40, 0.89), (0.91, 1.0)])


def test_many_default_layers_make_nine_panels_over_the_whole_depth(full_card):
    manifest = full_card.manifest
    default = manifest.default.model_copy(update={"layers": list(range(30))})
    some = full_card.reliability[0]
    card = Card.model_validate(
        {"manifest": manifest.model_copy(update={"default": default}), "reliability": dict.fromkeys(range(30), some)}
    )
    shown = shown_panels(card)
    assert len(shown) == len(set(shown)) == PANELS
    assert (shown[0], shown[-1]) == (0, 29)
    assert len([axes for axes in reliability_panels(card).axes if axes.get_title()]) == PANELS


def test_the_screen_plot_shows_effect_per_kl_with_the_placebo_beside_it_and_the_chosen_apart(full_card):
    screen = full_card.manifest.screen
    (axes,) = effect_by_layer(full_card.manifest, screen).axes
    assert points(axes) == {
        "steered": ([0, 3], pytest.approx([0.0, 0.06 / 0.04])),
        "steered, chosen": ([1, 2], pytest.approx([0.02 / 0.02, 0.04 / 0.03])),
    }
    assert lines(axes)["placebo"] == ([0, 1, 2, 3], pytest.approx([0.004 / kl for kl in (0.005, 0.01, 0.015, 0.02)]))
    (axes,) = effect_by_set(screen).axes
    assert points(axes)["steered, chosen"] == ([1], pytest.approx([3.0]))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1", "2", "all (4)"]


def test_one_endless_interval_does_not_flatten_the_plot_and_no_point_is_outside(full_card):
    screen = full_card.manifest.screen
    wild = screen.rows[0].model_copy(update={"per_kl_interval": (-1e6, 1e6), "per_kl": 40.0, "placebo_kl": 0.0})
    rows = [wild] + [screen.rows[3]] * 20
    (axes,) = effect_by_layer(full_card.manifest, screen.model_copy(update={"rows": rows})).axes
    low, high = axes.get_ylim()
    assert low < 0 < 40 < high < 100
    assert len(lines(axes)["placebo"][0]) == 20


def test_look_ahead_lines_go_over_tokens_of_warning(full_card):
    (axes,) = auroc_by_warning(full_card.manifest.lookahead).axes
    assert lines(axes)["this probe"] == ([0, 5, 10], [0.71, 0.66, 0.61])
    assert lines(axes)["end of text"] == ([0, 5, 10], [0.64, 0.58, 0.55])


def test_an_svg_leaves_every_colour_to_the_page_and_is_the_same_each_time(full_card):
    draw = partial(auroc_by_layer, full_card.manifest)
    before = dict(mpl.rcParams)
    drawn = svg(draw, name="one", alt='a <b> & "c"')
    assert not re.search(r"#[0-9a-f]{6}\b", drawn)
    assert {"var(--paper)", "var(--ink)", "var(--blue)", "var(--shade)"} <= set(re.findall(r"var\(--\w+\)", drawn))
    assert set(re.findall(r"var\(--(\w+)\)", drawn)) <= set(LIGHT)
    assert "<text" in drawn
    assert drawn == svg(draw, name="one", alt='a <b> & "c"')
    assert 'aria-label="a &lt;b&gt; &amp; &quot;c&quot;"' in drawn
    assert dict(mpl.rcParams) == before


def test_both_palettes_are_readable_and_have_the_same_names():
    assert LIGHT.keys() == DARK.keys()
    assert len(set(LIGHT.values())) == len(LIGHT)
    for palette in (LIGHT, DARK):
        assert contrast(palette["ink"], palette["shade"]) > 7
        assert contrast(palette["muted"], palette["paper"]) > 4.5
        assert all(
            contrast(palette[name], palette["paper"]) > 3 for name in ("blue", "rust", "green", "violet", "rose")
        )


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_a_name_with_a_control_character_is_drawn_without_it(full_card):
    metrics = {
        layer: report.model_copy(update={"out_of_domain": {"far\x08away": report.test}})
        for layer, report in full_card.manifest.metrics.items()
    }
    manifest = full_card.manifest.model_copy(update={"metrics": metrics})
    assert ">far away<" in svg(partial(auroc_by_layer, manifest), name="layers", alt="AUROC")
