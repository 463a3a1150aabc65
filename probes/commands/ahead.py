"""`tiller probe train --on-policy`: the options of a look-ahead probe, and what is done with them.

tiller probe train --on-policy --prompts prompts.jsonl --model ... --data texts.jsonl --concept toxicity --out DIR
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from probes.errors import FitError

if TYPE_CHECKING:
    from probes.training.recipe import Parts, Recipe
    from probes.training.train import Progress
    from steering.models import LanguageModel

_PANEL = "With --on-policy"
OnPolicy = Annotated[
    bool,
    typer.Option(
        "--on-policy",
        help="A look-ahead probe: the model continues --prompts; its states are labelled by what it wrote next.",
        rich_help_panel=_PANEL,
    ),
]
PromptFiles = Annotated[
    list[Path] | None,
    typer.Option("--prompts", help="Texts with a column 'prompt' or 'text' (repeatable).", rich_help_panel=_PANEL),
]
Excluded = Annotated[
    list[Path] | None,
    typer.Option(
        "--exclude-prompts",
        help="Leave out prompts that begin a row of this file: those of a report or screen (repeatable).",
        rich_help_panel=_PANEL,
    ),
]
Words = Annotated[
    int | None,
    typer.Option("--prompt-words", min=1, help="Cut prompts to their first words.", rich_help_panel=_PANEL),
]
Count = Annotated[
    int | None,
    typer.Option("--prompt-count", min=1, help="Prompts used, chosen by hash; default 400.", rich_help_panel=_PANEL),
]
Continuations = Annotated[
    int | None, typer.Option("--continuations", min=1, help="Per prompt; default 4.", rich_help_panel=_PANEL)
]
NewTokens = Annotated[
    int | None, typer.Option("--new-tokens", min=1, help="Of a continuation; default 40.", rich_help_panel=_PANEL)
]
Horizon = Annotated[
    int | None,
    typer.Option(
        "--horizon", min=1, help="Tokens of the window that labels a state; default 10.", rich_help_panel=_PANEL
    ),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        "--window-threshold", help="A window scored above it is the concept; default 0.5.", rich_help_panel=_PANEL
    ),
]
Quantile = Annotated[
    float | None,
    typer.Option(
        "--window-quantile",
        help="Take this quantile of all window scores as the threshold instead.",
        rich_help_panel=_PANEL,
    ),
]
StatesCap = Annotated[
    int | None,
    typer.Option("--states", min=1, help="Of one continuation, at most; default 12.", rich_help_panel=_PANEL),
]
CorpusShare = Annotated[
    float | None,
    typer.Option("--corpus-share", help="Weight of --data in the fit, 0 to 1; default 0.5.", rich_help_panel=_PANEL),
]
Iterations = Annotated[
    int | None,
    typer.Option("--iterations", help="2: once more, steered by the first probe; default 1.", rich_help_panel=_PANEL),
]
Compare = Annotated[
    Path | None,
    typer.Option("--compare", help="A probe of finished texts, to compare warnings with.", rich_help_panel=_PANEL),
]


@dataclass(frozen=True)
class AheadOptions:
    """As given; None is the default."""

    prompts: Sequence[Path] | None
    exclude_prompts: Sequence[Path] | None
    prompt_words: int | None
    prompt_count: int | None
    continuations: int | None
    new_tokens: int | None
    horizon: int | None
    window_threshold: float | None
    window_quantile: float | None
    states: int | None
    corpus_share: float | None
    iterations: int | None
    compare: Path | None

    def refuse_alone(self) -> None:
        """Raise FitError when an option is given that means nothing without --on-policy."""
        given = [field.name for field in fields(self) if getattr(self, field.name) not in (None, [], ())]
        if given:
            flag = "--" + given[0].replace("_", "-")
            raise FitError(f"{flag} belongs to a look-ahead probe; add --on-policy, or leave it out", param=given[0])

    def refuse_beside(self, recipe: Recipe, *, out_of_domain: bool) -> None:
        """Raise FitError for options of the ordinary training that a look-ahead probe has no use for."""
        for flag, given in (
            ("--carry", recipe.carry),
            ("--pooling best", len(recipe.poolings) > 1),
            ("--pooling all", "all" in recipe.poolings),
            ("--method", recipe.method != "logistic"),
            ("--coordinates", recipe.coordinates is not None),
            ("--template chat", recipe.template == "chat"),
            ("--ood", out_of_domain),
        ):
            if given:
                raise FitError(f"{flag} is not available with --on-policy; leave it out", param=flag[2:].split()[0])


def train_ahead(
    lm: LanguageModel,
    parts: Parts,
    recipe: Recipe,
    options: AheadOptions,
    *,
    out: Path,
    work: Path,
    progress: Progress,
) -> Path:
    """Read the prompts and the probe to compare with, and run. Raises as `probes.lookahead` does."""
    from probes.lookahead.prompts import read_prompts
    from probes.lookahead.recipe import Ahead
    from probes.lookahead.train import run_ahead
    from probes.lookahead.windows import Rule
    from probes.lookahead.writing import Pen
    from steering.artefact import load_probe

    def given(name: str, default: float) -> float:
        value: float | None = getattr(options, name)
        return default if value is None else value

    ahead = Ahead(
        pen=Pen(
            continuations=int(given("continuations", 4)), new_tokens=int(given("new_tokens", 40)), seed=recipe.seed
        ),
        rule=Rule(
            horizon=int(given("horizon", 10)),
            threshold=given("window_threshold", 0.5),
            quantile=options.window_quantile,
        ),
        states=int(given("states", 12)),
        corpus_share=given("corpus_share", 0.5),
        iterations=int(given("iterations", 1)),
    )
    prompts = read_prompts(
        options.prompts or (),
        words=options.prompt_words,
        limit=int(given("prompt_count", 400)),
        exclude=options.exclude_prompts or (),
        seed=recipe.seed,
    )
    progress.say(f"{len(prompts)} prompts; left out: {prompts.repeated} repeated, {prompts.excluded} excluded")
    compare = None if options.compare is None else load_probe(options.compare)
    return run_ahead(lm, parts, recipe, ahead, prompts, out=out, work=work, compare=compare, progress=progress)
