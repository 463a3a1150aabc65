"""Scorers: a number in [0, 1] that follows what the card says, NaN where there is no word, errors that name extras."""

from __future__ import annotations

import math
import sys

import pytest

from steering.errors import InvalidRequest, ModelError
from steering.scorers import AltProfanity, Spanish, Vader, make_scorer, make_scorers
from steering.scorers.spanish import _STOPS


def test_spanish_is_the_share_of_its_stop_words():
    # Counted by hand: "the", "with" against "el", "la"; "mar" and "sea" are no stop-words of English.
    assert Spanish().score(["the mar with el la", "the ship and the coast", "el barco y la costa"]) == [0.5, 0.0, 1.0]


def test_case_and_punctuation_change_nothing_for_spanish():
    assert Spanish().score(["¿QUÉ es esto?", "What is this?!"]) == [1.0, 0.0]


def test_text_without_a_stop_word_of_either_language_has_no_score():
    assert all(math.isnan(score) for score in Spanish().score(["", "  ", "1984", "berlin tokyo"]))


def test_no_word_counts_for_both_languages():
    assert not _STOPS["en"] & _STOPS["es"]
    assert all(word.islower() and word.isalpha() for words in _STOPS.values() for word in words)


def test_vader_orders_praise_over_neutral_over_blame_and_maps_its_compound_to_the_unit_interval():
    good, plain, bad, nothing = Vader().score(
        ["A wonderful, lovely day.", "The table is here.", "A horrible day.", " "]
    )
    assert 0 <= bad < plain == 0.5 < good <= 1
    assert math.isnan(nothing)
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    compound = SentimentIntensityAnalyzer().polarity_scores("A horrible day.")["compound"]
    assert bad == pytest.approx((compound + 1) / 2, abs=1e-12)


@pytest.mark.slow
def test_the_packaged_scorer_tells_a_curse_from_a_courtesy():
    low, high, nothing = AltProfanity().score(["Thank you for the flowers.", "damn you, you stupid idiot", "  "])
    assert low < 0.3 < high
    assert math.isnan(nothing)


@pytest.mark.parametrize("name", ["spanish", "vader"])
def test_a_scorer_comes_by_name_with_a_card(name):
    card = make_scorer(name).card
    assert card.name == name
    assert all([card.family, card.revision, card.trained_on, card.higher_is])


def test_an_unknown_name_is_refused_with_the_names_there_are():
    with pytest.raises(
        InvalidRequest,
        match=r"alt-profanity-check, vader, spanish, detoxify:MODEL\[@CHECKPOINT\], hf:ID-OR-FOLDER#LABEL, http://",
    ) as refused:
        make_scorer("perspective")
    assert refused.value.param == "scorer"


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("vader", "vaderSentiment", "probes"),
        ("alt-profanity-check", "profanity_check", "eval"),
        ("detoxify:original", "detoxify", "eval"),
    ],
)
def test_a_missing_package_names_its_extra(name, package, extra, monkeypatch):
    for module in [loaded for loaded in sys.modules if loaded.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModelError, match=rf"tiller-lm\[{extra}\]"):
        make_scorer(name)


def test_a_text_of_signs_alone_has_no_word_to_score_but_an_emoticon_has_a_valence():
    dots, emoticon = Vader().score(["... --- !!!", ":)"])
    assert math.isnan(dots)
    assert emoticon > 0.5


@pytest.mark.slow
def test_a_row_of_dots_is_not_courteous():
    (dots,) = AltProfanity().score(["....."])
    assert math.isnan(dots)


def test_what_cannot_be_scored_says_why():
    (silent,) = Spanish().judge(["berlin tokyo"])
    (dots,) = Vader().judge(["..."])
    assert "no stop-word" in silent.reason
    assert "no letter" in dots.reason
    assert all(found.reason == "" for found in [*Spanish().judge(["the sea"]), *Vader().judge(["fine"])])


def test_all_scorers_of_a_spec_are_loaded_or_none():
    assert [scorer.card.name for scorer in make_scorers(["vader", "spanish"])] == ["vader", "spanish"]
    with pytest.raises(InvalidRequest, match="called 'spanish'"):
        make_scorers(["spanish", "vader", "spanish"])
    with pytest.raises(InvalidRequest, match="no scorer 'perspective'"):
        make_scorers(["spanish", "perspective"])


@pytest.mark.parametrize("name", ["detoxify", "detoxify:", "hf:", "http", "ftp://x"])
def test_half_a_name_is_refused(name):
    with pytest.raises(InvalidRequest, match="there is no scorer"):
        make_scorer(name)
