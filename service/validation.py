"""How a body is checked: strictly, and with refusals that name the field, what was found and what was expected.

Types are exact (`"1"` is no number, `true` is no integer) and unknown keys are refused, because an option that is
dropped in silence is an answer to another question.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

_SHOWN = 60
"""Characters of an offending value that a message repeats."""

_PLACES = ("body", "path", "query")
"""Where FastAPI says a field was, which its caller did not write."""

_EXPECTED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "a number above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "a number below {lt}",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a string",
    "string_pattern_mismatch": "text of the form {pattern}",
    "bool_type": "true or false",
    "list_type": "a list",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_long": "at most {max_length} characters",
}


class Strict(BaseModel):
    """Base of every request: exact types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [key for key in data if key not in known] if isinstance(data, dict) else []
        if unknown:
            near = difflib.get_close_matches(str(unknown[0])[:_SHOWN].lower(), known, n=1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            raise refusal(
                "unknown_field",
                f"{shown(unknown[0])} is not a field here{meant}; known are: {', '.join(known)}",
                at=unknown[0],
            )
        return data


def refusal(kind: str, message: str, *, at: str | None = None) -> PydanticCustomError:
    """A pydantic error whose message is used as it is; `at` is a key below the place it is raised for.

    The kind `unsupported` marks what is understood but not available.
    """
    return PydanticCustomError(
        kind, "{text}", {"text": message, "at": None if at is None else printable(at), "house": True}
    )


def either(expected: str) -> WrapValidator:
    """For a union: one refusal that says `expected`, in place of one for each of its branches."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("either", "{expected}", {"expected": expected}) from None

    return WrapValidator(check)


def describe_validation(error: Mapping[str, Any]) -> tuple[str, str | None, bool]:
    """One pydantic error as (message, dotted param, whether it is about something unsupported)."""
    where: Sequence[Any] = error["loc"][1:] if error["loc"] and error["loc"][0] in _PLACES else error["loc"]
    context = error.get("ctx") or {}
    if context.get("house"):
        at = context.get("at")
        return (
            context["text"],
            ".".join(map(str, [*where, *([] if at is None else [at])])) or None,
            (error["type"] == "unsupported"),
        )
    param = ".".join(map(str, where)) or None
    if param is None:
        return "the body is not a JSON object; send one, with the header content-type: application/json", None, False
    if error["type"] == "missing":
        return f"{param} is missing; it has no default", param, False
    if error["type"] == "either":
        expected = context["expected"]
    elif error["type"] in _EXPECTED:
        expected = _EXPECTED[error["type"]].format(**context)
    elif error["type"] in {"model_type", "model_attributes_type", "dict_type"}:
        expected = "an object"
    else:
        expected = str(error["msg"])
    return f"{param} is {shown(error['input'])}; expected {expected}", param, False


def shown(value: Any) -> str:
    """A caller's value as a message may repeat it: as JSON-like text, cut."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def printable(text: str) -> str:
    """`text` with lone surrogates, which have no UTF-8, escaped."""
    return text.encode("utf-8", "backslashreplace").decode()
