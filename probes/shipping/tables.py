"""The tables of `probes/README.md`, from the manifests of the shipped artefacts: what each reads and how well, in
domain and out of it, and what steering it did to text. Nothing is typed by hand; a test compares page and artefacts.

The layer of a row is the one with the highest AUROC on the calibration texts, so the test texts choose nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from probes.card import best_layer, card_from_probe, read_extras
from probes.errors import CorpusError
from probes.measure.baseline import LENGTH, NAME, PAIRS
from steering.artefact import load_probe
from steering.manifest import Interval, Manifest, ScreenRow
from steering.probe import ranges

PAGE = Path(__file__).parents[1] / "README.md"
ROLES = ("single", "growing", "all", "rule", "best AUROC")


def write_tables(folder: Path) -> None:
    """Rewrite the marked sections of the page from the artefacts below `folder`. Raises CorpusError without markers."""
    page = PAGE.read_text(encoding="utf-8")
    for name, section in sections(folder).items():
        page = replaced(page, name, section)
    PAGE.write_text(page, encoding="utf-8")


def sections(folder: Path) -> dict[str, str]:
    """The tables by the name of their markers."""
    folders = sorted(path for path in folder.glob("*/*") if path.is_dir())
    return {
        "figures": _markdown(_FIGURES, [row for path in folders for row in figure_rows(path)]),
        "screen": _markdown(_SCREEN, [row for path in folders for row in screen_rows(load_probe(path).manifest)]),
        "lookahead": _markdown(
            _LOOKAHEAD, [row for path in folders for row in lookahead_rows(load_probe(path).manifest)]
        ),
    }


def replaced(page: str, name: str, section: str) -> str:
    """`page` with what stands between `<!-- name -->` and `<!-- /name -->` exchanged for `section`."""
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise CorpusError(f"{PAGE.name} has no section between '{begin.strip()}' and '{end}'; put the two lines back")
    return f"{before}{begin}{section}{end}{after}"


_FIGURES = ("probe, layer", "texts", "n", "figure", "probe", "words", "length", "random labels", "ECE")


def figure_rows(folder: Path) -> list[list[str]]:
    """One row per test set and per set of minimal pairs of an artefact, at its best layer."""
    probe = load_probe(folder)
    manifest = probe.manifest
    layer = best_layer(card_from_probe(probe, read_extras(folder)))
    if layer is None:
        return []
    report = manifest.metrics[layer]
    words, length = manifest.baselines.get(NAME, {}), manifest.baselines.get(LENGTH, {})
    name = f"{manifest.id}, {layer}"
    rows = []
    for texts, found in {"in domain": report.test, **report.out_of_domain}.items():
        if found is not None:
            key = "test" if texts == "in domain" else texts
            chance = _number(report.random_label_auroc) if key == "test" else "-"
            figures = (_between(found.auroc, found.auroc_interval), _number(words.get(key)), _number(length.get(key)))
            calibration = _between(found.ece, found.ece_interval)
            rows.append([name, texts, str(found.n), "AUROC", *figures, chance, calibration])
    for texts, pairs in report.pairs.items():
        key = f"{PAIRS}{texts}"
        figures = (_between(pairs.accuracy, pairs.interval), _number(words.get(key)), _number(length.get(key)))
        rows.append([name, f"{texts} pairs", str(pairs.n), "accuracy", *figures, "-", "-"])
    return rows


_SCREEN = ("probe", "layers", "chosen", "effect", "placebo", "KL", "effect per nat", "beats placebo")


def screen_rows(manifest: Manifest) -> list[list[str]]:
    """The sets of layers a reader compares: the best single layer, the growing sets, all, the rule, the best AUROC."""
    if manifest.screen is None:
        return []
    singles = [row for row in manifest.screen.rows if row.role == "single"]
    best = max(singles, key=lambda row: row.per_kl_interval[0], default=None)
    listed = [row for row in manifest.screen.rows if row.role != "single"]
    shown = [*([best] if best else []), *sorted(listed, key=lambda row: ROLES.index(row.role))]
    return [_screen_row(manifest, row) for row in shown]


def _screen_row(manifest: Manifest, row: ScreenRow) -> list[str]:
    assert manifest.screen is not None
    role = "best single" if row.role == "single" else row.role
    return [
        manifest.id,
        f"{ranges(row.layers)} ({role})",
        "yes" if sorted(row.layers) == sorted(manifest.screen.chosen) else "",
        _between(row.effect, row.effect_interval),
        _number(row.placebo_effect),
        f"{row.kl:.4f}",
        f"{row.per_kl:.2f} [{row.per_kl_interval[0]:.2f}, {row.per_kl_interval[1]:.2f}]",
        "yes" if row.beats_placebo else "no",
    ]


_LOOKAHEAD = ("probe", "tokens of warning", "this probe", "end of text")


def lookahead_rows(manifest: Manifest) -> list[list[str]]:
    """AUROC for the coming window, by how many tokens before it the residual is read."""
    if manifest.lookahead is None:
        return []
    return [
        [manifest.id, str(warning), _number(found.get("this probe")), _number(found.get("end of text"))]
        for warning, found in sorted(manifest.lookahead.auroc_by_warning.items())
    ]


def _markdown(header: tuple[str, ...], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _between(value: float, interval: Interval | None) -> str:
    return _number(value) if interval is None else f"{value:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
