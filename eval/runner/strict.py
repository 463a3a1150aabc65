"""Reading what people write: exact types, no unknown keys, and refusals that name the key and the nearest known one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from eval.runner.errors import SpecError

_SHOWN = 60
"""Characters of an offending value that a message repeats."""

_EXPECTED = {
    "greater_than_equal": "at least {ge}",
    "greater_than": "a number above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "a number below {lt}",
    "literal_error": "{expected}",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "a string",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "too_short": "at least {min_length} of them",
    "string_too_short": "a string that is not empty",
}

Model = TypeVar("Model", bound=BaseModel)


class Strict(BaseModel):
    """Base of everything in a spec."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown(cls, data: Any) -> Any:
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [key for key in data if key not in known] if isinstance(data, dict) else []
        if unknown:
            raise PydanticCustomError(
                "unknown", "{text}", {"text": f"'{unknown[0]}' is no key here{suggestion(str(unknown[0]), known)}"}
            )
        return data


def suggestion(found: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` where something known is near, else `; known are: ...`."""
    names = list(known)
    near = difflib.get_close_matches(found, names, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known are: {', '.join(names)}"


def either(expected: str) -> WrapValidator:
    """For a union: one refusal that says `expected`, in place of one for each of its branches."""

    def check(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError as error:
            house = [found for found in error.errors() if found["type"] == "unknown"]
            if house and isinstance(value, dict):
                raise PydanticCustomError("unknown", "{text}", {"text": house[0]["ctx"]["text"]}) from None
            raise PydanticCustomError("either", "{expected}", {"expected": expected}) from None

    return WrapValidator(check)


def validated(model: type[Model], data: Any, *, where: str) -> Model:
    """`data` as a `model`. Raises SpecError that begins with `where` and names the key."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _described(error.errors()[0], where=where) from None


def _described(error: Mapping[str, Any], *, where: str) -> SpecError:
    at = ".".join(str(part) for part in error["loc"]) or None
    context = error.get("ctx") or {}
    named = f"{where}: {at}" if at else where
    if error["type"] == "unknown":
        return SpecError(f"{named}: {context['text']}", param=at)
    if error["type"] == "missing":
        return SpecError(f"{named} is missing; it has no default", param=at)
    if error["type"] == "value_error":
        return SpecError(f"{named}: expected {str(error['msg']).removeprefix('Value error, ')}", param=at)
    if error["type"] == "either":
        expected = context["expected"]
    elif error["type"] in _EXPECTED:
        expected = _EXPECTED[error["type"]].format(**context)
    else:
        expected = str(error["msg"])
    return SpecError(f"{named} is {shown(error['input'])}; expected {expected}", param=at)


def shown(value: Any) -> str:
    """A value as a message may repeat it, cut."""
    words = {None: "null", True: "true", False: "false"}
    text = words[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
