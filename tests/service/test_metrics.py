"""What `/metrics` says agrees with what the answers said, under names that are written down."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service import Loaded, Settings, create_app
from steering import LanguageModel, Probe, ProbeStore
from steering.engine.runner import Runner

from .streams import hold_reading

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
ENFORCE = {"constraints": [{"probe": "toxicity", "upper": 0.1}]}
NARROW = {"constraints": [{"probe": "toxicity", "upper": 0.001, "max_dose": 0.0001}]}
MONITOR = {"mode": "monitor", "constraints": [{"probe": "sentiment", "upper": 0.1}]}
OFF = ENFORCE | {"mode": "off"}
GOES_ON = {"logit_bias": {"258": -100}}
"""No end of text"""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(client: httpx.Client) -> Samples:
    """Every series by name and sorted labels."""
    reply = client.get("/metrics")
    assert reply.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


def told(samples: Samples, name: str, **labels: str) -> float:
    """One series, 0 while it is not there."""
    return samples.get((f"tiller_{name}", tuple(sorted(labels.items()))), 0.0)


@pytest.fixture
def server(serve: Any, lm: LanguageModel, make_probe: Callable[..., Probe]) -> Iterator[httpx.Client]:
    with serve(lm, [make_probe(lm), make_probe(lm, name="sentiment", seed=6)], slots=4, max_prompts=4) as client:
        yield client


def test_counts_agree_with_the_answers(server: httpx.Client) -> None:
    bodies: list[dict[str, Any]] = [
        {"prompt": "It was a dark night", "max_tokens": 12, "seed": 1, "steering": ENFORCE | {"baseline": True}},
        {"prompt": "Once", "max_tokens": 9, "seed": 2, "steering": NARROW, **GOES_ON},
        {"prompt": "The garden", "max_tokens": 7, "n": 2, "seed": 3, "steering": MONITOR},
        {"prompt": "The sea", "max_tokens": 5, "seed": 4, "steering": OFF},
        {"prompt": "A letter", "max_tokens": 6, "seed": 5},
    ]
    choices, read = [], 0
    for body in bodies:
        reply = server.post("/generate", json=body).json()
        rows = len(reply["choices"])
        read += rows * reply["usage"]["prompt_tokens"]
        choices += reply["choices"]
    samples = _when(server, lambda now: told(now, "steering_requests_total", mode="none") == 1)

    tokens = [len(choice["token_ids"]) for choice in choices]
    assert told(samples, "generation_tokens_total") == sum(tokens)
    assert told(samples, "prompt_tokens_total") == read
    for reason in ("stop", "length"):
        ended = sum(choice["finish_reason"] == reason for choice in choices)
        assert told(samples, "request_success_total", finished_reason=reason) == ended
    for mode, count in {"enforce": 2, "monitor": 1, "off": 1, "none": 1}.items():
        assert told(samples, "steering_requests_total", mode=mode) == count

    for probe in ("toxicity@1", "sentiment@1"):
        reports = [choice["steering"]["probes"][probe] for choice in choices if probe in _probes(choice)]
        assert reports
        broken = sum(report["violations"] for report in reports if report["promised"])
        assert told(samples, "steering_violations_total", probe=probe) == broken
        for name, field in {"evaluated": "tokens", "edited": "edited", "capped": "capped"}.items():
            assert told(samples, f"steering_{name}_total", probe=probe) == sum(report[field] for report in reports)
        for stage in ("pre", "post"):
            highest = [report[f"max_{stage}"] for report in reports]
            assert told(samples, "steering_probability_count", probe=probe, stage=stage) == len(highest)
            total = told(samples, "steering_probability_sum", probe=probe, stage=stage)
            assert total == pytest.approx(sum(highest), abs=1e-6)
        doses = [report["mean_dose"] for report in reports if report["edited"]]
        assert told(samples, "steering_dose_count", probe=probe) == len(doses)
        assert told(samples, "steering_dose_sum", probe=probe) == pytest.approx(sum(doses), abs=1e-6)
    assert told(samples, "steering_capped_total", probe="toxicity@1") > 0
    assert told(samples, "steering_edited_total", probe="toxicity@1") > 0

    rows = len(choices)
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert told(samples, f"{name}_count") == rows
    assert told(samples, "inter_token_latency_seconds_count") == sum(tokens) - rows
    parts = [told(samples, f"{name}_seconds_sum") for name in ("time_to_first_token", "inter_token_latency")]
    assert told(samples, "e2e_request_latency_seconds_sum") == pytest.approx(sum(parts))
    assert told(samples, "request_queue_time_seconds_sum") < parts[0]
    assert told(samples, "batch_size_sum") == sum(tokens) - rows, "the first token of each is drawn where it is read"
    for name in ("num_requests_running", "num_requests_waiting", "cache_usage_ratio", "requests_cancelled_total"):
        assert told(samples, name) == 0
    shas = {probe["id"]: probe["sha256"] for probe in server.get("/v1/steering/probes").json()["data"]}
    for probe, sha in shas.items():
        assert told(samples, "probe_info", id=probe, sha=sha) == 1


def test_refusals_are_counted_by_reason_and_a_callers_words_are_no_label(server: httpx.Client) -> None:
    refusals = {
        "invalid_json": {"content": b'{"prompt": NaN}'},
        "body_too_large": {"content": b"[" * 2_000_000},
        "invalid_request": {"json": {"prompt": "a", "heron": "kestrel"}},
        "context_length_exceeded": {"json": {"prompt": "a " * 900, "max_tokens": 1000}},
        "probe_not_found": {"json": {"prompt": "a", "steering": {"constraints": [{"probe": "bittern"}]}}},
        "invalid_bounds": {"json": {"prompt": "a", "steering": {"constraints": [{"probe": "toxicity", "upper": 7}]}}},
    }
    for reason, body in refusals.items():
        reply = server.post("/generate", headers={"content-type": "application/json"}, **body)
        assert reply.json()["error"]["code"] == reason
    server.get("/heron/kestrel")
    server.request("BITTERN", "/generate")
    samples = _when(server, lambda now: told(now, "admission_rejections_total", reason="invalid_bounds") == 1)
    rejected = {labels[0][1]: count for (name, labels), count in samples.items() if count and "rejections" in name}
    assert rejected == dict.fromkeys(refusals, 1)
    text = server.get("/metrics").text
    assert not re.search("heron|kestrel|bittern", text, flags=re.IGNORECASE)


def test_what_runs_waits_is_refused_and_is_left_is_seen_while_it_lasts(
    server: httpx.Client, serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(lm, [], slots=1, max_queue=2, max_prompts=1) as client:
        started, hold = hold_reading(monkeypatch)
        url = f"{client.base_url}/generate"
        body = {"prompt": "abc", "max_tokens": 5, **GOES_ON}
        first = threading.Thread(target=lambda: httpx.post(url, json=body, timeout=60))
        first.start()
        assert started.wait(30)
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(url, json=body, timeout=0.3)
        late = threading.Thread(target=lambda: httpx.post(url, json=body | {"timeout": 0.1}, timeout=60))
        late.start()
        _when(client, lambda now: told(now, "num_requests_waiting") == 2)
        assert client.post("/generate", json=body).status_code == 503
        samples = _when(client, lambda now: told(now, "admission_rejections_total", reason="queue_full") == 1)
        began = time.monotonic()
        scrape(client)
        assert time.monotonic() - began < 5, "a scrape does not wait for the engine"
        assert told(samples, "request_success_total", finished_reason="length") == 0
        time.sleep(0.1)  # until the late one is late, however fast all this went
        hold.set()
        first.join()
        late.join()
        samples = _when(client, lambda now: told(now, "requests_cancelled_total") == 1)
        assert told(samples, "requests_failed_total", reason="deadline_exceeded") == 1
        assert told(samples, "request_success_total", finished_reason="length") == 1
        assert told(samples, "prompt_tokens_total") == 3, "who left or came too late was never read"


def test_a_reserved_share_of_the_budget_is_shown_while_a_row_runs(
    serve: Any, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, hold, writing = Runner.read, threading.Event(), threading.Event()

    def slow(runner: Runner, first: int, rows: Any, lengths: Any, offsets: Any, **options: Any) -> Any:
        if offsets[0] >= 0:
            writing.set()
            assert hold.wait(30)
        return original(runner, first, rows, lengths, offsets, **options)

    with serve(lm, [], slots=2, cache_tokens=100) as client:
        monkeypatch.setattr(Runner, "read", slow)
        body = {"prompt": "abcde", "max_tokens": 20, **GOES_ON}
        asker = threading.Thread(target=lambda: httpx.post(f"{client.base_url}/generate", json=body, timeout=60))
        asker.start()
        assert writing.wait(30)
        samples = scrape(client)
        hold.set()
        asker.join()
    assert told(samples, "num_requests_running") == 1
    assert told(samples, "cache_usage_ratio") == pytest.approx(0.25)


def test_a_server_that_loads_can_be_scraped(run: Any, lm: LanguageModel) -> None:
    go = threading.Event()

    def load() -> Loaded:
        go.wait(30)
        raise AssertionError("not needed")

    with run(create_app(load, Settings())) as client:
        assert client.post("/generate", json={"prompt": "a"}).status_code == 503
        samples = _when(client, lambda now: told(now, "admission_rejections_total", reason="loading") == 1)
        assert told(samples, "num_requests_running") == 0
        go.set()


def test_a_probe_that_is_gone_is_no_label_any_more(server: httpx.Client, lm: LanguageModel) -> None:
    server.post("/generate", json={"prompt": "abc", "max_tokens": 3, "steering": ENFORCE})
    assert told(scrape(server), "steering_evaluated_total", probe="toxicity@1") > 0
    loaded = server.app.state.resident.get()  # type: ignore[attr-defined]
    object.__setattr__(loaded, "probes", ProbeStore([loaded.probes.get("sentiment")]))
    assert not any("toxicity@1" in str(labels) for _, labels in scrape(server))


def test_every_metric_is_documented_with_its_type_and_labels_and_no_other_is(server: httpx.Client) -> None:
    server.post("/generate", json={"prompt": "abc", "max_tokens": 3, "steering": ENFORCE})
    server.post("/generate", json={"prompt": "abc", "max_tokens": 3, "steering": {"constraints": [{"probe": "none"}]}})
    families = {
        family.name: family
        for family in text_string_to_metric_families(server.get("/metrics").text)
        if family.name.startswith("tiller_")
    }
    rows = re.findall(r"^\| `tiller_(\w+)` \| (\w+) \|([^|]*)\|", DOCS, flags=re.MULTILINE)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    shown = {name.removeprefix("tiller_"): family for name, family in families.items()}
    assert {name.removesuffix("_total") for name in documented} == set(shown)
    for name, (kind, labels) in documented.items():
        family = shown[name.removesuffix("_total")]
        assert family.type == kind
        assert {label for sample in family.samples for label in sample.labels} - {"le"} <= labels


def test_openmetrics_is_spoken_when_asked_for(server: httpx.Client) -> None:
    reply = server.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert reply.headers["content-type"].startswith("application/openmetrics-text")
    assert reply.text.endswith("# EOF\n")


def _probes(choice: dict[str, Any]) -> dict[str, Any]:
    return {} if choice["steering"] is None else choice["steering"]["probes"]


def _when(client: httpx.Client, so: Callable[[Samples], bool]) -> Samples:
    """The metrics, once they are so: a request is counted when its reply has been sent, which may be a moment later."""
    for _ in range(1000):
        samples = scrape(client)
        if so(samples):
            return samples
        time.sleep(0.01)
    raise AssertionError("it never came to that")
