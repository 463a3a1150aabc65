"""Before serving: does this model, in this dtype, on this device, obey its hooks?

At every layer a random slab that excludes the unsteered stream (at every second one, two slabs together) is projected
on inside a real forward pass, and the value the next block receives is read back. Hooks that are skipped, blocks that
are not reached, a dtype that cannot hold the bound and hooks left behind all show here, and a model that fails refuses
to serve: steering that could not be applied must never end as unsteered text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from steering.errors import SelfTestFailed
from steering.hooks import capture, steer
from steering.joint import JointSlabs, joint_slabs, project_joint
from steering.kernels.layer import project_compiled
from steering.models import LanguageModel
from steering.slab import Slabs, project, read_logit, slab
from steering.stepping import Stepper, left_pad

_SHIFT = 0.05
"""How far each bound lies below the unsteered value, as a share of ||w|| * ||resid||."""


@dataclass(frozen=True)
class SelfTest:
    """What was verified."""

    layers: int
    rows: int
    """(layer, row) pairs, all of which had to move."""
    violations: int
    """Always 0: a test with violations raises."""


@torch.inference_mode()
def self_test(lm: LanguageModel) -> SelfTest:
    """Steer two prompts of different length at every layer and verify what is stored.

    Raises SelfTestFailed with the layer and the reason.
    """
    count = lm.info.num_hidden_layers
    prompts = [[token % lm.model.get_input_embeddings().num_embeddings for token in row] for row in ((5, 6, 7), (8, 9))]
    ids, mask = left_pad(prompts, pad_token_id=lm.tokenizer.pad_token_id, device=lm.device)

    def run() -> tuple[Tensor, dict[int, Tensor]]:
        with capture(lm.model, range(count)) as seen:
            logits = Stepper(lm.model).prefill(ids, mask)
        missing = sorted(set(range(count)) - set(seen))
        if missing:
            raise SelfTestFailed(f"a forward pass of {lm.name} never reached blocks {missing}; they cannot be steered")
        return logits, {layer: resid[:, -1] for layer, resid in seen.items()}

    plain, resid = run()
    controllers = {layer: _Excluding(resid[layer], seed=layer, several=layer % 2 == 1) for layer in range(count)}
    with steer(lm.model, controllers):
        steered, stored = run()
    again, _ = run()

    for layer, controller in controllers.items():
        controller.verify(stored[layer], layer=layer, name=lm.name)
    if not bool(torch.isfinite(steered).all()) or torch.equal(plain, steered):
        raise SelfTestFailed(f"steering every layer of {lm.name} did not reach its logits; the edits are not used")
    if not torch.equal(plain, again):
        raise SelfTestFailed(f"{lm.name} answers differently after steering than before; a hook was left behind")
    return SelfTest(layers=count, rows=count * len(prompts), violations=0)


class _Excluding:
    """A slab just below what the last token reads now, so that obeying takes an edit; `several` puts another beside it.

    In the form that will serve: the compiled loops for float32 on the CPU, compiled here if they never were.
    """

    def __init__(self, resid: Tensor, *, seed: int, several: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        weight = torch.randn(2, resid.shape[-1], generator=generator).to(resid.device)
        self._weight = weight / weight.norm(dim=-1, keepdim=True)
        self._zero = torch.zeros((), device=resid.device)
        now = read_logit(resid, self._weight[0], self._zero)
        self._high = (now - _SHIFT * resid.float().norm(dim=-1)).min()
        self._several = several
        self._calls = 0

    def __call__(self, resid: Tensor) -> Tensor:
        self._calls += 1
        last = resid[:, -1]
        free = torch.full_like(self._high, math.inf)
        slabs: Slabs | JointSlabs
        if self._several:
            low, high = torch.stack([-free, -free]), torch.stack([self._high, free])
            slabs = joint_slabs(self._weight, torch.zeros_like(low), low, high).map(
                lambda value: value.to(resid.device)
            )
        else:
            slabs = Slabs(**vars(slab(self._weight[0], 0.0)) | {"high": self._high})
        if resid.device.type == "cpu" and resid.dtype == torch.float32:
            stored = project_compiled(last, slabs)[0]
        else:
            stored = (project_joint(last, slabs) if isinstance(slabs, JointSlabs) else project(last, slabs)).resid
        return torch.cat([resid[:, :-1], stored.unsqueeze(1)], dim=1)

    def verify(self, stored: Tensor, *, layer: int, name: str) -> None:
        if self._calls == 0:
            raise SelfTestFailed(f"layer {layer} of {name} ran without its hook; this model cannot be steered")
        value = read_logit(stored, self._weight[0], self._zero)
        if not bool((value <= self._high).all()):
            raise SelfTestFailed(
                f"layer {layer} of {name} stores {value.max().item():.6g} where at most {self._high.item():.6g} is "
                f"allowed, in {stored.dtype} on {stored.device}; try --dtype float32 and report it"
            )
