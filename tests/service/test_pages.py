"""The files of the pages: right types, kept until they change, nothing inline and nothing from elsewhere."""

from __future__ import annotations

import re

import httpx
import pytest

from service.page.files import static_files

FILES = sorted(static_files())


@pytest.mark.parametrize(("path", "title"), [("/", "playground"), ("/docs", "API"), ("/reports", "reports")])
def test_a_page_is_where_it_should_be_and_says_what_it_may_load(client: httpx.Client, path: str, title: str) -> None:
    page = client.get(path)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert f"<title>Tiller {title}</title>" in page.text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self';" if path == "/reports" else "default-src 'self';")
    assert re.search(r"script-src[^;]*unsafe|://", policy) is None


@pytest.mark.parametrize("name", FILES)
def test_a_file_has_its_type_and_is_sent_again_only_when_it_changed(client: httpx.Client, name: str) -> None:
    first = client.get(f"/static/{name}")
    kind = {"css": "text/css", "html": "text/html", "js": "text/javascript", "svg": "image/svg+xml"}
    assert first.headers["content-type"].startswith(kind[name.rpartition(".")[2]])
    assert first.headers["x-content-type-options"] == "nosniff"
    again = client.get(f"/static/{name}", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/static/{name}", headers={"if-none-match": '"old"'}).content == first.content
    assert client.head(f"/static/{name}").headers["etag"] == first.headers["etag"]


@pytest.mark.parametrize(
    "path", ["/static/none.js", "/static/..%2ffiles.py", "/static/../files.py", "/static/", "/static"]
)
def test_nothing_but_those_files_is_served(client: httpx.Client, path: str) -> None:
    assert client.get(path).status_code == 404


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
