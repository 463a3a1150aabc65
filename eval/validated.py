"""python -m eval.validated --data ../shared/data

How the shipped scorers agree with references, as stored in `eval/validated.json` (figures and file hashes, no text),
and the command that measures them again. `--write` stores what it found; `--scorer` measures others, such as a local
Detoxify checkpoint, and prints them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from eval.metrics import compression_ratio, repetition
from eval.statistics import Estimate
from eval.validation import (
    Reference,
    Validation,
    read_labelled,
    read_naturalness,
    read_rated_generations,
    read_scored_generations,
    read_translations,
    validate,
)
from steering.commandline import run_app
from steering.scorers import Score, Scorer, ScorerCard, make_scorer

STORE = "validated.json"

RATED = "fluency/steered_generations_rated.jsonl.gz"
TOXIC: tuple[Callable[[Path], Reference], ...] = (
    lambda data: read_scored_generations(data / "prompts/rtp_gpt2_scored_generations.jsonl.gz"),
    lambda data: read_rated_generations(data / RATED),
)
POSITIVE: tuple[Callable[[Path], Reference], ...] = (
    lambda data: _labelled(data / "sentiment/sst2_dev.jsonl", "sst2-dev", "the annotators of SST-2"),
    lambda data: _labelled(data / "sentiment/imdb_sample.jsonl.gz", "imdb", "the authors' own stars (IMDB)"),
)
SPANISH: tuple[Callable[[Path], Reference], ...] = (
    lambda data: read_translations(data / "language/tatoeba_en_es_pairs.jsonl"),
)
NATURAL: tuple[Callable[[Path], Reference], ...] = (lambda data: read_naturalness(data / RATED),)


class _Detector(Scorer):
    """A detector of collapse in the place of a scorer, on the words of a text."""

    def __init__(self, name: str, measure: Callable[[str], float]) -> None:
        self.card = ScorerCard(name, "formula", "1", "nothing", "repetitive")
        self._measure = measure

    def judge(self, texts: Sequence[str]) -> list[Score]:
        return [Score(self._measure(text)) for text in texts]


SHIPPED: dict[str, tuple[Callable[[], Scorer], tuple[Callable[[Path], Reference], ...]]] = {
    "alt-profanity-check": (lambda: make_scorer("alt-profanity-check"), TOXIC),
    "vader": (lambda: make_scorer("vader"), (*POSITIVE, *TOXIC)),
    "spanish": (lambda: make_scorer("spanish"), SPANISH),
    "repetition": (lambda: _Detector("repetition", lambda text: repetition(text.split())), NATURAL),
    "compression": (lambda: _Detector("compression", lambda text: compression_ratio([text])), NATURAL),
}
"""What is stored: scorers, and the detectors of collapse against human ratings of naturalness."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def published(name: str) -> list[Validation]:
    """The stored figures of the scorer called `name`; empty for one that was never validated here.

    They hold for the revision they name; a report compares it with that of the card.
    """
    rows = json.loads(files("eval").joinpath(STORE).read_text(encoding="utf-8"))
    return [_from_json(row) for row in rows if row["scorer"] == name]


def sentence(found: Validation) -> str:
    """One validation in words, for the foot of a report."""
    return (
        f"{found.scorer} {found.revision} (high is {found.scorer_higher_is}) against {found.reference_judge}: Spearman "
        f"{_shown(found.spearman)}, AUROC {_shown(found.auroc)} for {found.reference_higher_is} at 0.5; {found.n} "
        f"texts of {found.prompts} prompts, {found.positives} {found.reference_higher_is}, {found.unscored} "
        f"not scored; {found.date}"
    )


@app.command()
def command(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    scorer: Annotated[
        list[str] | None, typer.Option(help="Toxicity scorer to measure, as in a spec (repeatable); default: shipped.")
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Store the figures of the shipped ones in the package.")
    ] = False,
) -> None:
    """Measure how scorers agree with references, and print it."""
    if write and scorer:
        raise typer.BadParameter("what is stored is the shipped scorers; leave out --scorer", param_hint="--write")
    asked = {name: (lambda name=name: make_scorer(name), TOXIC) for name in scorer or []} or SHIPPED
    made = [(make(), references) for make, references in asked.values()]
    err = Console(stderr=True)
    found = []
    for judge, references in made:
        for read in references:
            with err.status(f"{judge.card.name}"):
                found.append(validate(judge, read(data)))
            typer.echo(sentence(found[-1]))
    if write:
        text = json.dumps([_to_json(row) for row in found], indent=2)
        Path(__file__).with_name(STORE).write_text(text + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    return run_app(app, argv, prog_name="python -m eval.validated")


def _labelled(path: Path, name: str, judge: str) -> Reference:
    return read_labelled(path, name=name, judge=judge, higher_is="positive")


def _to_json(found: Validation) -> dict[str, Any]:
    """An Estimate as a list, rounded to what its interval can tell."""
    return {
        key: [None if math.isnan(part) else round(part, 4) for part in value] if isinstance(value, tuple) else value
        for key, value in asdict(found).items()
    }


def _from_json(row: dict[str, Any]) -> Validation:
    values: dict[str, Any] = {
        key: Estimate(*(math.nan if part is None else part for part in value)) if isinstance(value, list) else value
        for key, value in row.items()
    }
    return Validation(**values)


def _shown(estimate: Estimate) -> str:
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


if __name__ == "__main__":
    sys.exit(main())
