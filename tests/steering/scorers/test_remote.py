"""A scorer behind HTTP, on a transport in memory: what is asked, what is retried, and what is refused."""

from __future__ import annotations

import json
import math

import httpx
import pytest

from steering.errors import InvalidRequest, ModelError
from steering.scorers.remote import ATTEMPTS, BATCH, Remote

URL = "http://judge.test/score"
CARD = {
    "name": "my-judge",
    "family": "rules",
    "revision": "7",
    "trained_on": "nothing",
    "higher_is": "long",
}


class Service:
    """Scores by length over 100; answers POST with `troubles` first."""

    def __init__(self, *troubles: httpx.Response | Exception, card: dict[str, object] = CARD) -> None:
        self.troubles, self.card = list(troubles), card
        self.posts: list[list[str]] = []
        self.pauses: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, json=self.card)
        if self.troubles:
            trouble = self.troubles.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        texts = json.loads(request.content)["texts"]
        self.posts.append(texts)
        scores = [len(text) / 100 if text else None for text in texts]
        return httpx.Response(200, json={"scores": scores, "reasons": ["" if text else "empty" for text in texts]})

    def scorer(self, url: str = URL) -> Remote:
        return Remote(url, transport=httpx.MockTransport(self), sleep=self.pauses.append)


def answering(body: object) -> Remote:
    return Service(httpx.Response(200, json=body)).scorer()


def test_scores_come_back_in_order_and_null_is_nan_with_the_services_reason():
    one, nothing, two = Service().scorer().judge(["a" * 30, "", "b" * 70])
    assert (one.value, two.value) == (0.3, 0.7)
    assert math.isnan(nothing.value)
    assert nothing.reason == "empty"


def test_many_texts_are_sent_in_batches():
    service = Service()
    texts = ["a" * (at % 90) + "b" for at in range(2 * BATCH + 1)]
    assert service.scorer().score(texts) == [len(text) / 100 for text in texts]
    assert [len(post) for post in service.posts] == [BATCH, BATCH, 1]


def test_the_card_is_the_services_own_and_tells_nothing_of_its_address():
    card = Service(card={**CARD, "data": ["jigsaw toxic"]}).scorer().card
    assert (card.name, card.higher_is, card.data) == ("my-judge", "long", ("jigsaw toxic",))
    assert "judge.test" not in str(card)


def test_a_busy_or_unreachable_service_is_asked_again_with_growing_pauses():
    service = Service(
        httpx.Response(503), httpx.ConnectError("gone"), httpx.Response(429, headers={"Retry-After": "9"})
    )
    assert service.scorer().score(["four"]) == [0.04]
    assert service.pauses == [1.0, 2.0, 9.0]


def test_a_service_that_stays_down_is_an_error_with_the_way_out():
    service = Service(*[httpx.Response(503)] * ATTEMPTS)
    with pytest.raises(ModelError, match=rf"503, {ATTEMPTS} times; start the service"):
        service.scorer().score(["four"])
    assert len(service.pauses) == ATTEMPTS - 1


def test_an_error_that_waiting_cannot_mend_is_raised_at_once_and_does_not_repeat_the_text():
    service = Service(httpx.Response(422, text="bad input: private words"))
    with pytest.raises(ModelError, match="422") as refused:
        service.scorer().score(["private words"])
    assert "private words" not in str(refused.value)
    assert service.pauses == []


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"scores": [0.1, 0.2]}, "2 scores"),
        ({"scores": [1.5]}, r"score 1\.5"),
        ({"scores": ["high"]}, r"scores\.0"),
        ({"score": [0.5]}, "scores"),
        ([0.5], "the body"),
        ({"scores": [None], "reasons": []}, "0 reasons"),
    ],
)
def test_an_answer_that_is_not_as_documented_is_refused(body, found):
    with pytest.raises(ModelError, match=found):
        answering(body).score(["four"])


def test_a_service_without_a_card_is_refused_before_anything_is_scored():
    with pytest.raises(ModelError, match="trained_on"):
        Service(card={key: value for key, value in CARD.items() if key != "trained_on"}).scorer()

    def unreachable(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    pauses: list[float] = []
    with pytest.raises(ModelError, match="cannot be reached"):
        Remote(URL, transport=httpx.MockTransport(unreachable), sleep=pauses.append)
    assert pauses == []


def test_a_token_comes_from_the_environment_and_never_from_the_address(monkeypatch):
    seen: list[str | None] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("Authorization"))
        return httpx.Response(200, json=CARD)

    monkeypatch.setenv("TILLER_SCORER_TOKEN", "made-up")
    Remote(URL, transport=httpx.MockTransport(answer))
    assert seen == ["Bearer made-up"]
    with pytest.raises(InvalidRequest, match="TILLER_SCORER_TOKEN"):
        Remote("http://me:made-up@judge.test/score", transport=httpx.MockTransport(answer))
