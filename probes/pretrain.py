"""python -m probes.pretrain --data ../shared/data [--only toxicity]

Rebuilds the three probes that ship with the embedded model, `probes/pretrained/smollm2-135m-instruct/<name>/1/`, from
the data sets that the project's data page describes. `make probes` calls this. About forty minutes on one CPU thread;
interrupted, the same line resumes. An existing probe is left alone: delete its folder to make it again.

toxicity   high = toxic     Wikipedia comments; out of domain: tweets (Davidson) and lower-cased Civil/Jigsaw sentences
sentiment  high = positive  film review phrases (SST-2); out of domain: whole film reviews (IMDB)
language   high = Spanish   quotations; out of domain: Tatoeba sentence pairs, where both languages say the same
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.console import bars
from probes.corpus import Corpus, Row, checked
from probes.errors import CorpusError
from probes.fitting.table import SHIPPED_GROUPS
from probes.reading import Columns, read_corpus, read_records
from probes.recipe import Parts, Recipe, arrange
from probes.train import run
from steering.bounds import Bounds
from steering.commandline import run_app
from steering.embedded import SMOLLM2, tiller_home
from steering.models import load_model

SHIPPED = Path(__file__).parent / "pretrained" / SMOLLM2.name
_COMMAND = "python -m probes.pretrain --data DATA --only"


def toxicity(data: Path) -> tuple[Parts, Recipe]:
    """Fit on 6,000 Jigsaw comments, calibrate on 1,000, test on the LiSeCo paper's 500 and two other sources."""
    folder = data / "toxicity"
    parts = arrange(
        read_corpus(folder / "jigsaw_train.jsonl.gz"),
        calibration=read_corpus(folder / "jigsaw_val.jsonl.gz"),
        test=read_corpus(folder / "jigsaw_test_liseco500.jsonl"),
        out_of_domain={
            "davidson": read_corpus(folder / "davidson_test.jsonl.gz"),
            "civil": read_corpus(folder / "civil_jigsaw_lower_test.jsonl.gz"),
        },
        drop_leaks=True,  # one training comment differs from a test comment in case and spacing only
    )
    recipe = Recipe(
        name="toxicity",
        concept="toxicity",
        positive_is="toxic",
        labels=("non-toxic", "toxic"),
        dataset="Jigsaw Toxic Comments (balanced subset); tests: LiSeCo 500, Davidson, Civil/Jigsaw lower-cased",
        licence="labels CC0, Wikipedia comments CC BY-SA 3.0",
        bounds=Bounds(upper=0.1),
    )
    return parts, recipe


def sentiment(data: Path) -> tuple[Parts, Recipe]:
    """Fit and calibrate on 6,000 SST-2 phrases (85:15), test on SST-2 dev and IMDB. High means positive."""
    folder = data / "sentiment"
    parts = arrange(
        read_corpus(folder / "sst2_train.jsonl.gz"),
        test=read_corpus(folder / "sst2_dev.jsonl"),
        out_of_domain={"imdb": read_corpus(folder / "imdb_sample.jsonl.gz")},
    )
    recipe = Recipe(
        name="sentiment",
        concept="sentiment",
        positive_is="positive sentiment",
        labels=("negative", "positive"),
        dataset="GLUE SST-2 (subset); tests: SST-2 dev, IMDB sample",
        licence="none stated (research use)",
        bounds=Bounds(lower=0.9),
    )
    return parts, recipe


def language(data: Path) -> tuple[Parts, Recipe]:
    """Fit, calibrate and test on 3,000 quotations, test on Tatoeba pairs. High means Spanish."""
    folder = data / "language"
    parts = arrange(
        read_corpus(folder / "quotes_en_es.jsonl.gz", columns=Columns(positive="es")),
        out_of_domain={"tatoeba": flatten_pairs(folder / "tatoeba_en_es_pairs.jsonl", negative="en", positive="es")},
    )
    recipe = Recipe(
        name="language",
        concept="language: Spanish rather than English",
        positive_is="Spanish",
        labels=("English", "Spanish"),
        dataset="Quotations in English and Spanish (fortunes, fortunes-es); test: Tatoeba pairs",
        licence="English BSD, Spanish public domain; Tatoeba CC BY 2.0 FR",
        bounds=Bounds(lower=0.9),
    )
    return parts, recipe


def flatten_pairs(path: Path, *, negative: str, positive: str) -> Corpus:
    """One row with each label per pair, the two in one group, from a JSONL file with two text columns."""
    rows = []
    for number, record in read_records(path):
        for label, column in enumerate((negative, positive)):
            if not isinstance(record.get(column), str):
                raise CorpusError(f"{path}, row {number}: no text in column '{column}'; expected a pair")
            rows.append(Row(number=number, text=record[column], label=label, group=f"pair {number}"))
    return checked(Corpus(name=path.name.split(".")[0], rows=tuple(rows)))


PROBES: dict[str, Callable[[Path], tuple[Parts, Recipe]]] = {
    "toxicity": toxicity,
    "sentiment": sentiment,
    "language": language,
}


def pretrain(
    data: Annotated[Path, typer.Option(help="Folder of the data sets.")],
    only: Annotated[list[str] | None, typer.Option(help="toxicity, sentiment or language (repeatable).")] = None,
    out: Annotated[Path, typer.Option(help="Folder the probes go to.")] = SHIPPED,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: cores that are not busy.")] = None,
    work: Annotated[Path | None, typer.Option(help="Keep activations here; default: removed at the end.")] = None,
) -> None:
    """Rebuild the probes that ship with the embedded model."""
    strangers = set(only or []) - PROBES.keys()
    if strangers:
        raise CorpusError(f"--only {' '.join(sorted(strangers))}: no such recipe; known are {', '.join(PROBES)}")
    if not data.is_dir():
        raise CorpusError(f"there is no folder {data}; --data names the folder of the data sets (toxicity/, ...)")
    err = Console(stderr=True)
    wanted = [name for name in PROBES if only is None or name in only]
    missing = [name for name in wanted if not (out / name / "1").exists()]
    for name in sorted(set(wanted) - set(missing)):
        err.print(f"{name}@1 is there already; delete {out / name / '1'} to make it again", soft_wrap=True)
    if not missing:
        return
    language_model = load_model(SMOLLM2.name, device="cpu", dtype="float32", threads=threads)
    for name in missing:
        parts, recipe = PROBES[name](data)
        recipe = replace(recipe, poolings=("last", "mean"), carry=SHIPPED_GROUPS, command=f"{_COMMAND} {name}")
        folder = (work or tiller_home() / "harvest") / f"pretrain-{name}"
        with bars(err) as progress:
            made = run(language_model, parts, recipe, out=out, work=folder, progress=progress)
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)
        err.print(f"{name}: {made}", soft_wrap=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(pretrain)
    return run_app(
        app,
        argv,
        prog_name="python -m probes.pretrain",
        interrupted="interrupted; finished activations are kept: run the same line again to resume",
    )


if __name__ == "__main__":
    sys.exit(main())
