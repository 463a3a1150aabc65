"""python benchmarks/engine.py: the engine against plain `generate` on the embedded model, in tokens per second.

Fixed output lengths, two torch threads (`--threads`), all arms of a comparison in this run and taking turns; the median
of five rounds, after a short one to warm up (`--quick`: two rounds, shorter texts). Run nothing beside it: two threads
on a busy machine collapse. About half an hour.

a  The engine, unsteered, against Transformers' `model.generate` on the same prompts in one batch of 1, 8, 16 and 32.
   Bars: at least 1.0 each; with compile=True at batch 16 at least 1.3.
b  32 requests, each with a plan of its own, arriving within about a second at random, against the same requests one
   after another through plain hooks (`steering.steer`) and `generate`. Bar: at least 8.
c  Steered against unsteered in the engine, every row with the shipped toxicity probe at its default layers and metric.
   Bars: at least .97, .98, .99 at batch 1, 8, 32. Beside it, without a bar: one slab at all thirty layers.
d  64 requests of 8 to 128 new tokens through 16 slots, against `generate` in static batches of 16, each as long as its
   longest: useful tokens only. Bar: at least 2.5 with compile=True; the eager engine stands beside it.
e  Time to first token and between tokens with 1, 8, 32 and 64 clients, and beside a prompt of 2,000 tokens every second
   (`benchmarks/engine_latency.py`). No bar.

`--only a,c` runs some. Ends with one line of JSON; exits 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engine_latency import latency

from steering import (
    Bounds,
    Constraint,
    Engine,
    LanguageModel,
    Plan,
    Probe,
    Request,
    Sampling,
    load_model,
    load_probe,
    project,
    steer,
)
from steering.slab import slab

PROBE = Path(__file__).parents[1] / "probes/pretrained/smollm2-135m-instruct/toxicity/1"
PROMPT = "The weather in spring is often said to be a good time to walk along the river with"
Seconds = Callable[[], float]
"""One run of an arm."""


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    rounds: int
    new_tokens: int


def compared(arms: dict[str, Seconds], *, rounds: int) -> dict[str, tuple[float, float]]:
    """Of every arm the median seconds, and the median of the last arm's over its own; the order alternates."""
    found = []
    for number in range(rounds):
        order = list(arms) if number % 2 else list(reversed(arms))
        found.append({name: arms[name]() for name in order})
    last = list(arms)[-1]
    return {
        name: (
            statistics.median(times[name] for times in found),
            statistics.median(times[last] / times[name] for times in found),
        )
        for name in arms
    }


def prompts(lm: LanguageModel, count: int) -> list[tuple[int, ...]]:
    """Different prompts of one length."""
    ids = lm.tokenizer(PROMPT)["input_ids"]
    return [tuple(ids[at % len(ids) :] + ids[: at % len(ids)]) for at in range(count)]


def fixed(count: int) -> Sampling:
    """Greedy, and exactly so many tokens."""
    return Sampling(max_tokens=count, temperature=0, ignore_eos=True)


@contextmanager
def engine(lm: LanguageModel, slots: int, *, fast: bool = False) -> Iterator[Engine]:
    """An engine of so many slots."""
    with Engine(lm, slots=slots, row_tokens=512, compile=fast) as running:
        submitted(running, [Request(row, fixed(3)) for row in prompts(lm, slots)])
        yield running


def submitted(running: Engine, requests: Sequence[Request], gaps: Sequence[float] | None = None) -> float:
    """Seconds until all are answered; each is submitted after its gap."""
    began = time.perf_counter()
    answers = []
    for request, gap in zip(requests, gaps or [0.0] * len(requests), strict=True):
        time.sleep(gap)
        answers.append(running.submit(request))
    for request, answer in zip(requests, answers, strict=True):
        assert len(answer.result().token_ids) == request.sampling.max_tokens
    return time.perf_counter() - began


def generated(lm: LanguageModel, rows: Sequence[tuple[int, ...]], count: int) -> float:
    """Seconds of one batch through `model.generate`."""
    ids = torch.tensor(rows)
    began = time.perf_counter()
    with torch.inference_mode():
        out = lm.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
            pad_token_id=lm.tokenizer.pad_token_id,
        )
    assert out.shape[1] == ids.shape[1] + count
    return time.perf_counter() - began


def against_generate(lm: LanguageModel, batch: int, effort: Effort, *, fast: bool = False) -> Iterator[dict[str, Any]]:
    """(a)"""
    rows, count = prompts(lm, batch), effort.new_tokens
    requests = [Request(row, fixed(count)) for row in rows]
    with ExitStack() as open_engines:
        engines = {"engine": open_engines.enter_context(engine(lm, batch))}
        if fast:
            engines["compiled"] = open_engines.enter_context(engine(lm, batch, fast=True))
        arms: dict[str, Seconds] = {name: partial(submitted, one, requests) for name, one in engines.items()}
        generated(lm, rows, 3)
        found = compared(arms | {"generate": partial(generated, lm, rows, count)}, rounds=effort.rounds)
    for name in engines:
        seconds, ratio = found[name]
        yield {
            "what": "a", "arm": name, "batch": batch, "ours": batch * count / seconds,
            "generate": batch * count / found["generate"][0], "ratio": ratio, "bar": 1.3 if name == "compiled" else 1.0,
        }  # fmt: skip


