"""The sections on where a probe comes from: origin, corpus, what it carries, how it was made, and its limits."""

from __future__ import annotations

from probes.card.model import Card, best_layer
from probes.card.verdict import NO_LAYERS
from probes.measure.baseline import PAIRS
from probes.texts.corpus import IMBALANCE
from steering.manifest import Manifest
from steering.page.document import Block, Bullets, Code, Paragraph, Section, Strong, Table, Words

_TOKENS = {
    "last": "the last token of finished texts",
    "mean": "the mean over all tokens but the first of finished texts (its logit is the mean of their logits)",
    "all": "single tokens of finished texts, each under the label of its whole text",
    "lookahead": "single tokens that the model itself wrote, labelled by what followed",
}
_METHODS = {
    "logistic": "logistic regression",
    "mean-difference": "difference of the class means",
    "lda": "linear discriminant",
    "imported": "another tool's",
}


def origin_section(card: Card) -> Section | None:
    """Where an imported probe comes from and what its format could not carry."""
    origin = card.manifest.origin
    if origin is None:
        return None
    lost = [(words,) for words in origin.lost] or [("Nothing was lost.",)]
    bias = "with" if origin.bias else "without"
    return Section(
        "origin",
        "Where it was imported from",
        (
            Paragraph(
                (f"{origin.format}, ", Code(origin.file), ", SHA-256 ", Code(origin.sha256), f", {bias} a bias.")
            ),
            Paragraph(("What the format could not carry:",)),
            Bullets(tuple(lost)),
        ),
    )


def corpus_section(card: Card) -> Section | None:
    """How many texts of which class each part has, and what was found in the files."""
    manifest = card.manifest
    blocks: list[Block] = []
    if manifest.dataset.counts:
        negative, positive = (manifest.labels.get(label, label) for label in ("0", "1"))
        rows = []
        for name, counts in manifest.dataset.counts.items():
            tally = card.tallies.get(name.removeprefix("ood-"))
            tokens, cut = ("-", "-") if tally is None else (str(tally.tokens), str(tally.truncated))
            texts = (str(counts.get(label, 0)) for label in ("1", "0"))
            rows.append(((name,), *((cell,) for cell in (*texts, tokens, cut))))
        said = "Parts share no text."
        if any(name.startswith(PAIRS) for name in manifest.dataset.counts):
            said += " Minimal pairs are only measured on."
        blocks += [
            Paragraph((said,)),
            Table(("part", positive, negative, "tokens", "cut short"), tuple(rows)),
        ]
    blocks += _reports(card)
    return Section("corpus", "The texts", tuple(blocks)) if blocks else None


def carried_section(card: Card) -> Section | None:
    """What stands beside the read-out for metrics and controllers."""
    if not card.carried:
        return None
    said = (
        "Beside the read-out, fitted on the training texts alone with the same token rule, for metrics and controllers "
        "that ask for it:"
    )
    items = tuple((Code(group), f": {use}.") for group, use in card.carried.items())
    return Section("carried", "What every layer carries", (Paragraph((said,)), Bullets(items)))


def making_section(card: Card, content: str) -> Section:
    """Data, fit, model, versions, hashes and the command."""
    manifest = card.manifest
    base, data = manifest.base_model, manifest.dataset
    lines: list[Words] = [(f"Data: {data.name}. Licence: {data.licence}. SHA-256 ", Code(data.sha256), ".")]
    if manifest.origin is not None:
        lines = [(f"Data: {data.name}. Licence: {data.licence}.",)]
    if data.counts:
        lines.append((f"Split: {data.split}.",))
    if card.dropped:
        lines.append((f"Left out of training because they stand in another file: {card.dropped} of the texts.",))
    lines.append(_fit(manifest))
    for pooling, (own, last) in card.poolings.items():
        lines.append(
            (
                "Pooling ",
                Code(pooling),
                f": mean AUROC over the default layers on the calibration texts {own:.4f} as fitted (this decides), "
                f"{last:.4f} when only the last token is read.",
            )
        )
    lines.append(
        (
            "Model: ",
            Code(base.id),
            ", revision ",
            Code(base.revision),
            f", {base.model_type}, {base.num_hidden_layers} layers of {base.hidden_size}, {base.dtype}.",
        )
    )
    versions = ", ".join(f"{package} {release}" for package, release in manifest.fit.versions.items())
    lines.append(("Numbers: content SHA-256 ", Code(content), f"; {versions}." if versions else "."))
    made = f"Made {manifest.created} by Tiller {manifest.tool_version}"
    lines.append((f"{made}: ", Code(card.command)) if card.command else (f"{made}.",))
    return Section("making", "How it was made", (Bullets(tuple(lines)),))


