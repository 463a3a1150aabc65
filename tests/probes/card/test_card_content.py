"""What a card says: each section exactly when its data is there, the same figures in both forms."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from probes.card import Card, best_layer, card_from_probe
from probes.card.content import page_of
from probes.card.verdict import NO_LAYERS
from steering.manifest import LayerReport
from steering.page.markdown import to_markdown
from steering.page.webpage import to_html

ALWAYS = ["verdict", "making", "limits"]
MEASURED = ["figures", "layers", "calibration", "all-layers"]


class Seen(HTMLParser):
    """Tags, attributes, text and table cells of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.words: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        self.inside |= tag in ("td", "th")

    def handle_endtag(self, tag: str) -> None:
        self.inside &= tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.inside:
            self.tables[-1][-1][-1] += data


def keys(card: Card) -> list[str]:
    return [section.key for section in page_of(card, content="0" * 64).sections]


def markdown(card: Card) -> str:
    return to_markdown(page_of(card, content="0" * 64))


def webpage(card: Card) -> str:
    return to_html(page_of(card, content="0" * 64))


def markdown_tables(text: str) -> list[list[list[str]]]:
    """Cells by table; a bar counts unless it is escaped."""
    tables: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            tables[-1].append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
        elif tables[-1]:
            tables.append([])
    return [table for table in tables if table]


def bare_of(cell: str) -> str:
    """A Markdown cell without its markup."""
    return re.sub(r"\\(.)", r"\1", cell.replace("**", "")).replace("`", "")


def changed(card: Card, **update: Any) -> Card:
    return card.model_copy(update={"manifest": card.manifest.model_copy(update=update)})


def at_best(card: Card, update: Callable[[LayerReport], LayerReport]) -> Card:
    layer = best_layer(card)
    assert layer is not None
    return changed(card, metrics=card.manifest.metrics | {layer: update(card.manifest.metrics[layer])})


def findings(card: Card) -> dict[str, str]:
    """Words of each finding -> whether it speaks for the probe, against it, or is not known."""
    section = page_of(card, content="0" * 64).sections[0]
    return {
        "".join(span if isinstance(span, str) else span.text for span in item.words): item.finding
        for item in section.blocks[0].items  # type: ignore[union-attr]
    }


def test_a_full_card_has_every_section_once(full_card):
    order = ["verdict", "figures", "layers", "calibration", "screen", "lookahead", "siblings", "corpus", "carried"]
    assert keys(full_card) == [*order, "making", "limits", "all-layers"]


@pytest.mark.parametrize(
    ("gone", "section"),
    [("screen", "screen"), ("lookahead", "lookahead"), ("cosines", "siblings")],
)
def test_a_section_of_the_manifest_is_there_exactly_when_its_data_is(full_card, gone, section):
    without = changed(full_card, **{gone: {} if gone == "cosines" else None})
    assert set(keys(full_card)) - set(keys(without)) == {section}
    assert section not in webpage(without).split("<main>")[1].split("verdict")[0]


def test_sections_of_the_extras_are_there_exactly_when_their_data_is(full_card, make_card):
    bare = make_card()
    assert keys(bare) == ["verdict", "figures", "layers", "calibration", "making", "limits", "all-layers"]
    assert "carried" in keys(make_card(carried={"mean": "class means"}))
    assert "corpus" in keys(make_card(corpus_reports=full_card.corpus_reports))
    assert "reliability.png" not in markdown(bare)
    assert "reliability.png" in markdown(make_card(reliability=full_card.reliability))
    assert "AUROC calibration" not in markdown(bare)
    assert "Layer 3 was left out: too flat" in markdown(make_card(refused={3: "too flat"}))


def test_figures_of_a_probe_without_interval_pairs_or_baseline_leave_no_empty_rows(make_card):
    page = markdown(make_card())
    assert "Minimal pairs" not in page
    names = {row[0] for row in markdown_tables(page)[0]}
    assert names.isdisjoint({"lexical baseline", "length baseline", "ECE isotonic", "Brier isotonic", "difference"})
    assert {"AUROC", "ECE after", "random labels"} <= names


def test_the_two_forms_show_the_same_figures(full_card):
    html = Seen(webpage(full_card)).tables
    for table, (header, _, *rows) in zip(html, markdown_tables(markdown(full_card)), strict=True):
        assert [[" ".join(cell.split()) for cell in row] for row in table] == [
            [bare_of(cell) for cell in row] for row in (header, *rows)
        ]


