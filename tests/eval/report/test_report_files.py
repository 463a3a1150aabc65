"""The report on disk: its three forms say the same, and no text of a run is shown unasked or read as markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

from eval.__main__ import main
from eval.report.files import write_report
from eval.runner.folder import RunFolder

MARKUP = "<script>alert('boat')</script>"
Planted = Callable[..., RunFolder]


def read(folder: RunFolder, name: str) -> str:
    return (folder.path / name).read_text(encoding="utf-8")


def test_the_page_is_one_file_that_asks_for_nothing(planted: Planted) -> None:
    folder = planted()
    write_report(folder)
    page = read(folder, "report.html")
    assert "default-src 'none'" in page
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\((?!#)", page)
    assert not re.search(r"""(?:src|href)=["'](?!#)""", page)


def test_texts_of_a_run_are_escaped_and_inside_closed_details(planted: Planted) -> None:
    folder = planted()
    write_report(folder)
    page = read(folder, "report.html")
    assert MARKUP not in page
    assert MARKUP in unescape(page)
    outside = re.sub(r"<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "alert(" in page
    assert "alert(" not in outside
    assert "<details open" not in page


def test_the_markdown_shows_no_text_of_a_run(planted: Planted) -> None:
    folder = planted()
    write_report(folder)
    assert "alert" not in read(folder, "report.md")
    assert "Boat 1 of" not in read(folder, "report.md")


def test_all_forms_make_the_same_claim(planted: Planted) -> None:
    folder = planted()
    found = write_report(folder)
    (claim, _) = found["claims"]
    assert json.loads(read(folder, "report.json"))["claims"] == found["claims"]
    for name in ("report.html", "report.md"):
        words = unescape(re.sub(r"<[^>]+>|\\|\*\*", "", read(folder, name)))
        assert claim[1:] in words, "the first letter is a capital there"


def test_sections_come_in_order_verdict_first_and_provenance_last(planted: Planted) -> None:
    folder = planted(samples=2)
    write_report(folder)
    titles = re.findall(r"^## (.+)$", read(folder, "report.md"), flags=re.MULTILINE)
    assert titles == [
        "Verdict",
        "The arms",
        "Score against fluency",
        "At equal fluency",
        "Is it still text?",
        "What the probe reads, layer by layer",
        "How far the states were moved",
        "What went where",
        "Scores in full",
        "Every comparison",
        "Cost",
        "Examples side by side",
        "What the scores are worth",
        "Limits",
        "Provenance",
    ]
    for picture in re.findall(r"\]\(([\w.+-]+\.png)\)", read(folder, "report.md")):
        assert (folder.path / picture).is_file()


def test_a_score_never_stands_without_fluency_in_its_table(planted: Planted) -> None:
    folder = planted(samples=2)
    write_report(folder)
    headers = re.findall(r"^\| arm \|.*$", read(folder, "report.md"), flags=re.MULTILINE)
    scored = [h for h in headers if any(word in h for word in ("mean", "maximum", "good", "claim"))]
    assert len(scored) == 5
    assert all("perplexity" in header for header in scored)


def test_flows_and_strata_are_there_for_every_arm(planted: Planted) -> None:
    folder = planted()
    found = write_report(folder)
    assert set(found["flows"]) == {"prompt", "slab", "random as slab"}
    assert "boats: even, share" in read(folder, "report.md")


def test_the_command_makes_it_again_from_what_is_stored(planted: Planted, capsys: pytest.CaptureFixture[str]) -> None:
    folder = planted(violations=2)
    assert main(["report", str(folder.path)]) == 0
    said = capsys.readouterr().out
    assert "claim: slab makes the text less toxic by judge" in said
    assert "a promised bound was violated at 2 tokens: slab" in said
    before = read(folder, "report.html")
    assert main(["report", str(folder.path)]) == 0
    assert read(folder, "report.html") == before, "the same bytes from the same run"


def test_what_is_no_finished_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "has no samples.parquet yet" in capsys.readouterr().err
