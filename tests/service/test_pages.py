"""The playground's files: right types, kept until they change, nothing inline and nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.page.files import static_files
from service.routes import pages

FILES = sorted(static_files())


@pytest.fixture(scope="module")
def site(run: Callable[..., Any]) -> Iterator[httpx.Client]:
    """A server of the page alone."""
    app = FastAPI()
    app.include_router(pages.router)
    with run(app) as client:
        yield client


def test_the_page_is_at_the_root_and_says_what_it_may_load(site: httpx.Client) -> None:
    page = site.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Tiller playground</title>" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';")
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_its_type_and_is_sent_again_only_when_it_changed(site: httpx.Client, name: str) -> None:
    first = site.get(f"/static/{name}")
    kind = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
    assert first.headers["content-type"].startswith(kind[name.rpartition(".")[2]])
    assert first.headers["x-content-type-options"] == "nosniff"
    again = site.get(f"/static/{name}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert site.get(f"/static/{name}", headers={"if-none-match": '"old"'}).content == first.content
    assert site.head(f"/static/{name}").headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize(
    "path", ["/static/none.js", "/static/..%2ffiles.py", "/static/../files.py", "/static/", "/static"]
)
def test_nothing_but_those_files_is_served(site: httpx.Client, path: str) -> None:
    assert site.get(path).status_code == 404


@pytest.mark.parametrize("name", FILES)
def test_a_file_holds_nothing_inline_and_no_address_elsewhere(name: str) -> None:
    text = static_files()[name].content.decode()
    assert set(re.findall(r"\w+://[^\s\"'`]+", text)) <= {"http://www.w3.org/2000/svg"}
    assert "innerHTML" not in text
    assert "eval(" not in text
    if name.endswith(".html"):
        assert re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]* src=)|javascript:", text) is None
        assert set(re.findall(r'(?:src|href)="static/([^"]+)"', text)) <= set(FILES)
    if name.endswith(".js"):
        assert {f"{module}" for module in re.findall(r'from "\./([^"]+)"', text)} <= set(FILES)
        assert len(text.splitlines()) <= 300
