"""The OpenAI surface, through the client nobody here wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

STEERING = {"constraints": [{"probe": "toxicity@1", "upper": 0.02}], "baseline": True}


@pytest.fixture(scope="module")
def sdk(client: httpx.Client) -> Iterator[openai.OpenAI]:
    """The official client, pointed at our server."""
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_models_are_listed_and_found(sdk: openai.OpenAI) -> None:
    assert [model.id for model in sdk.models.list()] == ["tiny-llama"]
    assert sdk.models.retrieve("tiny-llama").owned_by == "tiller"
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("gpt-4")


def test_a_completion_with_n_usage_and_stop(sdk: openai.OpenAI) -> None:
    reply = sdk.completions.create(model="tiny-llama", prompt="Once upon", max_tokens=6, n=2, seed=3, user="someone")
    assert [choice.index for choice in reply.choices] == [0, 1]
    assert reply.choices[0].text != reply.choices[1].text
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len("Once upon")
    second = sdk.completions.create(model="tiny-llama", prompt="Once upon", max_tokens=6, seed=4)
    assert second.choices[0].text == reply.choices[1].text


def test_prompts_may_be_lists_and_token_ids(sdk: openai.OpenAI) -> None:
    text = sdk.completions.create(model="tiny-llama", prompt=["a", "b"], max_tokens=4, temperature=0)
    assert len(text.choices) == 2
    ids = sdk.completions.create(model="tiny-llama", prompt=[[10, 11], [12]], max_tokens=4, temperature=0)
    assert len(ids.choices) == 2
    alone = sdk.completions.create(model="tiny-llama", prompt=[12], max_tokens=4, temperature=0)
    assert alone.choices[0].text == ids.choices[1].text


@pytest.mark.parametrize(
    "asked", [{"presence_penalty": 2}, {"frequency_penalty": 2}, {"logit_bias": {"65": 100}}], ids=str
)
def test_penalties_and_bias_are_taken_as_the_client_sends_them(sdk: openai.OpenAI, asked: Any) -> None:
    ask: Any = {"model": "tiny-llama", "prompt": "Once upon", "max_tokens": 24, "temperature": 0}
    plain = sdk.completions.create(**ask).choices[0].text
    neutral = dict.fromkeys(asked) if "logit_bias" not in asked else {"logit_bias": {}}
    assert sdk.completions.create(**ask, **neutral).choices[0].text == plain
    changed = sdk.completions.create(**ask, **asked).choices[0].text
    assert changed != plain
    if "logit_bias" in asked:
        assert len(changed) == 24
        assert len(set(changed)) == 1, "one token and no other"


def test_a_completion_is_steered_by_extra_body(sdk: openai.OpenAI) -> None:
    reply = sdk.completions.create(
        model="tiny-llama",
        prompt="It was a dark night",
        max_tokens=12,
        temperature=0,
        extra_body={"steering": STEERING},
    )
    steered, twin = reply.choices
    assert steered.text != twin.text
    report = steered.model_extra["steering"] if steered.model_extra else None
    assert report["applied"] is True
    assert report["probes"]["toxicity@1"]["violations"] == 0
    assert report["probes"]["toxicity@1"]["edited"] > 0


def test_a_chat_is_answered_and_steered(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model="tiny-llama",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "It was "}, {"type": "text", "text": "dark"}]},
        ],
        max_completion_tokens=12,
        temperature=0,
        extra_body={"steering": STEERING},
    )
    steered, twin = reply.choices
    assert steered.message.role == "assistant"
    assert steered.message.content != twin.message.content
    assert reply.usage is not None
    assert reply.usage.prompt_tokens == len("[system]Be brief.[user]It was dark[assistant]")


def test_a_chat_tells_how_likely_its_tokens_were(sdk: openai.OpenAI) -> None:
    reply = sdk.chat.completions.create(
        model="tiny-llama",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=6,
        temperature=0,
        logprobs=True,
        top_logprobs=3,
    )
    told = reply.choices[0].logprobs
    assert told is not None
    assert told.content is not None
    assert reply.usage is not None
    assert len(told.content) == reply.usage.completion_tokens
    for entry in told.content:
        assert entry.bytes is not None
        assert bytes(entry.bytes).decode(errors="replace") == entry.token
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].logprob == entry.logprob, "greedy text takes the likeliest"
    without = sdk.chat.completions.create(
        model="tiny-llama", messages=[{"role": "user", "content": "Hi"}], max_tokens=6, temperature=0, logprobs=True
    )
    assert without.choices[0].logprobs is not None
    assert without.choices[0].logprobs.content is not None
    assert [entry.logprob for entry in without.choices[0].logprobs.content] == pytest.approx(
        [entry.logprob for entry in told.content], abs=1e-5
    )
    assert all(entry.top_logprobs == [] for entry in without.choices[0].logprobs.content)


def test_a_prompt_is_scored_and_a_completion_told_token_by_token(sdk: openai.OpenAI) -> None:
    scored = sdk.completions.create(model="tiny-llama", prompt="Once upon", max_tokens=0, echo=True, logprobs=5)
    told = scored.choices[0].logprobs
    assert told is not None
    assert told.tokens == list(scored.choices[0].text) == list("Once upon")
    assert told.token_logprobs is not None
    assert told.token_logprobs[0] is None
    assert told.top_logprobs is not None
    assert all(5 <= len(rivals) <= 6 for rivals in told.top_logprobs[1:])
    written = sdk.completions.create(model="tiny-llama", prompt="Once upon", max_tokens=4, logprobs=0, temperature=0)
    told = written.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert len(told.token_logprobs) == 4
    assert all(logprob < 0 for logprob in told.token_logprobs)


def test_priority_and_timeout_go_by_extra_body(sdk: openai.OpenAI) -> None:
    reply = sdk.completions.create(
        model="tiny-llama", prompt="a", max_tokens=2, extra_body={"priority": "background", "timeout": 30}
    )
    assert reply.usage is not None
    assert reply.usage.completion_tokens == 2


def test_an_answer_can_be_sent_back_as_history(sdk: openai.OpenAI) -> None:
    first = sdk.chat.completions.create(
        model="tiny-llama", messages=[{"role": "user", "content": "Hi"}], max_tokens=4, temperature=0
    )
    history = first.choices[0].message.model_dump()
    if not history["content"]:
        history["content"] = "…"
    second = sdk.chat.completions.create(
        model="tiny-llama",
        messages=[{"role": "user", "content": "Hi"}, history, {"role": "user", "content": "And?"}],  # type: ignore[list-item]
        max_tokens=4,
    )
    assert second.choices[0].finish_reason in {"length", "stop"}


def test_errors_arrive_as_the_clients_own_classes(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.completions.create(model="tiny-llama", prompt="", max_tokens=4)
    assert bad.value.param == "prompt"
    assert bad.value.code == "invalid_request"
    with pytest.raises(openai.NotFoundError) as missing:
        sdk.completions.create(
            model="tiny-llama", prompt="a", extra_body={"steering": {"constraints": [{"probe": "none"}]}}
        )
    assert missing.value.code == "probe_not_found"
    with pytest.raises(openai.NotFoundError):
        sdk.completions.create(model="gpt-4", prompt="a")
