"""Write: the model continues every prompt several times; the token ids go to disk batch by batch.

    folder/index.json          what is being written: prompts, model, sampling, plan; compared on resuming
    folder/batch-00000.json    {"rows": [[prompt, continuation], ...], "prompts": [ids], "tokens": [ids]}

Every batch is whole or absent, and a row's draws depend on its own seed and logits, so that an interrupted run leaves
the same files as one that was not. Ids, not texts: nothing toxic is legible on disk, and nothing is lost by decoding.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from probes.errors import HarvestError
from probes.lookahead.prompts import Prompts
from steering.artefact import content_sha256
from steering.generation import generate
from steering.models import LanguageModel
from steering.plan import Plan
from steering.requests import Request, encode
from steering.sampling import Sampling
from steering.writing import end_tokens


@dataclass(frozen=True)
class Pen:
    """How the model writes."""

    continuations: int = 4
    """Per prompt."""
    new_tokens: int = 40
    top_p: float = 0.9
    temperature: float = 1.0
    batch: int = 64
    """Rows of one batch; part of the result only through rounding."""
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Written:
    """One prompt with one continuation, as token ids."""

    prompt: int
    """Position in the prompts."""
    continuation: int
    prompt_ids: tuple[int, ...]
    new_ids: tuple[int, ...]
    """Without the end-of-text token."""


def write(
    lm: LanguageModel,
    prompts: Prompts,
    folder: Path,
    pen: Pen,
    *,
    plan: Plan | None = None,
    advance: Callable[[int], None] = lambda rows: None,
) -> list[Written]:
    """All continuations, in an order that depends on the prompts alone; batches on disk are not written again.

    Raises HarvestError when `folder` holds continuations of other inputs, PromptTooLong for a prompt that leaves no
    room for `new_tokens`, InvalidRequest for settings outside their range.
    """
    _prepare(
        folder,
        {"prompts": prompts.sha256, "model": model_key(lm), "pen": asdict(pen), "plan": plan_key(plan), "format": 1},
    )
    encoded = [tuple(encode(lm, text, max_tokens=pen.new_tokens)) for text in prompts.texts]
    order = sorted(range(len(encoded)), key=lambda at: (len(encoded[at]), at))
    rows = [(at, turn) for at in order for turn in range(pen.continuations)]
    ends = end_tokens(lm)
    written: list[Written] = []
    for number, start in enumerate(range(0, len(rows), pen.batch)):
        batch = rows[start : start + pen.batch]
        path = folder / f"batch-{number:05d}.json"
        if not path.exists():
            requests = [
                Request(encoded[at], _sampling(pen, prompt=prompts.texts[at], turn=turn), plan) for at, turn in batch
            ]
            done = [completion.token_ids for completion in generate(lm, requests)]
            write_json(path, {"rows": batch, "prompts": [encoded[at] for at, _ in batch], "tokens": done})
        written += _read(path, ends)
        advance(len(batch))
    return written


def plan_key(plan: Plan | None) -> str:
    """What identifies a plan: the numbers of its probes and every setting of its constraints; "" for none."""
    if plan is None:
        return ""
    parts = [
        (content_sha256(c.probe), c.bounds, c.at_layers, c.controller, c.prompt, c.generation, c.strength, c.max_dose,
         c.seed, c.metric, c.shadow, c.settings)
        for c in plan.constraints
    ]  # fmt: skip
    return hashlib.sha256(repr((plan.mode, plan.on_infeasible, parts)).encode()).hexdigest()


def model_key(lm: LanguageModel) -> str:
    """What identifies the model and the tokenizer a number came from."""
    info = lm.info
    return ":".join((info.revision, info.config_sha256, info.dtype, lm.tokenizer_info.sha256))


def _sampling(pen: Pen, *, prompt: str, turn: int) -> Sampling:
    digest = hashlib.sha256(f"{pen.seed}:{turn}:{prompt}".encode()).digest()
    return Sampling(
        max_tokens=pen.new_tokens,
        temperature=pen.temperature,
        top_p=pen.top_p,
        seed=int.from_bytes(digest[:6], "big"),
    )


def _read(path: Path, ends: frozenset[int]) -> Iterator[Written]:
    found = json.loads(path.read_text(encoding="utf-8"))
    for (at, turn), prompt, new in zip(found["rows"], found["prompts"], found["tokens"], strict=True):
        yield Written(at, turn, tuple(prompt), tuple(new[:-1] if new and new[-1] in ends else new))


def _prepare(folder: Path, index: dict[str, object]) -> None:
    """Make the folder, or make sure that it holds what `index` says."""
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".partial-*"):
        leftover.unlink()
    path, said = folder / "index.json", json.loads(json.dumps(index))
    if not path.exists():
        write_json(path, index)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    different = [name for name in said if there.get(name) != said[name]]
    if different:
        raise HarvestError(
            f"{folder} holds continuations of other inputs ({', '.join(different)} differ); give another --work, or "
            "delete that folder",
            param="work",
        )


def write_json(path: Path, value: object) -> None:
    """Write a JSON file so that it is whole or absent. Raises HarvestError when there is no room or right."""
    aside = path.with_name(f".partial-{path.name}")
    try:
        aside.write_text(json.dumps(value), encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise HarvestError(
            f"{path} cannot be written ({error.strerror or error}); free some space or give another --work",
            param="work",
        ) from error
