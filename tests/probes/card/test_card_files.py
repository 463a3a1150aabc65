"""Cards on disk: made from the artefact alone, made again without a difference, refused when damaged."""

from __future__ import annotations

import json
import math
import re
from functools import partial
from pathlib import Path

import pytest

from probes.card import Extras, card_from_probe, read_extras, rerender, write_card
from probes.card.content import PLOTS
from steering import load_probe
from steering.artefact import content_sha256, save_probe
from steering.errors import CorruptProbe


@pytest.fixture(scope="module")
def folder(full_card, full_probe, tmp_path_factory) -> Path:
    """A saved probe with a full card."""
    return save_probe(full_probe, tmp_path_factory.mktemp("out"), beside=partial(write_card, full_card))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_card_is_markdown_with_its_plots_a_page_by_itself_and_what_it_was_made_from(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {"probe.json", "probe.safetensors", "card.md", "card.html", "card.json", *PLOTS}
    text = (folder / "card.md").read_text(encoding="utf-8")
    assert set(re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)) == set(PLOTS)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in PLOTS)
    page = (folder / "card.html").read_text(encoding="utf-8")
    assert page.count("<svg") == len(PLOTS)
    assert content_sha256(load_probe(folder)) in text
    assert content_sha256(load_probe(folder)) in page


def test_a_card_is_made_again_from_its_folder_without_a_difference(folder, full_card):
    before = contents(folder)
    assert read_extras(folder) == full_card.extras
    rerender(folder)
    assert contents(folder) == before


def test_a_later_screen_is_added_and_a_plot_that_is_gone_is_removed(folder, full_card, full_probe, tmp_path):
    bare = full_probe.manifest.model_copy(update={"screen": None, "causal": None, "files": {}})
    unscreened = full_card.model_copy(update={"manifest": bare})
    write_card(unscreened, folder)
    assert not (folder / "screen-layers.png").exists()
    assert "Not screened." in (folder / "card.md").read_text(encoding="utf-8")
    write_card(card_from_probe(full_probe, read_extras(folder)), folder)
    assert (folder / "screen-layers.png").exists()
    assert "changed the text more than a placebo" in (folder / "card.html").read_text(encoding="utf-8")


def test_a_probe_without_extras_has_a_card_all_the_same(imported_probe, tmp_path):
    made = save_probe(imported_probe, tmp_path, beside=lambda at: write_card(card_from_probe(imported_probe), at))
    (made / "card.json").unlink()
    assert read_extras(made) == Extras()
    rerender(made)
    assert {path.suffix for path in made.iterdir()} == {".json", ".safetensors", ".md", ".html"}


def test_extras_survive_the_file_even_where_a_figure_is_not_a_number(make_card):
    extras = make_card(calibration_auroc={0: math.nan}, poolings={"last": (math.inf, 0.5)}).extras
    again = Extras.model_validate_json(extras.model_dump_json())
    assert math.isnan(again.calibration_auroc[0])
    assert again.poolings == extras.poolings


@pytest.mark.parametrize(
    "text", ["", "{", '{"schema_version": 2}', '{"surprise": 1}', '{"tallies": {"train": {"rows": "many"}}}']
)
def test_a_damaged_card_json_is_refused_with_the_way_out(full_probe, tmp_path, text):
    made = save_probe(full_probe, tmp_path)
    (made / "card.json").write_text(text, encoding="utf-8")
    with pytest.raises(CorruptProbe, match=r"card\.json is not what a card is made from .* or remove it"):
        rerender(made)


def test_card_json_names_its_schema_and_holds_no_manifest(folder):
    kept = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert kept["schema_version"] == 1
    assert "manifest" not in kept
