"""The page of the API in a browser: every route of the document, with lines that can be pasted; a key is asked for."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from steering import LanguageModel, Probe

from .conftest import Visiting

pytestmark = pytest.mark.slow

KEY = "made-up-key-of-a-test"


def test_it_shows_every_route_and_loads_nothing_from_elsewhere(visiting: Visiting, client: httpx.Client) -> None:
    base = str(client.base_url).rstrip("/")
    visit = visiting(base, reduced_motion="reduce").open("docs")
    paths = client.get("/openapi.json").json()["paths"]
    shown = {
        (route.locator(".method").inner_text().lower(), route.locator(".path").inner_text())
        for route in visit.page.locator(".route > summary").all()
    }
    assert shown == {(method, path) for path, methods in paths.items() for method in methods}
    route = visit.page.locator("#post-generate")
    route.locator("> summary").click()
    route.get_by_text("Fields of the body").click()
    assert "The same request with the same seed" in route.inner_text()
    visit.picture("docs")
    assert all(request.url.startswith(base) for request in visit.requests)
    assert visit.said == []


@pytest.mark.skipif(shutil.which("curl") is None, reason="the lines are for curl, which is not installed here")
def test_a_line_can_be_pasted_as_it_stands(visiting: Visiting, client: httpx.Client) -> None:
    page = visiting(str(client.base_url).rstrip("/")).open("docs").page
    for route in ("get-ready", "get-v1-steering-probes-probe-id-", "post-tokenize", "put-v1-steering-policies-name-"):
        line = page.locator(f"#{route} figure pre").first.text_content()
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert "error" not in json.loads(done.stdout), (route, done.stdout)
    client.delete("/v1/steering/policies/polite")


def test_a_server_with_keys_is_read_with_one(
    visiting: Visiting,
    serve: Callable[..., Any],
    writer: LanguageModel,
    make_probe: Callable[..., Probe],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TILLER_API_KEY", KEY)
    with serve(writer, [make_probe(writer)]) as closed:
        visit = visiting(str(closed.base_url).rstrip("/")).open("docs", ready=False)
        visit.page.get_by_label("Key", exact=True).fill(KEY)
        visit.page.get_by_role("button", name="Use").click()
        visit.page.wait_for_selector("#connection[data-state=ready]")
        assert visit.page.locator(".route").count() > 20
        assert KEY not in visit.page.content()
