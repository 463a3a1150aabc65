"""One page that says what a probe is, how it was made and how well it does: `card.md` with `layers.png` beside it.

Weak results stand in the same table as good ones. No text of any corpus appears.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from probes.baseline import NAME
from probes.plot import plot_layers
from probes.shards import Pooling, Tally
from steering.artefact import content_sha256, load_probe
from steering.manifest import LayerMetrics, Manifest

CARD = "card.md"
PLOT = "layers.png"


@dataclass(frozen=True)
class Card:
    """What the page reports beyond the manifest."""

    manifest: Manifest
    calibration_auroc: Mapping[int, float]
    """Per layer, on the calibration texts: the figure that choices were allowed to look at."""
    tallies: Mapping[str, Tally]
    poolings: Mapping[Pooling, tuple[float, float]] = field(default_factory=dict)
    refused: Mapping[int, str] = field(default_factory=dict)
    dropped: int = 0
    command: str = ""
    carried: Mapping[str, str] = field(default_factory=dict)
    """Groups every layer carries, and what each is for."""


def write_card(card: Card, folder: Path) -> None:
    """Write `card.md` and `layers.png` into the saved artefact's folder."""
    plot_layers(card.manifest, folder / PLOT)
    content = content_sha256(load_probe(folder))
    (folder / CARD).write_text(render(card, content=content), encoding="utf-8")


