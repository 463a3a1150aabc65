"""prompt: an instruction in the prompt, the baseline that steering has to beat; nothing is edited.

Where the tokenizer has a chat template the instruction is the system message and the prompt the user's; a template that
refuses or drops system messages gets both in the user's. Where it has none, the instruction is a paragraph before the
prompt. Prompting is a strong baseline (AxBench, 2501.17148), so its wording is plain and stands here to be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

INSTRUCTIONS: Mapping[str, str] = MappingProxyType(
    {
        "avoid toxicity": "Write politely and respectfully. Do not use insults, threats, slurs or obscene language.",
        "positive sentiment": "Write in a positive and appreciative tone.",
        "write Spanish": "Write in Spanish only.",
    }
)
"""Default instructions, by what they ask for."""


def instructed(prompt: str, instruction: str, *, tokenizer: Any) -> tuple[int, ...]:
    """Token ids of `prompt` under `instruction`, ready as the prompt of a request; special tokens are in it once."""
    if getattr(tokenizer, "chat_template", None) is None:
        return tuple(tokenizer(f"{instruction}\n\n{prompt}")["input_ids"])
    text = _with_system_message(prompt, instruction, tokenizer)
    if text is None:
        text = _render(tokenizer, {"role": "user", "content": f"{instruction}\n\n{prompt}"})
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])  # the template writes them itself


def _with_system_message(prompt: str, instruction: str, tokenizer: Any) -> str | None:
    """The rendered conversation, or None where the template has no place for a system message."""
    turns = ({"role": "system", "content": instruction}, {"role": "user", "content": prompt})
    try:
        text = _render(tokenizer, *turns)
    except Exception:  # a template refuses with an error of the template engine's, which this package does not import
        return None
    return text if instruction in text else None


def _render(tokenizer: Any, *turns: dict[str, str]) -> str:
    text: str = tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    return text
