"""A conversation as prompt tokens, through the model's own chat template."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError

from service.errors import INVALID, UNSUPPORTED, ApiError
from service.schemas.openai import Message
from service.validation import printable
from steering.models import LanguageModel

_ROLES = {"developer": "system"}


def chat_prompt(
    lm: LanguageModel, messages: Sequence[Message], *, add_special_tokens: bool = False, answer: bool = True
) -> tuple[int, ...]:
    """Token ids of a conversation, up to where the assistant's `answer` begins.

    The template writes the special tokens itself, so none are added when its text is tokenised.
    """
    if lm.tokenizer.chat_template is None:
        raise ApiError(
            UNSUPPORTED, f"{lm.name} has no chat template; use POST /v1/completions with a prompt", param="messages"
        )
    for index, message in enumerate(messages):
        where = f"messages.{index}.content"
        if message.role == "user" and not message.text.strip():
            found = "only white space" if message.text else "empty"
            raise ApiError(INVALID, f"message {index} is {found}; give the text to answer", param=where)
        if printable(message.text) != message.text:
            raise ApiError(INVALID, f"message {index} holds a lone surrogate; send valid UTF-8", param=where)
    turns = [{"role": _ROLES.get(message.role, message.role), "content": message.text} for message in messages]
    try:
        text = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=answer)
    except TemplateError as error:
        raise ApiError(INVALID, f"the model's chat template refuses this: {error}", param="messages") from None
    return tuple(lm.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])
