"""The start-up self-test: it passes on every architecture and dtype, and a model that slips its hooks is refused."""

from __future__ import annotations

import copy

import pytest
import torch

from steering import Engine, wrap
from steering.architectures import residual_blocks
from steering.errors import SelfTestFailed
from steering.selftest import self_test


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_every_architecture_passes_in_every_dtype_and_is_left_as_it_was(zoo, model_type, dtype):
    lm = zoo(model_type, dtype=dtype)
    before = [len(block._forward_hooks) for block in residual_blocks(lm.model)]
    result = self_test(lm)
    assert (result.layers, result.rows, result.violations) == (4, 8, 0)
    assert [len(block._forward_hooks) for block in residual_blocks(lm.model)] == before


@pytest.fixture
def rogue(lm):
    """A private copy, to be broken."""
    return wrap(copy.deepcopy(lm.model), lm.tokenizer, model_id="rogue")


def bypassing(block):
    """Call the block's forward directly, as fused or compiled loops do: its hooks never run."""
    block.__class__ = type("Bypassing", (type(block),), {"__call__": lambda self, *a, **k: self.forward(*a, **k)})


@pytest.mark.parametrize("which", [[0], [2], [3], [0, 1, 2, 3]])
def test_a_block_that_bypasses_its_hooks_is_refused(rogue, which):
    for layer in which:
        bypassing(residual_blocks(rogue.model)[layer])
    with pytest.raises(SelfTestFailed, match=str(which[0])):
        self_test(rogue)
    with pytest.raises(SelfTestFailed):
        Engine(rogue)


def test_a_block_that_is_never_reached_is_refused(rogue):
    rogue.model.model.config.num_hidden_layers = 3  # the loop now stops early
    rogue.model.config.num_hidden_layers = 3
    blocks = rogue.model.model.layers
    original = rogue.model.model.forward

    def early(*args, **kwargs):
        rogue.model.model.layers = blocks[:3]
        try:
            return original(*args, **kwargs)
        finally:
            rogue.model.model.layers = blocks

    rogue.model.model.forward = early
    rogue.model.config.num_hidden_layers = 4
    with pytest.raises(SelfTestFailed, match=r"never reached blocks \[3\]"):
        self_test(rogue)


def test_edits_that_do_not_reach_the_logits_are_refused(rogue):
    """The hooks run, but the next block is fed something else."""
    blocks = residual_blocks(rogue.model)
    embedded = {}
    rogue.model.get_input_embeddings().register_forward_hook(lambda m, a, out: embedded.update(now=out))
    for block in [*blocks[1:], rogue.model.model.norm]:
        block.register_forward_pre_hook(lambda m, args: (embedded["now"], *args[1:]))
    with pytest.raises(SelfTestFailed, match="did not reach its logits"):
        self_test(rogue)


def test_a_block_that_undoes_the_edit_is_refused(rogue):
    """A later hook restores the plain residual: what is stored is outside."""
    block = residual_blocks(rogue.model)[1]
    plain = {}
    block.register_forward_hook(lambda m, a, out: plain.update(now=out))
    original = block.register_forward_hook

    def register(hook):
        handle = original(hook)
        original(lambda m, a, out: plain["now"])
        return handle

    block.register_forward_hook = register
    with pytest.raises(SelfTestFailed, match=r"layer 1 .* stores"):
        self_test(rogue)


def test_a_hook_left_behind_is_detected(rogue):
    """The first steered pass leaves something on the model that changes every later one."""
    block = residual_blocks(rogue.model)[2]
    original, passes = block.register_forward_hook, []

    def register(hook):
        handle = original(hook)
        passes.append(handle)
        if len(passes) == 2:  # ours of the steered pass
            original(lambda m, a, out: out * 1.01)
        return handle

    block.register_forward_hook = register
    with pytest.raises(SelfTestFailed, match="left behind"):
        self_test(rogue)


def test_a_model_that_gives_nan_is_refused(rogue):
    with torch.no_grad():
        rogue.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(SelfTestFailed):
        self_test(rogue)
