"""The shipped probes: from texts to published artefact in one line, and a page that says what the artefacts say."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from probes import pretrain
from probes.errors import CorpusError
from probes.shipping import build, screens, tables
from probes.shipping.screens import SCREENS
from steering.artefact import load_probe
from steering.scorers import ScorerCard


class Letters:
    """Share of vowels: a judge that always has something to judge."""

    card = ScorerCard(name="letters", family="counting", revision="1", trained_on="nothing", higher_is="full of vowels")

    def score(self, texts):
        return [sum(letter in "aeiou" for letter in text) / max(1, len(text)) for text in texts]


def write_screen_texts(data: Path) -> None:
    words = ["the sea was calm", "a long road led", "her old house stood", "we came at noon"]
    prompts = [{"prompt": f"{words[at % 4]} and {at}", "label": "neutral"} for at in range(40)]
    articles = [{"text": f"{at} " + " ".join(words) + " " + " ".join(reversed(words))} for at in range(40)]
    (data / "prompts").mkdir()
    (data / "fluency").mkdir()
    for name, rows in (
        ("prompts/owt_sentiment_prompts.jsonl", prompts),
        ("prompts/rtp_prompts.jsonl.gz", [{"prompt": "another"}]),
        ("fluency/wikitext103_test_articles.jsonl.gz", articles),
    ):
        with (gzip.open if name.endswith(".gz") else open)(data / name, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)


def test_pretrain_refuses_what_it_does_not_know(tmp_path, capsys):
    assert pretrain.main(["--data", str(tmp_path), "--only", "taste"]) == 2
    assert "toxicity, sentiment, language" in capsys.readouterr().err
    assert pretrain.main(["--data", str(tmp_path / "absent")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_pretrain_leaves_existing_probes_alone(tmp_path, capsys):
    for name in pretrain.PROBES:
        (tmp_path / name / "1").mkdir(parents=True)
    assert pretrain.main(["--data", str(tmp_path), "--out", str(tmp_path)]) == 0
    assert "delete" in capsys.readouterr().err


def test_pretrain_builds_from_files_alone(lm, planted, tmp_path, monkeypatch):
    data, folder = tmp_path / "data", tmp_path / "data" / "language"
    folder.mkdir(parents=True)
    quotes = [record | {"label": "es" if record["label"] else "en"} for record in planted(240)]
    with gzip.open(folder / "quotes_en_es.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in quotes)
    other = [record["text"] + " x" for record in planted(60, seed=6)]
    pairs = [{"en": en, "es": es} for es, en in zip(other[::2], other[1::2], strict=True)]
    lines = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (folder / "tatoeba_en_es_pairs.jsonl").write_text(lines, encoding="utf-8")
    write_screen_texts(data)
    monkeypatch.setattr(build, "SCREENS", {"language": replace(SCREENS["language"], n=8, dtype="float32")})
    monkeypatch.setattr(screens, "make_scorer", lambda name: Letters())
    monkeypatch.setattr(pretrain, "load_model", lambda name, **options: lm)
    options = ["--data", str(data), "--only", "language", "--out", str(tmp_path / "out"), "--work", str(tmp_path / "w")]
    assert pretrain.main(options) == 0
    probe = load_probe(tmp_path / "out" / "language" / "1")
    manifest = probe.manifest
    assert manifest.screen is not None
    assert manifest.causal == bool(manifest.screen.chosen)
    assert manifest.default.metric == manifest.screen.metric
    assert probe.layers_with("lqr") == manifest.default.layers, "fitted where the screen left the defaults"
    assert "Does steering it change the text?" in (tmp_path / "out" / "language" / "1" / "card.md").read_text()
    assert manifest.labels == {"0": "English", "1": "Spanish"}
    assert manifest.metrics[3].out_of_domain.keys() == {"tatoeba"}


DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="the data sets are not beside this checkout (../shared/data)")
@pytest.mark.parametrize("name", list(pretrain.PROBES))
def test_the_shipped_recipes_read_disjoint_balanced_data(name):
    parts, recipe = pretrain.PROBES[name](DATA)
    named = {called: corpus for called, corpus in parts.named().items() if not called.startswith("pairs-")}
    keys = [{row.key for row in corpus.rows} for corpus in named.values()]
    assert sum(map(len, keys)) == len(set.union(*keys))
    assert recipe.name == name
    for corpus in named.values():
        assert corpus.counts["1"] / len(corpus) == pytest.approx(0.5, abs=0.06)


def test_the_page_of_the_folder_says_what_the_shipped_artefacts_say():
    page = tables.PAGE.read_text(encoding="utf-8")
    for name, section in tables.sections(pretrain.SHIPPED).items():
        assert section in page, f"run `python -m probes.pretrain`: section {name} is not that of the artefacts"
        assert tables.replaced(page, name, section) == page


def test_a_page_without_its_markers_is_refused():
    with pytest.raises(CorpusError, match="put the two lines back"):
        tables.replaced("# nothing here", "figures", "| a |\n")
