"""What can go wrong: each trouble is said where it can be mended, and what was written is kept."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from fastapi.responses import JSONResponse

from .conftest import Visit, Visiting
from .double import Double, end, event, hanging, refusal, whole, words

pytestmark = pytest.mark.slow


@pytest.fixture
def double() -> Double:
    """A server that misbehaves as it is told."""
    return Double()


@pytest.fixture
def visit(double: Double, run: Callable[..., Any], visiting: Visiting) -> Iterator[Visit]:
    """Its page, not yet open."""
    with run(double.app) as client:
        yield visiting(str(client.base_url).rstrip("/"))


NONSENSE = {
    "mode": "chat", "messages": [{"role": "king", "content": 5}, None], "max_tokens": "many", "seed": -1,
    "constraints": [{"probe": "calm@1", "lower": "x", "upper": None, "layers": {"a": 1}, "gains": "all", "space": 4}],
}  # fmt: skip


def packed(setup: dict[str, Any]) -> str:
    """A setup as a link holds it."""
    return "#run=" + base64.urlsafe_b64encode(json.dumps(setup).encode()).decode().rstrip("=")


def steered(visit: Visit) -> str:
    """All that the steered side shows."""
    return str(visit.page.locator(".pane[data-arm=steered]").inner_text())


def held(visit: Visit) -> Visit:
    """Open, with a prompt and a concept."""
    return visit.open().fill("Once").choose("calm@1")


def test_a_bad_bound_is_told_at_its_slider(visiting: Visiting, client: Any) -> None:
    visit = visiting(str(client.base_url).rstrip("/")).open().fill("Once")
    field = visit.page.locator("[data-param='steering.constraints.0.lower']")
    field.fill("1.5")
    visit.page.keyboard.press("Control+Enter")
    fault = visit.page.locator(".concept .fault")
    fault.wait_for(state="visible")
    assert "1.5" in fault.inner_text()
    assert field.get_attribute("aria-invalid") == "true"
    assert visit.page.evaluate("document.activeElement.dataset.param") == "steering.constraints.0.lower"
    assert visit.page.locator(".verdict, svg.trace").count() == 0
    visit.picture("bad-bound")
    field.fill("0.9")
    visit.run()
    assert not fault.is_visible()


def test_a_length_the_server_does_not_allow_is_told_at_the_sampling(visiting: Visiting, client: Any) -> None:
    visit = visiting(str(client.base_url).rstrip("/")).open().fill("Once", max_tokens=100_000)
    visit.page.keyboard.press("Control+Enter")
    fault = visit.page.locator("#sampling-fault")
    fault.wait_for(state="visible")
    assert "100000" in fault.inner_text()


def test_a_server_that_is_down_is_said_and_found_again(visit: Visit) -> None:
    held(visit)
    visit.page.route("**/v1/completions", lambda route: route.abort("connectionrefused"))
    visit.page.keyboard.press("Control+Enter")
    notice = visit.page.get_by_role("alert")
    notice.get_by_text("cannot be reached").wait_for()
    assert visit.page.get_by_label("Text to continue").input_value() == "Once"
    visit.page.unroute("**/v1/completions")
    notice.get_by_role("button", name="Run again").click()
    visit.ended()
    assert "one two" in steered(visit)
    assert not notice.is_visible()


def test_a_page_opened_before_its_server_is_ready_waits_for_it(double: Double, visit: Visit) -> None:
    answers = itertools.chain(
        [refusal(503, "loading", "the model is loading")], itertools.repeat(JSONResponse({"model": "double"}))
    )
    double.ready = lambda: next(answers)
    visit.open(ready=False)
    visit.page.wait_for_selector("#connection[data-state=loading]")
    visit.page.wait_for_selector("#connection[data-state=ready]")


def test_a_run_asked_for_while_the_model_loads_begins_when_it_is_there(double: Double, visit: Visit) -> None:
    held(visit)
    left = [3, 3]

    def answer(request: Any, body: Any) -> Any:
        if left[0] > 0:
            left[0] -= 1
            return refusal(503, "loading", "the model is loading")
        return whole(words(" one", " two"), end())

    double.answer = answer
    double.ready = lambda: refusal(503, "loading", "loading") if left[0] > 1 else JSONResponse({"model": "double"})
    visit.page.keyboard.press("Control+Enter")
    visit.page.get_by_role("alert").get_by_text("model is loading").wait_for()
    left[0] = 0
    visit.ended()
    assert "one two" in steered(visit)


def test_a_full_queue_is_waited_for_as_long_as_the_server_says(double: Double, visit: Visit) -> None:
    held(visit)
    full = [True]
    double.answer = lambda request, body: (
        refusal(503, "engine_unavailable", "the queue is full", retry_after="2")
        if full[0]
        else whole(words(" one", " two"), end())
    )
    visit.page.keyboard.press("Control+Enter")
    visit.page.get_by_role("alert").get_by_text("queue is full; trying again in 2 s").wait_for()
    visit.picture("full")
    full[0] = False
    visit.ended()
    assert "one two" in steered(visit)


@pytest.mark.parametrize("how", ["an error in the stream", "no end"])
def test_a_stream_that_breaks_keeps_its_text_and_says_that_it_is_incomplete(
    double: Double, visit: Visit, how: str
) -> None:
    held(visit)
    bad = (
        [event({"error": {"message": "the engine stopped"}}), event("[DONE]")]
        if how == "an error in the stream"
        else []
    )
    double.answer = lambda request, body: whole(words(" one", " two"), iter(bad))
    visit.run(until="broken")
    assert "one two" in steered(visit)
    assert "Incomplete: " + ("the engine stopped" if bad else "the stream ended before the text did") in steered(visit)
    assert "incomplete" in visit.page.locator(".verdict").inner_text()
    visit.picture("broken")


def test_escape_stops_a_run_and_the_server_sees_that_nobody_listens(double: Double, visit: Visit) -> None:
    held(visit)
    gone: list[bool] = []

    async def listened(*texts: str) -> AsyncIterator[str]:
        try:
            async for chunk in hanging(*texts):
                yield chunk
        finally:
            gone.append(True)

    double.answer = lambda request, body: listened(" one", " two")
    visit.page.keyboard.press("Control+Enter")
    visit.tokens("steered").nth(1).wait_for()
    assert visit.page.locator(".pane[data-arm=steered]").get_attribute("data-state") == "streaming"
    visit.page.keyboard.press("Escape")
    visit.ended("stopped")
    assert "one two" in steered(visit)
    assert "stopped by you" in steered(visit)
    visit.page.wait_for_timeout(300)
    assert gone == [True, True]


def test_a_key_is_asked_for_kept_in_this_tab_and_sent(double: Double, visit: Visit) -> None:
    held(visit)
    double.answer = lambda request, body: (
        whole(words(" one", " two"), end())
        if request.headers.get("authorization") == "Bearer sesame"
        else refusal(401, "invalid_api_key", "a key is needed")
    )
    visit.page.keyboard.press("Control+Enter")
    visit.page.get_by_role("dialog").wait_for()
    visit.page.get_by_label("Key", exact=True).fill("sesame")
    visit.page.keyboard.press("Enter")
    visit.tokens("steered").nth(1).wait_for()
    visit.ended()
    assert double.keys[-2:] == ["Bearer sesame"] * 2
    assert visit.page.evaluate("[sessionStorage.length, localStorage.length]") == [1, 0]
    assert "sesame" not in visit.page.locator("#code-text").text_content()
    assert "sesame" not in visit.page.url


def test_a_page_whose_server_wants_a_key_asks_once_and_the_button_asks_again(double: Double, visit: Visit) -> None:
    double.ready = lambda: refusal(401, "invalid_api_key", "a key is needed")
    visit.open(ready=False)
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Not now").click()
    visit.page.wait_for_timeout(1700)
    assert not dialog.is_visible()
    visit.page.get_by_role("button", name="Key", exact=True).click()
    visit.page.get_by_label("Key", exact=True).fill("sesame")
    double.ready = lambda: JSONResponse({"model": "double"})
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector("#connection[data-state=ready]")


def test_a_violation_and_a_warning_are_not_hidden(double: Double, visit: Visit) -> None:
    held(visit)
    double.answer = lambda request, body: whole(
        words(" one", " two"), end(violations=1, warnings=("marked causal: false",))
    )
    visit.run()
    assert "was violated at 1 token, although it was promised" in visit.page.locator(".verdict").inner_text()
    assert "marked causal: false" in steered(visit)


def test_a_link_that_holds_nonsense_does_no_harm(visit: Visit) -> None:
    for fragment in ("#run=bm90IGpzb24", "#run=***", packed({"constraints": 5, "prompt": []}), packed(NONSENSE)):
        visit.open(fragment)
        assert visit.page.locator("#prompt").input_value() == ""
        assert visit.page.get_by_label("Tokens", exact=True).input_value() == "48"
    assert all("404" in said for said in visit.said)  # the double has no policies


def test_what_a_model_writes_is_text_and_never_markup(double: Double, visit: Visit) -> None:
    held(visit)
    double.answer = lambda request, body: whole(words("<b>bold</b>", "<img src=x onerror=alert(1)>"), end())
    visit.run()
    assert "<b>bold</b><img src=x onerror=alert(1)>" in steered(visit)
    assert visit.page.locator(".text b, .text img").count() == 0


def test_bytes_that_make_one_character_together_are_one_token_of_several_ids(double: Double, visit: Visit) -> None:
    held(visit)
    double.answer = lambda request, body: whole(words("", "", "é", " two"), end(tokens=4))
    visit.run()
    assert visit.tokens("steered").all_inner_texts() == ["é", "two"]
    visit.tokens("steered").first.hover()
    assert "tokens 0, 1, 2" in visit.page.get_by_role("tooltip").inner_text()
    assert "4 tokens" in steered(visit)
