"""Steered text over HTTP: it is steered, says so, verifies it, and no request can touch another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import httpx
import pytest

from steering import Constraint, LanguageModel, Plan, Request, Sampling, generate
from steering.bounds import Bounds

TIGHT = {"constraints": [{"probe": "toxicity@1", "upper": 0.02}]}
ASK = {"prompt": "It was a dark night", "max_tokens": 12, "temperature": 0}


def post(client: httpx.Client, body: dict[str, Any], route: str = "/generate") -> Any:
    """The decoded reply of a request that must succeed."""
    reply = client.post(route, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_the_same_request_alone_in_python_gives_the_same_text(
    client: httpx.Client, lm: LanguageModel, make_probe: Any
) -> None:
    served = post(client, ASK | {"steering": TIGHT})["choices"][0]
    plan = Plan((Constraint(make_probe(lm), Bounds(upper=0.02)),))
    alone = generate(lm, [Request("It was a dark night", Sampling(max_tokens=12, temperature=0), plan)])[0]
    assert (served["text"], served["token_ids"]) == (alone.text, alone.token_ids)
    assert alone.steering is not None
    told = alone.steering.to_json()["probes"]["toxicity@1"]
    assert served["steering"]["probes"] == {"toxicity@1": pytest.approx(told, abs=1e-6)}


def test_a_steered_choice_differs_from_its_unsteered_twin_and_proves_its_bound(client: httpx.Client) -> None:
    reply = post(client, ASK | {"steering": TIGHT | {"baseline": True}})
    steered, twin = reply["choices"]
    assert steered["text"] != twin["text"]
    assert (steered["baseline"], twin["baseline"], twin["steering"]) == (False, True, None)
    assert (steered["index"], twin["index"]) == (0, 1)
    assert twin["text"] == post(client, ASK)["choices"][0]["text"]
    report = steered["steering"]
    assert report["applied"] is True
    assert report["layers"] == [0, 1, 2, 3]
    probe = report["probes"]["toxicity@1"]
    assert probe["edited"] > 0
    assert probe["violations"] == 0
    assert probe["max_post"] <= 0.02 + 1e-6 < probe["max_pre"]
    assert probe["promised"] is True


def test_the_probes_default_bounds_hold_when_none_are_given(client: httpx.Client) -> None:
    reply = post(client, ASK | {"steering": {"constraints": [{"probe": "toxicity@1"}]}})
    assert reply["choices"][0]["steering"]["probes"]["toxicity@1"]["max_post"] <= 0.1 + 1e-6


def test_a_name_without_a_version_means_the_highest(client: httpx.Client) -> None:
    reply = post(client, ASK | {"steering": {"constraints": [{"probe": "toxicity"}]}})
    assert list(reply["choices"][0]["steering"]["probes"]) == ["toxicity@2"]


def test_several_probes_at_their_own_layers(client: httpx.Client) -> None:
    constraints = [{"probe": "toxicity@2", "upper": 0.1}, {"probe": "sentiment", "lower": 0.9, "layers": [0, 2]}]
    report = post(client, ASK | {"steering": {"constraints": constraints}})["choices"][0]["steering"]
    assert report["layers"] == [0, 1, 2, 3]
    assert report["probes"]["sentiment@1"]["min_post"] >= 0.9 - 1e-6
    assert report["probes"]["toxicity@2"]["max_post"] <= 0.1 + 1e-6


def test_monitor_reads_and_edits_nothing(client: httpx.Client) -> None:
    choice = post(client, ASK | {"steering": TIGHT | {"mode": "monitor"}})["choices"][0]
    assert choice["text"] == post(client, ASK)["choices"][0]["text"]
    assert choice["steering"]["applied"] is False
    assert choice["steering"]["probes"]["toxicity@1"]["edited"] == 0
    assert choice["steering"]["probes"]["toxicity@1"]["violations"] > 0


def test_mode_off_is_the_unsteered_text_without_a_report(client: httpx.Client) -> None:
    choice = post(client, ASK | {"steering": TIGHT | {"mode": "off"}})["choices"][0]
    assert choice["text"] == post(client, ASK)["choices"][0]["text"]
    assert choice["steering"] is None


def test_report_tokens_has_every_covered_token_and_report_none_has_nothing(client: httpx.Client) -> None:
    full = post(client, ASK | {"steering": TIGHT | {"report": "tokens"}})["choices"][0]
    assert len(full["steering"]["tokens"]) == full["steering"]["probes"]["toxicity@1"]["tokens"]
    none = post(client, ASK | {"steering": TIGHT | {"report": "none"}})["choices"][0]
    assert none["steering"] is None
    assert none["text"] == full["text"]


def test_the_generation_window_limits_which_tokens_are_covered(client: httpx.Client) -> None:
    constraint = TIGHT["constraints"][0] | {"prompt": "none", "generation": [2, 5]}
    choice = post(client, ASK | {"steering": {"constraints": [constraint]}})["choices"][0]
    assert choice["steering"]["probes"]["toxicity@1"]["tokens"] == 3
    open_ended = constraint | {"generation": [2, None]}
    choice = post(client, ASK | {"steering": {"constraints": [open_ended]}})["choices"][0]
    assert choice["steering"]["probes"]["toxicity@1"]["tokens"] == 12 - 1 - 2


def test_the_placebo_promises_nothing_and_says_so(client: httpx.Client) -> None:
    constraint = TIGHT["constraints"][0] | {"controller": "random"}
    probe = post(client, ASK | {"steering": {"constraints": [constraint]}})["choices"][0]["steering"]["probes"]
    assert probe["toxicity@1"]["promised"] is False
    assert probe["toxicity@1"]["edited"] > 0


def test_a_seed_is_echoed_and_gives_the_same_text_again(client: httpx.Client) -> None:
    ask = {"prompt": "It was a dark night", "max_tokens": 12, "steering": TIGHT}
    first = post(client, ask)["choices"][0]
    again = post(client, ask | {"seed": first["seed"]})["choices"][0]
    assert again["text"] == first["text"]
    other = post(client, ask)["choices"][0]
    assert other["seed"] != first["seed"]


def test_a_list_of_prompts_gives_each_the_text_it_has_alone(client: httpx.Client) -> None:
    prompts = ["One", "Two and a longer one", "Three"]
    ask = {"max_tokens": 8, "temperature": 0, "steering": TIGHT}
    many = post(client, ask | {"prompt": prompts})
    assert [choice["index"] for choice in many["choices"]] == [0, 1, 2]
    for prompt, choice in zip(prompts, many["choices"], strict=True):
        alone = post(client, ask | {"prompt": prompt})["choices"][0]
        assert alone["text"] == choice["text"]
    assert many["usage"]["prompt_tokens"] == sum(map(len, prompts))
    written = sum(len(choice["token_ids"]) for choice in many["choices"])
    assert many["usage"]["completion_tokens"] == written
    assert many["usage"]["total_tokens"] == sum(map(len, prompts)) + written


def test_text_ends_before_a_stop_string(client: httpx.Client) -> None:
    whole = post(client, ASK)["choices"][0]["text"]
    stop = whole[4:6]
    cut = post(client, ASK | {"stop": stop})["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["text"] == whole[: whole.find(stop)]


def test_every_way_to_decode_reaches_the_sampler(client: httpx.Client, lm: LanguageModel) -> None:
    plain = ASK | {"temperature": 1.0, "seed": 4}
    decoding = {
        "temperature": 1.3, "top_p": 0.9, "top_k": 40, "min_p": 0.02, "repetition_penalty": 1.4,
        "presence_penalty": 0.7, "frequency_penalty": 0.3, "seed": 4,
    }  # fmt: skip
    served = post(client, ASK | decoding | {"logit_bias": {"101": 1.5, "97": -100}, "stop_token_ids": [299]})
    sampling = Sampling(max_tokens=12, logit_bias={101: 1.5, 97: -100}, stop_ids=(299,), **decoding)  # type: ignore[arg-type]
    alone = generate(lm, [Request("It was a dark night", sampling)])[0]
    assert served["choices"][0]["token_ids"] == alone.token_ids
    assert alone.token_ids != post(client, plain)["choices"][0]["token_ids"]
    for one in ({"min_p": 1.0}, {"repetition_penalty": 50.0}, {"logit_bias": {"97": 100}}, {"frequency_penalty": None}):
        changed = post(client, plain | one)["choices"][0]["token_ids"] != post(client, plain)["choices"][0]["token_ids"]
        assert changed == (one != {"frequency_penalty": None}), one


def test_text_ends_before_a_stop_token_which_stays_among_the_tokens(client: httpx.Client, lm: LanguageModel) -> None:
    whole = post(client, ASK)["choices"][0]
    stop = whole["token_ids"][4]
    cut = post(client, ASK | {"stop_token_ids": [stop]})["choices"][0]
    assert cut["finish_reason"] == "stop"
    assert cut["token_ids"] == whole["token_ids"][: whole["token_ids"].index(stop) + 1]
    assert cut["text"] == lm.tokenizer.decode(cut["token_ids"][:-1], skip_special_tokens=True)


def test_n_continuations_are_those_of_the_seeds_that_follow(client: httpx.Client) -> None:
    ask = {"prompt": ["One", "Two"], "max_tokens": 6}
    choices = post(client, ask | {"n": 2, "seed": 8})["choices"]
    assert [choice["seed"] for choice in choices] == [8, 9, 8, 9]
    later = post(client, ask | {"seed": 9})["choices"]
    assert [choices[1]["text"], choices[3]["text"]] == [choice["text"] for choice in later]


@pytest.mark.parametrize("family", ["lm", "mamba_lm"])
def test_concurrent_requests_with_different_plans_answer_as_alone(
    family: str, request: pytest.FixtureRequest, serve: Any, make_probe: Any
) -> None:
    model = request.getfixturevalue(family)
    steerings: list[Any] = [None, TIGHT, {"constraints": [{"probe": "toxicity@1", "lower": 0.98}]}]
    steerings += [TIGHT | {"mode": "monitor"}]
    steerings += [{"constraints": [TIGHT["constraints"][0] | {"layers": [layer]}]} for layer in range(4)]
    asks = [
        {"prompt": f"Caller {i} " + "x" * i, "max_tokens": 10, "temperature": 0, "steering": steerings[i % 8]}
        for i in range(24)
    ]
    with serve(model, [make_probe(model)]) as client:
        alone = [post(client, ask)["choices"][0] for ask in asks]
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(lambda ask: post(client, ask)["choices"][0], asks))
    assert [c["text"] for c in together] == [c["text"] for c in alone]
    for one, other in zip(alone, together, strict=True):
        if one["steering"] is None:
            assert other["steering"] is None
            continue
        for name, value in one["steering"]["probes"]["toxicity@1"].items():
            assert other["steering"]["probes"]["toxicity@1"][name] == pytest.approx(value, abs=1e-4)


def test_a_completion_without_a_report_is_an_error_and_never_unsteered_text(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steering.engine.steered.SlotSteering.report", lambda *args, **kwargs: None)
    reply = client.post("/generate", json=ASK | {"steering": TIGHT})
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "steering_not_applied"
    assert "choices" not in reply.json()


def test_hooks_that_are_not_attached_are_an_error_and_never_unsteered_text(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steering.engine.runner.steer", lambda model, controllers: nullcontext())
    reply = client.post("/generate", json=ASK | {"steering": TIGHT})
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "steering_not_applied"


def test_a_failure_of_one_row_is_500_without_path_or_trace_and_the_next_is_served(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*args: object) -> list[int]:
        raise RuntimeError(f"broken in {__file__}")

    monkeypatch.setattr("steering.writing.Writing.take", explode)
    reply = client.post("/generate", json=ASK)
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal_error"
    assert "test_generate" not in reply.text
    monkeypatch.undo()
    assert client.post("/generate", json=ASK).status_code == 200