def render(card: Card, *, content: str) -> str:
    """The page as Markdown; `content` is the hash over the probe's numbers."""
    sections = [
        _heading(card.manifest),
        _summary(card),
        f"![AUROC and calibration error per layer]({PLOT})",
        _table(card),
        _carried(card),
        _provenance(card, content),
        _limits(card.manifest),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def best_layer(card: Card) -> int:
    """The layer with the highest AUROC on the calibration texts; the test texts do not choose."""
    return max(card.calibration_auroc, key=lambda layer: (card.calibration_auroc[layer], -layer))


def _heading(manifest: Manifest) -> str:
    default = manifest.default
    sides = [
        f"{name} {value:g}" for name, value in (("lower", default.lower), ("upper", default.upper)) if value is not None
    ]
    return (
        f"# {manifest.id}\n\n"
        f"Reads **{manifest.concept}** from the residual stream of `{manifest.base_model.id}`. A high logit means: "
        f"{manifest.positive_is}. Used by default at layers {', '.join(map(str, default.layers))} with "
        f"{' and '.join(sides)} ({default.space}), {default.metric} projection."
    )


def _summary(card: Card) -> str:
    best = best_layer(card)
    report = card.manifest.metrics[best]
    baseline = card.manifest.baselines.get(NAME, {})
    lines = [
        f"Best layer by AUROC on the calibration texts: **{best}**. There, on texts never used for a choice:",
        "",
        "| test set | texts | AUROC | lexical baseline | difference | ECE before | ECE after | Brier after |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shortfalls, ahead = [], True
    for name, found in {"test": report.test, **report.out_of_domain}.items():
        words = baseline.get(name)
        against = "- | -" if words is None else f"{words:.3f} | {found.auroc - words:+.3f}"
        lines.append(
            f"| {name} | {found.n} | {found.auroc:.3f} | {against} | {found.ece_uncalibrated:.3f} | {found.ece:.3f} "
            f"| {found.brier:.3f} |"
        )
        if words is not None:
            ahead = ahead and found.auroc > words
            if found.auroc < words:
                shortfalls.append(f"{name} by {words - found.auroc:.3f}")
    verdict = (
        f"**Does not beat the lexical baseline** on {', '.join(shortfalls)}."
        if shortfalls
        else f"{'Beats' if ahead else 'Equals or beats'} the lexical baseline on every test set at this layer."
    )
    refused = "".join(f"\n\nLayer {layer} was left out: {reason}" for layer, reason in card.refused.items())
    return "\n".join(lines) + f"\n\n{verdict}" + refused


def _table(card: Card) -> str:
    names = list(next(iter(card.manifest.metrics.values())).out_of_domain)
    header = ["layer", "AUROC calibration", "AUROC", "accuracy", "Brier", "ECE"]
    header += [f"{what} {name}" for name in names for what in ("AUROC", "ECE")]
    header += ["random labels", "random direction"]
    lines = [
        "## All layers",
        "",
        "Unless said otherwise on the in-domain test set, after calibration.",
        "",
        f"| {' | '.join(header)} |",
        f"|{' --- |' * len(header)}",
    ]
    for layer, report in sorted(card.manifest.metrics.items()):
        cells = [f"{card.calibration_auroc[layer]:.3f}", *_cells(report.test, ("auroc", "accuracy", "brier", "ece"))]
        for name in names:
            cells += _cells(report.out_of_domain[name], ("auroc", "ece"))
        cells += [f"{report.random_label_auroc:.3f}", f"{report.random_direction_auroc:.3f}"]
        mark = "**" if layer in card.manifest.default.layers else ""
        lines.append(f"| {mark}{layer}{mark} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(found: LayerMetrics, fields: tuple[str, ...]) -> list[str]:
    return [f"{getattr(found, name):.3f}" for name in fields]


def _carried(card: Card) -> str:
    if not card.carried:
        return ""
    lines = [f"- `{group}`: {use}." for group, use in card.carried.items()]
    return (
        "## What every layer carries\n\nBeside the read-out, fitted on the training texts alone with the same token "
        "rule, for metrics and controllers that ask for it:\n\n" + "\n".join(lines)
    )


def _provenance(card: Card, content: str) -> str:
    manifest = card.manifest
    lines = [
        "## How it was made",
        "",
        f"- Data: {manifest.dataset.name}. Licence: {manifest.dataset.licence}. SHA-256 `{manifest.dataset.sha256}`.",
        f"- Split: {manifest.dataset.split}.",
    ]
    for name, counts in manifest.dataset.counts.items():
        tally = card.tallies[name.removeprefix("ood-")]
        lines.append(
            f"- {name}: {counts['1']} {manifest.labels['1']}, {counts['0']} {manifest.labels['0']}; {tally.tokens} "
            f"tokens, {tally.truncated} texts cut short."
        )
    if card.dropped:
        lines.append(f"- Left out of training because they stand in another file: {card.dropped} of the texts.")
    lines.append(
        f"- Fit: {manifest.fit.solver}, C = {manifest.fit.C:g}, seed {manifest.fit.seed}, token rule "
        f"`{manifest.token_rule}`; Platt calibration on the calibration texts."
    )
    for pooling, (own, last) in card.poolings.items():
        lines.append(
            f"- Pooling `{pooling}`: mean AUROC over the default layers on the calibration texts {own:.4f} as fitted "
            f"(this decides), {last:.4f} when only the last token is read."
        )
    base = manifest.base_model
    versions = ", ".join(f"{package} {release}" for package, release in manifest.fit.versions.items())
    made_by = f": `{card.command}`" if card.command else "."
    lines += [
        f"- Model: `{base.id}`, revision `{base.revision}`, {base.model_type}, {base.num_hidden_layers} layers of "
        f"{base.hidden_size}, {base.dtype}.",
        f"- Numbers: content SHA-256 `{content}`; {versions}.",
        f"- Made {manifest.created} by Tiller {manifest.tool_version}{made_by}",
    ]
    return "\n".join(lines)


def _limits(manifest: Manifest) -> str:
    token = {
        "last": "the last token of finished texts",
        "mean": "the mean over all tokens but the first of finished texts (its logit is the mean of their logits)",
    }[manifest.token_rule]
    return (
        "## Limits\n\n"
        "- The algebra guarantees the probe, not the text: a bound holds for this read-out at each steered layer and "
        "token. What a reader would call the text is a different question, to be measured.\n"
        f"- The read-out was fitted and calibrated on {token}, and is used on every single token as it is generated: "
        "there its probability is a scale to set bounds on, not a calibrated chance.\n"
        "- It has learnt the labels of one dataset, with the opinions and blind spots of their annotators; the "
        "out-of-domain columns show what of it carries over.\n"
        "- An accurate layer need not be a causal one. The default layers follow a fixed rule "
        "(`probes/selection.py`), not a causal screen."
    )
