"""python -m probes.pretrain --data ../shared/data [--only toxicity]

Rebuilds the three probes that ship with the embedded model, `probes/pretrained/smollm2-135m-instruct/<name>/1/`, from
the data sets that the project's data page describes, and writes their tables into `probes/README.md`. `make probes`
calls this. About two hours on one CPU thread, half of it the causal screens; interrupted, the same line resumes. An
existing probe is left alone: delete its folder to make it again.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from probes.console import bars
from probes.errors import CorpusError
from probes.shipping.build import VERSION, build, clean
from probes.shipping.recipes import PROBES
from probes.shipping.tables import write_tables
from steering.commandline import run_app
from steering.embedded import SMOLLM2, tiller_home
from steering.models import load_model

SHIPPED = Path(__file__).parent / "pretrained" / SMOLLM2.name


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
    missing = [name for name in wanted if not (out / name / VERSION).exists()]
    for name in sorted(set(wanted) - set(missing)):
        err.print(f"{name}@1 is there already; delete {out / name / VERSION} to make it again", soft_wrap=True)
    if missing:
        language_model = load_model(SMOLLM2.name, device="cpu", dtype="float32", threads=threads)
        for name in missing:
            folder = (work or tiller_home() / "harvest") / f"pretrain-{name}"
            with bars(err) as progress:
                made = build(name, data, language_model=language_model, out=out, work=folder, progress=progress)
            if work is None:
                clean(folder)
            err.print(f"{name}: {made}", soft_wrap=True)
    if out == SHIPPED:
        write_tables(out)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(pretrain)
    return run_app(
        app,
        argv,
        prog_name="python -m probes.pretrain",
        interrupted="interrupted; finished work is kept: run the same line again to resume",
    )


if __name__ == "__main__":
    sys.exit(main())
