"""The compiled step writes what the plain one writes, whoever joins or leaves, and is compiled once.

The judge is `generate` with one row for text and reports, and the plain runner for logits.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import pytest
import torch

from steering import Bounds, Constraint, Engine, Plan, Request, Sampling
from steering.engine.compiled import CompiledStep
from steering.engine.runner import Runner
from steering.engine.steered import SlotSteering, Steered
from steering.errors import ModelError, SteeringNotApplied, UnsupportedModel
from steering.tiny import tiny_model, tiny_probe

SLOTS = 4
CHUNK = 16


@pytest.fixture(scope="module")
def two_layers():
    """A small Llama: compiling takes its time, layer by layer."""
    return tiny_model(layers=2)


@pytest.fixture(scope="module")
def compiled(two_layers):
    """A runner whose first slots can be read by a compiled step."""
    return Runner(two_layers, slots=SLOTS + 1, row_tokens=64, compiled_rows=SLOTS)


@pytest.fixture(scope="module")
def engine(two_layers):
    """An engine with a compiled step."""
    with Engine(two_layers, slots=SLOTS, row_tokens=128, chunk_tokens=CHUNK, compile=True) as running:
        yield running


@pytest.fixture
def steps(monkeypatch):
    """How often a compiled step was taken, by rows that wrote."""
    taken, plain = Counter(), CompiledStep.__call__

    def counting(self, tokens, window, offsets):
        taken[len(tokens)] += 1
        return plain(self, tokens, window, offsets)

    monkeypatch.setattr(CompiledStep, "__call__", counting)
    return taken


@pytest.fixture
def never_again():
    """Compiling, from here on, is an error."""
    with torch.compiler.set_stance("fail_on_recompile"):
        yield


def plans(lm):
    """Those the tables hold."""
    low, high = (Constraint(tiny_probe(lm, name=name, seed=at), Bounds(upper=0.3)) for at, name in enumerate("ab"))
    return [
        None,
        Plan((low,)),
        Plan((replace(high, bounds=Bounds(lower=0.6), prompt="all"),)),
        Plan((replace(low, layers=(0,)), replace(high, layers=(1,), generation=(2, 5)))),
        Plan((replace(low, layers=(1,)),), mode="monitor"),
        Plan((replace(high, strength=0.5, max_dose=0.2),)),
    ]


def joint(lm):
    """A plan that needs more than the tables."""
    return Plan(
        tuple(Constraint(tiny_probe(lm, name=name, seed=at), Bounds(upper=0.4)) for at, name in enumerate("ab"))
    )


def requests(plans, *, tokens=12):
    """Short and long prompts, greedy and sampled, of different lengths."""
    return [
        Request(
            f"row {at} " + "of some length " * (at * 5 % 4),
            Sampling(max_tokens=tokens + at % 5, temperature=0.9 * (at % 2), seed=at, ignore_eos=True),
            plan,
            logprobs=2 if at % 3 == 0 else None,
            token_scores=plan is not None and at % 4 == 1,
            echo=at % 6 == 3,
        )
        for at, plan in enumerate(plans)
    ]


def test_rows_that_join_and_leave_a_compiled_engine_are_as_alone(engine, two_layers, steps, as_alone):
    asked = requests(plans(two_layers) * 3)
    assert max(len(row.prompt) for row in asked) > 2 * CHUNK, "some prompts are read in between, in chunks"
    as_alone(two_layers, asked, [answer.result(30) for answer in [engine.submit(row) for row in asked]])
    assert steps[SLOTS] >= 20
    assert set(steps) == {2, 3, 4}, "fewer rows than half of the slots go the plain way"


def test_a_plan_the_tables_cannot_hold_takes_its_passes_the_plain_way(engine, two_layers, steps, as_alone):
    asked = requests([joint(two_layers), *plans(two_layers)[:3]], tokens=8) + requests([plans(two_layers)[1]] * 6)
    as_alone(two_layers, asked, [answer.result(30) for answer in [engine.submit(row) for row in asked]])
    assert 5 <= sum(steps.values()) < 5 * 12


def test_where_padding_wrote_a_row_that_joins_sees_nothing_of_it(two_layers, compiled, steps):
    plain = Runner(two_layers, slots=SLOTS + 1, row_tokens=64)
    for at in range(4):
        plain_logits, logits = (
            [
                runner.read(0, [[1, 2, 3], [4]], [0, 0], [-3, -1], whole=False) if at == 0 else None,
                runner.read(0, [[7 + at], [9]], [3 + at, 1 + at], [at, at], whole=False),
            ][-1]
            for runner in (plain, compiled)
        )
        torch.testing.assert_close(logits, plain_logits, atol=1e-5, rtol=0)
    for runner in (plain, compiled):
        runner.read(2, [[5, 6]], [0], [-2], whole=False)
    for at in range(30):
        rows, held = [[7], [8], [9 + at]], [7 + at, 5 + at, 2 + at]
        both = [runner.read(0, rows, held, [at] * 3, whole=False) for runner in (plain, compiled)]
        torch.testing.assert_close(*both, atol=1e-5, rtol=0)
    assert steps == {2: 4, 3: 30}


@pytest.mark.usefixtures("never_again")
def test_it_is_compiled_once_for_all_lengths_up_to_a_full_row(compiled, steps):
    for held in range(64):
        compiled.read(0, [[3]] * (2 + held % 3), [held, 0, 5, 9][: 2 + held % 3], [held] * (2 + held % 3), whole=False)
    assert steps.total() == 64


def test_an_edit_that_does_not_happen_inside_the_graph_is_found(two_layers, compiled, monkeypatch):
    row = Steered.of(plans(two_layers)[1], two_layers, prompt_tokens=1, token_scores=False)
    for slot in (0, 1):
        compiled.steering.join(slot, row)
    compiled.read(0, [[1], [2]], [0, 0], [0, 0], whole=False)
    with monkeypatch.context() as deaf:
        deaf.setattr(SlotSteering, "act", lambda self, layer, resid: resid.clone())
        with pytest.raises(SteeringNotApplied, match=r"layers \[0, 1\]"):
            compiled.read(0, [[1], [2]], [1, 1], [1, 1], whole=False)
    for slot in (0, 1):
        compiled.steering.leave(slot)


def test_compiling_leaves_the_model_as_it_was(two_layers, compiled):
    fresh = tiny_model(layers=2).model
    assert two_layers.model.config.to_dict() == fresh.config.to_dict()
    assert two_layers.model.config._attn_implementation == fresh.config._attn_implementation
    for module in two_layers.model.modules():
        assert not module._forward_hooks
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        assert torch.equal(two_layers.model(ids).logits, fresh(ids).logits)


@pytest.mark.parametrize("model_type", ["mamba", "jamba"])
def test_a_model_that_cannot_be_compiled_is_refused_with_the_way_out(zoo, model_type):
    with pytest.raises(UnsupportedModel, match=r"(recurrent|hybrid) model.*without --compile"):
        Engine(zoo(model_type), slots=2, compile=True)


def test_without_a_compiler_the_engine_refuses_to_start_and_says_so():
    none = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with none, pytest.raises(ModelError, match=r"needs a working C\+\+ compiler.*without --compile"):
        Engine(tiny_model(layers=1, hidden_size=16), slots=3, compile=True)


def test_whatever_else_goes_wrong_while_compiling_is_told_in_a_line(monkeypatch):
    def broken(*args):
        raise NotImplementedError("no\nsuch thing")

    monkeypatch.setattr("steering.engine.compiled._Attention.update", broken)
    with pytest.raises(ModelError, match=r"tiny-llama cannot be compiled: .*without --compile") as told:
        Engine(tiny_model(layers=1, hidden_size=16), slots=3, compile=True)
    assert "\n" not in str(told.value)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma2", "gemma3", "phi3", "gpt2", "gpt_neox", "opt"])
def test_other_architectures_write_as_alone(zoo, model_type, many_plans, rows, running, as_alone, steps):
    lm = zoo(model_type)
    asked = rows([plan for plan in many_plans(lm).values() if plan is not None][:12], max_tokens=20)
    with running(lm, slots=SLOTS, row_tokens=128, chunk_tokens=CHUNK, compile=True) as answers:
        as_alone(lm, asked, answers(asked))
    assert steps.total() >= 10


@pytest.mark.slow
def test_in_bfloat16_unsteered_rows_agree_with_the_plain_step():
    half = copy.deepcopy(tiny_model(layers=2))
    half.model.to(torch.bfloat16)
    plain, ours = Runner(half, slots=5, row_tokens=64), Runner(half, slots=5, row_tokens=64, compiled_rows=4)
    for at in range(20):
        both = [runner.read(0, [[3], [at], [5]], [at] * 3, [at] * 3, whole=False) for runner in (plain, ours)]
        torch.testing.assert_close(*both, atol=0.05 * float(both[0].abs().max()), rtol=0)
