"""The instruction reaches the model once, in the place its chat template has for it, with each special token once."""

from __future__ import annotations

import pytest
from tokenizers.processors import TemplateProcessing

from steering.controllers.prompt import INSTRUCTIONS, instructed
from steering.tiny import SPECIAL, byte_tokenizer

ASK, PROMPT = INSTRUCTIONS["write Spanish"], "The sea"
SYSTEM = "{% for m in messages %}<s>[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + SYSTEM
DROPS = "{% for m in messages %}{% if m.role == 'user' %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"


@pytest.fixture
def tokenizer():
    """It begins every text with <s>, as the tokenizers of Llama and Gemma do."""
    made = byte_tokenizer()
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", SPECIAL["bos_token_id"])]
    )
    assert made("a")["input_ids"][0] == made.bos_token_id
    return made


def test_a_chat_template_gets_it_as_the_system_message(tokenizer):
    tokenizer.chat_template = SYSTEM
    ids = instructed(PROMPT, ASK, tokenizer=tokenizer)
    assert tokenizer.decode(ids) == f"<s>[system]{ASK}<s>[user]{PROMPT}[assistant]"
    assert ids.count(tokenizer.bos_token_id) == 2  # those of the template; none is added


@pytest.mark.parametrize("template", [REFUSES, DROPS], ids=["refuses", "drops"])
def test_a_template_without_a_system_message_gets_both_from_the_user(template, tokenizer):
    tokenizer.chat_template = template
    text = tokenizer.decode(instructed(PROMPT, ASK, tokenizer=tokenizer))
    assert f"[user]{ASK}\n\n{PROMPT}" in text
    assert "[system]" not in text


def test_a_template_that_refuses_everything_is_not_hidden(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(Exception, match="no"):
        instructed(PROMPT, ASK, tokenizer=tokenizer)


def test_without_a_template_it_is_a_paragraph_before_the_prompt(tokenizer):
    tokenizer.chat_template = None
    ids = instructed(PROMPT, ASK, tokenizer=tokenizer)
    assert ids == tuple(tokenizer(f"{ASK}\n\n{PROMPT}")["input_ids"])


def test_there_is_an_instruction_for_each_shipped_concept():
    assert set(INSTRUCTIONS) == {"avoid toxicity", "positive sentiment", "write Spanish"}
