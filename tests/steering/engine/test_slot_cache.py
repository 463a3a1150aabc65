"""Rows in slots, each at its own length, remember what one row in Transformers' own cache remembers.

The judge is the model with a `DynamicCache`, one row at a time, without padding or mask. Every architecture; sequences
are longer than the sliding windows, so that these bite.
"""

from __future__ import annotations

import inspect
from itertools import pairwise

import pytest
import torch
from transformers import DynamicCache

from steering.engine.runner import Runner
from steering.stepping import cache_name

TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}
ROW_TOKENS = 48
MEMORIES = ["llama", "mistral", "mamba", "mamba2", "jamba", "bamba"]


def tokens(count, seed=0):
    return [(seed * 31 + 7 * at * at + 3) % 250 for at in range(count)]


class Alone:
    """One row in the library's own cache."""

    def __init__(self, lm):
        self.lm, self.cache, self.held = lm, DynamicCache(config=lm.model.config), 0

    @torch.inference_mode()
    def read(self, ids):
        """Logits after each of `ids`, (tokens, vocab)."""
        inputs = {"input_ids": torch.tensor([ids]), cache_name(self.lm.model): self.cache}
        if "position_ids" in inspect.signature(self.lm.model.forward).parameters:  # Bamba counts from 0 without
            inputs["position_ids"] = torch.arange(self.held, self.held + len(ids)).unsqueeze(0)
        self.held += len(ids)
        return self.lm.model(**inputs, use_cache=True).logits[0].float()


def alone(lm, ids, prompt):
    """Logits after the prompt and each token behind it, read one by one."""
    row = Alone(lm)
    return torch.cat([row.read(ids[:prompt])[-1:], *(row.read([token]) for token in ids[prompt:])])


def parts(cache):
    """Every tensor of a slot cache, (slots, ...) each."""
    found = [state for layer in cache.layers for state in getattr(layer, "states", ())]
    found += [getattr(layer, name, None) for layer in cache.layers for name in ("keys", "values")]
    return [part for part in found if part is not None]


def runner(lm, *, slots=6, poison=False):
    made = Runner(lm, slots=slots, row_tokens=ROW_TOKENS)
    if poison:  # what an earlier row may have left: anything but NaN
        for part in parts(made.cache):
            part.copy_(100 * torch.randn(part.shape, generator=torch.Generator().manual_seed(0)))
    return made


def steps(reader, first, rows, lengths, count):
    """Logits of `count` steps over neighbours, (count, rows, vocab)."""
    return torch.stack([
        reader.read(
            first,
            [[row[held + step]] for row, held in zip(rows, lengths, strict=True)],
            [held + step for held in lengths],
            [step] * len(rows),
            whole=False,
        )
        for step in range(count)
    ])  # fmt: skip


def test_rows_of_different_lengths_are_as_alone_in_slots_with_a_past(any_lm):
    """Read together, padded on the left, in slots that hold others' leavings, and then written side by side."""
    reader, lengths = runner(any_lm, poison=True), [3, 19, 11]
    rows = [tokens(length + 10, seed) for seed, length in enumerate(lengths)]
    prompts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    after = reader.read(2, prompts, [0] * 3, [-length for length in lengths], whole=False)
    logits = torch.cat([after.unsqueeze(0), steps(reader, 2, rows, lengths, 10)])
    for at, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        torch.testing.assert_close(logits[:, at], alone(any_lm, row, length), **TOLERANCE)


def test_every_column_of_a_padded_pass_has_the_logits_of_its_token(any_lm):
    reader, prompts = runner(any_lm), [tokens(4, 1), tokens(17, 2)]
    logits = reader.read(0, prompts, [0, 0], [-4, -17], whole=True)
    for row, prompt in zip(logits, prompts, strict=True):
        torch.testing.assert_close(row[-len(prompt) :], Alone(any_lm).read(prompt), **TOLERANCE)


def test_a_prompt_in_pieces_is_a_prompt_in_one(any_lm):
    """In chunks where the model can continue, one by one where it cannot."""
    reader, prompt = runner(any_lm), tokens(29)
    size = 9 if reader.continues else 1
    cuts = [0, *range(9, 29, size), 29]
    for start, stop in pairwise(cuts):
        logits = reader.read(5, [prompt[start:stop]], [start], [start - 29], whole=False)
    torch.testing.assert_close(logits[0], Alone(any_lm).read(prompt)[-1], **TOLERANCE)


@pytest.mark.parametrize("model_type", MEMORIES)
def test_a_row_that_moves_takes_all_it_remembers_along(zoo, model_type):
    lm, lengths = zoo(model_type), [5, 21, 13]
    reader, rows = runner(lm, poison=True), [tokens(length + 9, seed) for seed, length in enumerate(lengths)]
    prompts = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    reader.read(0, prompts, [0] * 3, [-length for length in lengths], whole=False)
    steps(reader, 0, rows, lengths, 3)
    reader.cache.move(2, 0, lengths[2] + 3)  # the first has left, the last takes its place
    left, held = [rows[2], rows[1]], [lengths[2] + 3, lengths[1] + 3]
    logits = steps(reader, 0, left, held, 6)
    for at, (row, length) in enumerate(zip(left, (13, 21), strict=True)):
        torch.testing.assert_close(logits[:, at], alone(lm, row, length)[4:], **TOLERANCE)


@pytest.mark.parametrize("model_type", MEMORIES)
def test_a_pass_writes_to_its_own_slots_only(zoo, model_type):
    lm = zoo(model_type)
    reader = runner(lm, poison=True)
    before = [part.clone() for part in parts(reader.cache)]
    reader.read(2, [tokens(7), tokens(12, 1)], [0, 0], [-7, -12], whole=False)
    reader.read(2, [[5], [6]], [7, 12], [0, 0], whole=False)
    for part, was in zip(parts(reader.cache), before, strict=True):
        others = [0, 1, 4, 5]
        assert torch.equal(part[others], was[others])
        assert not torch.equal(part[2:4], was[2:4])


@pytest.mark.parametrize("model_type", MEMORIES)
def test_a_slot_that_was_cleared_holds_no_nan(zoo, model_type):
    lm = zoo(model_type)
    reader, fresh = runner(lm), runner(lm)
    for part in parts(reader.cache):
        part[1] = torch.nan
    reader.cache.clear(1)
    prompt = tokens(9)
    for each in (reader, fresh):
        each.logits = each.read(0, [prompt, prompt], [0, 0], [-9, -9], whole=False)
    assert torch.equal(reader.logits, fresh.logits)


def test_the_last_token_of_a_slot_can_be_written(zoo):
    lm = zoo("mistral")
    reader, row = runner(lm), tokens(ROW_TOKENS)
    reader.read(0, [row[:-3]], [0], [3 - ROW_TOKENS], whole=False)
    logits = steps(reader, 0, [row], [ROW_TOKENS - 3], 3)
    torch.testing.assert_close(logits[:, 0], alone(lm, row, ROW_TOKENS - 3)[1:], **TOLERANCE)
