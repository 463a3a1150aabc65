"""generate, unsteered: the plain greedy loop of Transformers, when a row ends, and which prompts are refused."""

from __future__ import annotations

import copy

import pytest
import torch

from steering import Bounds, Constraint, Plan, Request, Sampling, generate, wrap
from steering.errors import InvalidRequest, PromptTooLong

GREEDY = Sampling(max_tokens=12, temperature=0)
TEXT = "The quick brown fox"


def row(prompt=TEXT, plan=None, **sampling):
    return Request(prompt, Sampling(**{"max_tokens": 12, "temperature": 0, "ignore_eos": True} | sampling), plan)


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "mamba", "mamba2", "jamba", "zamba2", "bamba"])
def test_without_a_plan_it_is_the_greedy_search_of_transformers(any_lm):
    prompts = [TEXT, "x", "A somewhat longer prompt than the others"]
    done = generate(any_lm, [row(prompt) for prompt in prompts])
    for prompt, ours in zip(prompts, done, strict=True):
        ids = any_lm.tokenizer(prompt, return_tensors="pt")["input_ids"]
        theirs = any_lm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        assert ours.token_ids == theirs[0, ids.shape[1] :].tolist()
        assert ours.prompt_tokens == ids.shape[1]
        assert ours.steering is None


def test_the_text_is_the_decoded_tokens_and_the_reason_is_length(lm):
    (done,) = generate(lm, [row()])
    assert done.text == lm.tokenizer.decode(done.token_ids, skip_special_tokens=True)
    assert (len(done.token_ids), done.finish_reason) == (12, "length")


@pytest.fixture
def scripted(lm):
    """A model whose greedy continuation is known: after byte b comes byte b + 1."""
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        embedding = torch.randn(300, 32, generator=torch.Generator().manual_seed(1))
        model.get_input_embeddings().weight.copy_(10 * embedding)
        model.lm_head.weight.copy_(embedding.roll(1, 0))
        for block in model.model.layers:
            for name in ("self_attn.o_proj", "mlp.down_proj"):
                block.get_submodule(name).weight.zero_()
    return wrap(model, copy.deepcopy(lm.tokenizer), model_id="scripted")


def test_a_row_ends_before_its_first_stop_string_even_across_tokens(scripted):
    whole = generate(scripted, [row("a")])[0].text
    assert whole == "bcdefghijklm"
    for stop, text in ((("ef",), "bcd"), (("zz", "gh", "fg"), "bcde"), (("b",), ""), (("klmn",), whole)):
        (done,) = generate(scripted, [row("a", stop=stop)])
        assert done.text == text
        assert done.finish_reason == ("length" if text == whole else "stop")


def test_a_row_ends_at_end_of_text_and_keeps_that_token(scripted):
    before_end = (250, 256)  # then comes 257, then 258, which is </s>
    done, on = generate(
        scripted,
        [Request(before_end, GREEDY), Request(before_end, Sampling(max_tokens=4, temperature=0, ignore_eos=True))],
    )
    assert (done.token_ids, done.finish_reason, done.text) == ([257, 258], "stop", "")
    assert (on.token_ids, on.finish_reason) == ([257, 258, 259, 260], "length")


def test_every_end_token_of_the_generation_config_counts(scripted):
    (end,) = scripted.tokenizer("e")["input_ids"]
    scripted.model.generation_config.eos_token_id = [end, 258]
    (done,) = generate(scripted, [row("a", ignore_eos=False)])
    assert (done.text, done.token_ids[-1], done.finish_reason) == ("bcd", end, "stop")


def test_a_row_that_ended_is_neither_steered_nor_counted_any_more(scripted, make_probe):
    plan = Plan((Constraint(make_probe(scripted), Bounds(lower=0.0, upper=1.0)),))
    short, long = generate(scripted, [row("a", plan, stop=("d",)), row("a", plan)])
    assert [done.steering.probes["toxicity@1"].tokens for done in (short, long)] == [3, 12]
    assert (short.steering.finish, long.steering.finish) == ("stop", "length")


def test_a_multi_byte_character_is_found_as_a_stop_once_it_is_whole(scripted):
    ids = scripted.tokenizer("é")["input_ids"]
    assert len(ids) == 2
    (done,) = generate(scripted, [row((ids[0] - 1,), stop=("é",), max_tokens=3)])
    assert done.token_ids[0] == ids[0]
    assert "é" not in done.text


def test_on_step_counts_the_rows_still_running(scripted):
    running = []
    generate(scripted, [row("a", max_tokens=2), row("a", max_tokens=4)], on_step=running.append)
    assert running == [2, 1, 1, 0]


def test_no_requests_are_no_trouble(lm):
    assert generate(lm, []) == []


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("", "empty"),
        (" \n\t ", "white space"),
        ("\u3000\u00a0", "white space"),
        ("bad \ud800 text", "surrogate at character 4"),
        ((), "no token ids"),
        ((1, 300), "token id 300"),
        ((-1,), "token id -1"),
    ],
    ids=repr,
)
def test_a_prompt_that_is_no_text_is_refused_by_name(lm, prompt, says):
    with pytest.raises(InvalidRequest, match=says) as refused:
        generate(lm, [row(), row(prompt)])
    assert refused.value.param == "prompt"


def test_a_prompt_must_leave_room_for_its_continuation(lm):
    generate(lm, [row("x" * 250, max_tokens=6)])
    with pytest.raises(PromptTooLong, match=r"251 tokens and 6 more .* 256"):
        generate(lm, [row("x" * 251, max_tokens=6)])


@pytest.mark.parametrize("model_type", ["mamba2", "falcon_mamba"])
def test_a_recurrence_has_no_context_to_exceed(any_lm):
    assert any_lm.context is None
    generate(any_lm, [row("x" * 300, max_tokens=2)])


def test_a_bad_row_stops_the_batch_before_anything_is_computed(lm, monkeypatch):
    monkeypatch.setattr(lm.model, "forward", None)
    with pytest.raises(InvalidRequest):
        generate(lm, [row(), row("")])


def test_nothing_stays_on_the_model_when_the_pass_fails(lm, probe, monkeypatch):
    before = sum(len(module._forward_hooks) for module in lm.model.modules())
    plan = Plan((Constraint(probe, Bounds(upper=0.1)),))

    def fail(*args):
        raise RuntimeError("in the middle")

    monkeypatch.setattr("steering.generation.Stepper.step", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        generate(lm, [row(plan=plan)])
    assert sum(len(module._forward_hooks) for module in lm.model.modules()) == before
