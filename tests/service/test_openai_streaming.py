"""Streams through the official client: put together, awaited, refused, tried again, broken off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from steering import LanguageModel

from .streams import events, held_at, slow_down, until

CHAT: dict[str, Any] = {"model": "tiny-llama", "messages": [{"role": "user", "content": "It was dark"}], "seed": 4}
STEERING = {"constraints": [{"probe": "toxicity@1", "upper": 0.02}], "report": "tokens", "baseline": True}
ENDLESS: dict[str, Any] = {"max_tokens": 60, "logit_bias": {"258": -100}}


@pytest.fixture(scope="module")
def sdk(client: httpx.Client) -> Iterator[openai.OpenAI]:
    """The official client, pointed at our server."""
    with openai.OpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def running(client: httpx.Client) -> int:
    """Rows that are being written."""
    return int(client.get("/ready").json()["running"])


def test_a_streamed_chat_is_the_chat(sdk: openai.OpenAI) -> None:
    ask = CHAT | {"max_tokens": 12, "n": 2, "logprobs": True, "top_logprobs": 2}
    whole = sdk.chat.completions.create(**ask)
    texts, likely, ends = ["", ""], [0, 0], [None, None]
    *chunks, last = sdk.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    for chunk in chunks:
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        likely[choice.index] += len(choice.logprobs.content) if choice.logprobs else 0
        ends[choice.index] = choice.finish_reason
    assert texts == [choice.message.content for choice in whole.choices]
    assert likely == [len(choice.logprobs.content) for choice in whole.choices]
    assert ends == [choice.finish_reason for choice in whole.choices]
    assert (last.choices, last.usage) == ([], whole.usage)


def test_the_clients_own_accumulator_understands_the_chunks(sdk: openai.OpenAI) -> None:
    ask = CHAT | {"max_tokens": 40, "logprobs": True}
    text = sdk.chat.completions.create(**ask).choices[0].message.content or ""
    ask["stop"] = text[20]  # to it, an answer that is cut short is an error
    whole = sdk.chat.completions.create(**ask)
    with sdk.chat.completions.stream(**ask, stream_options={"include_usage": True}) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert {"chunk", "content.delta", "content.done", "logprobs.content.delta"} <= set(kinds)
    assert final.choices[0].message.content == whole.choices[0].message.content
    assert final.choices[0].message.role == "assistant"
    assert final.choices[0].finish_reason == whole.choices[0].finish_reason
    assert final.usage == whole.usage


def test_a_streamed_completion_brings_its_report(sdk: openai.OpenAI) -> None:
    ask: Any = {"model": "tiny-llama", "prompt": "It was a dark night", "max_tokens": 12, "temperature": 0}
    whole = sdk.completions.create(**ask, extra_body={"steering": STEERING})
    texts, scores = ["", ""], []
    for chunk in sdk.completions.create(**ask, extra_body={"steering": STEERING}, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        told = choice.model_extra["steering"]
        if choice.finish_reason is None:
            scores += told["tokens"] if told else []
        elif choice.index == 0:
            assert told["applied"] is True
            assert told["probes"]["toxicity@1"]["violations"] == 0
    assert texts == [choice.text for choice in whole.choices]
    assert [score["offset"] for score in scores] == [
        score["offset"] for score in whole.choices[0].model_extra["steering"]["tokens"]
    ]
    assert all(after <= 0.02 + 1e-6 for score in scores for _, after in score["probes"].values())


def test_many_streams_are_awaited_at_once(client: httpx.Client, sdk: openai.OpenAI) -> None:
    asks = [CHAT | {"max_tokens": 8, "seed": seed} for seed in range(6)]

    async def read(sdk: openai.AsyncOpenAI, ask: Any) -> str:
        return "".join([chunk.choices[0].delta.content async for chunk in await sdk.chat.completions.create(**ask)])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:
            return await asyncio.gather(*(read(sdk, ask | {"stream": True}) for ask in asks))

    assert asyncio.run(all_of_them()) == [sdk.chat.completions.create(**ask).choices[0].message.content for ask in asks]


def test_a_refusal_of_a_stream_is_the_clients_own_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as bad:
        sdk.completions.create(model="tiny-llama", prompt="", max_tokens=4, stream=True)
    assert (bad.value.param, bad.value.code) == ("prompt", "invalid_request")
    with pytest.raises(openai.NotFoundError):
        sdk.chat.completions.create(**CHAT, stream=True, extra_body={"steering": {"constraints": [{"probe": "none"}]}})


def test_an_error_in_band_is_raised_where_the_client_reads_it(
    sdk: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steering.engine.steered.SlotSteering.report", lambda *args, **kwargs: None)
    with held_at(monkeypatch, 2) as go:
        stream = sdk.chat.completions.create(
            **CHAT | ENDLESS | {"max_tokens": 4}, stream=True, extra_body={"steering": STEERING | {"baseline": False}}
        )
        assert next(stream).choices[0].finish_reason is None
        go.set()
        with pytest.raises(openai.APIError, match="could not be shown to be applied") as broken:
            list(stream)
    assert broken.value.code == "steering_not_applied"


class Counted(openai.OpenAI):
    """A client that keeps the statuses of all its replies."""

    statuses: list[int]

    def _should_retry(self, response: Any) -> bool:
        self.statuses = [*getattr(self, "statuses", []), response.status_code]
        return super()._should_retry(response)


def test_a_busy_server_is_tried_again_and_a_late_one_is_not(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask: Any = {"model": "tiny-llama", "prompt": "a", "max_tokens": 2, "stream": True}
    ask["logit_bias"] = {"258": -100}
    with serve(lm, [], slots=1, max_queue=2, max_prompts=1) as client:
        url = f"{client.base_url}/v1"
        with held_at(monkeypatch, 0) as go, Counted(base_url=url, api_key="none", max_retries=4) as sdk:
            first = events(client, "/v1/completions", ask)
            next(first)
            waiting = [
                threading.Thread(target=httpx.post, args=(f"{url}/completions",), kwargs={"json": ask}) for _ in "ab"
            ]
            for thread in waiting:
                thread.start()
            until(lambda: client.get("/ready").json()["waiting"] == 2)
            threading.Timer(0.3, go.set).start()
            assert len(list(sdk.completions.create(**ask))) == 3
            assert sdk.statuses[0] == 503
            assert len(list(first)) == 2
            for thread in waiting:
                thread.join()
        slow_down(monkeypatch, 0.3)
        with (
            Counted(base_url=url, api_key="none", max_retries=4) as sdk,
            pytest.raises(openai.InternalServerError) as late,
        ):
            sdk.completions.create(**ask | {"max_tokens": 60, "stream": False}, extra_body={"timeout": 0.1})
        assert late.value.code == "deadline_exceeded"
        assert sdk.statuses == [504]


@pytest.mark.usefixtures("slow")
def test_a_stream_that_is_closed_frees_its_row(client: httpx.Client, sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.create(**CHAT | ENDLESS, n=2, stream=True) as stream:
        next(stream)
        assert running(client) == 2
    until(lambda: running(client) == 0)


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("streamed", [True, False])
def test_a_task_that_is_cancelled_frees_its_row(client: httpx.Client, streamed: bool) -> None:
    async def cancelled() -> None:
        async with openai.AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as sdk:

            async def read() -> None:
                reply = await sdk.chat.completions.create(**CHAT | ENDLESS, stream=streamed)
                async for _ in reply:
                    pass

            task = asyncio.create_task(read())
            while await asyncio.to_thread(running, client) == 0:
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

    asyncio.run(cancelled())
    until(lambda: running(client) == 0)
