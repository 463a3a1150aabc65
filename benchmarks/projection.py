"""python benchmarks/projection.py: what steering every layer costs, in tokens per second.

Steered over unsteered tokens per second of the plain generation loop on the embedded model, at batch 1, 8 and 32: every
layer held by one slab per row, verified after the cast, reports collected; the other arm is the same loop without a
hook. Both arms in one run, in turn, 32 new tokens each, one torch thread; the median of five (`--quick`: two) pairs.
Also, at batch 8, the seven default layers of the shipped probes, and two and eight probes held jointly at every layer.
Run nothing beside it.

Bars (one slab per row): at least 0.97 at batch 1, 0.98 at batch 8, 0.99 at batch 32. Exits 1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from steering import Bounds, Constraint, LanguageModel, Plan, Request, Sampling, generate, load_model
from steering.tiny import tiny_probe

BARS = {1: 0.97, 8: 0.98, 32: 0.99}
NEW_TOKENS = 32
PROMPT = "The weather in spring is"
EVERY, DEFAULT = tuple(range(30)), tuple(range(10, 29, 3))


def plan(lm: LanguageModel, probes: int, layers: tuple[int, ...]) -> Plan:
    """`probes` random read-outs at each of `layers`, each with a bound that about half of the tokens miss."""
    constraints = (
        Constraint(
            tiny_probe(lm, name=f"random-{seed}", seed=seed), Bounds(upper=50, space="percentile"), layers=layers
        )
        for seed in range(probes)
    )
    return Plan(tuple(constraints))


def tokens_per_second(lm: LanguageModel, batch: int, steering: Plan | None) -> float:
    """Of one batch of fixed length."""
    sampling = Sampling(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
    began = time.perf_counter()
    generate(lm, [Request(PROMPT, sampling, steering)] * batch)
    return batch * NEW_TOKENS / (time.perf_counter() - began)


def ratio(lm: LanguageModel, *, batch: int, probes: int, layers: tuple[int, ...], pairs: int) -> dict[str, float]:
    """Median steered over unsteered speed of alternating pairs, after one pair to warm up."""
    steering = plan(lm, probes, layers)
    found = [(tokens_per_second(lm, batch, None), tokens_per_second(lm, batch, steering)) for _ in range(pairs + 1)][1:]
    return {
        "batch": batch,
        "probes": probes,
        "layers": len(layers),
        "unsteered": round(statistics.median(plain for plain, _ in found), 1),
        "steered": round(statistics.median(steered for _, steered in found), 1),
        "ratio": round(statistics.median(steered / plain for plain, steered in found), 3),
    }


def main() -> int:
    """Run and report; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two pairs instead of five")
    pairs = 2 if parser.parse_args().quick else 5
    lm = load_model("smollm2-135m-instruct", device="cpu", threads=1)
    rows = []
    for batch, probes, layers in (
        (1, 1, EVERY), (8, 1, EVERY), (32, 1, EVERY), (8, 1, DEFAULT), (8, 2, EVERY), (8, 8, EVERY),
    ):  # fmt: skip
        rows.append(ratio(lm, batch=batch, probes=probes, layers=layers, pairs=pairs))
        print(*rows[-1].items(), flush=True)  # noqa: T201
    missed = [row["batch"] for row in rows[: len(BARS)] if row["ratio"] < BARS[int(row["batch"])]]
    print(json.dumps({"rows": rows, "bars_missed_at_batch": missed}))  # noqa: T201
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
