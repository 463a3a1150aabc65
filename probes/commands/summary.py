"""A probe in words and tables for a terminal, or as one document: what `tiller probe show` prints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from steering.artefact import content_sha256
from steering.fitted import GROUPS
from steering.manifest import Interval, LayerReport, Manifest, Screen
from steering.probe import Probe, named_layers, ranges

NONE = "-"


def about(probe: Probe) -> list[str]:
    """One line per part of the manifest that is there."""
    manifest = probe.manifest
    base, default, fit = manifest.base_model, manifest.default, manifest.fit
    carried = [
        group if len(at) == len(probe.layers) else f"{group} ({named_layers(at)})"
        for group in GROUPS
        if (at := probe.layers_with(group))
    ]
    baselines = [
        f"{baseline}: {', '.join(f'{name} {value:.3f}' for name, value in scores.items())}"
        for baseline, scores in manifest.baselines.items()
    ]
    lines = [
        f"{manifest.id}: {manifest.concept}; a high logit means {manifest.positive_is}",
        f"model    {base.id} ({base.model_type}, {base.num_hidden_layers} layers of {base.hidden_size}, {base.dtype})",
        f"data     {manifest.dataset.name} ({manifest.dataset.licence}), token rule {manifest.token_rule}",
        f"fit      {_fit(manifest)}; {fit.solver}, seed {fit.seed}",
        f"default  lower {default.lower}, upper {default.upper} in {default.space}, {default.metric}, "
        f"{named_layers(default.layers)}",
        f"carries  {', '.join(carried) or 'nothing but the read-out'}",
        f"without  hidden states: {'; '.join(baselines) or 'not measured'} (AUROC, of pairs accuracy)",
        f"causal   {_causal(manifest)}",
    ]
    if manifest.lookahead is not None:
        ahead = manifest.lookahead
        lines.append(
            f"ahead    labelled by the next {ahead.horizon} tokens ({ahead.labeller} above {ahead.threshold:g}): "
            f"{ahead.tokens} states of {ahead.continuations} continuations of {ahead.prompts} prompts, corpus share "
            f"{ahead.corpus_share:g}, iterations {ahead.iterations}"
        )
    lines += [f"cosine   with {name}: {_spread(list(at.values()))}" for name, at in manifest.cosines.items()]
    if manifest.origin is not None:
        origin = manifest.origin
        lines.append(f"origin   imported from {origin.format}, {origin.file}, SHA-256 {origin.sha256}")
        lines += [f"lost     {what}" for what in origin.lost]
    if not manifest.calibrated:
        lines.append("bounds   never calibrated: in logits only, not in probability or percentile")
    lines.append(f"content  SHA-256 {content_sha256(probe)}; made {manifest.created} by Tiller {manifest.tool_version}")
    return lines


def tables(probe: Probe) -> Iterator[Table]:
    """The figures by layer, then the causal screen and the warning table of a look-ahead probe where there are any."""
    manifest = probe.manifest
    yield _layers(manifest)
    if manifest.screen is not None:
        yield _screen(manifest.screen)
    if manifest.lookahead is not None and manifest.lookahead.auroc_by_warning:
        yield _warning(manifest.lookahead.auroc_by_warning)


def document(probe: Probe) -> dict[str, Any]:
    """The manifest with what follows from the numbers: their hash, and which layers carry what."""
    return {
        **probe.manifest.model_dump(mode="json"),
        "id": probe.id,
        "calibrated": probe.manifest.calibrated,
        "content_sha256": content_sha256(probe),
        "carries": {group: at for group in GROUPS if (at := probe.layers_with(group))},
    }


def _fit(manifest: Manifest) -> str:
    fit = manifest.fit
    parts: list[str] = [fit.method]
    if fit.C is not None:
        parts.append(f"C {fit.C:g}")
    if fit.shrinkage is not None:
        parts.append(f"shrinkage {fit.shrinkage:g}")
    if fit.coordinates is not None:
        parts.append(f"sparse: {fit.coordinates} of {manifest.base_model.hidden_size} coordinates")
    return ", ".join(parts)


def _causal(manifest: Manifest) -> str:
    if manifest.causal is None:
        return "not screened"
    judge = "" if manifest.screen is None else f" (judged by {manifest.screen.scorer})"
    if manifest.causal:
        return f"yes: steering it changes the text more than a placebo of the same norm{judge}"
    return f"NO: no set of layers changes the text more than a placebo of the same norm{judge}"


def _layers(manifest: Manifest) -> Table:
    table = Table("layer", "AUROC", "accuracy", "Brier", "ECE", "out of domain AUROC")
    paired = any(report.pairs for report in manifest.metrics.values())
    for column in [*(["pairs"] if paired else []), "random labels", "random direction", "default"]:
        table.add_column(column)
    for layer, report in sorted(manifest.metrics.items()):
        mark = "yes" if layer in manifest.default.layers else ""
        table.add_row(str(layer), *_figures(report, paired=paired), mark)
    return table


def _figures(report: LayerReport, *, paired: bool) -> list[str]:
    own = [NONE] * 4
    if report.test is not None:
        test = report.test
        auroc, ece = (
            f"{test.auroc:.3f}{_interval(test.auroc_interval)}",
            f"{test.ece:.3f}{_interval(test.ece_interval)}",
        )
        own = [auroc, f"{test.accuracy:.3f}", f"{test.brier:.3f}", ece]
    elsewhere = "\n".join(f"{escape(name)} {found.auroc:.3f}" for name, found in report.out_of_domain.items())
    pairs = "\n".join(f"{escape(name)} {found.accuracy:.3f}" for name, found in report.pairs.items())
    controls = [_number(value) for value in (report.random_label_auroc, report.random_direction_auroc)]
    return [*own, elsewhere or NONE, *([pairs or NONE] if paired else []), *controls]


def _screen(screen: Screen) -> Table:
    title = f"causal screen: {escape(screen.scorer)}, {screen.prompts} prompts, {screen.new_tokens} tokens"
    table = Table(
        "layers", "role", "effect", "KL", "per KL", "placebo", "difference", "beats it", "chosen", title=title
    )
    for row in screen.rows:
        table.add_row(
            ranges(row.layers),
            escape(row.role),
            f"{row.effect:+.3f}{_interval(row.effect_interval)}",
            f"{row.kl:.3f}",
            f"{row.per_kl:+.3f}{_interval(row.per_kl_interval)}",
            f"{row.placebo_effect:+.3f}",
            f"{row.difference:+.3f}{_interval(row.difference_interval)}",
            "yes" if row.beats_placebo else "no",
            "yes" if screen.chosen and sorted(row.layers) == sorted(screen.chosen) else "",
        )
    return table


def _warning(rows: dict[int, dict[str, float]]) -> Table:
    readers = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table("tokens of warning", *map(escape, readers), title="AUROC for the coming window")
    for tokens, row in sorted(rows.items()):
        table.add_row(str(tokens), *(_number(row.get(name)) for name in readers))
    return table


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}"


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f" ({interval[0]:.3f}, {interval[1]:.3f})"


def _spread(values: list[float]) -> str:
    return f"{min(values):+.3f} to {max(values):+.3f} over {len(values)} layers" if values else "none"
