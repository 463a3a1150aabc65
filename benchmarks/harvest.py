"""python benchmarks/harvest.py: what harvesting costs beside the forward passes it is made of, in time and in memory.

Throughput: the embedded model on synthetic texts of 4 to 120 words, all layers, poolings last, mean and all, one torch
thread. Inside one harvest every batch is also passed through the bare decoder body, with no hook and nothing kept; the
two take turns batch by batch, and which goes first alternates, so that what else the machine does falls on both alike.
The ratio is the bare passes' time over all of the harvest's own: tokenising, hooks, pooling, hashing and writing
with fsync included. The median of five rounds, each on other texts (`--quick`: fewer texts). `cpu_ratio` is the same in
processor seconds: what it is where others use the machine too, but blind to waiting for the disk.

Memory: peak resident memory of a process of its own that harvests short texts with a tiny random model, above what it
held with the texts in a list and one shard harvested. The texts are the caller's: they are not counted. The allocator's
share varies by a few MB: 50,000 texts may show more than 100,000.

Bars: a ratio of at least 0.90; and the growth from 1,000 to 100,000 texts (`--quick`: 10,000) at most 16 MB.
Exits 1 when one is missed. Run nothing beside it; `--memory` leaves the throughput out, and then it does not matter.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from probes.harvest import filling, forward
from probes.harvest.activations import Reading, harvest
from probes.harvest.pooling import Pool
from probes.harvest.shards import Pooling
from probes.texts.corpus import Corpus, Row
from steering import LanguageModel, load_model
from steering.tiny import tiny_model

RATIO, GROWTH_MB = 0.90, 16.0
COUNTS = (1000, 10_000, 50_000, 100_000)
POOLINGS: tuple[Pooling, ...] = ("last", "mean", "all")
WORDS = (
    "river",
    "stone",
    "under",
    "seven",
    "quiet",
    "the",
    "and",
    "of",
    "walked",
    "to",
    "green",
    "morning",
    "a",
    "old",
)


def corpus(count: int, *, longest: int, seed: int) -> Corpus:
    """`count` texts of 4 to `longest` words."""
    drawn = random.Random(seed)
    texts = (" ".join(drawn.choices(WORDS, k=drawn.randint(4, longest))) for _ in range(count))
    return Corpus("synthetic", tuple(Row(number, text, number % 2) for number, text in enumerate(texts, start=1)))


def clocks() -> tuple[float, float]:
    """Seconds on the wall, and of the processor."""
    return time.perf_counter(), time.process_time()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """What both clocks have advanced."""
    wall, cpu = clocks()
    return wall - began[0], cpu - began[1]


def add(first: tuple[float, float], second: tuple[float, float]) -> tuple[float, float]:
    """Clock by clock."""
    return first[0] + second[0], first[1] + second[1]


class Alternating:
    """Stands in for `forward.read_batch` and passes every batch through the bare body as well, timed apart."""

    def __init__(self) -> None:
        self.bare, self.batches, self._read = (0.0, 0.0), 0, forward.read_batch

    def __call__(
        self,
        lm: LanguageModel,
        tokens: Sequence[Sequence[int]],
        layers: Sequence[int],
        pools: Mapping[Pooling, Pool],
    ) -> dict[Pooling, Tensor]:
        """What `read_batch` returns."""
        self.batches += 1
        if self.batches % 2:
            self._pass(lm, tokens)
        found = self._read(lm, tokens, layers, pools)
        if not self.batches % 2:
            self._pass(lm, tokens)
        return found

    @torch.inference_mode()
    def _pass(self, lm: LanguageModel, tokens: Sequence[Sequence[int]]) -> None:
        began = clocks()
        width = max(map(len, tokens))
        forward.body_pass(lm, torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in tokens]))
        self.bare = add(self.bare, since(began))


def throughput(lm: LanguageModel, texts: int, *, seed: int) -> dict[str, float]:
    """One round: seconds of both arms, and their ratio."""
    alternating = Alternating()
    filling.read_batch = alternating
    reading = Reading(layers=tuple(range(lm.info.num_hidden_layers)), poolings=POOLINGS)
    try:
        with tempfile.TemporaryDirectory() as folder:
            began = clocks()
            harvest(lm, corpus(texts, longest=120, seed=seed), Path(folder), reading)
            wall, cpu = since(began)
    finally:
        filling.read_batch = forward.read_batch
    bare, bare_cpu = alternating.bare
    own, own_cpu = wall - bare, cpu - bare_cpu
    found = {"bare_s": bare, "harvest_s": own, "ratio": bare / own, "cpu_ratio": bare_cpu / own_cpu}
    return {name: round(value, 4) for name, value in found.items()}


def peak_megabytes(count: int) -> dict[str, float]:
    """What `measure` prints in a process of its own that harvests `count` short texts."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(count)], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(count: int) -> dict[str, float]:
    """Peak resident MB with the texts and one shard, what harvesting them all adds to it, and seconds."""
    torch.set_num_threads(1)
    lm, texts = tiny_model(), corpus(count, longest=8, seed=0)
    reading = Reading(layers=(0, 1, 2, 3), poolings=POOLINGS)
    with tempfile.TemporaryDirectory() as folder:
        harvest(lm, Corpus("first", texts.rows[:512]), Path(folder) / "one", reading)
        before, began = peak(), time.perf_counter()
        harvest(lm, texts, Path(folder) / "all", reading)
        return {"before": before, "above": peak() - before, "seconds": time.perf_counter() - began}


def peak() -> float:
    """Peak resident memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def throughput_rounds(texts: int) -> list[dict[str, float]]:
    """Five rounds on the embedded model, after a short one that warms it up."""
    lm = load_model("smollm2-135m-instruct", device="cpu", dtype="float32", threads=1)
    throughput(lm, 16, seed=0)
    rounds = []
    for number in range(1, 6):
        rounds.append(throughput(lm, texts, seed=number))
        print(*(f"{name} {value}" for name, value in rounds[-1].items()), sep=", ", flush=True)  # noqa: T201
    return rounds


def main() -> int:
    """Run and report; 0 when both bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="32 texts a round instead of 128; 10,000 texts at most")
    parser.add_argument("--memory", action="store_true", help="memory alone")
    parser.add_argument("--measure", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))  # noqa: T201
        return 0
    memory = {}
    for count in COUNTS[:2] if options.quick else COUNTS:
        found = peak_megabytes(count)
        memory[count] = round(found["above"], 1)
        print(  # noqa: T201
            f"{count} texts in {found['seconds']:.0f} s: {found['above']:.1f} MB above the {found['before']:.1f} MB of "
            "texts and one shard",
            flush=True,
        )
    rounds = [] if options.memory else throughput_rounds(32 if options.quick else 128)
    ratio, cpu = (
        statistics.median(each[name] for each in rounds) if rounds else None for name in ("ratio", "cpu_ratio")
    )
    counts = sorted(memory)
    growth = round(memory[counts[-1]] - memory[counts[0]], 1)
    short = [f"ratio {ratio} < {RATIO}"] * (ratio is not None and ratio < RATIO)
    short += [f"growth {growth} MB > {GROWTH_MB}"] * (growth > GROWTH_MB)
    print(json.dumps({"ratio": ratio, "cpu_ratio": cpu, "rounds": rounds, "memory_mb": memory, "bars_missed": short}))  # noqa: T201
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
