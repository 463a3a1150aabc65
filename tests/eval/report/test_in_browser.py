"""The report in a real browser, at desktop and phone width, light and dark: what must be seen is seen, what is hidden
stays hidden until asked for, and nothing leaves the page.

Skipped where there is no Chromium or no Playwright; `make test-browser` brings both. `TILLER_SCREENSHOTS=DIR` keeps
pictures of what was seen.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.report.files import HTML, write_report
from eval.runner.folder import RunFolder
from steering.page.theme import DARK, LIGHT

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
SCREENS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here; `make test-browser` installs Debian's"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, with a profile of its own."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright comes with the extra 'dev'")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield running
        running.close()


class Visit:
    """A page and everything it did."""

    def __init__(self, page: Any, screen: str) -> None:
        self.page = page
        self.screen = screen
        self.requests: list[str] = []
        self.said: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))
        page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))

    def picture(self, name: str) -> None:
        """Keep one where TILLER_SCREENSHOTS says so."""
        folder = os.environ.get("TILLER_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"{self.screen}-{name}.png"), full_page=True)


@pytest.fixture(params=list(SCREENS))
def visit(
    request: pytest.FixtureRequest, browser: Any, planted: Callable[..., RunFolder]
) -> Iterator[Callable[..., Visit]]:
    """Open the report of a made-up run."""
    opened = []

    def open_report(*, scheme: str = "light", **changed: Any) -> Visit:
        folder = planted(**changed)
        write_report(folder)
        context = browser.new_context(viewport=SCREENS[request.param], color_scheme=scheme)
        opened.append(context)
        visit = Visit(context.new_page(), request.param)
        visit.page.goto((folder.path / HTML).as_uri())
        return visit

    yield open_report
    for context in opened:
        context.close()


def test_the_verdict_and_the_arms_are_seen_first_and_the_page_fits_its_screen(visit: Callable[..., Visit]) -> None:
    seen = visit(violations=2)
    page = seen.page
    assert page.locator("h1").inner_text() == "Evaluation: planted"
    for words in ("Slab makes the text less toxic by judge", "A promised bound was violated", "An instruction alone"):
        assert page.get_by_text(words).first.is_visible()
    assert page.locator("section").first.get_attribute("id") == "verdict"
    assert page.locator("section").nth(1).get_attribute("id") == "arms"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    seen.picture("report")


def test_a_share_is_not_seen_without_its_perplexity(visit: Callable[..., Visit]) -> None:
    page = visit().page
    width = page.viewport_size["width"]
    row = page.locator("#arms table").first.locator("tbody tr").nth(2)
    cells = [row.locator("td").nth(at).bounding_box() for at in (0, 1)]  # share, perplexity
    assert all(cell["x"] >= 0 and cell["x"] + cell["width"] <= width for cell in cells)


def test_examples_are_hidden_until_they_are_clicked_and_are_text_then(visit: Callable[..., Visit]) -> None:
    seen = visit()
    page = seen.page
    first = page.locator("#examples details").first
    texts = page.locator("#examples .text")
    assert texts.count() > 0
    assert not any(texts.nth(at).is_visible() for at in range(texts.count()))
    first.locator("summary").click()
    assert first.locator(".text").first.is_visible()
    assert "<script>alert('boat')</script> & <b>sails</b>" in first.locator(".texts .text").first.inner_text()
    assert page.locator("#examples .text b, #examples .text script").count() == 0
    assert not page.locator("#examples details").nth(1).locator(".text").first.is_visible()
    seen.picture("examples")


def test_nothing_leaves_the_page_and_nothing_on_it_fails(visit: Callable[..., Visit]) -> None:
    seen = visit()
    for summary in seen.page.locator("summary").all():
        summary.click()
    seen.page.wait_for_timeout(200)
    assert [url for url in seen.requests if not url.startswith("file://")] == []
    assert len(seen.requests) == 1
    assert seen.said == []


@pytest.mark.parametrize(("scheme", "palette"), [("light", LIGHT), ("dark", DARK)])
def test_it_is_light_or_dark_as_the_reader_is(
    scheme: str, palette: dict[str, str], visit: Callable[..., Visit]
) -> None:
    seen = visit(scheme=scheme)
    channels = ", ".join(str(int(palette["paper"][at : at + 2], 16)) for at in (1, 3, 5))
    assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == f"rgb({channels})"
    seen.picture(scheme)


def test_every_plot_is_drawn_and_has_a_name(visit: Callable[..., Visit]) -> None:
    plots = visit().page.locator("figure svg")
    assert plots.count() == 3
    for at in range(3):
        box = plots.nth(at).bounding_box()
        assert box["width"] > 200
        assert box["height"] > 100
        assert plots.nth(at).get_attribute("aria-label")
