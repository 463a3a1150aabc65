"""The hook point: `capture` reads and `steer` writes exactly what the next block receives, and nothing stays behind."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from steering import capture, steer
from steering.architectures import ARCHITECTURES, residual_blocks, state_kind
from steering.errors import InvalidRequest, ModelError, UnsupportedModel
from steering.slab import slab

IDS = torch.tensor([[7, 30, 2, 99, 254, 11, 30, 64, 5, 200, 17, 3], [9, 9, 1, 250, 8, 33, 71, 12, 6, 44, 90, 180]])


@torch.inference_mode()
def logits(lm: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    return lm.model(input_ids=ids, use_cache=False).logits


def hooks_on(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def shifted(resid: torch.Tensor) -> torch.Tensor:
    return resid + torch.linspace(-1, 1, resid.shape[-1])


def test_the_zoo_holds_every_architecture_of_the_table(zoo_types):
    assert zoo_types == set(ARCHITECTURES)


def test_capture_reads_what_the_next_block_receives(any_lm, received):
    with capture(any_lm.model, range(4)) as seen, received(any_lm.model) as resid:
        logits(any_lm)
    for layer in range(4):
        assert torch.equal(seen[layer], resid[layer][0]), layer


def test_the_hook_point_is_the_librarys_own_hidden_state_where_it_reports_one(any_lm):
    """hidden_states[layer + 1], but for the last, which is after the final norm; Mamba kinds omit the embedding."""
    fresh = copy.deepcopy(any_lm.model)
    with torch.inference_mode():
        reported = fresh(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states
    with capture(any_lm.model, range(4)) as seen:
        logits(any_lm)
    first = 0 if state_kind(any_lm.model) == "recurrent" else 1
    for layer in range(3):
        assert torch.equal(seen[layer], reported[layer + first]), layer
    assert not torch.equal(seen[3], reported[-1])


@pytest.mark.parametrize("layer", range(4))
def test_the_next_block_receives_what_steer_wrote(any_lm, received, layer):
    written = []

    def controller(resid):
        written.append(shifted(resid))
        return written[-1]

    plain = logits(any_lm)
    with (
        steer(any_lm.model, {layer: controller}),
        capture(any_lm.model, range(4)) as seen,
        received(any_lm.model) as resid,
    ):
        steered = logits(any_lm)
    assert torch.equal(resid[layer][0], written[0])
    assert torch.equal(seen[layer], written[0])
    assert not torch.allclose(steered, plain)


def test_a_layer_changes_the_stream_after_it_and_never_before_it(any_lm):
    with capture(any_lm.model, range(4)) as seen:
        logits(any_lm)
        plain = dict(seen)
        with steer(any_lm.model, {2: shifted}):
            logits(any_lm)
    changed = [not torch.equal(seen[layer], plain[layer]) for layer in (0, 1, 3)]
    assert changed == [False, False, True]


def test_doing_nothing_is_bit_exact(any_lm):
    plain = logits(any_lm)
    free = slab(torch.ones(any_lm.info.hidden_size), 0.0)
    for controller in (lambda resid: resid, free):
        with steer(any_lm.model, dict.fromkeys(range(4), controller)), capture(any_lm.model, range(4)):
            assert torch.equal(logits(any_lm), plain)
    assert torch.equal(logits(any_lm), plain)


def test_hooks_are_gone_after_normal_exit_and_after_an_exception(any_lm):
    before, plain = hooks_on(any_lm.model), logits(any_lm)

    def fail(resid):
        raise RuntimeError("in the middle of the pass")

    with steer(any_lm.model, {0: shifted, 3: shifted}), capture(any_lm.model, [1]):
        assert hooks_on(any_lm.model) == before + 3
    assert hooks_on(any_lm.model) == before
    with pytest.raises(RuntimeError), steer(any_lm.model, {1: shifted, 2: fail}), capture(any_lm.model, range(4)):
        logits(any_lm)
    assert hooks_on(any_lm.model) == before
    assert torch.equal(logits(any_lm), plain)


@pytest.mark.parametrize("layer", [-1, 4, True, 1.0, "1"])
def test_a_layer_the_model_does_not_have_is_refused_and_leaves_no_hook(lm, layer):
    before = hooks_on(lm.model)
    with pytest.raises(InvalidRequest, match="0 to 3"), steer(lm.model, {0: shifted, layer: shifted}):
        pass
    with pytest.raises(InvalidRequest, match="0 to 3"), capture(lm.model, [0, layer]):
        pass
    assert hooks_on(lm.model) == before


@pytest.mark.parametrize(
    "controller", [lambda resid: resid[:, :1], lambda resid: resid.double(), lambda resid: resid[..., :-1]]
)
def test_a_controller_that_changes_shape_or_dtype_is_an_error_that_names_its_layer(lm, controller):
    with pytest.raises(ModelError, match="layer 2"), steer(lm.model, {2: controller}):
        logits(lm)


def test_an_unknown_architecture_is_refused_with_the_list_of_the_known():
    model = nn.Linear(2, 2)
    model.config = SimpleNamespace(model_type="rwkv")
    for stranger in (model, nn.Linear(2, 2)):
        with pytest.raises(UnsupportedModel) as refused:
            residual_blocks(stranger)
        assert all(known in str(refused.value) for known in ARCHITECTURES)


def test_a_model_that_does_not_fit_its_entry_is_refused(lm):
    with pytest.raises(UnsupportedModel, match=r"no module list at 'model\.layers'"):
        residual_blocks(lm.model.model)
    shorter = copy.deepcopy(lm.model)
    shorter.model.layers = shorter.model.layers[:3]
    with pytest.raises(UnsupportedModel, match="3 blocks, but its config says 4"):
        residual_blocks(shorter)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gpt_neox"])
def test_hidden_states_show_the_unsteered_stream_which_is_why_capture_exists(any_lm):
    model = copy.deepcopy(any_lm.model)

    def hidden_states():
        return model(input_ids=IDS, use_cache=False, output_hidden_states=True).hidden_states

    with torch.inference_mode():
        hidden_states()  # from here on the library records before our hooks run
        with steer(model, {1: shifted}), capture(model, [1]) as seen:
            reported = hidden_states()
    assert torch.equal(seen[1], shifted(reported[2]))
