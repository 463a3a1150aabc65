"""docs/http.md is true: its routes and codes are those there are, its requests are understood."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx

from service import errors
from service.schemas.openai import ChatRequest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "http.md").read_text(encoding="utf-8")


def test_its_table_has_the_routes_there_are(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    here = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(re.findall(r"`((?:GET|POST|PUT|DELETE) /[^`]*)`", PAGE)) == here


def test_its_table_has_the_codes_there_are() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, errors.Kind)]
    kinds += [*errors.TABLE.values(), *errors._ROUTING.values()]
    seen_by_nobody = {"client_disconnected"}
    rows = re.findall(r"^\| (\d{3}) \| ([^|]+) \|", PAGE, flags=re.MULTILINE)
    told = {(int(status), code) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert told == {(kind.status, kind.code) for kind in kinds if kind.code not in seen_by_nobody}


def test_its_requests_are_understood() -> None:
    (body,) = re.findall(r"-d '(\{.*?\})'\n", PAGE, flags=re.DOTALL)
    assert ChatRequest.model_validate(json.loads(body)).steering is not None
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    compile(code, "docs/http.md", "exec")
