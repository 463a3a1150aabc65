"""python benchmarks/harness.py: does lm-evaluation-harness measure the same over HTTP as it does by itself?

Two small log-likelihood tasks of forty pairs each (`harness_pairs.py`) on the embedded model, through the harness's
`local-completions` against `tiller serve`, and through its own `hf` model on the same checkpoint; both unsteered, and
both steered: over HTTP by a `steering` field (`sentiment` at least 0.99 at its default layers, `prompt: all`,
euclidean), beside it by a hook of the closed form on the `hf` model. What steering does to the two tasks is printed and
has no bar: `mood` is the share of pairs whose pleasant end is preferred, `grammar` the share of sentences told right.

Bars, unsteered and steered alike: the accuracies are the same within 1e-6, and every log-likelihood within 1e-3; every
steered choice says that it was steered, without a violation; and steering changes some log-likelihood by more than 0.1.
Exits 1 when one is missed, 2 when the harness is not installed. `--quick` takes ten pairs. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness_arms import Outcome

NEEDED = ("lm_eval", "aiohttp", "tenacity")
MODEL = "smollm2-135m-instruct"
LOW = 0.99
STEERING = {
    "constraints": [{"probe": "sentiment", "lower": LOW, "prompt": "all", "metric": "euclidean"}],
}
ARMS = ("http", "hf", "steered http", "steered hf")


def main() -> int:
    """Run and report; 0 when the bars are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten pairs of each task")
    pairs = 10 if parser.parse_args().quick else 40
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        print(f"{missing[0]} is not installed; pip install 'lm-eval[api]'", file=sys.stderr)  # noqa: T201
        return 2
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": scratch, "TOKENIZERS_PARALLELISM": "false"}
        outcomes = run_arms(Path(scratch), pairs=pairs)
    document = summary(outcomes, pairs=pairs)
    print(json.dumps(document | {"seconds": round(time.monotonic() - began)}))  # noqa: T201
    return 0 if document["passed"] else 1


def run_arms(scratch: Path, *, pairs: int) -> dict[str, dict[str, Outcome]]:
    """Outcomes by arm and task."""
    import torch
    from harness_arms import by_hand, in_process, over_http, run, write_tasks

    from service.demo.server import running_server
    from service.settings import Settings
    from steering import ProbeStore, wrap
    from steering.embedded import get_model

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    folder, tasks = get_model(MODEL), write_tasks(scratch, pairs=pairs)
    with running_server(model=MODEL, probes=None) as client:
        url = str(client.base_url)
        http = run(over_http(url, folder=folder, name=MODEL, steering=None), tasks)
        steered_http = run(over_http(url, folder=folder, name=MODEL, steering=STEERING), tasks)
    model = in_process(folder)
    alone = run(model, tasks)
    shipped = Settings(model=MODEL).probe_folder()
    assert shipped is not None, "this model has probes"
    probe = ProbeStore.open(shipped, wrap(model.model, model.tokenizer, model_id=str(folder))).get("sentiment")
    with by_hand(model, probe, low=LOW):
        steered = run(model, tasks)
    return dict(zip(ARMS, (http, alone, steered_http, steered), strict=True))


def summary(outcomes: dict[str, dict[str, Outcome]], *, pairs: int) -> dict[str, Any]:
    """The figures, printed as a table too, and whether the bars are met.

    Of each task: the accuracy of every arm, how far log-likelihoods of `http` and `hf` lie apart at most, and how far
    steering moves them.
    """
    columns = (*ARMS, "apart", "steered apart", "moved")
    print(f"{'task':10}", *(f"{column:>14}" for column in columns))  # noqa: T201
    tasks: dict[str, Any] = {}
    for task in outcomes["http"]:
        told = {arm: outcomes[arm][task] for arm in ARMS}
        apart = {arm: _apart(told[arm], told[arm.replace("http", "hf")]) for arm in ("http", "steered http")}
        moved = _apart(told["http"], told["steered http"])
        accuracies = {arm: told[arm].accuracy for arm in ARMS}
        tasks[task] = {"accuracy": accuracies, "apart": apart, "moved": moved}
        figures = (*(f"{accuracy:14.3f}" for accuracy in accuracies.values()), *(f"{a:14.1e}" for a in apart.values()))
        print(f"{task:10}", *figures, f"{moved:14.2f}")  # noqa: T201
    passed = all(
        abs(row["accuracy"][arm] - row["accuracy"][arm.replace("http", "hf")]) < 1e-6
        and row["apart"][arm] < 1e-3
        and row["moved"] > 0.1
        for row in tasks.values()
        for arm in ("http", "steered http")
    )
    return {"pairs": pairs, "tasks": tasks, "passed": passed}


def _apart(one: Outcome, other: Outcome) -> float:
    """The largest difference of two log-likelihoods."""
    return max(abs(a - b) for a, b in zip(one.loglikelihoods, other.loglikelihoods, strict=True))


if __name__ == "__main__":
    sys.exit(main())
