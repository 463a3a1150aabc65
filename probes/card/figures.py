"""The sections of figures: the best layer in full, plots over layers, calibration, and the table of all layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from probes.card.model import Card, best_layer
from probes.card.plots import (
    auroc_by_layer,
    ece_by_layer,
    measured,
    reliability_panels,
    set_names,
    shown_panels,
)
from probes.measure.baseline import LENGTH, NAME, PAIRS
from steering.manifest import LayerMetrics, LayerReport
from steering.page.document import Aside, Block, Bullets, Paragraph, Picture, Pictures, Section, Strong, Table, Words

LAYERS, CALIBRATION, RELIABILITY = "layers.png", "calibration.png", "reliability.png"
PLOTS = frozenset({LAYERS, CALIBRATION, RELIABILITY})
ABSENT = "-"


def figures_section(card: Card) -> Section | None:
    """The best layer on every test set with baselines and controls beside it, and the minimal pairs."""
    layer = best_layer(card)
    if layer is None:
        return None
    report = card.manifest.metrics[layer]
    chosen = (
        "It was chosen by its AUROC on the calibration texts; these are texts never used for a choice. "
        if card.calibration_auroc
        else "It is the middle one of the default layers. "
    )
    blocks: list[Block] = [
        Paragraph((f"Layer {layer}. {chosen}Brackets are 95% intervals.",)),
        _best(card, report),
    ]
    if report.pairs:
        blocks += [
            Paragraph(
                ("Minimal pairs: how often the text with the concept has the higher logit; a coin reaches 0.500.",)
            ),
            _pairs(card, report),
        ]
    return Section("figures", "Figures of the best layer", tuple(blocks))


def layers_section(card: Card) -> Section | None:
    """AUROC over layers."""
    if best_layer(card) is None:
        return None
    caption = (
        "AUROC of each layer; bands are 95% intervals. Baselines, which read no hidden states, in the colour of their "
        "test set: dashed words, dotted length."
    )
    picture = Picture(LAYERS, "AUROC per layer, with baselines", (caption,), partial(auroc_by_layer, card.manifest))
    return Section("layers", "How well each layer reads it", (Pictures((picture,)),))


def calibration_section(card: Card) -> Section | None:
    """Whether the probability means what it says."""
    if best_layer(card) is None:
        return None
    pictures = [
        Picture(
            CALIBRATION,
            "Calibration error per layer, before and after",
            (
                "Expected calibration error, 15 bins: solid after Platt scaling (band: 95% interval), dotted before, "
                "dashed with isotonic regression, which is shown for comparison and never used.",
            ),
            partial(ece_by_layer, card.manifest),
        )
    ]
    if shown_panels(card):
        pictures.append(
            Picture(
                RELIABILITY,
                "Reliability of default layers",
                ("Observed share against predicted probability on the in-domain test texts after calibration, with "
                 "95% Wilson intervals; on the dashed line the probability means what it says.",),
                partial(reliability_panels, card),
            )
        )  # fmt: skip
    return Section("calibration", "Does its probability mean what it says?", (Pictures(tuple(pictures)),))


def all_layers_section(card: Card) -> Section | None:
    """One row per layer; the default layers are marked."""
    if best_layer(card) is None:
        return None
    names = [name for name in set_names(card.manifest) if name != "test"]
    pairs = list(dict.fromkeys(name for report in card.manifest.metrics.values() for name in report.pairs))
    header = ["layer", *(["AUROC calibration"] if card.calibration_auroc else []), "AUROC", "accuracy", "Brier", "ECE"]
    header += [f"{what} {name}" for name in names for what in ("AUROC", "ECE")]
    header += [f"pairs {name}" for name in pairs] + ["random labels", "random direction"]
    rows = []
    for layer, report in sorted(card.manifest.metrics.items()):
        found = measured(report)
        mark: Words = (Strong(str(layer)),) if layer in card.manifest.default.layers else (str(layer),)
        values: list[float | None] = [card.calibration_auroc.get(layer)] if card.calibration_auroc else []
        values += [getattr(found.get("test"), field, None) for field in ("auroc", "accuracy", "brier", "ece")]
        values += [getattr(found.get(name), field, None) for name in names for field in ("auroc", "ece")]
        values += [report.pairs[name].accuracy if name in report.pairs else None for name in pairs]
        values += [report.random_label_auroc, report.random_direction_auroc]
        rows.append((mark, *((number(value),) for value in values)))
    said = "Unless said otherwise on the in-domain test set, after calibration. The default layers are in bold."
    left_out = tuple((f"Layer {layer} was left out: {reason}",) for layer, reason in card.refused.items())
    blocks: list[Block] = [Paragraph((said,)), Table(tuple(header), tuple(rows))]
    return Section("all-layers", "All layers", (*blocks, *([Bullets(left_out)] if left_out else [])))


def number(value: float | None) -> str:
    """Three decimals, or a dash where there is nothing."""
    return ABSENT if value is None else f"{value:.3f}"


def change(value: float | None) -> str:
    """The same with its sign; what rounds to nothing is +0.000."""
    return ABSENT if value is None else f"{round(value, 3) + 0.0:+.3f}"


def with_interval(value: float | None, interval: tuple[float, float] | None, *, signed: bool = False) -> Words:
    """0.946 [0.927, 0.961]"""
    if value is None:
        return (ABSENT,)
    shown = change if signed else number
    if interval is None:
        return (shown(value),)
    return (shown(value), Aside(f" [{shown(interval[0])}, {shown(interval[1])}]"))


def _best(card: Card, report: LayerReport) -> Table:
    """A row per figure, a column per test set; figures that no test set has are left out."""
    found = measured(report)
    columns = list(found.items())
    words, length = (card.manifest.baselines.get(name, {}) for name in (NAME, LENGTH))

    def row(name: str, cell: Callable[[str, LayerMetrics], Words]) -> tuple[Words, ...]:
        return ((name,), *(cell(*column) for column in columns))

    def plain(value: Callable[[LayerMetrics], float | None]) -> Callable[[str, LayerMetrics], Words]:
        return lambda _, one: (number(value(one)),)

    def own(value: float | None) -> Callable[[str, LayerMetrics], Words]:
        return lambda name, _: (number(value if name == "test" else None),)

    def lead(name: str, one: LayerMetrics) -> Words:
        return (change(one.auroc - words[name] if name in words else None),)

    rows = [
        row("tokens" if card.manifest.token_rule in ("all", "lookahead") else "texts", lambda _, one: (str(one.n),)),
        row("AUROC", lambda _, one: with_interval(one.auroc, one.auroc_interval)),
        row("lexical baseline", lambda name, _: (number(words.get(name)),)),
        row("difference", lead),
        row("length baseline", lambda name, _: (number(length.get(name)),)),
        row("random labels", own(report.random_label_auroc)),
        row("random direction", own(report.random_direction_auroc)),
        row("accuracy", plain(lambda one: one.accuracy)),
        row("ECE before", plain(lambda one: one.ece_uncalibrated)),
        row("ECE after", lambda _, one: with_interval(one.ece, one.ece_interval)),
        row("ECE isotonic", plain(lambda one: one.ece_isotonic)),
        row("Brier before", plain(lambda one: one.brier_uncalibrated)),
        row("Brier after", plain(lambda one: one.brier)),
        row("Brier isotonic", plain(lambda one: one.brier_isotonic)),
    ]
    return Table(
        ("figure", *found), tuple(row for row in rows if any(cell != (ABSENT,) for cell in row[1:])), align="left"
    )


def _pairs(card: Card, report: LayerReport) -> Table:
    known: Sequence[str] = [name for name in (NAME, LENGTH) if name in card.manifest.baselines]
    titles = {NAME: "lexical baseline", LENGTH: "length baseline"}
    rows = tuple(
        (
            (name,),
            (str(found.n),),
            with_interval(found.accuracy, found.interval),
            *((number(card.manifest.baselines[baseline].get(PAIRS + name)),) for baseline in known),
        )
        for name, found in report.pairs.items()
    )
    return Table(("pairs", "n", "accuracy", *(titles[name] for name in known)), rows, align="left")