def hooked(lm: LanguageModel, probe: Probe, layer: int, upper: float) -> Any:
    """Plain hooks: one slab at one layer, Euclidean or whitened as the probe says, unverified beyond `project`."""
    reading = Constraint(probe, Bounds(upper=upper), layers=(layer,)).reading(layer)
    rule = slab(reading.weight, reading.bias, low=reading.low, high=reading.high)
    return steer(lm.model, {layer: lambda resid: project(resid, rule).resid})


def different_plans(lm: LanguageModel, probe: Probe, effort: Effort) -> dict[str, Any]:
    """(b)"""
    count, drawn = effort.new_tokens, random.Random(0)
    plans = [(10 + at % 20, 0.001 * (1 + at)) for at in range(32)]
    requests = [
        Request(row, fixed(count), Plan((Constraint(probe, Bounds(upper=upper), layers=(layer,)),)))
        for row, (layer, upper) in zip(prompts(lm, 32), plans, strict=True)
    ]
    gaps = [drawn.expovariate(32) for _ in requests]

    def one_by_one() -> float:
        total = 0.0
        for row, (layer, upper) in zip(prompts(lm, 32), plans, strict=True):
            with hooked(lm, probe, layer, upper):
                total += generated(lm, [row], count)
        return total

    with engine(lm, 32) as running:
        arms = {"engine": partial(submitted, running, requests, gaps), "one_by_one": one_by_one}
        found = compared(arms, rounds=effort.rounds)
    return {
        "what": "b", "plans": 32, "ours": 32 * count / found["engine"][0],
        "one_by_one": 32 * count / found["one_by_one"][0], "ratio": found["engine"][1], "bar": 8.0,
    }  # fmt: skip


def steered(lm: LanguageModel, probe: Probe, batch: int, effort: Effort, *, every: bool) -> dict[str, Any]:
    """(c)"""
    count = effort.new_tokens
    layers = tuple(range(lm.info.num_hidden_layers)) if every else None
    plan = Plan((Constraint(probe, Bounds(upper=0.01), layers=layers),))
    plain = [Request(row, fixed(count)) for row in prompts(lm, batch)]
    held = [Request(row, fixed(count), plan) for row in prompts(lm, batch)]
    with engine(lm, batch) as running:
        submitted(running, held)
        arms = {"steered": partial(submitted, running, held), "unsteered": partial(submitted, running, plain)}
        found = compared(arms, rounds=effort.rounds)
    return {
        "what": "c", "batch": batch, "layers": len(plan.layers), "ours": batch * count / found["steered"][0],
        "unsteered": batch * count / found["unsteered"][0], "ratio": found["steered"][1],
        "bar": None if every else {1: 0.97, 8: 0.98, 32: 0.99}[batch],
    }  # fmt: skip


def mixed_lengths(lm: LanguageModel, effort: Effort) -> Iterator[dict[str, Any]]:
    """(d)"""
    drawn = random.Random(1)
    counts = [drawn.randint(8, 128) for _ in range(64)]
    rows = prompts(lm, 64)
    requests = [Request(row, fixed(count)) for row, count in zip(rows, counts, strict=True)]

    def static() -> float:
        return sum(generated(lm, rows[at : at + 16], max(counts[at : at + 16])) for at in range(0, 64, 16))

    with engine(lm, 16) as eager, engine(lm, 16, fast=True) as fast:
        arms = {"engine": partial(submitted, eager, requests), "compiled": partial(submitted, fast, requests)}
        found = compared(arms | {"static": static}, rounds=effort.rounds)
    for name in arms:
        seconds, ratio = found[name]
        yield {
            "what": "d", "arm": name, "tokens": sum(counts), "ours": sum(counts) / seconds,
            "static": sum(counts) / found["static"][0], "ratio": ratio, "bar": 2.5 if name == "compiled" else None,
        }  # fmt: skip


def measured(lm: LanguageModel, probe: Probe, wanted: str, effort: Effort, *, quick: bool) -> Iterator[dict[str, Any]]:
    """Every comparison asked for."""
    if "a" in wanted:
        for batch in (1, 8, 16, 32):
            yield from against_generate(lm, batch, effort, fast=batch == 16)
    if "b" in wanted:
        yield different_plans(lm, probe, effort)
    if "c" in wanted:
        for every in (False, True):
            for batch in (1, 8, 32):
                yield steered(lm, probe, batch, effort, every=every)
    if "d" in wanted:
        yield from mixed_lengths(lm, effort)
    if "e" in wanted:
        yield from latency(lm, seconds=10.0 if quick else 30.0)


def main() -> int:
    """Run and report; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds instead of five, 16 new tokens instead of 32")
    parser.add_argument("--only", default="a,b,c,d,e", help="which comparisons, as a,b,c,d,e")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    asked = parser.parse_args()
    effort = Effort(rounds=2, new_tokens=16) if asked.quick else Effort(rounds=5, new_tokens=32)
    lm = load_model("smollm2-135m-instruct", device="cpu", threads=asked.threads)
    rows: list[dict[str, Any]] = []
    for row in measured(lm, load_probe(PROBE), asked.only, effort, quick=asked.quick):
        rows.append({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
        print(*(f"{name} {value}" for name, value in rows[-1].items()), sep=", ", flush=True)  # noqa: T201
    short = [
        f"{row['what']}: {row['ratio']} < {row['bar']} at {row.get('batch', '')}".strip()
        for row in rows
        if row.get("bar") is not None and row["ratio"] < row["bar"]
    ]
    print(json.dumps({"rows": rows, "threads": asked.threads, "bars_missed": short}))  # noqa: T201
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
