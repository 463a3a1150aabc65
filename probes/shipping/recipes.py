"""What the shipped probes are trained on.

toxicity   high = toxic     Wikipedia comments; out of domain: tweets (Davidson) and lower-cased Civil/Jigsaw sentences
sentiment  high = positive  film review phrases (SST-2); out of domain: whole film reviews (IMDB)
language   high = Spanish   quotations; out of domain: Tatoeba sentence pairs, where both languages say the same
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from probes.texts.corpus import Corpus
from probes.texts.labels import Columns
from probes.texts.pairs import PairColumns, read_pairs
from probes.texts.reading import read_corpus
from probes.training.recipe import Parts, Recipe, arrange
from steering.bounds import Bounds

PAIRS = 1000
"""ParaDetox pairs that are read; in the order of the file, which is that of a hash."""


def toxicity(data: Path) -> tuple[Parts, Recipe]:
    """Fit on 6,000 Jigsaw comments, calibrate on 1,000, test on the LiSeCo paper's 500 and two other sources."""
    folder = data / "toxicity"
    parts = arrange(
        read_corpus(folder / "jigsaw_train.jsonl.gz"),
        calibration=read_corpus(folder / "jigsaw_val.jsonl.gz"),
        test=read_corpus(folder / "jigsaw_test_liseco500.jsonl"),
        out_of_domain={
            "davidson": read_corpus(folder / "davidson_test.jsonl.gz"),
            "civil": read_corpus(folder / "civil_jigsaw_lower_test.jsonl.gz"),
        },
        pairs={"paradetox": first_pairs(_paradetox(folder), PAIRS)},
        drop_leaks=True,  # one training comment differs from a test comment in case and spacing only
    )
    recipe = Recipe(
        name="toxicity",
        concept="toxicity",
        positive_is="toxic",
        labels=("non-toxic", "toxic"),
        dataset="Jigsaw Toxic Comments (balanced subset); tests: LiSeCo 500, Davidson, Civil/Jigsaw lower-cased, "
        f"{PAIRS:,} ParaDetox pairs",
        licence="labels CC0, Wikipedia comments CC BY-SA 3.0",
        bounds=Bounds(upper=0.1),
    )
    return parts, recipe


def sentiment(data: Path) -> tuple[Parts, Recipe]:
    """Fit and calibrate on 6,000 SST-2 phrases (85:15), test on SST-2 dev and IMDB. High means positive."""
    folder = data / "sentiment"
    parts = arrange(
        read_corpus(folder / "sst2_train.jsonl.gz"),
        test=read_corpus(folder / "sst2_dev.jsonl"),
        out_of_domain={"imdb": read_corpus(folder / "imdb_sample.jsonl.gz")},
    )
    recipe = Recipe(
        name="sentiment",
        concept="sentiment",
        positive_is="positive sentiment",
        labels=("negative", "positive"),
        dataset="GLUE SST-2 (subset); tests: SST-2 dev, IMDB sample",
        licence="none stated (research use)",
        bounds=Bounds(lower=0.9),
    )
    return parts, recipe


def language(data: Path) -> tuple[Parts, Recipe]:
    """Fit, calibrate and test on 3,000 quotations, test on Tatoeba pairs. High means Spanish."""
    folder = data / "language"
    tatoeba = read_pairs(folder / "tatoeba_en_es_pairs.jsonl", columns=PairColumns(positive="es", negative="en"))
    parts = arrange(
        read_corpus(folder / "quotes_en_es.jsonl.gz", columns=Columns(positive="es")),
        out_of_domain={"tatoeba": tatoeba},
        pairs={"tatoeba": tatoeba},
    )
    recipe = Recipe(
        name="language",
        concept="language: Spanish rather than English",
        positive_is="Spanish",
        labels=("English", "Spanish"),
        dataset="Quotations in English and Spanish (fortunes, fortunes-es); test: Tatoeba pairs",
        licence="English BSD, Spanish public domain; Tatoeba CC BY 2.0 FR",
        bounds=Bounds(lower=0.9),
    )
    return parts, recipe


def first_pairs(pairs: Corpus, count: int) -> Corpus:
    """The first `count` pairs, with all their texts."""
    kept = set(list(dict.fromkeys(row.group for row in pairs.rows))[:count])
    return replace(pairs, rows=tuple(row for row in pairs.rows if row.group in kept))


def _paradetox(folder: Path) -> Corpus:
    """A few rewritings repeat another, or are a toxic side elsewhere: they are left out, and the report counts them."""
    columns = PairColumns(positive="toxic", negative="neutral")
    path = folder / "paradetox_pairs.jsonl.gz"
    return read_pairs(path, columns=columns, drop_duplicates=True, max_label_noise=0.01)


PROBES: dict[str, Callable[[Path], tuple[Parts, Recipe]]] = {
    "toxicity": toxicity,
    "sentiment": sentiment,
    "language": language,
}
