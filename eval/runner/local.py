"""The model loaded here writes, through an engine that lives while rows are being written and no longer.

The rows of one `write` are queued together, so which of them share a pass follows from them alone: a chunk that is
written again after a kill is the same to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from eval.runner.arms import RunArm
from eval.runner.errors import RunStopped, SpecError
from eval.runner.layers import ProbeFacts
from eval.runner.rows import Continuation, Row
from eval.runner.spec import Decoding
from eval.runner.writer import WriterFacts
from steering import Completion, Engine, LanguageModel, Plan, Probe, ProbeStore, Request, Sampling, TillerError
from steering.controllers.prompt import instructed
from steering.errors import InvalidRequest, UnknownProbe
from steering.requests import encode
from steering.version import __version__

MOST_ROWS = 1_000_000
"""Of one `write`: no run has as many."""


class LocalWriter:
    """Writes with `lm`, steered by the probes of `store`, `batch` rows at a time."""

    def __init__(self, lm: LanguageModel, store: ProbeStore, *, batch: int = 16) -> None:
        self.lm = lm
        self._store = store
        self._batch = batch
        self._longest = 1
        """Tokens of the longest row that was checked, prompt and continuation"""
        self._engine: Engine | None = None
        self._plans: dict[str, Plan | None] = {}

    @property
    def facts(self) -> WriterFacts:
        """The model as it is loaded."""
        return WriterFacts("in process", self.lm.info.model_dump(), __version__)

    @property
    def probes(self) -> list[str]:
        """Ids of the store's probes."""
        return [probe.id for probe in self._store]

    def loaded(self) -> dict[str, Probe]:
        """Id -> probe."""
        return {probe.id: probe for probe in self._store}

    def probe(self, name: str) -> ProbeFacts:
        """Of the store."""
        if not self.probes:
            raise UnknownProbe(
                f"no probes are at hand for {self.lm.name}; give the folder that holds them with --probes"
            )
        probe = self._store.get(name)
        return ProbeFacts(probe.id, self._store.sha256(probe.id), tuple(probe.layers), probe.manifest.default)

    def manifests(self, names: Iterable[str]) -> dict[str, Any]:
        """Of all of them."""
        return {name: self._store.get(name).manifest.model_dump(mode="json") for name in names}

    def check(self, arms: Sequence[RunArm], rows: Sequence[Row], decoding: Decoding) -> None:
        """Make every plan, and encode every prompt of every kind of arm."""
        sampling_of(decoding, seed=0)
        for arm in arms:
            try:
                plan = self._plan(arm, seed=0)
                if plan is not None:
                    plan.check_representable(self.lm.dtype)
                    plan.check_model(self.lm.model)
                for row in rows if plan is None else rows[:1]:
                    self._request(Row(arm, row.prompt, row.sample, row.seed), decoding)
                    head = encode(self.lm, self._prompt(arm, row.prompt.text), max_tokens=decoding.max_tokens)
                    self._longest = max(self._longest, len(head) + decoding.max_tokens)
            except InvalidRequest as error:
                line = "" if plan_error(error) else f", {row.prompt.set} line {row.prompt.line}"
                raise SpecError(f"arm '{arm.name}'{line}: {error}", param=error.param) from None
            except TillerError as error:
                raise SpecError(f"arm '{arm.name}': {error}", param="arms") from None

    def write(self, rows: Sequence[Row], decoding: Decoding) -> Iterator[Continuation]:
        """All of them queued together; within `writing`. Raises as the engine."""
        assert self._engine is not None, "rows are written within `writing`"
        answers = self._engine.submit_all([self._request(row, decoding) for row in rows])
        for row, answer in zip(rows, answers, strict=True):
            yield _continuation(row, answer.result())

    @contextmanager
    def writing(self) -> Iterator[None]:
        """The engine has the model while the context is open, with room for the longest row that was checked."""
        with Engine(self.lm, slots=self._batch, row_tokens=self._longest, max_queue=MOST_ROWS) as engine:
            self._engine = engine
            try:
                yield
            except BaseException:
                engine.stop()
                raise
            finally:
                self._engine = None

    def close(self) -> None:
        """Nothing to let go of."""

    def _request(self, row: Row, decoding: Decoding) -> Request:
        return Request(
            self._prompt(row.arm, row.prompt.text),
            sampling_of(decoding, seed=row.seed),
            self._plan(row.arm, seed=row.seed),
        )

    def _prompt(self, arm: RunArm, text: str) -> str | tuple[int, ...]:
        return text if arm.instruction is None else instructed(text, arm.instruction, tokenizer=self.lm.tokenizer)

    def _plan(self, arm: RunArm, *, seed: int) -> Plan | None:
        """Made once, but for placebos, whose directions are the row's own."""
        if arm.placebo_of is not None:
            return arm.plan(self._probes(arm), seed=seed)
        if arm.name not in self._plans:
            self._plans[arm.name] = arm.plan(self._probes(arm), seed=0)
        return self._plans[arm.name]

    def _probes(self, arm: RunArm) -> Mapping[str, Any]:
        return {held.probe: self._store.get(held.probe) for held in arm.constraints}


def sampling_of(decoding: Decoding, *, seed: int) -> Sampling:
    """The engine's settings. Raises SpecError for a setting this build does not have, unless it asks for nothing."""
    known = {field.name for field in fields(Sampling)}
    given = {}
    for name, value in decoding.model_dump(exclude={"seed"}).items():
        if name in known:
            given[name] = value
        elif value != Decoding.model_fields[name].default:
            raise SpecError(
                f"decoding.{name} is {value}, but this build samples without it; leave it out and say so with the "
                "figures, or update Tiller",
                param=f"decoding.{name}",
            )
    try:
        return Sampling(seed=seed, **given)
    except InvalidRequest as error:
        raise SpecError(f"decoding: {error}", param=f"decoding.{error.param}") from None


def plan_error(error: InvalidRequest) -> bool:
    """Whether it is about the arm or the decoding, not about a prompt."""
    return error.param != "prompt"


def _continuation(row: Row, completion: Completion) -> Continuation:
    report = completion.steering
    if row.arm.steered and (report is None or not report.applied):
        raise RunStopped(f"a row of arm '{row.arm.name}' came back unsteered; this is a fault of the engine")
    return Continuation(
        text=completion.text,
        token_ids=list(completion.token_ids),
        finish_reason=completion.finish_reason,
        prompt_tokens=completion.prompt_tokens,
        steering=None if report is None else report.to_json(),
    )
