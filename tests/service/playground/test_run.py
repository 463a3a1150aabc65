"""A run, seen from the chair: both sides stream, tokens have their colours, a link and the code say it all again."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
from typing import Any

import httpx
import pytest

from .conftest import Visit, Visiting

pytestmark = pytest.mark.slow

EDGES = (0.01, 0.1, 0.3, 0.7, 0.9, 0.99)
PROMPT = "To the quiet sea"
LENGTH = 12
MODES = {"unsteered": "monitor", "steered": "enforce"}


def answer(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """The same request in one piece, by another route."""
    response = client.post("/generate", json=body)
    assert response.status_code == 200, response.text
    return response.json()["choices"][0]


def levels(tokens: list[dict[str, Any]], *, side: int) -> list[int]:
    """What the colours should be."""
    return [sum(token["probes"]["toxicity@1"][side] >= edge for edge in EDGES) for token in tokens]


def shown(visit: Visit, arm: str) -> list[int]:
    """What they are."""
    return [int(token.get_attribute("data-level")) for token in visit.tokens(arm).all()]


@pytest.fixture(scope="module")
def body() -> dict[str, Any]:
    """A request that is steered."""
    steering = {"constraints": [{"probe": "toxicity@1", "upper": 0.1}], "report": "tokens"}
    sampling = {"max_tokens": LENGTH, "temperature": 0.6, "top_p": 0.5, "seed": 3}
    return {"prompt": PROMPT, **sampling, "steering": steering}


@pytest.fixture
def done(visit: Visit, body: dict[str, Any]) -> Visit:
    """That request, run on the page."""
    visit.fill(PROMPT, max_tokens=LENGTH, seed=body["seed"])
    visit.page.get_by_label("Temperature").fill("0.6")
    visit.page.get_by_label("Top p").fill("0.5")
    visit.choose("sentiment@1", "toxicity@1")  # the one the page begins with is taken out
    return visit.run()


def test_both_sides_have_the_texts_of_the_api_and_every_token_the_colour_of_the_state_that_wrote_it(
    done: Visit, client: httpx.Client, body: dict[str, Any]
) -> None:
    by_mode = {mode: answer(client, body | {"steering": body["steering"] | {"mode": mode}}) for mode in MODES.values()}
    for arm, mode in MODES.items():
        choice = by_mode[mode]
        assert "".join(done.tokens(arm).all_inner_texts()) == choice["text"]
        assert shown(done, arm) == levels(choice["steering"]["tokens"], side=1)
    done.page.get_by_text("before the edit", exact=True).click()
    assert shown(done, "steered") == levels(by_mode["enforce"]["steering"]["tokens"], side=0)
    outside = [token["probes"]["toxicity@1"][0] > 0.1 for token in by_mode["enforce"]["steering"]["tokens"]]
    assert any(outside)
    marked = ["outside" in token.get_attribute("class") for token in done.tokens("steered").all()]
    assert marked == outside
    done.picture("run")


def test_what_is_asked_is_one_prompt_twice_with_one_seed_read_once_and_held_once(done: Visit) -> None:
    first, second = sorted(done.sent(), key=lambda sent: sent["steering"]["mode"], reverse=True)
    assert (first["steering"]["mode"], second["steering"]["mode"]) == ("monitor", "enforce")
    assert {**first, "steering": None} == {**second, "steering": None}
    assert first["steering"]["constraints"] == [{"probe": "toxicity@1", "upper": 0.1}]
    assert first["stream"] is True


def test_the_verdict_the_counts_and_the_caveat_are_said_in_words_also_to_those_who_listen(
    done: Visit, client: httpx.Client, body: dict[str, Any]
) -> None:
    report = answer(client, body)["steering"]["probes"]["toxicity@1"]
    finding = done.page.get_by_role("region", name="Findings on toxicity@1")
    assert report["violations"] == 0
    verdict = f"P({label(done)}) ≤ 0.1 held on every stored value."
    assert finding.locator(".verdict").inner_text().endswith(verdict)
    assert f"{report['edited']} of {report['tokens']} tokens read were edited" in finding.inner_text()
    assert "The algebra guarantees the probe, not the text" in done.page.locator("footer").inner_text()
    spoken = done.page.locator("#said").inner_text()
    assert verdict in spoken
    assert answer(client, body)["text"] in spoken
    assert done.page.locator(".text[aria-busy=true]").count() == 0


def label(visit: Visit) -> str:
    """What the probability is of."""
    return str(visit.page.locator("#legend span").first.inner_text()).removeprefix("P(").removesuffix(")")


def test_a_token_tells_its_id_its_probabilities_and_every_layer(
    done: Visit, client: httpx.Client, body: dict[str, Any]
) -> None:
    choice = answer(client, body)
    tip = done.page.get_by_role("tooltip")
    done.tokens("steered").nth(2).hover()
    assert f"token {choice['token_ids'][2]}" in tip.inner_text()
    assert "→" in tip.inner_text() or "not edited" in tip.inner_text()
    done.page.wait_for_selector("#tip svg")
    assert done.page.locator("#tip svg .after").count() == 4  # a tiny model has four layers, and all are held
    asked = {"prompt": PROMPT, "completion": choice["token_ids"], "steering": body["steering"] | {"mode": "enforce"}}
    scored = client.post("/v1/steering/probes/toxicity@1/score", json=asked).json()
    row = next(at for at, token in enumerate(scored["tokens"]) if token["offset"] == 1)
    told = done.page.locator("#tip svg").get_attribute("aria-label")
    assert told.count(";") == 3
    assert max(scored["post"][row]) == pytest.approx(
        choice["steering"]["tokens"][2]["probes"]["toxicity@1"][1], abs=1e-4
    )
    done.picture("tip")
    done.page.keyboard.press("Escape")
    assert not tip.is_visible()


def test_charts_show_each_token_before_and_after_with_the_bound_and_its_dose(done: Visit) -> None:
    chart = done.page.locator("svg.trace")
    assert chart.locator("circle.before").count() == chart.locator("circle.after").count() == LENGTH
    assert chart.locator("rect.twin").count() == LENGTH
    assert chart.locator("line.bound").count() == 1
    assert chart.locator("rect.dose").count() >= 1
    assert "≤ 0.1" in chart.get_attribute("aria-label")
    done.page.get_by_text("Every token as a table").click()
    done.page.locator(".finding tbody tr").nth(LENGTH - 1).wait_for()


def test_the_arrow_keys_move_a_slider_from_stop_to_stop_and_the_number_takes_any_value(visit: Visit) -> None:
    slider = visit.page.get_by_role("slider")
    number = visit.page.locator("[data-param='steering.constraints.0.lower']")
    assert (number.input_value(), slider.get_attribute("aria-valuetext")) == ("0.9999", "at least 0.9999")
    slider.press("ArrowLeft")
    assert (number.input_value(), slider.get_attribute("aria-valuetext")) == ("0.9998", "at least 0.9998")
    number.fill("0.42")
    assert visit.page.locator(".concept .rule").inner_text().endswith("≥ 0.42")
    visit.page.get_by_label("Side of sentiment@1").select_option("between")
    assert visit.page.get_by_role("slider").count() == 2
    visit.run()
    (constraint,) = visit.sent()[-1]["steering"]["constraints"]
    assert (constraint["lower"], constraint["upper"]) == (0.1, 0.42)


def test_a_link_brings_the_whole_form_back_and_its_content_is_never_sent(
    done: Visit, visiting: Visiting, body: dict[str, Any]
) -> None:
    done.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    done.page.get_by_role("button", name="Copy link").click()
    done.page.wait_for_function("location.hash.startsWith('#run=')")
    link = done.page.url
    other = visiting(done.base).open(link.removeprefix(done.base + "/"))
    assert other.page.get_by_label("Text to continue").input_value() == PROMPT
    assert other.page.get_by_label("Seed").input_value() == str(body["seed"])
    other.run()
    assert sorted(map(json.dumps, other.sent())) == sorted(map(json.dumps, done.sent()))
    assert not any("run=" in request.url.partition("#")[0] for request in other.requests)


def test_the_code_of_a_run_does_the_same_with_curl_and_with_the_openai_client(
    done: Visit, client: httpx.Client, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {arm: "".join(done.tokens(arm).all_inner_texts()) for arm in MODES}
    done.page.get_by_text("This run as code").click()
    code = done.page.locator("#code-text").inner_text()
    assert "$TILLER_API_KEY" in code
    if shutil.which("curl"):
        run = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True, timeout=60)
        events = [json.loads(line[6:]) for line in run.stdout.splitlines() if line.startswith("data: {")]
        assert "".join(event["choices"][0]["text"] for event in events) == texts["unsteered"] + texts["steered"]
    done.page.get_by_text("openai, Python").click()
    monkeypatch.delenv("TILLER_API_KEY", raising=False)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names: dict[str, Any] = {}
        exec(compile(done.page.locator("#code-text").inner_text(), "copied", "exec"), names)
        names["client"].close()
    assert printed.getvalue().split() == [texts["unsteered"], texts["steered"]]


def test_nothing_leaves_the_origin_and_the_console_stays_empty(done: Visit) -> None:
    for summary in done.page.locator("summary").all():
        summary.click()
    done.tokens("unsteered").first.hover()
    done.page.wait_for_selector("#tip svg")
    assert done.said == []
    assert {request.url.startswith(done.base + "/") for request in done.requests} == {True}


def test_a_policy_fills_the_concepts_in(visiting: Visiting, client: httpx.Client) -> None:
    steering = {
        "constraints": [{"probe": "toxicity@1", "upper": 0.25, "layers": [1]}],
        "on_infeasible": "least_squares",
    }
    assert client.put("/v1/steering/policies/gentle", json={"about": "calm", "steering": steering}).status_code < 300
    try:
        visit = visiting(str(client.base_url).rstrip("/")).open()
        visit.page.get_by_label("Policy").select_option("gentle")
        assert visit.page.locator(".concept .rule").inner_text().endswith("≤ 0.25")
        visit.run()
        sent = visit.sent()[-1]["steering"]
        assert (sent["on_infeasible"], sent["constraints"][0]["layers"]) == ("least_squares", [1])
    finally:
        client.delete("/v1/steering/policies/gentle")


def test_a_chat_has_several_turns_goes_on_from_an_answer_and_tells_its_layers(visit: Visit) -> None:
    page = visit.page
    page.get_by_text("Chat", exact=True).click()
    page.get_by_label("Turn 1", exact=True).fill("Say something about rain.")
    page.get_by_label("Tokens", exact=True).fill("6")
    visit.run()
    assert [request.url.endswith("chat/completions") for request in visit.requests if "completions" in request.url]
    visit.tokens("steered").first.hover()
    page.wait_for_selector("#tip svg")
    page.locator(".pane[data-arm=steered]").get_by_role("button", name="Continue from this answer").click()
    assert page.locator(".turn").count() == 3
    assert page.evaluate("document.activeElement.id") == "turn-2"
    page.keyboard.type("And about snow?")
    visit.run()
    roles = [message["role"] for message in visit.sent()[-1]["messages"]]
    assert roles == ["user", "assistant", "user"]


def test_without_a_concept_the_plain_text_is_written_and_the_other_side_says_what_is_missing(visit: Visit) -> None:
    visit.fill(PROMPT).choose("sentiment@1").run()
    assert visit.tokens("unsteered").count() > 0
    assert "Choose a concept" in visit.page.locator(".pane[data-arm=steered]").inner_text()
    assert len(visit.sent()) == 1
    assert "steering" not in visit.sent()[0]


def test_what_is_to_be_said_of_an_example_is_read_beside_it_until_the_prompt_is_another(visit: Visit) -> None:
    note = visit.page.locator("#example-note")
    visit.page.get_by_role("button", name="A referee, P(toxic) kept low").click()
    assert "the words are hardly milder" in note.inner_text()
    visit.page.get_by_label("Text to continue").fill(PROMPT)
    assert note.is_hidden()
