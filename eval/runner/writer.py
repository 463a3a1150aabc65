"""Who writes: a model loaded here or a server. Everything else of a run does not know which."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from eval.runner.arms import RunArm
from eval.runner.layers import ProbeFacts
from eval.runner.rows import Continuation, Row
from eval.runner.spec import Decoding


@dataclass(frozen=True)
class WriterFacts:
    """What identifies a writer; on the same facts the same rows are written."""

    kind: str
    """`in process` or `server`"""
    model: dict[str, Any]
    """id, revision, model_type, hidden_size, num_hidden_layers, dtype"""
    version: str
    """Of the build that writes"""

    @property
    def num_hidden_layers(self) -> int:
        """Of the model."""
        return int(self.model["num_hidden_layers"])


class Writer(Protocol):
    """Writes rows. Everything a caller can get wrong is refused by `check`, before anything is written."""

    @property
    def facts(self) -> WriterFacts:
        """Who writes."""
        ...

    def probe(self, name: str) -> ProbeFacts:
        """`name@version`, or the newest `name`. Raises UnknownProbe, naming what there is."""
        ...

    @property
    def probes(self) -> Sequence[str]:
        """Ids of the probes at hand."""
        ...

    def manifests(self, names: Iterable[str]) -> dict[str, Any]:
        """Id -> manifest as plain values, of those among `names` that can be had: a server does not give them out."""
        ...

    def check(self, arms: Sequence[RunArm], rows: Sequence[Row], decoding: Decoding) -> None:
        """Raise SpecError, naming the arm or the prompt, for what could not be written; `rows` are those of one arm
        that steers nothing.
        """
        ...

    def writing(self) -> AbstractContextManager[None]:
        """The time in which rows are written; what is needed for that alone is held no longer."""
        ...

    def write(self, rows: Sequence[Row], decoding: Decoding) -> Iterator[Continuation]:
        """One continuation per row, in the same order. Raises RunStopped when writing cannot go on."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...
