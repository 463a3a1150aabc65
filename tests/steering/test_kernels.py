"""The compiled loops do what the tensor form defines, row by row, and keep every bound on the value they store.

Tolerance: both sum the same float32 numbers, one in float64 and one in float32, so the stored values agree to some
float32 roundings of the residual's norm; what is counted agrees exactly.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys

import pytest
import torch

from steering import record as field
from steering.joint import joint_slabs, project_joint
from steering.kernels.layer import JointKernel, SingleKernel
from steering.slab import Slabs, project

HIDDEN, ROWS, SEQ = 96, 12, 40


def figures(slots: int = 1) -> dict[str, torch.Tensor]:
    """No calibration, and nothing had to give way."""
    ones = torch.ones(slots, ROWS, dtype=torch.float64)
    return {"scale": ones, "shift": 0 * ones, "gave": torch.zeros(slots, ROWS, dtype=torch.bool)}


def single_slabs(*, seed: int, whitened: bool = False) -> Slabs:
    """Rows with an upper bound, a lower one, a band, a budget, half strength, no promise, or nothing."""
    torch.manual_seed(seed)
    weight = torch.randn(ROWS, HIDDEN)
    lifted = weight * (torch.rand(HIDDEN) + 0.1) if whitened else weight
    low, high = torch.full((ROWS,), -math.inf), torch.linspace(-8, 3, ROWS)
    low[3:6], high[3:5] = torch.linspace(-1, 4, 3), math.inf
    high[5] = low[5] + 0.5
    strength, max_dose, promised = torch.ones(ROWS), torch.full((ROWS,), math.inf), torch.ones(ROWS, dtype=torch.bool)
    max_dose[6:8], strength[8], promised[8], strength[9], high[10] = 0.02, 0.5, False, 0.0, math.inf
    direction = lifted / (weight * lifted).sum(dim=-1, keepdim=True)
    bias = torch.randn(ROWS)
    return Slabs(weight, bias, low, high, direction, strength, max_dose, promised).map(lambda value: value.unsqueeze(1))


def run_single(slabs: Slabs, resid: torch.Tensor, on: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    acts = torch.ones(ROWS, dtype=torch.bool)
    kernel = SingleKernel(slabs, acts=acts, slot=torch.zeros(ROWS, dtype=torch.long), **figures())
    noted = field.blank(ROWS, resid.shape[1], 1, device=resid.device)
    return kernel(resid, on=on.unsqueeze(0).numpy(), record=noted.numpy()), noted[:, :, 0]


@pytest.mark.parametrize("whitened", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_one_slab_per_row_moves_as_the_tensor_form_does_and_notes_the_same(seed, whitened):
    slabs = single_slabs(seed=seed, whitened=whitened)
    resid, on = torch.randn(ROWS, SEQ, HIDDEN) * 3, torch.rand(ROWS, SEQ) > 0.2
    stored, noted = run_single(slabs, resid, on)
    expected = project(resid, slabs.only(on))
    torch.testing.assert_close(stored, expected.resid, rtol=0, atol=3e-5)
    assert torch.equal(stored[~on], resid[~on])
    assert torch.equal(noted[..., field.TOKENS] > 0, on)
    for flag, name in ((field.EDITED, "edited"), (field.CAPPED, "capped"), (field.VIOLATIONS, "violated")):
        assert torch.equal(noted[..., flag] > 0, getattr(expected, name) & on), name
        assert (noted[..., flag] > 0).any(), name
    for at, name in ((field.MAX_PRE, "before"), (field.MAX_POST, "after"), (field.MAX_DOSE, "dose")):
        torch.testing.assert_close(noted[..., at][on], getattr(expected, name)[on].double(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("constraints", [2, 3, 8, 16])
def test_several_slabs_per_row_move_as_the_tensor_form_does_and_note_the_same(constraints):
    torch.manual_seed(constraints)
    rows = torch.tensor([1, 4, 7])
    weight = torch.randn(3, constraints, HIDDEN) + 0.5 * torch.randn(3, 1, HIDDEN)
    low, high = torch.full((3, constraints), -math.inf), torch.randn(3, constraints) - 6
    low[:, 1], high[:, 1] = 4.0, math.inf
    max_dose = torch.tensor([math.inf, math.inf, 0.05])
    slabs = joint_slabs(
        weight,
        torch.randn(3, constraints),
        low,
        high,
        lifted=weight * (torch.rand(HIDDEN) + 0.2),
        strength=torch.ones(3),
        max_dose=max_dose,
        promised=torch.ones(3, dtype=torch.bool),
    ).map(lambda value: value.unsqueeze(1))
    slots = [list(range(constraints))] * 3
    kernel = JointKernel(slabs, rows=rows, slots=slots, **figures(constraints))
    resid, on = torch.randn(ROWS, 20, HIDDEN) * 3, torch.rand(constraints, ROWS, 20) > 0.2
    out, noted = resid.clone(), field.blank(ROWS, 20, constraints, device=resid.device)
    kernel(resid, out, on=on.numpy(), record=noted.numpy())
    expected = project_joint(resid[rows], slabs.only(on[:, rows].movedim(0, -1)))
    torch.testing.assert_close(out[rows], expected.resid, rtol=0, atol=2e-4)
    others = [row for row in range(ROWS) if row not in rows]
    assert torch.equal(out[others], resid[others])
    assert not noted[others][..., field.TOKENS].any()
    here = on[:, rows].movedim(0, -1)
    for flag, name in ((field.EDITED, "edited"), (field.CAPPED, "capped"), (field.VIOLATIONS, "violated")):
        assert torch.equal(noted[rows][..., flag] > 0, getattr(expected, name) & here), name
    assert (noted[rows][..., field.CAPPED] > 0).any()
    torch.testing.assert_close(noted[rows][..., field.MAX_POST][here], expected.after[here].double(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("outliers", [False, True], ids=["even", "outliers"])
@pytest.mark.parametrize("whitened", [False, True])
def test_every_stored_value_is_inside_read_in_float32_and_in_float64(whitened, outliers):
    slabs = single_slabs(seed=9, whitened=whitened)
    resid = torch.randn(ROWS, 4000, HIDDEN) * 3
    if outliers:
        resid[..., ::32] *= 100
    stored, noted = run_single(slabs, resid, torch.ones(ROWS, 4000, dtype=torch.bool))
    held = [0, 1, 2, 3, 4, 5, 10, 11]
    assert not noted[held][..., field.VIOLATIONS].any()
    for wide in (torch.float32, torch.float64):
        logit = (stored.to(wide) * slabs.weight.to(wide)).sum(dim=-1) + slabs.bias.to(wide)
        assert (((logit >= slabs.low) & (logit <= slabs.high))[held]).all()
    again, noted = run_single(slabs, stored, torch.ones(ROWS, 4000, dtype=torch.bool))
    assert torch.equal(again[held], stored[held])
    assert not noted[held][..., field.EDITED].any()


def test_a_row_is_moved_the_same_whatever_stands_beside_it():
    slabs = single_slabs(seed=5)
    resid, on = torch.randn(ROWS, SEQ, HIDDEN) * 3, torch.ones(ROWS, SEQ, dtype=torch.bool)
    together, _ = run_single(slabs, resid, on)
    shuffled = torch.randperm(ROWS)
    moved, _ = run_single(slabs.map(lambda value: value[shuffled]), resid[shuffled], on)
    assert torch.equal(moved, together[shuffled])


def test_a_residual_of_zeros_is_moved_like_any_other():
    slabs = single_slabs(seed=3)
    resid = torch.zeros(ROWS, 2, HIDDEN)
    stored, noted = run_single(slabs, resid, torch.ones(ROWS, 2, dtype=torch.bool))
    torch.testing.assert_close(stored, project(resid, slabs).resid, rtol=0, atol=1e-5)
    assert noted[..., field.EDITED].any()
    assert torch.isfinite(stored).all()


@pytest.mark.parametrize("broken", [math.nan, math.inf, 3e38])
def test_a_residual_that_is_no_number_or_overflows_is_a_violation_and_harms_no_neighbour(broken):
    slabs = single_slabs(seed=2)
    resid = torch.randn(ROWS, 3, HIDDEN)
    sound, _ = run_single(slabs, resid, torch.ones(ROWS, 3, dtype=torch.bool))
    resid[0, 1] = broken
    stored, noted = run_single(slabs, resid, torch.ones(ROWS, 3, dtype=torch.bool))
    logit = (stored[0, 1].double() * slabs.weight[0, 0].double()).sum() + slabs.bias[0]
    assert bool(noted[0, 1, field.VIOLATIONS]) == (not bool(logit <= slabs.high[0]))
    stored[0, 1] = sound[0, 1]
    assert torch.equal(stored, sound)


COLD = """
import os, sys, torch
from steering.kernels.layer import project_compiled
from steering.slab import slab
stored, _ = project_compiled(torch.tensor([[3.0, 4.0]]), slab(torch.tensor([0.0, 2.0]), 0.0, high=2.0))
print(stored.tolist())
"""


@pytest.mark.slow
def test_in_a_cache_folder_of_the_users_own_nothing_else_is_removed(tmp_path):
    theirs = tmp_path / "theirs.nbi"
    theirs.write_bytes(b"of another program")
    forgetting = "from steering.kernels.compiling import forget, keep_on_disk; forget(keep_on_disk())"
    subprocess.run(
        [sys.executable, "-c", forgetting], env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}, check=True, timeout=300
    )
    assert list(tmp_path.iterdir()) == [theirs]
    assert theirs.read_bytes() == b"of another program"


@pytest.mark.slow
def test_a_damaged_folder_of_machine_code_costs_time_and_nothing_else(tmp_path):
    def process():
        done = subprocess.run(
            [sys.executable, "-c", COLD],
            env=os.environ | {"TILLER_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[0] == pytest.approx([3.0, 1.0], abs=1e-5)

    for suffix, damage in ((".nbi", b""), (".nbc", b"x" * 100)):
        process()
        kept = sorted(tmp_path.rglob(f"*{suffix}"))
        assert kept
        for path in kept:
            path.write_bytes(damage)
        process()
    shutil.rmtree(tmp_path / "kernels", ignore_errors=True)
    (tmp_path / "kernels").write_text("a file where the folder should be", encoding="utf-8")
    process()