def test_the_two_forms_say_the_same_words(full_card):
    spoken = " ".join("".join(Seen(webpage(full_card)).words).split())
    for line in markdown(full_card).splitlines():
        if line and not line.startswith(("|", "!", "#")):
            assert " ".join(bare_of(line.removeprefix("- ")).split()) in spoken


def test_every_row_of_a_markdown_table_has_a_cell_per_column(full_card):
    for card in (full_card, awkward(full_card)):
        for table in markdown_tables(markdown(card)):
            assert len({len(row) for row in table}) == 1
            assert all(re.fullmatch(r"---:?", cell) for cell in table[1])


def awkward(card: Card) -> Card:
    """Names that are markup in one form or the other."""
    evil = '<img src="http://evil.example/x.png" onerror="alert(1)"> & a|b `c` *d* [e](http://f) $g$ _h_'
    rename = {
        layer: report.model_copy(update={"out_of_domain": {evil: found} | {"_hidden": found}})
        for layer, report in card.manifest.metrics.items()
        for found in [report.out_of_domain["elsewhere"]]
    }
    baselines = {name: {evil: 0.7, "test": 0.6} for name in card.manifest.baselines}
    return changed(card, concept=evil, positive_is=evil, metrics=rename, baselines=baselines, cosines={evil: {0: 0.5}})


def test_names_are_escaped_in_both_forms(full_card):
    card = awkward(full_card)
    page = webpage(card)
    seen = Seen(page)
    assert not {"img", "script", "i", "em"} & set(seen.tags)
    assert not any(name.startswith("on") for name, _ in seen.attributes)
    assert card.manifest.concept in "".join(seen.words)
    assert "](http" not in re.sub(r"\\\]", "", markdown(card))
    assert "\\<img" in markdown(card)


def test_the_page_fetches_nothing_and_runs_nothing(full_card):
    page = webpage(full_card)
    seen = Seen(page)
    assert not {"script", "link", "iframe", "object", "embed", "img", "base", "form"} & set(seen.tags)
    assert not re.search(r"https?:|//[a-z]|@import|javascript:", page)
    assert all(value.startswith("#") for name, value in seen.attributes if name in ("href", "src", "xlink:href"))
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", page))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in seen.attributes


def test_every_anchor_and_clip_path_of_the_page_points_at_one_thing(full_card):
    page = webpage(full_card)
    names = [value for name, value in Seen(page).attributes if name == "id"]
    assert len(names) == len(set(names))
    targets = set(re.findall(r'href="#([^"]+)"', page)) | set(re.findall(r"url\(#([^)]+)\)", page))
    assert targets
    assert targets <= set(names)


def test_a_probe_without_figures_says_so(imported_probe):
    card = card_from_probe(imported_probe)
    assert keys(card) == ["verdict", "origin", "making", "limits"]
    page = markdown(card)
    assert "**It has no figures.**" in page
    assert "the scale of the vector" in page
    assert "no probability and no percentile. Without a bias their zero means nothing." in page
    assert "Platt" not in page
    assert best_layer(card) is None
    assert Seen(webpage(card)).tables == []


@pytest.mark.parametrize(
    ("causal", "words", "finding"),
    [
        (None, "Not screened.", "unknown"),
        (True, "Causal: steering it changed the text more than a placebo of the same norm", "for"),
        (False, NO_LAYERS, "against"),
    ],
)
def test_the_verdict_says_whether_it_is_causal(make_card, causal, words, finding):
    found = findings(changed(make_card(), causal=causal))
    assert [kind for said, kind in found.items() if said.startswith(words)] == [finding]
    others = {"Not screened.", "Causal:", NO_LAYERS} - {words, words[:7]}
    assert not any(said.startswith(tuple(others)) for said in found)


def test_a_screen_that_chose_nothing_says_so_above_its_table_and_in_the_limits(full_card):
    screen = full_card.manifest.screen
    assert screen is not None
    rows = [row.model_copy(update={"beats_placebo": False}) for row in screen.rows]
    lost = changed(full_card, causal=False, screen=screen.model_copy(update={"chosen": [], "rows": rows}))
    assert markdown(lost).count(NO_LAYERS) == 3
    assert "(chosen)" not in markdown(lost)
    assert "**1-2 (chosen)**" in markdown(full_card)


