"""`tiller probe screen`: which layers change what the model writes, and at what cost."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from probes.commands.options import DTypeChoice
from probes.errors import ScreenError
from probes.screen.adopt import with_screen
from probes.screen.question import LEAD, Arm, Question
from probes.screen.run import RESULT, Screened, expected_arms, run
from probes.screen.texts import Where, choose_neutral, choose_prompts, excluded_keys, read_texts
from probes.training.selection import parse_layers
from steering.artefact import load_probe, save_probe
from steering.bounds import Bounds, Space
from steering.identity import check_compatible
from steering.manifest import Interval
from steering.probe import Probe, ranges
from steering.scorers import FORMS, SCORERS, Scorer, make_scorer, relate

_WIDTH = 140
"""Columns of the table where there is no terminal to ask."""


class MetricChoice(StrEnum):
    """--metric"""

    euclidean = "euclidean"
    whitened = "whitened"


class SpaceChoice(StrEnum):
    """--space"""

    probability = "probability"
    logit = "logit"
    percentile = "percentile"


def screen(
    path: Annotated[Path, typer.Argument(metavar="PROBE", help="Folder of the probe, or its .safetensors file.")],
    *,
    prompts: Annotated[Path, typer.Option(help="Held-out prompts to continue: .jsonl[.gz], .csv[.gz] or .parquet.")],
    neutral: Annotated[Path, typer.Option(help="Ordinary text on which steering should change little.")],
    scorer: Annotated[str, typer.Option(help=f"Judge of the text: {', '.join([*SCORERS, *FORMS])}.")],
    out: Annotated[Path, typer.Option(help="Folder of the figures; a screen that was interrupted goes on there.")],
    model: Annotated[str | None, typer.Option(help="The probe's model; default: as its manifest names it.")] = None,
    metric: Annotated[MetricChoice | None, typer.Option(help="Default: the probe's.")] = None,
    upper: Annotated[float | None, typer.Option(help="Bound to hold; default: the probe's.")] = None,
    lower: Annotated[float | None, typer.Option(help="Bound to hold; default: the probe's.")] = None,
    space: Annotated[SpaceChoice | None, typer.Option(help="Of the bound; default: the probe's.")] = None,
    layers: Annotated[str, typer.Option(help="all, or a list such as 0-29:3 or 4,8,10-12.")] = "all",
    n: Annotated[int, typer.Option("--n", min=8, help="Prompts.")] = 128,
    neutral_n: Annotated[int, typer.Option(min=4, help="Neutral paragraphs.")] = 32,
    new_tokens: Annotated[int, typer.Option(min=2, help="Length of a continuation.")] = 20,
    prompts_column: Annotated[str, typer.Option(help="Column of the prompt.")] = "prompt",
    neutral_column: Annotated[str, typer.Option(help="Column of the neutral text.")] = "text",
    where: Annotated[list[str] | None, typer.Option(help="Only prompts with COLUMN=VALUE (repeatable).")] = None,
    exclude: Annotated[
        list[Path] | None, typer.Option(help="File whose texts must not be used: training data (repeatable).")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write the next version of the probe, with its new defaults, to this folder.")
    ] = None,
    version: Annotated[int | None, typer.Option(min=1, help="Of the saved probe; default: one higher.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of prompts, sampling, placebo and intervals.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Continuations written at once; bounds memory.")] = 64,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or balanced.")] = "auto",
    dtype: Annotated[
        DTypeChoice, typer.Option(help="Of the model; auto: float32 on CPU. bfloat16 is faster where the CPU has it.")
    ] = DTypeChoice.auto,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: cores that are not busy.")] = None,
) -> None:
    """Steer every layer, and growing sets of layers, and judge the text by an external scorer beside a placebo.

    Texts are never stored and never printed. Interrupted with Ctrl-C, the same line goes on from there.
    """
    from probes.card import card_from_probe, read_extras, write_card
    from probes.console import bars
    from steering.models import load_model

    err = Console(stderr=True, emoji=False)
    probe = load_probe(path)
    number = _version(probe, save=save, version=version)
    judge = make_scorer(scorer)
    _refuse_labeller(probe, judge)
    bounds = _bounds(probe, upper=upper, lower=lower, space=None if space is None else space.value)
    chosen_metric = probe.manifest.default.metric if metric is None else metric.value
    asked = parse_layers(layers, num_hidden_layers=probe.manifest.base_model.num_hidden_layers)
    tried = [layer for layer in asked if layer in probe.layers] if layers.strip() == "all" else list(asked)
    for layer in tried:
        probe.at(layer)  # refused before a model is loaded
    held_back = excluded_keys(exclude or [])
    rules = [Where.parse(text) for text in where or []]
    prompt_texts = read_texts(prompts, prompts_column, where=rules, flag="--prompts")
    neutral_texts = read_texts(neutral, neutral_column, flag="--neutral")
    lm = load_model(model or probe.manifest.base_model.id, device=device, dtype=dtype.value, threads=threads)
    check_compatible(probe, lm.info, lm.tokenizer_info)
    begun = choose_prompts(lm, prompt_texts, n=n, new_tokens=new_tokens, seed=seed, excluded=held_back)
    ordinary = choose_neutral(
        lm, neutral_texts, n=neutral_n, tokens=LEAD + new_tokens - 1, seed=seed, excluded=held_back
    )
    if begun.excluded or ordinary.excluded:
        err.print(
            f"left out as excluded: {begun.excluded} prompts, {ordinary.excluded} neutral paragraphs", soft_wrap=True
        )
    question = Question(
        lm=lm,
        probe=probe,
        bounds=bounds,
        metric=chosen_metric,
        scorer=judge,
        prompts=begun.ids,
        neutral=ordinary.ids,
        new_tokens=new_tokens,
        seed=seed,
        batch=batch,
    )
    question.plan(Arm("steered", tuple(tried)), 0)  # bounds that mean nothing are refused before anything is written
    try:
        with bars(err) as progress:
            found = run(question, tried, out, on_arm=progress.stage("screen", expected_arms(tried)))
    except KeyboardInterrupt:
        err.print(
            f"interrupted; finished arms are kept in {out}: run the same command again to go on",
            style="yellow",
            soft_wrap=True,
            markup=False,
        )
        raise typer.Exit(130) from None
    _print(found, probe)
    if save is not None:
        new = with_screen(probe, found.screen, version=number)
        card = card_from_probe(new, read_extras(path if path.is_dir() else path.parent))
        made = save_probe(new, save, beside=partial(write_card, card))
        Console(emoji=False).print(f"{made}", soft_wrap=True, highlight=False, markup=False)
    err.print(f"the figures are in {out / RESULT}", soft_wrap=True, highlight=False, markup=False)


def _version(probe: Probe, *, save: Path | None, version: int | None) -> int:
    """Of the probe to be saved; a version that is there already is refused before hours of work and not after."""
    number = version or probe.manifest.version + 1
    if save is None and version is not None:
        raise ScreenError("--version is that of the saved probe; add --save, or leave it out", param="version")
    if save is not None and (target := save / probe.manifest.name / str(number)).exists():
        raise ScreenError(
            f"{probe.manifest.name}@{number} already exists at {target} and versions are never overwritten; give a "
            "higher --version or another --save",
            param="version",
        )
    return number


def _refuse_labeller(probe: Probe, judge: Scorer) -> None:
    """The classifier that labelled a probe's states would find what it taught."""
    if relate(judge.card, probe.manifest).labelled:
        raise ScreenError(
            f"{judge.card.name} labelled the states that {probe.id} was fitted on, so it may not judge its effect; "
            "give another --scorer",
            param="scorer",
        )


