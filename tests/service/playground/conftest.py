"""The playground in a real browser: a page and all it did, before a real server of a tiny model or a scripted double.

Skipped where there is no Chromium or no Playwright; `make test-browser` brings both. `TILLER_SCREENSHOTS=DIR` keeps
pictures of what was seen.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import LlamaForCausalLM

from steering import LanguageModel, Probe, wrap
from steering.tiny import byte_tokenizer, tiny_model

BROWSER = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
SCREENS = {"desktop": {"width": 1440, "height": 900}, "phone": {"width": 390, "height": 844}}
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

PATIENCE = 30_000
"""Milliseconds until something that should be seen is missed."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window, with a profile of its own."""
    if BROWSER is None:
        pytest.skip("no Chromium is installed here; `make test-browser` installs Debian's")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright comes with the extra 'dev'")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=BROWSER, headless=True, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def writer() -> LanguageModel:
    """A tiny random model that writes small letters only, one a token, so that its noise can be read."""
    model: LlamaForCausalLM = tiny_model().model
    tokenizer = byte_tokenizer()
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size)
    letters = tokenizer.convert_tokens_to_ids(list("abcdefghijklmnopqrstuvwxyz"))
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.fill_(-1e4)
        head.bias[letters] = 0
    model.lm_head = head
    return wrap(model, tokenizer, model_id="tiny-llama")


@pytest.fixture(scope="session")
def client(
    writer: LanguageModel, make_probe: Callable[..., Probe], serve: Callable[..., Any]
) -> Iterator[httpx.Client]:
    """A real server of it, with the probes toxicity@1 at all four layers and sentiment@1 at two."""
    probes = [make_probe(writer), make_probe(writer, name="sentiment", layers=[0, 2], seed=6)]
    with serve(writer, probes, max_new_tokens=64) as client:
        yield client


class Visit:
    """The playground as one visitor sees it, and everything it did."""

    def __init__(self, page: Any, base: str) -> None:
        self.page = page
        self.base = base
        self.requests: list[Any] = []
        self.said: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: self.requests.append(request))
        page.on("console", lambda message: self.said.append(message.text))
        page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, fragment: str = "", *, ready: bool = True) -> Visit:
        """Go to the page, and by default wait for its model."""
        self.page.goto(f"{self.base}/{fragment}")
        if ready:
            self.page.wait_for_selector("#connection[data-state=ready]")
        return self

    def fill(self, prompt: str, *, max_tokens: int = 12, seed: int | None = 3) -> Visit:
        """Write a prompt and the sampling."""
        self.page.get_by_label("Text to continue").fill(prompt)
        self.page.get_by_label("Tokens", exact=True).fill(str(max_tokens))
        self.page.get_by_label("Seed").fill("" if seed is None else str(seed))
        return self

    def choose(self, *probes: str) -> Visit:
        """Hold concepts."""
        for probe in probes:
            self.page.locator(f"#probes [data-probe='{probe}']").click()
        return self

    def run(self, *, until: str = "done") -> Visit:
        """Press Run and wait for both sides."""
        self.page.locator("#run").click()
        return self.ended(until)

    def ended(self, state: str = "done") -> Visit:
        """Wait until each side that was asked for is in `state`."""
        self.page.wait_for_selector("#stop", state="hidden")
        for pane in self.page.locator(".pane[data-state]").all():
            assert pane.get_attribute("data-state") == state
        return self

    def tokens(self, arm: str) -> Any:
        """The tokens of one side."""
        return self.page.locator(f".pane[data-arm={arm}] .tokens .token")

    def sent(self) -> list[dict[str, Any]]:
        """The bodies that were posted to generate, in order."""
        return [request.post_data_json for request in self.requests if request.url.endswith("completions")]

    def picture(self, name: str) -> None:
        """Keep one where TILLER_SCREENSHOTS says so."""
        folder = os.environ.get("TILLER_SCREENSHOTS")
        if folder:
            self.page.screenshot(path=str(Path(folder) / f"playground-{name}.png"), full_page=True)


Visiting = Callable[..., Visit]


@pytest.fixture
def visiting(browser: Any) -> Iterator[Visiting]:
    """Visit the playground of a server."""
    contexts = []

    def visit(base: str, *, screen: str = "desktop", **context: Any) -> Visit:
        contexts.append(browser.new_context(viewport=SCREENS[screen], **context))
        return Visit(contexts[-1].new_page(), base)

    yield visit
    for context in contexts:
        context.close()


@pytest.fixture
def visit(visiting: Visiting, client: httpx.Client) -> Visit:
    """The page of the real server of a tiny model, open and ready."""
    return visiting(str(client.base_url).rstrip("/")).open()