@pytest.mark.parametrize(
    ("auroc", "interval", "start", "finding"),
    [
        (0.95, (0.93, 0.97), "Beats the lexical baseline on every test set", "for"),
        (0.95, (0.89, 0.97), "Beats the lexical baseline on every test set", "unknown"),
        (0.90, None, "Equals or beats the lexical baseline on every test set", "for"),
        (0.85, (0.80, 0.89), "Does not beat the lexical baseline on test by 0.050", "against"),
    ],
)
def test_the_verdict_sets_the_probe_against_words_alone(full_card, auroc, interval, start, finding):
    def weak(report: LayerReport) -> LayerReport:
        assert report.test is not None
        test = report.test.model_copy(update={"auroc": auroc, "auroc_interval": interval})
        return report.model_copy(update={"test": test, "out_of_domain": {}})

    card = changed(at_best(full_card, weak), baselines={"tf-idf words": {"test": 0.90}, "length": {"test": 0.5}})
    found = findings(card)
    assert [kind for said, kind in found.items() if said.startswith(start)] == [finding]
    assert any("may be chance" in said for said in found) == (finding == "unknown")
    assert any(said.startswith("Not tested out of domain.") for said in found)
    longer = changed(card, baselines={"length": {"test": 0.96}})
    assert findings(longer)[f"Does not beat the length of the text on test by {0.96 - auroc:.3f}, at layer 2."] == (
        "against"
    )


def test_a_look_ahead_probe_that_is_not_ahead_is_told_so(full_card):
    lookahead = full_card.manifest.lookahead
    assert lookahead is not None
    assert any(said.startswith("Reads what is coming better") for said in findings(full_card))
    worse = {0: {"this probe": 0.6, "end of text": 0.65}, 5: {"this probe": 0.6, "end of text": 0.5}}
    card = changed(full_card, lookahead=lookahead.model_copy(update={"auroc_by_warning": worse}))
    (said,) = (said for said in findings(card) if "coming" in said)
    assert findings(card)[said] == "against"
    assert "-0.050 with 0 and +0.100 with 5 tokens of warning" in said


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("last", "the last token of finished texts"),
        ("mean", "the mean over all tokens but the first"),
        ("all", "single tokens of finished texts, each under the label of its whole text"),
        ("lookahead", "single tokens that the model itself wrote, labelled by what followed"),
    ],
)
def test_the_limits_name_the_tokens_it_was_fitted_on(make_card, rule, words):
    page = markdown(changed(make_card(), token_rule=rule))
    assert f"fitted and calibrated on {words}" in page
    assert ("tokens of the same kind" in page) == (rule == "lookahead")


def test_the_calibration_texts_choose_the_best_layer_and_the_test_texts_do_not(make_card):
    report = make_card().manifest.metrics[0]
    great = report.model_copy(update={"test": report.test.model_copy(update={"auroc": 1.0})})
    card = changed(
        make_card(calibration_auroc={0: 0.8, 1: 0.9, 2: 0.9, 3: 0.7}), metrics=dict.fromkeys(range(4), report)
    )
    assert best_layer(changed(card, metrics=card.manifest.metrics | {3: great})) == 1
    assert best_layer(changed(make_card(), metrics=dict.fromkeys(range(4), report))) == 2


def test_imbalance_and_label_noise_of_the_files_are_in_the_table(full_card):
    (table,) = (table for table in markdown_tables(markdown(full_card)) if table[0][0] == "file")
    assert table[0] == [
        "file",
        "texts read",
        "kept",
        "repeated, left out",
        "under both labels, left out",
        "rarer class",
    ]
    assert table[2] == ["data.jsonl", "1000", "900", "80", "10 (1.00%)", "**11.1%**"]
    assert "**Class imbalance** (data.jsonl)" in markdown(full_card)


def test_fit_names_its_method_and_what_it_reads(make_card):
    fit = make_card().manifest.fit.model_copy(
        update={"method": "lda", "C": None, "shrinkage": 0.25, "coordinates": 64, "solver": "eigen"}
    )
    page = markdown(changed(make_card(), fit=fit))
    assert "Fit: linear discriminant (eigen), shrinkage 0.25, reading 64 of 32 coordinates, seed 0" in page


def test_a_change_that_rounds_to_nothing_is_not_minus_nothing(full_card):
    screen = full_card.manifest.screen
    assert screen is not None
    rows = [row.model_copy(update={"placebo_effect": -0.0001}) for row in screen.rows]
    assert "-0.000" not in markdown(changed(full_card, screen=screen.model_copy(update={"rows": rows})))


def test_code_with_backticks_stays_whole(make_card):
    page = markdown(make_card(command="tiller `probe` ``x``"))
    assert "``` tiller `probe` ``x`` ```" in page