def _bounds(probe: Probe, *, upper: float | None, lower: float | None, space: Space | None) -> Bounds:
    """Those asked for, else the probe's default, whose numbers mean something in its own space alone."""
    default = probe.manifest.default
    if upper is None and lower is None:
        if space not in (None, default.space):
            raise ScreenError(
                f"--space is '{space}' but no bound is given, and the default bounds of {probe.id} are in "
                f"'{default.space}'; give --upper or --lower, or leave --space out",
                param="space",
            )
        upper, lower = default.upper, default.lower
    return Bounds(lower=lower, upper=upper, space=space or default.space)


def _print(found: Screened, probe: Probe) -> None:
    screen = found.screen
    table = Table("set", "layers", "effect", "placebo", "difference", "KL", "placebo KL", "effect / KL", "p (Holm)", "")
    out = Console(emoji=False)
    if not out.is_terminal:
        out = Console(emoji=False, width=_WIDTH)
    for figures in found.figures:
        row = figures.row
        mark = "chosen" if row.layers == screen.chosen else "beats" if row.beats_placebo else ""
        table.add_row(
            row.role,
            ranges(row.layers),
            f"{row.effect:.3f}",
            f"{row.placebo_effect:.3f}",
            _with(row.difference, row.difference_interval),
            f"{row.kl:.4f}",
            f"{row.placebo_kl:.4f}",
            _with(row.per_kl, row.per_kl_interval),
            f"{figures.p_holm:.4f}",
            mark,
        )
    out.print(table)
    side = f"upper {screen.upper}" if screen.lower is None else f"lower {screen.lower}"
    lost = sum(figures.unscored for figures in found.figures)
    out.print(
        f"{probe.id}, {side} in {screen.space}, {screen.metric}; {screen.prompts} prompts, {screen.new_tokens} tokens, "
        f"judged by {screen.scorer}; {found.unscored} prompts left out and {lost} steered continuations counted as no "
        "change, for want of a word to score",
        soft_wrap=True,
        highlight=False,
        markup=False,
    )
    if screen.chosen:
        out.print(f"default layers: {ranges(screen.chosen)}", highlight=False)
    else:
        out.print(
            "no set of layers changes the text more than its placebo: the probe is marked causal: false",
            style="yellow",
            soft_wrap=True,
        )


def _with(value: float, interval: Interval) -> str:
    return f"{value:.3g} [{interval[0]:.3g}, {interval[1]:.3g}]"
