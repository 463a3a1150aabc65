"""What the OpenAI routes take: the fields this build has, and those it knows but has only at their neutral value.

A field that would change the answer is never dropped in silence: it is refused with 400 unless it asks for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from service.schemas.generation import Alternatives, GenerationFields
from service.validation import Strict, either, refusal, shown

_ANY = object()
"""For fields that never change an answer."""

_COMMON: dict[str, tuple[Any, ...]] = {
    "user": (_ANY,),
    "safety_identifier": (_ANY,),
    "prompt_cache_key": (_ANY,),
    "metadata": (_ANY,),
    "store": (False,),
    "service_tier": ("auto", "default"),
}


def _same(value: object, other: object) -> bool:
    """Equal as JSON: to Python, 0 is False and 1 is True."""
    return type(value) is type(other) and value == other


class _Neutral(Strict):
    """Takes the fields of `neutral` at the values given there (or null), and refuses any other value of them."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {}

    @model_validator(mode="before")
    @classmethod
    def _only_neutral(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        for name, allowed in cls.neutral.items():
            value = data.get(name)
            if value is not None and _ANY not in allowed and not any(_same(value, item) for item in allowed):
                here = " or ".join(shown(item) for item in (*allowed, None))
                raise refusal(
                    "unsupported", f"{name} is {shown(value)}: this server has it only as {here}; leave it out", at=name
                )
        return {key: value for key, value in data.items() if key not in cls.neutral}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The document of the API has these fields too, with the values they may take."""
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema)["properties"]
        for name, allowed in cls.neutral.items():
            properties[name] = {"title": name, "description": "Has no effect"}
            properties[name] |= {} if _ANY in allowed else {"enum": [*allowed, None]}
        return schema


class CompletionRequest(GenerationFields, _Neutral):
    """`POST /v1/completions`. Also taken at their neutral value: best_of, suffix and their kin."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = _COMMON | {"best_of": (1,), "suffix": ("",)}

    model: str | None = None
    """The served model (`GET /v1/models`); may be left out."""
    prompt: Annotated[
        str
        | Annotated[list[str], Field(min_length=1)]
        | Annotated[list[int], Field(min_length=1)]
        | Annotated[list[Annotated[list[int], Field(min_length=1)]], Field(min_length=1)],
        either("a string, a list of strings, token ids, or lists of token ids; none of them empty"),
    ]
    max_tokens: Annotated[int, Field(ge=0)] | None = None
    """New tokens at most; 16 when null, as OpenAI has it. 0, with `echo`, only scores the prompt."""
    logprobs: Alternatives | None = None
    """Report log-probabilities, with this many likeliest tokens beside each."""
    echo: bool | None = None
    """The text begins with the prompt, and so do the log-probabilities."""

    @model_validator(mode="after")
    def _nothing_is_asked_for_on_purpose(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise refusal(
                "nothing_to_do",
                "max_tokens is 0; expected at least 1, or echo: true beside it, to have the prompt scored",
                at="max_tokens",
            )
        return self

    @property
    def prompts(self) -> list[str | tuple[int, ...]]:
        """The prompts one by one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        items: list[Any] = list(self.prompt)
        if isinstance(items[0], int):
            return [tuple(items)]
        return [item if isinstance(item, str) else tuple(item) for item in items]


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(_Neutral):
    """One turn of a conversation."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = {
        "name": (_ANY,),
        "refusal": (),
        "audio": (),
        "annotations": ([],),
        "tool_calls": ([],),
        "function_call": (),
    }

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        str | Annotated[list[TextPart], Field(min_length=1)],
        either('a string, or a list of parts {"type": "text", "text": ...}; this model reads text only'),
    ]

    @property
    def text(self) -> str:
        """The content in one piece."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatRequest(GenerationFields, _Neutral):
    """`POST /v1/chat/completions`."""

    neutral: ClassVar[dict[str, tuple[Any, ...]]] = _COMMON | {
        "response_format": ({"type": "text"},),
        "tools": ([],),
        "tool_choice": ("none", "auto"),
        "functions": ([],),
        "function_call": ("none", "auto"),
        "parallel_tool_calls": (_ANY,),
        "modalities": (["text"],),
        "reasoning_effort": (),
        "prediction": (),
    }

    model: str | None = None
    """The served model (`GET /v1/models`); may be left out."""
    messages: Annotated[list[Message], Field(min_length=1, max_length=1024)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """New tokens at most; 128 when neither this nor `max_completion_tokens` is given."""
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    """The newer name of `max_tokens`, and stronger."""
    logprobs: bool | None = None
    """Report the log-probability of every new token."""
    top_logprobs: Alternatives | None = None
    """And of this many likeliest ones beside it; needs `logprobs: true`."""

    @model_validator(mode="after")
    def _rivals_need_logprobs(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise refusal(
                "needs_logprobs",
                f"top_logprobs is {self.top_logprobs} and logprobs was not asked for; set logprobs: true",
                at="top_logprobs",
            )
        return self

    @property
    def alternatives(self) -> int | None:
        """Likeliest tokens to be told beside each token; None for no report."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> tuple[int | None, str]:
        """New tokens at most, and the name that was given by."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"
