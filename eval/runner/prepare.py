"""Everything a run needs, made and checked before a single token is written."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.runner.arms import RunArm, ready_arms
from eval.runner.errors import SpecError
from eval.runner.local import LocalWriter
from eval.runner.measures import LogProbs, Measure, RemoteLogProbs, Scores
from eval.runner.neutral import Excerpt, read_excerpts
from eval.runner.overlap import refuse_overlap
from eval.runner.prompts import Prompt, read_prompts
from eval.runner.provenance import file_hashes
from eval.runner.reading import ReadSpec
from eval.runner.remote import HttpWriter
from eval.runner.rows import Chunk, Row, chunks_of
from eval.runner.scorers import load_scorers
from eval.runner.writer import Writer
from steering import LanguageModel, ProbeStore, load_model
from steering.identity import hash_json

Load = Callable[[str], LanguageModel]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run that can begin."""

    read: ReadSpec
    prompts: list[Prompt]
    arms: list[RunArm]
    left_out: list[str]
    """What the spec did without, in sentences"""
    scorers: dict[str, Scores]
    writer: Writer
    lm: LanguageModel | None
    """What measures log-probabilities; None: the server does"""
    compared: dict[str, int]
    """Training file -> texts the prompts were compared with"""
    files: dict[str, Path]
    excerpts: list[Excerpt]
    """Neutral text on which the cost of steering is read"""

    @cached_property
    def chunks(self) -> list[Chunk]:
        """All rows, in the order they are written."""
        spec = self.read.spec
        return chunks_of(self.prompts, self.arms, samples=spec.samples, seed=spec.decoding.seed, size=spec.chunk)

    @property
    def probes(self) -> dict[str, str]:
        """Id -> content hash of every probe some arm uses."""
        used = dict.fromkeys(held.probe for arm in self.arms for held in arm.constraints)
        return {name: self.writer.probe(name).sha256 for name in used}

    @property
    def identity(self) -> dict[str, Any]:
        """What the samples depend on: a run that is resumed must have the same."""
        spec, facts = self.read.spec, self.writer.facts
        return {
            "spec": spec.name,
            "model": facts.model,
            "writer": facts.kind,
            "version": facts.version,
            "probes": self.probes,
            "prompts": {name: sum(prompt.set == name for prompt in self.prompts) for name in self._sets},
            "prompts_sha256": hash_json(
                [[prompt.set, prompt.id, prompt.stratum, prompt.text] for prompt in self.prompts]
            ),
            "decoding": spec.decoding.model_dump(),
            "samples": spec.samples,
            "arms": [arm.to_json() for arm in self.arms],
            "scorers": {scores.name: scores.card for scores in self.scorers.values()},
            "thresholds": {self.scorers[scorer.name].name: scorer.threshold for scorer in spec.scorers},
            "neutral": self._neutral,
            "chunk": spec.chunk,
            "batch": spec.batch,
        }

    @property
    def _sets(self) -> list[str]:
        return list(dict.fromkeys(prompt.set for prompt in self.prompts))

    @property
    def _neutral(self) -> dict[str, Any] | None:
        wanted = self.read.spec.neutral
        if wanted is None or not self.excerpts:
            return None
        return {"lead": wanted.lead, "sha256": hash_json([excerpt.ids for excerpt in self.excerpts])}

    def measures(self) -> list[Measure]:
        """Log-probabilities, by the model here or else by the server's, then every scorer."""
        texts = {(prompt.set, prompt.id): prompt.text for prompt in self.prompts}
        measured: list[Measure] = []
        if self.lm is not None:
            measured = [LogProbs(self.lm, texts)]
        elif isinstance(self.writer, HttpWriter):
            measured = [RemoteLogProbs(self.writer.logprobs, self.writer.facts.model, texts)]
        return [*measured, *self.scorers.values()]


def prepare(
    read: ReadSpec,
    *,
    load: Load = load_model,
    train_data: Sequence[Path] = (),
    patience: float = 60.0,
    concurrency: int = 8,
    max_rows: int | None = None,
) -> Prepared:
    """Load and check all that `read` names, at most `max_rows` continuations.

    Raises SpecError and its kin, RunStopped when a server does not answer.
    """
    spec = read.spec
    scorers = load_scorers([scorer.name for scorer in spec.scorers])
    prompts, dropped = read_prompts(read)
    training = {**{name: read.path(name) for name in spec.train_data}, **{path.name: path for path in train_data}}
    compared = refuse_overlap(prompts, list(training.values()))
    lm = None if spec.model is None else load(_model_name(spec.model, read))
    writer = _writer(read, lm, patience=patience, concurrency=concurrency)
    try:
        only = spec.probe or (writer.probes[0] if len(writer.probes) == 1 else None)
        arms, without = ready_arms(
            spec.arms, find=writer.probe, only_probe=only, num_hidden_layers=writer.facts.num_hidden_layers
        )
        rows = [Row(arms[0], prompt, 0, 0) for prompt in prompts]
        asked = len(prompts) * spec.samples * len(arms)
        if max_rows is not None and asked > max_rows:
            raise SpecError(
                f"prompts x samples x arms, placebos included, is {asked} continuations; expected at most {max_rows}",
                param="samples",
            )
        writer.check(arms, rows, spec.decoding)
        excerpts = [] if lm is None or spec.server is not None else read_excerpts(read, lm)
    except BaseException:
        writer.close()
        raise
    if spec.neutral is not None and not excerpts:
        without.append("the cost on neutral text was not measured: that needs model and probes here, not on a server")
    named = [source.file for source in spec.prompts] + [spec.neutral.file if spec.neutral else None]
    files = {name: read.path(name) for name in named if name is not None} | training
    return Prepared(read, prompts, arms, [*dropped, *without], scorers, writer, lm, compared, files, excerpts)


def hashes(prepared: Prepared) -> dict[str, str]:
    """SHA-256 of every file the run read."""
    return file_hashes(prepared.files)


def _writer(read: ReadSpec, lm: LanguageModel | None, *, patience: float, concurrency: int) -> Writer:
    spec = read.spec
    if spec.server is None:
        assert lm is not None, "a spec names a model or a server"
        return LocalWriter(lm, _store(read, lm), batch=spec.batch)
    if spec.probes is not None:
        raise SpecError("probes names a folder, but the server brings its own; leave probes out", param="probes")
    writer = HttpWriter(
        spec.server, tokenizer=None if lm is None else lm.tokenizer, patience=patience, concurrency=concurrency
    )
    if lm is not None and writer.facts.model["revision"] != lm.info.revision:
        writer.close()
        raise SpecError(
            f"the server runs {writer.facts.model['id']} at revision {writer.facts.model['revision']}, the spec's "
            f"model is {lm.info.id} at {lm.info.revision}; name the same one, or none and do without logprobs",
            param="model",
        )
    return writer


def _store(read: ReadSpec, lm: LanguageModel) -> ProbeStore:
    spec = read.spec
    if spec.probes is not None:
        return ProbeStore.open(read.folder / spec.probes, lm)
    found = importlib.util.find_spec("probes")  # located, not imported: a sibling
    for home in (found.submodule_search_locations or []) if found else []:
        folder = Path(home) / "pretrained" / str(spec.model)
        if folder.is_dir():
            return ProbeStore.open(folder, lm)
    return ProbeStore()


def _model_name(name: str, read: ReadSpec) -> str:
    return str(read.folder / name) if name.startswith(("./", "../")) else name
