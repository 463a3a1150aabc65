"""python benchmarks/verified.py: is the bound kept on the stored value, every time?

Projects a million random rows in bfloat16 and as many in float16 (the tensor form), and as many in float32 (the
compiled loops), of hidden sizes 576 to 8192, half of them onto one slab and half jointly onto two, four or eight,
every second batch in a whitened metric, and reads every stored row again in float64, independently of the code under
test.

Bar: no row outside any of its slabs, counted or not, unless it is reported as capped or infeasible (none is asked for
here). Exits 1 when it is missed. `--quick` does a hundredth. Ends with one JSON line.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time

import torch
from torch import Tensor

from steering.joint import joint_slabs, project_joint
from steering.kernels.layer import project_compiled
from steering.record import EDITED, VIOLATIONS
from steering.slab import Slabs, project, slab

HIDDEN_SIZES = (576, 1024, 2048, 4096, 8192)
CONSTRAINTS = (1, 2, 4, 8)
BATCH = 500


def outside(stored: Tensor, weight: Tensor, bias: Tensor, low: Tensor, high: Tensor) -> int:
    """Rows that float64 reads outside some bound."""
    value = stored.double() @ weight.double().T + bias.double()
    return int(((value < low) | (value > high) | ~value.isfinite()).any(dim=-1).sum())


def run(rows: int, *, dtype: torch.dtype, hidden_size: int, constraints: int) -> dict[str, object]:
    """Counts over `rows` rows, in batches that each draw new weights, bounds and residuals."""
    edited = violated = missed = 0
    for batch in range(math.ceil(rows / BATCH)):
        weight = torch.randn(constraints, hidden_size) * 0.3 + 0.1 * torch.randn(hidden_size)
        uneven = torch.randn(hidden_size).exp()
        resid = (torch.randn(BATCH, hidden_size) * uneven).to(dtype)
        bias = torch.randn(constraints)
        spread = (resid.float() @ weight.T).std(dim=0)
        low, high = torch.full((constraints,), -math.inf), -0.3 * spread
        low[0] = -2.5 * spread[0]  # the first is two-sided
        lifted = weight * uneven**2 if batch % 2 else weight
        if constraints == 1:
            slabs = slab(weight[0], float(bias[0]), low=float(low[0]), high=float(high[0]), lifted=lifted[0])
        else:
            slabs = joint_slabs(weight, bias, low, high, lifted=lifted)
        if dtype == torch.float32:
            stored, noted = project_compiled(resid, slabs)
            moved, outside_by_count = ((noted[..., flag] > 0).any(dim=-1) for flag in (EDITED, VIOLATIONS))
        else:
            done = project(resid, slabs) if isinstance(slabs, Slabs) else project_joint(resid, slabs)
            stored = done.resid
            moved, outside_by_count = (part.reshape(BATCH, -1).any(dim=-1) for part in (done.edited, done.violated))
        edited += int(moved.sum())
        violated += int(outside_by_count.sum())
        missed += outside(stored, weight, bias, low, high)
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "hidden_size": hidden_size,
        "constraints": constraints,
        "rows": math.ceil(rows / BATCH) * BATCH,
        "edited": edited,
        "violations": violated,
        "outside_in_float64": missed,
    }


def main() -> int:
    """Run and report; 0 when the bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the rows")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    each = (10_000 if quick else 1_000_000) // len(HIDDEN_SIZES)
    shares = {1: 0.5, 2: 0.2, 4: 0.2, 8: 0.1}
    began, table = time.monotonic(), []
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        for hidden_size in HIDDEN_SIZES:
            for constraints in CONSTRAINTS:
                rows = int(each * shares[constraints])
                row = run(rows, dtype=dtype, hidden_size=hidden_size, constraints=constraints)
                table.append(row)
                print(*row.values(), sep="\t", flush=True)  # noqa: T201
    total = {
        name: sum(int(str(row[name])) for row in table)
        for name in ("rows", "edited", "violations", "outside_in_float64")
    }
    print(json.dumps(total | {"seconds": round(time.monotonic() - began)}))  # noqa: T201
    return 1 if total["violations"] or total["outside_in_float64"] else 0


if __name__ == "__main__":
    sys.exit(main())
