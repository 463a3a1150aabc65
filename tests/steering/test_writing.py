"""A text while it is written: what was told is never taken back, and all that was told is the text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steering import Request, Sampling
from steering.tiny import SPECIAL
from steering.writing import Writing, end_tokens

LOGITS = torch.zeros(300)
END = SPECIAL["eos_token_id"]
CLEF, EURO, KANJI, FAMILY = "𝄞", "€", "語", "👩‍👩‍👧"
MIXED = f"a{CLEF}b {EURO}{EURO} é {KANJI}{KANJI}. {FAMILY}!"


def ids(lm, text):
    return lm.tokenizer(text, add_special_tokens=False)["input_ids"]


def write(lm, tokens, *, prompt="abc", max_tokens=None, **sampling):
    """The pieces a listener is told, token by token, and the text and reason in the end."""
    given_ids = list(prompt) if isinstance(prompt, (list, tuple)) else ids(lm, prompt)
    asked = Sampling(max_tokens=max_tokens or len(tokens), **sampling)
    writing, pieces = Writing(lm, Request(tuple(given_ids), asked), given_ids), []
    for token in tokens:
        writing.take(token, LOGITS)
        pieces.append(writing.news())
        if writing.finish_reason is not None:
            break
    return pieces, writing.complete(None)


def quietly(lm, tokens, **asked):
    """The same without a listener: nothing is asked for until the end."""
    sampling = Sampling(max_tokens=len(tokens), **asked)
    writing = Writing(lm, Request("abc", sampling), ids(lm, "abc"))
    for token in tokens:
        writing.take(token, LOGITS)
        if writing.finish_reason is not None:
            break
    return writing.complete(None)


def test_a_character_of_several_tokens_is_told_when_it_is_whole(lm):
    pieces, done = write(lm, ids(lm, f"a{CLEF}b"))
    assert pieces == ["a", "", "", "", CLEF, "b"]
    assert (done.text, done.finish_reason) == (f"a{CLEF}b", "length")


@pytest.mark.parametrize(
    "text", [MIXED, "plain", " leading", "trailing ", "\n\n", "  ", "a\u0301\u0301", "\u200d\ufeff."]
)
def test_the_pieces_are_the_text_and_the_text_is_the_whole_decoded(lm, text):
    tokens = ids(lm, text)
    pieces, done = write(lm, tokens)
    assert "".join(pieces) == done.text == quietly(lm, tokens).text == text


@given(tokens=st.lists(st.integers(0, 299), min_size=1, max_size=24))
@settings(max_examples=300, deadline=None)
def test_whatever_tokens_come_the_pieces_are_the_text(lm, tokens):
    """Most of these are no UTF-8 at all, and some are special or unknown. The judge decodes everything at once."""
    pieces, done = write(lm, tokens, ignore_eos=True)
    assert "".join(pieces) == done.text
    assert done.text == lm.tokenizer.decode(tokens, skip_special_tokens=True)
    assert quietly(lm, tokens, ignore_eos=True).text == done.text


@given(
    text=st.text(alphabet=f"ab{EURO}{CLEF}", min_size=1, max_size=14),
    stops=st.lists(st.text(alphabet=f"ab{EURO}{CLEF}", min_size=1, max_size=3), min_size=1, max_size=3),
)
@settings(max_examples=300, deadline=None)
def test_a_text_ends_before_its_first_stop_string_and_nothing_of_that_is_ever_told(lm, text, stops):
    tokens = ids(lm, text)
    pieces, done = write(lm, tokens, stop=tuple(stops))
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not ends:
        assert ("".join(pieces), done.text, done.finish_reason) == (text, text, "length")
    else:
        first = min(end for end, _ in ends)  # the stop string that is complete first ends the row
        cut = min(start for end, start in ends if end == first)
        assert ("".join(pieces), done.text, done.finish_reason) == (text[:cut], text[:cut], "stop")
        assert len(done.token_ids) == len(ids(lm, text[:first]))
    assert quietly(lm, tokens, stop=tuple(stops)) == done


def test_what_might_become_a_stop_string_is_held_back_and_told_when_it_does_not(lm):
    pieces, done = write(lm, ids(lm, "xa-b-c.abc!"), stop=("a-b-d", "abc!"))
    assert pieces == ["x", "", "", "", "", "a-b-c", ".", "", "", "", ""]
    assert (done.text, done.finish_reason) == ("xa-b-c.", "stop")
    pieces, done = write(lm, ids(lm, "xa-b"), stop=("a-b-d",))
    assert pieces == ["x", "", "", "a-b"], "the row ends, so nothing can complete it"
    assert done.text == "xa-b"


def test_a_stop_string_is_found_across_characters_of_several_tokens(lm):
    pieces, done = write(lm, ids(lm, f"a{EURO}{CLEF}b"), stop=(f"{EURO}{CLEF}",))
    assert ("".join(pieces), done.text, done.finish_reason) == ("a", "a", "stop")
    assert len(done.token_ids) == 1 + 3 + 4


def test_a_stop_string_in_the_prompt_is_no_stop(lm):
    pieces, done = write(lm, ids(lm, "cd"), prompt="ab", stop=("bc",))
    assert ("".join(pieces), done.text) == ("cd", "cd")


@pytest.mark.parametrize(
    ("sampling", "tokens"),
    [({}, [97, END]), ({"stop_ids": (98,)}, [97, 98]), ({"stop_ids": (98,), "ignore_eos": True}, [97, END, 98])],
    ids=str,
)
def test_the_token_a_text_ends_with_is_a_token_and_no_text(lm, sampling, tokens):
    pieces, done = write(lm, [*tokens, 99], max_tokens=9, **sampling)
    assert (done.token_ids, done.finish_reason) == (tokens, "stop")
    assert "".join(pieces) == done.text == lm.tokenizer.decode([97])


def test_every_end_token_of_the_model_ends_a_text(lm):
    assert end_tokens(lm) == {END}


@pytest.mark.parametrize("cut", [1, 2])
def test_a_character_left_unfinished_is_told_at_the_end_as_what_it_is(lm, cut):
    tokens = ids(lm, f"a{EURO}")[:-cut]
    pieces, done = write(lm, tokens)
    assert "".join(pieces) == done.text == lm.tokenizer.decode(tokens) == "a\ufffd"


def test_a_character_the_prompt_began_is_finished_by_the_text(lm):
    """A prompt of token ids may end within a character; the text then begins with the whole of it."""
    tokens = ids(lm, f"{EURO}b")
    pieces, done = write(lm, tokens[2:], prompt=[*ids(lm, "a"), *tokens[:2]])
    assert "".join(pieces) == done.text == f"{EURO}b"


def test_replacement_characters_the_model_itself_writes_are_text(lm):
    text = "a\ufffdb\ufffd"
    pieces, done = write(lm, ids(lm, text))
    assert "".join(pieces) == done.text == text


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        f" {MIXED}",
        "The sea. 海は青い。 البحر أزرق",
        "def f(x):\n\treturn x  # π ≈ 3.14159\n\n\n",
        "🙂🙃🏳️‍🌈👩🏽‍🚀 and so on…",
        "1,000,000.00 isn't   many   spaces",
    ],
)
def test_on_the_embedded_tokenizer_too_the_pieces_are_the_text(embedded, text):
    tokens = ids(embedded, text)
    pieces, done = write(embedded, tokens, prompt="Here:")
    assert "".join(pieces) == done.text == embedded.tokenizer.decode(tokens) == text
    stop = text[len(text) // 2 :][:2]
    pieces, done = write(embedded, tokens, prompt="Here:", stop=(stop,))
    assert "".join(pieces) == done.text == text[: text.index(stop)]


@pytest.mark.slow
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_on_the_embedded_tokenizer_whatever_tokens_come_the_pieces_are_the_text(embedded, data):
    tokens = data.draw(st.lists(st.integers(0, len(embedded.tokenizer) - 1), min_size=1, max_size=12))
    pieces, done = write(embedded, tokens, ignore_eos=True)
    assert "".join(pieces) == done.text
    assert done.text == embedded.tokenizer.decode(tokens, skip_special_tokens=True)
