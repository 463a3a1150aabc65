"""What a listener is told of the probes: every token's probabilities, with the token they wrote, whatever the plan."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from steering import Request, Sampling
from steering.engine.steered import SlotSteering

CHUNK = 24


@pytest.mark.parametrize("slots", [4, pytest.param(32, marks=pytest.mark.slow)])
def test_the_scores_told_one_by_one_are_those_of_the_report(lm, many_plans, rows, by_hand, slots, as_alone):
    """32 plans of every kind, among neighbours that come and go, prompts in chunks, every third without scores."""
    requests = [
        replace(request, token_scores=request.plan is not None and at % 3 > 0)
        for at, request in enumerate(rows(list(many_plans(lm).values())))
    ]
    random.Random(0).shuffle(requests)
    engine, told = by_hand(lm, slots=slots, chunk_tokens=CHUNK), [[] for _ in requests]
    answers = [engine.submit(row, listener=news.append) for row, news in zip(requests, told, strict=True)]
    engine.finish()
    as_alone(lm, requests, [answer.result(0) for answer in answers])
    for request, answer, news in zip(requests, answers, told, strict=True):
        report = answer.result(0).steering
        if not request.token_scores:
            assert all(item.scores == () for item in news)
            continue
        assert [score for item in news for score in item.scores] == report.tokens
        for at, item in enumerate(news):
            assert all(score["offset"] <= at - 1 for score in item.scores)
            assert all(score["offset"] == at - 1 for score in item.scores if at > 0)


def test_the_first_news_brings_what_was_thought_of_an_echoed_prompt(lm, by_hand):
    engine, told = by_hand(lm, slots=2, chunk_tokens=CHUNK), []
    row = Request("a prompt longer than one chunk", Sampling(max_tokens=3, ignore_eos=True), logprobs=1, echo=True)
    answer = engine.submit(row, listener=told.append)
    engine.finish()
    assert [news.prompt_logprobs for news in told] == [answer.result(0).prompt_logprobs, None, None]


def test_scores_nobody_asked_for_are_not_fetched(lm, many_plans, by_hand, monkeypatch):
    monkeypatch.setattr(SlotSteering, "fresh_scores", lambda *_: pytest.fail("a copy to the host for nobody"))
    engine, told = by_hand(lm, slots=2), []
    sampling = Sampling(max_tokens=3, ignore_eos=True)
    engine.submit(Request("abc", sampling, many_plans(lm)["joint"]), listener=told.append)
    engine.submit(Request("abc", sampling, many_plans(lm)["slab"], token_scores=True))
    engine.finish()
    assert [news.scores for news in told] == [(), (), ()]
