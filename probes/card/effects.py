"""The sections on use: the causal screen, look-ahead, and how close the probe is to those fitted with it."""

from __future__ import annotations

from functools import partial

from probes.card.figures import change, number, with_interval
from probes.card.model import Card
from probes.card.steering_plots import (
    auroc_by_warning,
    effect_by_layer,
    effect_by_set,
    is_chosen,
    read_outs,
    sets,
    singles,
)
from probes.card.verdict import NO_LAYERS
from steering.manifest import Manifest, Screen, ScreenRow
from steering.page.document import Block, Code, Paragraph, Picture, Pictures, Section, Strong, Table, Words
from steering.probe import named_layers, ranges

SINGLES, SETS, LOOKAHEAD = "screen-layers.png", "screen-sets.png", "lookahead.png"
PLOTS = frozenset({SINGLES, SETS, LOOKAHEAD})


def screen_section(card: Card) -> Section | None:
    """What steering each set of layers did to the text, beside its placebo."""
    screen = card.manifest.screen
    if screen is None:
        return None
    bounds = [
        f"{name} {value:g}" for name, value in (("lower", screen.lower), ("upper", screen.upper)) if value is not None
    ]
    method: Words = (
        f"{screen.prompts} held-out prompts were continued by {screen.new_tokens} tokens: unsteered, steered with "
        f"{' and '.join(bounds) or 'no bound'} ({screen.space}, {screen.metric} projection), and with steps of the "
        f"same norm in a random direction, the placebo; {screen.scorer} judged the continuations. The effect is the "
        "mean change of its score toward the allowed side. KL is that of the next token on "
        f"{screen.neutral} neutral texts, in nats. Brackets are 95% intervals over prompts; a set beats the placebo "
        "when its effect is above zero, and so is the difference after correction for the number of sets tried.",
    )
    blocks: list[Block] = [Paragraph(_outcome(card.manifest, screen)), Paragraph(method)]
    pictures = []
    note = "Vertical bars: 95% intervals, cut where they leave the picture. Hollow: the placebo of the same norm."
    if singles(screen):
        pictures.append(
            Picture(
                SINGLES,
                "Effect per unit of KL of each layer by itself",
                (f"Each layer by itself. {note}",),
                partial(effect_by_layer, card.manifest, screen),
            )
        )
    if sets(screen):
        pictures.append(
            Picture(
                SETS,
                "Effect per unit of KL of sets of layers",
                (f"Sets of layers: a number alone is how many the growing set holds. {note}",),
                partial(effect_by_set, screen),
            )
        )
    if pictures:
        blocks.append(Pictures(tuple(pictures)))
    blocks.append(_screened(screen))
    blocks.append(
        Paragraph((f"Seed {screen.seed}; SHA-256 of the prompts ", Code(screen.prompts_sha256), ".")),
    )
    return Section("screen", "Does steering it change the text?", tuple(blocks))


def lookahead_section(card: Card) -> Section | None:
    """How an on-policy probe was labelled and how early it knows."""
    lookahead = card.manifest.lookahead
    if lookahead is None:
        return None
    states = (
        "the unsteered model" if lookahead.iterations == 1 else "the unsteered model and of the model steered by it"
    )
    blocks: list[Block] = [
        Paragraph(
            (
                f"Each of {lookahead.tokens} tokens that the model wrote itself ({lookahead.continuations} "
                f"continuations of {lookahead.prompts} prompts, of {states}) was labelled by the {lookahead.horizon} "
                f"tokens after it: positive where {lookahead.labeller} scores them above {lookahead.threshold:g}. The "
                f"labelled corpus has {lookahead.corpus_share:.0%} of the weight in the fit. That "
                "classifier may not judge what steering "
                "this probe does.",
            )
        )
    ]
    names = read_outs(lookahead)
    if names:
        table = sorted(lookahead.auroc_by_warning.items())
        caption = "AUROC for the coming window on held-out prompts, by how many tokens before it the residual is read."
        picture = Picture(LOOKAHEAD, "AUROC by tokens of warning", (caption,), partial(auroc_by_warning, lookahead))
        rows = tuple(((str(warning),), *((number(found.get(name)),) for name in names)) for warning, found in table)
        blocks += [Pictures((picture,)), Table(("tokens of warning", *names), rows)]
    return Section("lookahead", "Does it know what is coming?", tuple(blocks))


def siblings_section(card: Card) -> Section | None:
    """Cosines with the concepts fitted in the same run."""
    rows = []
    for concept, by_layer in card.manifest.cosines.items():
        if by_layer:
            default = [by_layer[layer] for layer in card.manifest.default.layers if layer in by_layer]
            mean = sum(default) / len(default) if default else None
            rows.append(((concept,), (change(mean),), *((change(pick(by_layer.values())),) for pick in (min, max))))
    if not rows:
        return None
    said = (
        "Cosine of this probe's weight with those of the concepts fitted in the same run, layer by layer: at 0 the two "
        "can be steered apart, near 1 a step along one is a step along the other."
    )
    header = ("concept", "mean, default layers", "lowest, any layer", "highest, any layer")
    return Section("siblings", "How close it is to its siblings", (Paragraph((said,)), Table(header, tuple(rows))))


def _outcome(manifest: Manifest, screen: Screen) -> Words:
    beating = sum(row.beats_placebo for row in screen.rows)
    tried = f" {beating} of the {len(screen.rows)} sets tried beat it."
    if manifest.causal:
        return (
            Strong(f"Steering {named_layers(screen.chosen)} changed the text more than a placebo of the same norm."),
            tried,
        )
    return (Strong(NO_LAYERS), f" {len(screen.rows)} sets were tried; the service warns on every use of this probe.")


def _screened(screen: Screen) -> Table:
    header = (
        "layers",
        "role",
        "effect",
        "KL",
        "effect per KL",
        "placebo effect",
        "placebo KL",
        "difference",
        "beats it",
    )
    return Table(header, tuple(_screen_row(screen, row) for row in (*singles(screen), *sets(screen))), align="left")


def _screen_row(screen: Screen, row: ScreenRow) -> tuple[Words, ...]:
    layers = ranges(row.layers)
    return (
        (Strong(f"{layers} (chosen)"),) if is_chosen(screen, row) else (layers,),
        (row.role,),
        with_interval(row.effect, row.effect_interval, signed=True),
        (number(row.kl),),
        with_interval(row.per_kl, row.per_kl_interval, signed=True),
        (change(row.placebo_effect),),
        (number(row.placebo_kl),),
        with_interval(row.difference, row.difference_interval, signed=True),
        ("yes" if row.beats_placebo else "no",),
    )
