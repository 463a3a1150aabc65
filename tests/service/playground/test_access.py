"""For every reader: keyboard, screen reader, phone, dark, colour-blind, without motion."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import httpx
import pytest

from .conftest import Visit, Visiting

pytestmark = pytest.mark.slow

CONTRAST = """(selectors) => {
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = ([r, g, b, a], [x, y, z]) => [r * a + x * (1 - a), g * a + y * (1 - a), b * a + z * (1 - a)];
  const linear = (c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = (colour) => colour.map((c) => linear(c / 255))
    .reduce((sum, c, at) => sum + c * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, layer) => over(layer, below), [255, 255, 255]);
  };
  const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
  return selectors.flatMap((selector) => seen(selector).map((element) => {
    const ground = behind(element);
    const [one, other] = [light(over(rgba(getComputedStyle(element).color), ground)), light(ground)];
    const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    return [selector, element.textContent.slice(0, 20), Math.round(100 * ratio) / 100];
  }));
}"""

NAMELESS = """() => [...document.querySelectorAll("button, input, select, textarea, a, summary, [role=img], fieldset")]
  .filter((e) => e.checkVisibility() || e.type === "radio")
  .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
  .map((e) => e.outerHTML.slice(0, 90))"""

REPEATED = """() => {
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  return ids.filter((id, at) => ids.indexOf(id) !== at);
}"""

TEXTS = [
    ".scale .token", ".tokens .token", ".asked", ".meta", ".rule", ".small", ".guide", ".verdict", ".words",
    ".key span", "summary", "#run", "#share", "footer p", ".connection", "nav a", ".chips button",
    ".examples button", ".field label",
]  # fmt: skip


@pytest.fixture
def base(client: httpx.Client) -> str:
    """Where the real server is."""
    return str(client.base_url).rstrip("/")


def ran(visit: Visit) -> Visit:
    """Open, and run something small."""
    return visit.open().fill("To the quiet sea", max_tokens=16).run()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_are_told_from_their_ground_levels_of_colour_by_lightness_and_marks_by_shape(
    visiting: Visiting, base: str, scheme: str
) -> None:
    visit = ran(visiting(base, color_scheme=scheme, reduced_motion="reduce"))
    found = visit.page.evaluate(CONTRAST, TEXTS)
    assert len(found) > 40
    assert [entry for entry in found if entry[2] < 4.5] == []
    ratios = [ratio for selector, _, ratio in found if selector == ".scale .token"]
    assert len(ratios) == 7
    assert all(
        one - other > 0.2 for one, other in pairwise(ratios)
    )  # ever less contrast with the ink, whatever the hue
    lines = "e => getComputedStyle(e).textDecorationStyle + getComputedStyle(e).textDecorationThickness"
    assert visit.page.locator(".legend .outside").evaluate(lines) == "solid3px"
    assert visit.page.locator(".legend .edited").evaluate(lines) == "dotted2px"
    visit.picture(f"desktop-{scheme}")


def test_everything_has_a_name_and_no_id_is_there_twice(visiting: Visiting, base: str) -> None:
    page = ran(visiting(base)).page
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate(NAMELESS) == []
    assert page.evaluate(REPEATED) == []
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("main").count() == page.locator("[role=alert]").count() == 1
    first = page.locator(".tokens .token").first.get_attribute("aria-label")
    assert any(mark in first for mark in ("before", "after", "0.", "not read"))


def test_the_keyboard_alone_writes_chooses_runs_reads_and_closes(visiting: Visiting, base: str) -> None:
    page = visiting(base).open().page

    def tab_to(wanted: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("wanted => document.activeElement.matches(wanted)", wanted):
                assert page.evaluate("document.activeElement.matches(':focus-visible')")
                return
        raise AssertionError(f"Tab does not come to {wanted}")

    tab_to("#prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("To the quiet sea")
    tab_to("[data-probe='toxicity@1']")
    page.keyboard.press("Space")
    tab_to("input[type=range]")
    page.keyboard.press("ArrowLeft")
    tab_to("#max_tokens")
    page.keyboard.press("Control+A")
    page.keyboard.type("8")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector(".pane[data-arm=steered][data-state=done]")
    page.wait_for_selector("#stop", state="hidden")
    tab_to(".pane[data-arm=steered] .token")
    assert page.get_by_role("tooltip").is_visible()
    for key, index in (
        ("ArrowRight", 1),
        ("End", page.locator(".pane[data-arm=steered] .token").count() - 1),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.dataset.index") == str(index)
    page.keyboard.press("Escape")
    assert not page.get_by_role("tooltip").is_visible()


def test_on_a_phone_nothing_is_wider_than_the_screen_and_the_sides_are_stacked(visiting: Visiting, base: str) -> None:
    visit = visiting(base, screen="phone", has_touch=True).open()
    page = visit.page
    fits = "document.documentElement.scrollWidth <= window.innerWidth"
    assert page.evaluate(fits)
    visit.fill("To the quiet sea and a word that is much-too-long-for-any-line-of-a-phone-" + "x" * 60, max_tokens=16)
    visit.choose("toxicity@1").run()
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate(fits)
    boxes = [page.locator(f".pane[data-arm={arm}]").bounding_box() for arm in ("unsteered", "steered")]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    visit.tokens("steered").nth(1).tap()
    tip = page.get_by_role("tooltip").bounding_box()
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= 390
    visit.picture("phone")
    page.get_by_text("Chat", exact=True).click()
    assert page.evaluate(fits)


def test_the_reader_may_choose_dark_and_the_choice_is_kept(visiting: Visiting, base: str) -> None:
    visit = visiting(base, color_scheme="light").open()
    ground = "getComputedStyle(document.body).colorScheme"
    button = visit.page.get_by_role("button", name="Dark colours")
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    assert (visit.page.evaluate(ground), button.get_attribute("aria-pressed")) == ("dark", "true")
    visit.page.reload()
    assert visit.page.evaluate(ground) == "dark"
    visit.page.get_by_role("button", name="Dark colours").click()
    assert visit.page.evaluate("localStorage.length") == 0


def test_nothing_moves_for_those_who_asked_for_that(visiting: Visiting, base: str) -> None:
    page: Any = visiting(base, reduced_motion="reduce").open().page
    moving = """() => [...document.querySelectorAll("*")].filter((e) => {
      const style = getComputedStyle(e);
      return style.animationName !== "none" || style.transitionDuration.split(", ").some((d) => d !== "0s");
    }).length"""
    assert page.evaluate(moving) == 0
