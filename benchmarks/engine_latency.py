"""python benchmarks/engine_latency.py: what a client waits for, and what the engine's memory does.

Time to first token and time between tokens, p50 and p95, in milliseconds, with 1, 8, 32 and 64 clients in process, each
of which asks for 32 tokens behind a prompt of about 20, again and again; then with 8 clients beside one prompt of 2,000
tokens that arrives every second. `stall` is the longest time between two tokens of a row. Chunked reading bounds it by
one chunk and one step, whatever the length of the prompt beside it.

`--memory`: resident memory over 2,000 requests of mixed length (4 to 24 new tokens behind 4 to 60, every third steered)
through 16 slots. Bar: the last thousand adds at most 16 MB. Exits 1 when it is missed.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steering import Bounds, Constraint, Engine, LanguageModel, Plan, Request, Sampling, load_model
from steering.engine import News
from steering.tiny import tiny_probe

NEW_TOKENS = 32
LONG = 2000
PROMPT = "The weather in spring is often said to be a good time to walk along the river with old friends"


class Clock:
    """A listener that notes when the tokens of one request came."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.times: list[float] = []

    def __call__(self, news: News) -> None:
        self.times.append(time.perf_counter())

    @property
    def first(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.began

    @property
    def gaps(self) -> list[float]:
        """Seconds between tokens."""
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


def asked_again(engine: Engine, prompt: tuple[int, ...], until: float, clocks: list[Clock]) -> None:
    """One client."""
    while time.perf_counter() < until:
        clock = Clock()
        request = Request(prompt, Sampling(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True))
        engine.submit(request, listener=clock).result()
        clocks.append(clock)


def clients(engine: Engine, prompt: tuple[int, ...], count: int, *, seconds: float, long: bool) -> dict[str, Any]:
    """So many clients for so long, perhaps beside long prompts."""
    began = time.perf_counter()
    until = began + seconds
    clocks: list[Clock] = []
    threads = [threading.Thread(target=asked_again, args=(engine, prompt, until, clocks)) for _ in range(count)]
    for thread in threads:
        thread.start()
    beside = []
    while long and time.perf_counter() < until:
        whole = (prompt * (LONG // len(prompt) + 1))[:LONG]
        beside.append(engine.submit(Request(whole, Sampling(max_tokens=1, temperature=0))))
        time.sleep(1.0)
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    done = sum(answer.done() for answer in beside)
    for answer in beside:
        answer.cancel()
    first = sorted(clock.first for clock in clocks)
    gaps = sorted(gap for clock in clocks for gap in clock.gaps)
    return {
        "what": "e",
        "clients": count,
        "long_prompts": f"{done} of {len(beside)} read" if long else "none",
        "requests": len(clocks),
        "first_ms_p50": 1e3 * statistics.median(first),
        "first_ms_p95": 1e3 * first[int(0.95 * (len(first) - 1))],
        "between_ms_p50": 1e3 * statistics.median(gaps),
        "between_ms_p95": 1e3 * gaps[int(0.95 * (len(gaps) - 1))],
        "stall_ms": 1e3 * gaps[-1],
        "tokens_per_second": len(clocks) * NEW_TOKENS / took,
    }


def latency(lm: LanguageModel, *, seconds: float) -> Iterator[dict[str, Any]]:
    """Every number of clients, then the long prompts."""
    prompt = tuple(lm.tokenizer(PROMPT)["input_ids"])
    with Engine(lm, slots=32) as engine:
        for count in (1, 8, 32, 64):
            yield clients(engine, prompt, count, seconds=seconds, long=False)
        yield clients(engine, prompt, 8, seconds=seconds, long=True)


def resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096 / 2**20


def memory(lm: LanguageModel) -> dict[str, Any]:
    """Resident megabytes after every 500 of 2,000 requests."""
    drawn = random.Random(0)
    ids = lm.tokenizer(PROMPT)["input_ids"]
    plan = Plan((Constraint(tiny_probe(lm), Bounds(upper=0.2), layers=(10, 20)),))
    found = []
    with Engine(lm, slots=16) as engine:
        for _ in range(4):
            answers = []
            for at in range(500):
                prompt = tuple(drawn.choices(ids, k=drawn.randint(4, 60)))
                sampling = Sampling(max_tokens=drawn.randint(4, 24), seed=at, ignore_eos=True)
                answers.append(engine.submit(Request(prompt, sampling, None if at % 3 else plan)))
                while engine.waiting > 100:
                    time.sleep(0.01)
            for answer in answers:
                answer.result()
            found.append(round(resident(), 1))
        reserved = round(engine.cache_bytes / 2**20)
    growth = round(found[3] - found[1], 1)
    return {"what": "memory", "after_500_1000_1500_2000": found, "growth": growth, "cache_reserved": reserved}


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="10 seconds for each number of clients instead of 30")
    parser.add_argument("--memory", action="store_true", help="memory instead of latency")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    asked = parser.parse_args()
    lm = load_model("smollm2-135m-instruct", device="cpu", threads=asked.threads)
    rows = [memory(lm)] if asked.memory else list(latency(lm, seconds=10.0 if asked.quick else 30.0))
    short = [f"{row['growth']} MB > 16" for row in rows if row.get("growth", 0) > 16]
    print(json.dumps({"rows": rows, "threads": asked.threads, "bars_missed": short}))  # noqa: T201
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
