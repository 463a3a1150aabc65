"""Progress of a training run on a terminal: bars with the time left, lines between them. All on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from probes.training.train import Progress


@contextmanager
def bars(console: Console) -> Iterator[Progress]:
    """A Progress that draws on `console` while the context is open."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console) as drawn:

        def stage(name: str, total: int) -> Callable[[int], None]:
            task = drawn.add_task(name, total=total)
            return lambda done: drawn.advance(task, done)

        yield Progress(stage=stage, say=lambda line: drawn.console.print(line, highlight=False, markup=False))
