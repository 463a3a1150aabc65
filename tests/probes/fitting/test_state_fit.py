"""The fit of state offsets against a plain loop: one text at a time, no padding, Transformers alone."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from transformers import DynamicCache, JambaConfig, JambaForCausalLM, MambaConfig, MambaForCausalLM

from probes.errors import FitError
from probes.fitting.state import OFFSET, fit_state_offsets
from probes.texts.corpus import Corpus, Row
from steering import wrap
from steering.errors import InvalidRequest, UnsupportedSteering
from steering.fitted import check_fitted
from steering.recurrent import recurrent_layers
from steering.stepping import cache_name
from steering.tiny import SPECIAL, VOCAB, byte_tokenizer

HALVES = ("abcdefghijklm", "nopqrstuvwxyz")
"""The letters of label 0 and of label 1."""


def two_halves(count=40, *, seed=0):
    """Texts of 1 to 30 letters, each class from its own half of the alphabet, classes of unequal size."""
    drawn = random.Random(seed)
    labels = [int(index % 3 == 0) for index in range(count)]
    texts = ["".join(drawn.choices(HALVES[label], k=drawn.randint(1, 30))) for label in labels]
    return Corpus(
        "halves", tuple(Row(at, text, label) for at, (text, label) in enumerate(zip(texts, labels, strict=True), 1))
    )


def tiny(kind):
    torch.manual_seed(0)
    common = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 4, "initializer_range": 0.2, **SPECIAL}
    if kind == "mamba":
        return MambaForCausalLM(MambaConfig(state_size=8, **common)).eval()
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "attn_layer_period": 2, "attn_layer_offset": 1}
    mamba = {"mamba_d_state": 8, "intermediate_size": 64, "num_experts": 2}
    return JambaForCausalLM(JambaConfig(**common, **heads, **mamba)).eval()


@pytest.fixture(scope="module", params=["mamba", "mamba2", "jamba"])
def stateful(request, mamba_lm):
    if request.param == "mamba2":
        return mamba_lm
    return wrap(tiny(request.param), byte_tokenizer(), model_id=f"tiny-{request.param}")


@torch.inference_mode()
def last_states(lm, text):
    """Float64 states after the last token, by layer, of one text alone."""
    ids = torch.tensor([lm.tokenizer(text)["input_ids"]])
    cache = DynamicCache(config=lm.model.config)
    lm.model(**{"input_ids": ids, cache_name(lm.model): cache}, use_cache=True)
    states = {at: getattr(layer, "recurrent_states", {}).get(0) for at, layer in enumerate(cache.layers)}
    return {
        at: state[0].double().reshape(-1, state.shape[-1]).numpy() for at, state in states.items() if state is not None
    }


def plain_difference(lm, corpus):
    """Mean of label 1 minus mean of label 0, by layer."""
    states = [last_states(lm, row.text) for row in corpus.rows]
    mean = {
        label: {
            layer: np.mean(
                [state[layer] for state, own in zip(states, corpus.labels, strict=True) if own == label], axis=0
            )
            for layer in states[0]
        }
        for label in (0, 1)
    }
    return {layer: mean[1][layer] - mean[0][layer] for layer in states[0]}


def test_the_offset_is_the_difference_of_class_means_of_a_plain_loop(stateful):
    corpus = two_halves()
    expected = plain_difference(stateful, corpus)
    fitted = fit_state_offsets(stateful, corpus, toward="positive", batch_tokens=64)
    assert fitted.keys() == expected.keys()
    assert list(fitted) == ([0, 2] if stateful.name == "tiny-jamba" else [0, 1, 2, 3])
    for layer, parts in fitted.items():
        assert parts.keys() == {OFFSET}
        offset = parts[OFFSET]
        assert offset.dtype == np.float32
        assert offset.shape == recurrent_layers(stateful.model)[layer]
        np.testing.assert_allclose(offset, expected[layer], rtol=1e-4, atol=1e-5)
        assert np.linalg.norm(offset) > 1e-2, "classes that do not differ prove nothing"
        check_fitted({OFFSET: torch.from_numpy(offset)}, hidden_size=32, where="here")


def test_toward_the_negative_class_is_the_opposite(stateful):
    corpus = two_halves()
    there, back = (fit_state_offsets(stateful, corpus, toward=side) for side in ("positive", "negative"))
    for layer, parts in there.items():
        np.testing.assert_array_equal(parts[OFFSET], -back[layer][OFFSET])


def test_neither_batches_nor_the_order_of_texts_matter(stateful):
    corpus = two_halves()
    mixed = Corpus("mixed", tuple(random.Random(1).sample(corpus.rows, len(corpus))))
    alone = fit_state_offsets(stateful, corpus, toward="positive", batch_tokens=1)
    for other in (
        fit_state_offsets(stateful, corpus, toward="positive", batch_tokens=10_000),
        fit_state_offsets(stateful, mixed, toward="positive", batch_tokens=100),
    ):
        for layer, parts in alone.items():
            np.testing.assert_allclose(other[layer][OFFSET], parts[OFFSET], rtol=1e-4, atol=1e-5)


def test_only_the_chosen_layers_are_fitted_and_every_text_is_counted(stateful):
    corpus, told = two_halves(), []
    fitted = fit_state_offsets(stateful, corpus, toward="positive", layers=[2], batch_tokens=64, advance=told.append)
    assert list(fitted) == [2]
    assert sum(told) == len(corpus)
    np.testing.assert_allclose(
        fitted[2][OFFSET], fit_state_offsets(stateful, corpus, toward="positive")[2][OFFSET], rtol=1e-4, atol=1e-5
    )


def test_long_texts_keep_their_first_tokens(stateful):
    corpus = two_halves()
    cut = Corpus("cut", tuple(Row(row.number, row.text[:5], row.label) for row in corpus.rows))
    short = fit_state_offsets(stateful, cut, toward="positive")
    for layer, parts in fit_state_offsets(stateful, corpus, toward="positive", max_tokens=5).items():
        np.testing.assert_allclose(parts[OFFSET], short[layer][OFFSET], rtol=1e-4, atol=1e-5)


def test_models_and_layers_without_a_state_are_refused(lm, stateful):
    with pytest.raises(UnsupportedSteering, match="'llama' has no recurrent state at any layer"):
        fit_state_offsets(lm, two_halves(), toward="positive")
    with pytest.raises(InvalidRequest, match="layer 4 does not exist"):
        fit_state_offsets(stateful, two_halves(), toward="positive", layers=[4])
    if stateful.name == "tiny-jamba":
        with pytest.raises(UnsupportedSteering, match=r"layer 1 of .*'jamba' has no recurrent state.*\[0, 2\]"):
            fit_state_offsets(stateful, two_halves(), toward="positive", layers=[0, 1])


def test_bad_texts_are_named_by_row_never_by_content(mamba_lm):
    one = Corpus("one", (Row(1, "abc", 1), Row(2, "abd", 1)))
    with pytest.raises(FitError, match=r"one holds .*'0': 0, '1': 2.*both labels"):
        fit_state_offsets(mamba_lm, one, toward="positive")
    empty = Corpus("empty", (Row(5, "abc", 1), Row(9, "", 0)))
    with pytest.raises(FitError, match="empty, row 9: the tokenizer makes no tokens"):
        fit_state_offsets(mamba_lm, empty, toward="positive")


def test_a_state_that_is_not_finite_is_an_error_that_names_row_and_layer():
    lm = wrap(tiny("mamba"), byte_tokenizer(), model_id="broken")
    with torch.no_grad():
        lm.model.backbone.embeddings.weight[lm.tokenizer("q")["input_ids"]] = float("inf")
    corpus = Corpus("poisoned", (Row(3, "ab", 0), Row(7, "nqn", 1), Row(8, "no", 1)))
    with pytest.raises(FitError, match=r"poisoned, row 7: the recurrent state of layer 2 is not finite in float32"):
        fit_state_offsets(lm, corpus, toward="positive", layers=[2])