def limits_section(card: Card) -> Section:
    """What the figures do not say."""
    manifest = card.manifest
    on_policy = manifest.token_rule == "lookahead"
    use = (
        "is used on tokens of the same kind. Steering moves them, and then its probability is a scale to set bounds "
        "on, not a calibrated chance"
        if on_policy
        else "is used on every single token as it is generated: there its probability is a scale to set bounds on, not "
        "a calibrated chance"
    )
    items: list[Words] = [
        (
            "The algebra guarantees the probe, not the text: a bound holds for this read-out at each steered layer and "
            "token. What a reader would call the text is a different question, to be measured.",
        )
    ]
    if manifest.calibrated:
        items.append((f"The read-out was fitted and calibrated on {_TOKENS[manifest.token_rule]}, and {use}.",))
    else:
        zero = (
            "" if manifest.origin is not None and manifest.origin.bias else " Without a bias their zero means nothing."
        )
        items.append(
            (f"It was imported and never calibrated: its logits have no probability and no percentile.{zero}",)
        )
    if best_layer(card) is not None:
        items.append((_learnt(manifest),))
    items.append(_causal_limit(manifest))
    return Section("limits", "Limits", (Bullets(tuple(items)),))


def _reports(card: Card) -> list[Block]:
    """A row per file; what happened in no file has no column."""
    reports = list(card.corpus_reports.values())
    if not reports:
        return []
    columns: dict[str, list[Words]] = {
        "texts read": [(str(one.texts),) for one in reports],
        "kept": [(str(sum(one.counts.values())),) for one in reports],
        "repeated, left out": [(str(one.duplicates),) for one in reports],
        "under both labels, left out": [(_share(one.contradictory, one.texts),) for one in reports],
    }
    if any(one.unpaired for one in reports):
        columns["without their pair, left out"] = [(str(one.unpaired),) for one in reports]
    if any(one.joined_groups for one in reports):
        columns["groups joined, sharing a text"] = [(str(one.joined_groups),) for one in reports]
    columns["rarer class"] = [
        (Strong(f"{one.minority:.1%}") if one.imbalanced else f"{one.minority:.1%}",) for one in reports
    ]
    rows = tuple(((one.name,), *(cells[at] for cells in columns.values())) for at, one in enumerate(reports))
    blocks: list[Block] = [Paragraph(("What was found in the files:",)), Table(("file", *columns), rows)]
    uneven = [one.name for one in reports if one.imbalanced]
    if uneven:
        said = (
            f" ({', '.join(uneven)}): the rarer class has less than {IMBALANCE:.0%}. Read AUROC rather than accuracy."
        )
        blocks.append(Paragraph((Strong("Class imbalance"), said)))
    return blocks


def _share(part: int, whole: int) -> str:
    return f"{part} ({part / max(1, whole):.2%})"


def _fit(manifest: Manifest) -> Words:
    fit = manifest.fit
    if manifest.origin is not None:
        calibrated = "calibrated after the import" if manifest.calibrated else "not calibrated"
        return (f"Fit: by another tool ({fit.solver}); {calibrated}.",)
    parts = [f"{_METHODS[fit.method]} ({fit.solver})" if fit.solver else _METHODS[fit.method]]
    if fit.C is not None:
        parts.append(f"C = {fit.C:g}")
    if fit.shrinkage is not None:
        parts.append(f"shrinkage {fit.shrinkage:g}")
    if fit.coordinates is not None:
        parts.append(f"reading {fit.coordinates} of {manifest.base_model.hidden_size} coordinates")
    parts.append(f"seed {fit.seed}, token rule ")
    return (f"Fit: {', '.join(parts)}", Code(manifest.token_rule), "; Platt calibration on the calibration texts.")


def _learnt(manifest: Manifest) -> str:
    labels = (
        "It has learnt the judgements of one classifier, with its blind spots"
        if manifest.token_rule == "lookahead"
        else "It has learnt the labels of one dataset, with the opinions and blind spots of their annotators"
    )
    elsewhere = any(report.out_of_domain for report in manifest.metrics.values())
    return f"{labels}; " + (
        "the out-of-domain figures show what of it carries over."
        if elsewhere
        else "what of it carries over is not known."
    )


def _causal_limit(manifest: Manifest) -> Words:
    if manifest.causal is None and manifest.origin is not None:
        return ("Whether its layers are causal ones is not known. The default layers are those of the file.",)
    if manifest.causal is None:
        return (
            "An accurate layer need not be a causal one. The default layers follow a fixed rule (",
            Code("probes/training/selection.py"),
            "), not a causal screen.",
        )
    if not manifest.causal:
        return (Strong(NO_LAYERS), " A bound on it holds for the read-out and promises nothing about the text.")
    scorer = manifest.screen.scorer if manifest.screen is not None else "one classifier"
    return (
        f"An accurate layer need not be a causal one. The causal screen is the word of {scorer} on short "
        "continuations; other prompts, lengths, bounds and judges may say otherwise.",
    )
