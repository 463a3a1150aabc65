"""`/reports` in a real browser, at desktop and phone width, light and dark: start, watch, cancel, open, be refused.

Skipped where there is no Chromium or no Playwright; `make test-browser` brings both. `TILLER_SCREENSHOTS=DIR` keeps
pictures of what was seen.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SCREENS = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
LIST = "/v1/steering/evaluations"
PATIENCE = 30_000  # milliseconds

in_browser = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed here; `make test-browser` installs Debian's"),
]
Open = Callable[..., Any]


def test_the_page_and_its_parts_are_served_with_strict_headers_and_no_script_of_its_own(client: httpx.Client) -> None:
    page = client.get("/reports")
    parts = re.findall(r'(?:src|href)="(static/[^"]+)"', page.text)
    assert {"static/reports.js", "static/reports.css"} <= set(parts)
    for reply in (page, *(client.get(f"/{part}") for part in parts)):
        assert reply.status_code == 200
        assert reply.headers["x-content-type-options"] == "nosniff"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "frame-ancestors 'none'" in policy
    assert re.findall(r"<script(?![^>]*\ssrc=)", page.text) == []
    assert re.findall(r"\son\w+=|style=|https?://", page.text) == []
    for name in ("nothing.js", "..%2f..%2fapp.py", "reports.html.bak"):
        assert client.get(f"/static/{name}").status_code == 404


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright comes with the extra 'dev'")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def open_page(browser: Any, jobs: httpx.Client) -> Iterator[Open]:
    """Open `/reports`; at the end nothing it asked for was elsewhere, and its console said nothing unexpected."""
    contexts, urls, said = [], [], []

    def visit(*, screen: str = "desktop", scheme: str = "light") -> Any:
        context = browser.new_context(viewport=SCREENS[screen], color_scheme=scheme)
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("request", lambda request: urls.append(request.url))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{jobs.base_url}/reports")
        page.locator("#connection[data-state=ready]").wait_for()
        page.locator("#about:not(:empty)").wait_for(state="attached")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert [url for url in urls if not url.startswith((str(jobs.base_url), "blob:"))] == []
    assert [line for line in said if "Failed to load resource" not in line] == []


def picture(page: Any, name: str) -> None:
    folder = os.environ.get("TILLER_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / f"reports-{name}.png"), full_page=True)


class TestInBrowser:
    pytestmark = in_browser

    def test_an_evaluation_is_started_with_the_keyboard_and_its_report_is_opened(self, open_page: Open) -> None:
        page = open_page()
        assert page.locator("#none").is_visible()
        assert page.locator("#spec option[value=rtp]").is_disabled()  # its texts are files, and there is no folder
        page.locator("#n").focus()
        page.keyboard.type("4")
        page.keyboard.press("Enter")
        job = page.locator(".job[data-state=done]")
        job.wait_for()
        assert "4 prompts of each set" in job.inner_text()
        with page.context.expect_page() as opened:
            job.get_by_role("link", name="Open report of quick").click()
        assert opened.value.title() == "quick"

    def test_a_running_one_shows_its_progress_and_is_cancelled_by_two_presses(
        self, open_page: Open, ask: Callable[[str], str]
    ) -> None:
        page = open_page()
        ask("held")
        ask("well")
        running = page.locator(".job[data-state=running]")
        running.get_by_text("writing: 3 of 8, about 2 s left of this stage").wait_for()
        assert running.get_by_role("progressbar", name="Progress of held").evaluate("bar => bar.value") == 3 / 8
        picture(page, "running")
        button = running.get_by_role("button", name="Cancel")
        button.focus()
        page.keyboard.press("Enter")
        assert running.get_by_role("button", name="Cancel it?").evaluate("it => it === document.activeElement")
        page.keyboard.press("Enter")
        page.locator(".job[data-state=cancelled]").wait_for()
        page.locator(".job[data-state=done]").wait_for()
        page.wait_for_function("document.getElementById('said').textContent !== ''")

    def test_a_refusal_stands_at_its_field_and_a_failure_at_its_job(
        self, open_page: Open, ask: Callable[[str], str]
    ) -> None:
        page = open_page()
        page.locator("#n").fill("-1")
        page.locator("#start").click()
        assert "whole number" in page.locator("#n-fault").inner_text()
        assert page.locator("#n").get_attribute("aria-invalid") == "true"
        ask("crash")
        page.locator(".job[data-state=failed]").get_by_text("gave no reason").wait_for()
        page.locator(".job").get_by_role("button", name="Remove").click()
        page.locator(".job").get_by_role("button", name="Remove it?").click()
        page.locator("#none:not([hidden])").wait_for()

    def test_a_server_that_is_gone_is_said_and_found_again(self, open_page: Open) -> None:
        page = open_page()
        page.context.set_offline(True)
        page.locator("#connection[data-state=offline]").wait_for()
        page.context.set_offline(False)
        page.locator("#connection[data-state=ready]").wait_for()

    @pytest.mark.parametrize("scheme", ["light", "dark"])
    @pytest.mark.parametrize("screen", list(SCREENS))
    def test_it_fits_its_screen_in_light_and_dark(
        self, screen: str, scheme: str, open_page: Open, ask: Callable[[str], str], wait_for: Any
    ) -> None:
        done, failed, _ = ask("well"), ask("fails"), ask("held")
        wait_for(done, "done")
        wait_for(failed, "failed")
        page = open_page(screen=screen, scheme=scheme)
        page.locator(".job[data-state=running]").get_by_text("writing: 3 of 8").wait_for()
        picture(page, f"{screen}-{scheme}")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        shade = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", shade)[:3])) > 3 * 128
        assert light == (scheme == "light")
        for button in page.get_by_role("button").all():
            assert button.evaluate("it => it.textContent.trim() || it.getAttribute('aria-label')")
