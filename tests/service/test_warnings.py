"""A probe whose screen found no effect is served, and every use of it says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from steering import LanguageModel, Probe
from steering.manifest import Origin

ASK: dict[str, Any] = {"prompt": "It was a dark night", "max_tokens": 3, "temperature": 0}


def marked(probe: Probe, causal: bool | None) -> Probe:
    """`probe` as a screen would have left it."""
    return Probe(manifest=probe.manifest.model_copy(update={"causal": causal}), layers=probe.layers)


@pytest.fixture(scope="module")
def screened(serve: Any, lm: LanguageModel, make_probe: Callable[..., Probe]) -> Iterator[httpx.Client]:
    """A server of three probes: causal, not causal, never screened."""
    probes = [marked(make_probe(lm, name=name), causal) for name, causal in CAUSAL.items()]
    with serve(lm, probes) as client:
        yield client


CAUSAL = {"moves": True, "idle": False, "unknown": None}


def steer(client: httpx.Client, probe: str, *, route: str = "/generate", **fields: Any) -> Any:
    """The first choice's report."""
    steering = {"constraints": [{"probe": probe, "upper": 0.1}]} | fields
    reply = client.post(route, json=ASK | {"steering": steering})
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["steering"]


@pytest.mark.parametrize("route", ["/generate", "/v1/completions"])
def test_a_probe_that_is_not_causal_is_named_in_every_report(route: str, screened: httpx.Client) -> None:
    (warning,) = steer(screened, "idle", route=route)["warnings"]
    assert warning.startswith("idle@1 is marked causal: false")
    assert "placebo" in warning


@pytest.mark.parametrize("probe", ["moves", "unknown"])
def test_other_probes_warn_of_nothing(probe: str, screened: httpx.Client) -> None:
    assert steer(screened, probe)["warnings"] == []


def test_a_report_that_was_not_wanted_leaves_the_warning_in_the_log(
    screened: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="tiller"):
        assert steer(screened, "idle", report="none") is None
    assert [record.levelname for record in caplog.records if "idle@1" in record.getMessage()] == ["WARNING"]


def test_reading_a_probe_without_steering_it_needs_no_warning(screened: httpx.Client) -> None:
    assert steer(screened, "idle", mode="monitor")["warnings"] == []


def test_the_list_of_probes_says_what_the_screen_found(screened: httpx.Client) -> None:
    listed = screened.get("/v1/steering/probes").json()["data"]
    assert {probe["name"]: probe["causal"] for probe in listed} == CAUSAL


def test_the_schema_describes_warnings(screened: httpx.Client) -> None:
    summary = screened.get("/openapi.json").json()["components"]["schemas"]["SteeringSummary"]
    assert summary["properties"]["warnings"]["type"] == "array"
    assert "warnings" in summary["required"]


@pytest.fixture(scope="module")
def imported(serve: Any, lm: LanguageModel, make_probe: Callable[..., Probe]) -> Iterator[httpx.Client]:
    """A server of one probe that came from another tool's file and was never calibrated."""
    probe = make_probe(lm, name="foreign")
    changes = {
        "origin": Origin(format="gguf", file="x.gguf", sha256="0" * 64, lost=["the bias"], bias=False),
        "default": probe.manifest.default.model_copy(update={"upper": 0.0, "space": "logit"}),
    }
    with serve(lm, [Probe(manifest=probe.manifest.model_copy(update=changes), layers=probe.layers)]) as client:
        yield client


@pytest.mark.parametrize("route", ["/generate", "/v1/completions"])
@pytest.mark.parametrize(
    "bounds", [{"upper": 0.1}, {"upper": 90, "space": "percentile"}], ids=["default", "percentile"]
)
def test_an_uncalibrated_probe_is_refused_bounds_it_has_no_meaning_for(
    bounds: dict[str, Any], route: str, imported: httpx.Client
) -> None:
    reply = imported.post(route, json=ASK | {"steering": {"constraints": [{"probe": "foreign"} | bounds]}})
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["param"] == "steering.constraints.0.space"
    assert "never calibrated" in error["message"]
    assert "space 'logit'" in error["message"]


def test_an_uncalibrated_probe_holds_logits_tells_no_probability_and_is_listed_as_such(imported: httpx.Client) -> None:
    report = steer(imported, "foreign", constraints=[{"probe": "foreign"}])
    assert report["probes"]["foreign@1"]["tokens"] > 0
    assert report["probes"]["foreign@1"]["max_post"] is None
    (listed,) = imported.get("/v1/steering/probes").json()["data"]
    assert listed["calibrated"] is False


def test_every_choice_carries_the_warning_and_its_unsteered_twin_none(screened: httpx.Client) -> None:
    steering = {"constraints": [{"probe": "idle", "upper": 0.1}], "baseline": True}
    reply = screened.post("/v1/completions", json=ASK | {"n": 2, "temperature": 1, "steering": steering}).json()
    steered = [choice["steering"]["warnings"] for choice in reply["choices"] if choice["steering"]]
    assert [len(warnings) for warnings in steered] == [1, 1]
