"""A row's tokens are its own: the same seed, the same tokens, whatever shares the batch, joins it or fails in it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from steering import Request, Sampling, generate
from steering.choosing import Chooser, choose, cut
from steering.errors import InvalidRequest

EVERYTHING = Sampling(
    seed=11,
    temperature=0.9,
    top_p=0.95,
    top_k=30,
    min_p=0.01,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.3,
    logit_bias={3: 1.0},
)


def logits(vocab=40):
    return 2 * torch.randn(vocab, generator=torch.Generator().manual_seed(3))


def draws(scores, count, asked):
    chooser = Chooser(asked, (1, 2))
    return [chooser(scores) for _ in range(count)]


@pytest.mark.parametrize("asked", [Sampling(seed=11), EVERYTHING], ids=["plain", "everything"])
def test_the_same_seed_gives_the_same_tokens_whatever_shares_the_batch_or_leaves_it(asked):
    scores = logits()
    alone = draws(scores, 30, asked)
    mine, others = Chooser(asked, (1, 2)), [Chooser(Sampling(seed=5), ()), Chooser(Sampling(temperature=0), ())]
    together = []
    for step in range(30):
        rows = [others[1], mine, others[0]] if step % 3 else [mine, Chooser(EVERYTHING, (7,))]
        tokens = choose(rows, torch.stack([scores if row is mine else (step - 9) * scores for row in rows]))
        together.append(tokens[rows.index(mine)])
    assert together == alone
    assert draws(scores, 30, Sampling(seed=12)) != alone


def test_a_row_whose_logits_are_not_numbers_fails_alone():
    rows = torch.stack([logits()] * 4)
    rows[1, 5], rows[2] = math.nan, -math.inf
    rows[3, 7] = math.inf
    tokens = choose([Chooser(Sampling(temperature=at % 2), ()) for at in range(4)], rows)
    assert tokens[0] == int(logits().argmax())
    for token, says in zip(tokens[1:], ("NaN", "infinite", "infinite"), strict=True):
        assert isinstance(token, InvalidRequest)
        assert says in str(token)
        assert "--dtype float32" in str(token)
    with pytest.raises(InvalidRequest, match="float32"):
        Chooser(Sampling(), ())(torch.tensor([0.0, math.nan]))


def test_near_ties_that_change_places_do_not_change_the_draw():
    """Another batch shape moves logits by a few 1e-6; the order of the vocabulary does not move with them."""
    scores = torch.zeros(50)
    shaken = scores + 3e-6 * torch.randn(50, generator=torch.Generator().manual_seed(1))
    assert draws(scores, 100, Sampling(seed=11)) == draws(shaken, 100, Sampling(seed=11))


@pytest.mark.parametrize("vocab", [8, 5000, 20_000])
def test_of_equals_at_the_edge_the_lowest_ids_stay(vocab):
    scores = np.zeros(vocab, dtype=np.float32)
    scores[-1] = 1.0
    ids, mass = cut(scores, Sampling(top_k=4))
    assert ids.tolist() == [0, 1, 2, vocab - 1]
    assert mass.tolist() == pytest.approx([math.exp(-1)] * 3 + [1.0])
    whole = vocab - 1 + math.e
    ids, _ = cut(scores, Sampling(top_p=(math.e + vocab / 2 - 0.5) / whole))
    assert ids.tolist() == [*range(vocab // 2), vocab - 1]


@pytest.mark.parametrize("top_p", [1e-300, 1e-12, 0.3, 1 - 2**-53])
@pytest.mark.parametrize("vocab", [2, 999, 9973])
def test_a_flat_distribution_has_a_nucleus_for_every_top_p(vocab, top_p):
    ids, _ = cut(np.zeros(vocab, dtype=np.float32), Sampling(top_p=top_p))
    assert len(ids) == max(1, math.ceil(top_p * vocab))


def test_temperature_zero_is_the_likeliest_token_and_the_first_of_equals():
    scores = torch.tensor([[0.0, 3.0, 3.0, -1.0], [5.0, 1.0, 2.0, 5.0]])
    for second in (Sampling(temperature=0), Sampling(top_k=1), Sampling(min_p=1, top_k=1)):
        assert choose([Chooser(Sampling(temperature=0), ()), Chooser(second, ())], scores) == [1, 0]


def test_greedy_rows_heed_bias_and_penalties():
    scores = torch.tensor([1.0, 0.9, 0.8, -5.0])
    assert draws(scores, 3, Sampling(temperature=0, presence_penalty=0.5)) == [0, 1, 2]
    assert draws(scores, 3, Sampling(temperature=0, frequency_penalty=0.15)) == [0, 1, 0]
    assert draws(scores, 3, Sampling(temperature=0, repetition_penalty=2.0)) == [0, 0, 0], "1 and 2 were in the prompt"
    assert draws(scores, 2, Sampling(temperature=0, logit_bias={0: -100, 3: 5.5})) == [1, 1]


def test_a_nucleus_of_almost_nothing_still_holds_the_likeliest_token():
    assert set(draws(logits(), 50, Sampling(top_p=1e-12))) == {int(logits().argmax())}


@pytest.mark.parametrize("asked", [Sampling(), Sampling(top_p=0.99), Sampling(top_k=9), Sampling(min_p=0.1)], ids=str)
def test_tokens_of_no_probability_are_never_drawn(asked):
    scores = torch.full((30,), -math.inf)
    scores[[4, 9]] = 0.0
    assert set(draws(scores, 200, asked)) == {4, 9}


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_every_seed_in_range_works(seed):
    assert 0 <= draws(logits(), 1, Sampling(seed=seed))[0] < 40


@pytest.mark.parametrize("temperature", [1e-320, 1e-300, 1e-40, 1e-9])
def test_a_temperature_next_to_nothing_is_as_good_as_greedy(temperature):
    assert set(draws(logits(), 20, Sampling(temperature=temperature))) == {int(logits().argmax())}


@pytest.mark.parametrize("penalty", [1e-300, 1e300])
def test_no_penalty_makes_a_logit_infinite(penalty):
    assert 0 <= draws(logits(), 5, Sampling(repetition_penalty=penalty, temperature=0.5))[-1] < 40


def test_prompt_ids_beyond_the_logits_are_no_trouble():
    plain, wide = (Chooser(Sampling(seed=2, repetition_penalty=1.5), prompt) for prompt in ((1,), (1, 41)))
    assert [plain(logits()) for _ in range(9)] == [wide(logits()) for _ in range(9)]


def test_bfloat16_logits_are_read_as_float32():
    scores = logits()[None].bfloat16()
    assert choose([Chooser(EVERYTHING, ())], scores) == choose([Chooser(EVERYTHING, ())], scores.float())


def test_a_text_ends_before_a_stop_token_and_keeps_it_among_its_tokens(lm):
    greedy = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    (whole,) = generate(lm, [Request("It was", Sampling(**greedy))])
    stop = whole.token_ids[5]
    first = whole.token_ids.index(stop)
    (done,) = generate(lm, [Request("It was", Sampling(**greedy, stop_ids=(stop,)))])
    assert done.token_ids == whole.token_ids[: first + 1]
    assert done.finish_reason == "stop"
    assert done.text == lm.tokenizer.decode(whole.token_ids[:first], skip_special_tokens=True)


def test_a_banned_token_is_not_written_and_a_stranger_is_refused(lm):
    greedy = {"max_tokens": 6, "temperature": 0, "ignore_eos": True}
    (plain,) = generate(lm, [Request("It was", Sampling(**greedy))])
    (banned,) = generate(lm, [Request("It was", Sampling(**greedy, logit_bias={plain.token_ids[0]: -100}))])
    assert plain.token_ids[0] not in banned.token_ids
    with pytest.raises(InvalidRequest, match="no token 9999") as refused:
        generate(lm, [Request("It was", Sampling(stop_ids=(9999,)))])
    assert refused.value.param == "stop_ids"
