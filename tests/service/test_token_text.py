"""What a token stands for: its exact bytes, and its place in the text."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from service.token_text import TokenText
from steering.tiny import byte_tokenizer

TEXTS = ["Once upon a time", " — über Flüsse 🌧️ und日本語", "tabs\tand\nlines", "\x00\x7f\xad"]


def sentencepiece() -> PreTrainedTokenizerFast:
    """A vocabulary of words behind ▁ and of bytes, as Llama 2 has it."""
    words = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁to", "▁the", "▁sea", "s", "▁"]
    vocab = {word: index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_texts_tokens_are_the_bytes_of_the_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    tokens = TokenText(tokenizer)
    assert b"".join(tokens.bytes_of(token) for token in tokenizer(text)["input_ids"]) == text.encode()


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
def test_and_so_they_are_in_a_vocabulary_of_long_pieces(text: str, embedded: object) -> None:
    tokenizer = embedded.tokenizer  # type: ignore[attr-defined]
    tokens, ids = TokenText(tokenizer), tokenizer(text)["input_ids"]
    assert b"".join(tokens.bytes_of(token) for token in ids) == text.encode()
    mapped = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    assert tokens.offsets(ids, text) == [start for start, _ in mapped]


def test_a_part_of_a_character_has_a_name_of_its_own() -> None:
    tokenizer = byte_tokenizer()
    tokens, ids = TokenText(tokenizer), tokenizer("a€")["input_ids"]
    assert [tokens.name_of(token) for token in ids] == ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]
    assert [tokens.text_of(token) for token in ids] == ["a", "\ufffd", "\ufffd", "\ufffd"]
    assert tokens.bytes_of(299) == b"", "no token has this id"


def test_tokens_that_share_a_character_begin_where_it_begins() -> None:
    tokenizer = byte_tokenizer()
    assert TokenText(tokenizer).offsets(tokenizer("a€b")["input_ids"], "a€b") == [0, 1, 1, 1, 2]


def test_a_special_token_takes_room_only_where_the_text_shows_it() -> None:
    tokens = TokenText(byte_tokenizer())
    assert tokens.offsets([257, 65, 258, 66], tokens.text_of(65) + tokens.text_of(66)) == [0, 0, 1, 1]
    shown = "<s>" + tokens.text_of(65)
    assert tokens.offsets([257, 65, 258], shown) == [0, 3, 4]


def test_no_place_lies_behind_the_text() -> None:
    tokenizer = byte_tokenizer()
    assert TokenText(tokenizer).offsets(tokenizer("cut here")["input_ids"], "cut") == [0, 1, 2, 3, 3, 3, 3, 3]


def test_sentencepiece_tokens_keep_their_space_and_their_bytes() -> None:
    tokenizer = sentencepiece()
    tokens = TokenText(tokenizer)
    ids = tokenizer.convert_tokens_to_ids(["<s>", "▁to", "▁the", "▁sea", "s", "<0xE2>", "<0x82>", "<0xAC>"])
    assert [tokens.name_of(token) for token in ids][:5] == ["<s>", " to", " the", " sea", "s"]
    assert b"".join(tokens.bytes_of(token) for token in ids[1:]).decode() == " to the seas€"
    assert tokens.offsets(ids, "to the seas€") == [0, 0, 2, 6, 10, 11, 11, 11]


def test_a_vocabulary_of_another_kind_is_decoded_token_by_token() -> None:
    vocab = {word: index for index, word in enumerate(["[UNK]", "sea", "##side"])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    tokens = TokenText(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]"))
    assert tokens.text_of(1) == "sea"
