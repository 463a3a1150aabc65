"""The findings in words: does it read more than words and length, does it hold elsewhere, does steering it do anything.

"Beats" compares two numbers. Where the probe's 95% interval holds the baseline's number the card says that the lead may
be chance; it is not a paired test.
"""

from __future__ import annotations

from probes.card.model import Card, best_layer
from probes.card.plots import measured
from probes.card.steering_plots import is_chosen
from probes.measure.baseline import LENGTH, NAME
from steering.manifest import LayerMetrics, Lookahead, Manifest, Screen
from steering.page.document import Findings, Section, Statement, Strong
from steering.probe import named_layers

IN_DOMAIN = "test"
NO_LAYERS = "No set of layers changed the text more than a placebo of the same norm."


def verdict_section(card: Card) -> Section:
    """Every finding that the figures allow."""
    manifest = card.manifest
    layer = best_layer(card)
    items: list[Statement] = []
    if layer is None:
        items.append(
            Statement(
                "unknown",
                (Strong("It has no figures."), " How well it reads the concept was never measured by this tool."),
            )
        )
    else:
        found = measured(manifest.metrics[layer])
        items += [_words(found, manifest.baselines.get(NAME, {}), layer), *_length(found, manifest, layer)]
        items.append(_elsewhere(found))
    items.append(_causal(manifest))
    if manifest.lookahead is not None:
        items += _lookahead(manifest.lookahead)
    return Section("verdict", "Verdict", (Findings(tuple(items)),))


def _words(found: dict[str, LayerMetrics], baseline: dict[str, float], layer: int) -> Statement:
    leads = {name: one.auroc - baseline[name] for name, one in found.items() if name in baseline}
    if not leads:
        return Statement("unknown", ("No lexical baseline was fitted: it may read words alone.",))
    behind = {name: -lead for name, lead in leads.items() if lead < 0}
    if behind:
        ahead = {name: lead for name, lead in leads.items() if lead > 0}
        rest = f" It does on {_by(ahead)}." if ahead else ""
        return Statement(
            "against", (Strong("Does not beat the lexical baseline"), f" on {_by(behind)}, at layer {layer}.{rest}")
        )
    verb = "Beats" if all(lead > 0 for lead in leads.values()) else "Equals or beats"
    unsure = [
        name
        for name, one in found.items()
        if name in baseline and one.auroc_interval is not None and one.auroc_interval[0] <= baseline[name]
    ]
    doubt = (
        f" On {_and(unsure)} the baseline lies within the 95% interval of the probe: the lead there may be chance."
        if unsure
        else ""
    )
    return Statement(
        "unknown" if unsure else "for",
        (Strong(f"{verb} the lexical baseline on every test set"), f" at layer {layer}: on {_by(leads)}.{doubt}"),
    )


def _length(found: dict[str, LayerMetrics], manifest: Manifest, layer: int) -> list[Statement]:
    """Said only where it is a finding: length alone does as well."""
    length = manifest.baselines.get(LENGTH, {})
    behind = {name: length[name] - one.auroc for name, one in found.items() if length.get(name, -1.0) >= one.auroc}
    if not behind:
        return []
    return [
        Statement("against", (Strong("Does not beat the length of the text"), f" on {_by(behind)}, at layer {layer}."))
    ]


def _elsewhere(found: dict[str, LayerMetrics]) -> Statement:
    own = found[IN_DOMAIN].auroc
    others = [f"{one.auroc:.3f} on {name}" for name, one in found.items() if name != IN_DOMAIN]
    if not others:
        return Statement("unknown", (Strong("Not tested out of domain."), f" In domain its AUROC is {own:.3f}."))
    at_chance = [
        name
        for name, one in found.items()
        if name != IN_DOMAIN and (one.auroc if one.auroc_interval is None else one.auroc_interval[0]) <= 0.5
    ]
    doubt = f" On {_and(at_chance)} that is not distinguishable from chance." if at_chance else ""
    return Statement(
        "against" if at_chance else "for",
        (Strong(f"Out of domain its AUROC is {_and(others)}"), f", in domain {own:.3f}.{doubt}"),
    )


def _causal(manifest: Manifest) -> Statement:
    if manifest.causal is None:
        return Statement(
            "unknown",
            (Strong("Not screened."), " Whether steering it changes the text more than a placebo does is not known."),
        )
    if not manifest.causal:
        return Statement("against", (Strong(NO_LAYERS), " It may read the concept; steering it is not known to work."))
    detail = _chosen(manifest.screen) if manifest.screen is not None else "."
    return Statement(
        "for", (Strong("Causal: steering it changed the text more than a placebo of the same norm"), detail)
    )


def _chosen(screen: Screen) -> str:
    layers = named_layers(screen.chosen)
    row = next((row for row in screen.rows if is_chosen(screen, row)), None)
    if row is None:
        return f" ({layers})."
    low, high = row.difference_interval
    return (
        f" at {layers}: by {row.difference:+.3f} [{low:+.3f}, {high:+.3f}] in the score of {screen.scorer}, at "
        f"a KL of {row.kl:.3f} nats on neutral text."
    )


def _lookahead(lookahead: Lookahead) -> list[Statement]:
    """Against the end-of-text probe, for each number of tokens of warning."""
    both = {
        warning: found["this probe"] - found["end of text"]
        for warning, found in sorted(lookahead.auroc_by_warning.items())
        if {"this probe", "end of text"} <= found.keys()
    }
    if not both:
        return []
    words = _and([f"{gain:+.3f} with {warning}" for warning, gain in both.items()])
    better = all(gain > 0 for gain in both.values())
    lead = (
        "Reads what is coming better than the end-of-text probe"
        if better
        else ("Does not read what is coming better than the end-of-text probe everywhere")
    )
    return [Statement("for" if better else "against", (Strong(lead), f": AUROC {words} tokens of warning."))]


def _by(leads: dict[str, float]) -> str:
    return _and([f"{name} by {lead:.3f}" for name, lead in leads.items()])


def _and(parts: list[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
