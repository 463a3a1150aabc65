"""The rows of a run and their order: prompts x samples, cut into chunks, each chunk under every arm in turn.

So an interrupted run has the same prompts under all arms, and the arms share whatever else the machine was doing.
A row's seed follows from the run's seed, the prompt's text and the sample's number, and from nothing else: it is the
same under every arm (paired), and adding prompts or arms moves no other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eval.runner.arms import RunArm
from eval.runner.prompts import Prompt


@dataclass(frozen=True)
class Row:
    """One continuation to be written."""

    arm: RunArm
    prompt: Prompt
    sample: int
    seed: int


@dataclass(frozen=True)
class Continuation:
    """What was written for a row."""

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int
    """With the instruction, where there is one"""
    steering: dict[str, Any] | None
    """The report, as in the HTTP reply; None under an arm that steers nothing"""


@dataclass(frozen=True)
class Chunk:
    """Rows of one arm that are kept together."""

    index: int
    rows: tuple[Row, ...]


def sample_seed(seed: int, text: str, sample: int) -> int:
    """A number below 2^31."""
    digest = hashlib.sha256(f"{seed}\0{sample}\0{text}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def chunks_of(prompts: Sequence[Prompt], arms: Sequence[RunArm], *, samples: int, seed: int, size: int) -> list[Chunk]:
    """Every row of the run, in the order it is written."""
    pairs = [(prompt, sample) for prompt in prompts for sample in range(samples)]
    chunks: list[Chunk] = []
    for at in range(0, len(pairs), size):
        for arm in arms:
            rows = tuple(
                Row(arm, prompt, sample, sample_seed(seed, prompt.text, sample))
                for prompt, sample in pairs[at : at + size]
            )
            chunks.append(Chunk(len(chunks), rows))
    return chunks
