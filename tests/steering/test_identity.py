"""A probe meets a model: what must match at each level, and that the message says what differs."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from steering import wrap
from steering.errors import ProbeMismatch
from steering.identity import PROVENANCE, check_compatible, describe_model, describe_tokenizer

LEVELS = ["exact", "architecture", "width"]


def meets(probe, lm, level, **changes):
    check_compatible(probe, lm.info.model_copy(update=changes), lm.tokenizer_info, level=level)


@pytest.mark.parametrize("level", LEVELS)
def test_a_probe_fits_its_own_model_at_every_level(lm, probe, level):
    meets(probe, lm, level)


@pytest.mark.parametrize(
    ("changes", "refused_at", "says"),
    [
        ({"hidden_size": 48}, LEVELS, "hidden_size 32, here 48"),
        ({"num_hidden_layers": 3}, LEVELS, "layer 3, here layers 0 to 2"),
        ({"num_hidden_layers": 5}, LEVELS[:2], "num_hidden_layers 4, here 5"),
        ({"model_type": "mistral"}, LEVELS[:2], "model_type llama, here mistral"),
        ({"revision": "other"}, LEVELS[:1], "revision unsaved, here other"),
        ({"config_sha256": "0" * 64}, LEVELS[:1], "config"),
        ({"id": "renamed", "dtype": "bfloat16"}, [], ""),
    ],
)
def test_each_difference_counts_at_its_levels_only(lm, probe, changes, refused_at, says):
    for level in LEVELS:
        if level in refused_at:
            with pytest.raises(ProbeMismatch, match=says):
                meets(probe, lm, level, **changes)
        else:
            meets(probe, lm, level, **changes)


@pytest.mark.parametrize(("field", "says"), [("sha256", "vocabulary"), ("chat_template_sha256", "chat template")])
def test_another_vocabulary_or_chat_template_counts_at_exact_only(lm, probe, field, says):
    tokenizer = lm.tokenizer_info.model_copy(update={field: "0" * 64})
    with pytest.raises(ProbeMismatch, match=says):
        check_compatible(probe, lm.info, tokenizer)
    check_compatible(probe, lm.info, tokenizer, level="architecture")


def test_all_differences_are_named_at_once_with_the_way_out(lm, mamba_lm, probe):
    with pytest.raises(ProbeMismatch) as refused:
        check_compatible(probe, mamba_lm.info, mamba_lm.tokenizer_info)
    assert all(word in str(refused.value) for word in ("llama", "mamba2", "config", "Refit", "toxicity@1"))


def test_the_description_follows_the_wiring_and_not_what_releases_add(lm):
    same, other = copy.deepcopy(lm.model.config), copy.deepcopy(lm.model.config)
    same.some_field_of_a_later_release = 1
    other.intermediate_size += 1

    def described(config):
        model = copy.copy(lm.model)
        model.config = config
        return describe_model(model, model_id="x").config_sha256

    assert described(same) == lm.info.config_sha256 != described(other)


def test_saved_weights_have_a_fingerprint_that_notices_a_change(lm, tmp_path):
    for name in ("one", "same", "other"):
        lm.model.save_pretrained(tmp_path / name)
    path = tmp_path / "other" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    one, same, other = (
        describe_model(lm.model, model_id=str(tmp_path / name)).revision for name in ("one", "same", "other")
    )
    assert one == same != other
    assert one.startswith("weights-")


def test_a_folder_that_we_wrote_says_where_it_comes_from(lm, tmp_path):
    (tmp_path / PROVENANCE).write_text(json.dumps({"id": "embedded", "revision": "r1"}))
    info = describe_model(lm.model, model_id=str(tmp_path))
    assert (info.id, info.revision) == ("embedded", "r1")
    assert describe_model(lm.model, model_id="org/name").id == "org/name"


def test_a_folder_is_known_by_its_name_and_never_by_its_path(lm, tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    assert describe_model(lm.model, model_id=str(folder)).id == "my-model"
    assert describe_model(lm.model, model_id=f"{folder}/").id == "my-model"


def test_a_changed_chat_template_is_another_tokenizer(lm):
    tokenizer = copy.deepcopy(lm.tokenizer)
    before = describe_tokenizer(tokenizer)
    tokenizer.chat_template += " "
    assert describe_tokenizer(tokenizer).chat_template_sha256 != before.chat_template_sha256
    tokenizer.chat_template = None
    assert describe_tokenizer(tokenizer).chat_template_sha256 is None
    assert describe_tokenizer(tokenizer).sha256 == before.sha256


def test_the_dtype_described_is_the_models(lm):
    half = copy.deepcopy(lm.model).to(torch.bfloat16)
    assert wrap(half, lm.tokenizer, model_id="half").info.dtype == "bfloat16"
