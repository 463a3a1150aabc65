"""What routes answer, as `/docs` and `/openapi.json` show it; figures are those of the embedded model.

A test holds them to the keys of the true replies. Those of probes, policies and evaluations are in `steering_replies`.
"""

from __future__ import annotations

import json
import re
from typing import Any

from service.errors import TOO_LATE

Replies = dict[int | str, dict[str, Any]]
"""The type of a route's `responses`."""

_EVENT = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}
"""An event of a stream, as OpenAPI has it since 3.2 and FastAPI writes it before; `data` is JSON, but for `[DONE]`"""
MODEL_ID = "smollm2-135m-instruct"


def replied(example: Any, *, status: int = 200) -> Replies:
    """A success with this body."""
    return {status: {"content": {"application/json": {"example": example}}}}


def linked(*operations: str, **parameters: str) -> dict[str, Any]:
    """Where a reply leads: to `get /path` and others, whose parameters stand in it."""
    links = {}
    for operation in operations:
        method, path = operation.split()
        place = f"#/paths/{path.replace('/', '~1')}/{method}"
        links[re.sub(r"\W+", "_", operation).strip("_")] = {"operationRef": place, "parameters": parameters}
    return {"links": links}


def _answered(whole: dict[str, Any], *, kind: str | None, parts: list[dict[str, Any]]) -> Replies:
    """A 200 with this body, or with these parts of it as a stream."""
    frame = {name: value for name, value in whole.items() if name not in {"choices", "usage"}}
    frame |= {"object": kind} if kind else {}
    events = [json.dumps(frame | {"choices": [part]}) for part in parts]
    shown = "".join(f"data: {event}\n\n" for event in (*events, "[DONE]"))
    return TOO_LATE | {
        200: {
            "description": "The whole answer; with `stream: true` server-sent events: one for each token of each "
            "choice, at its end one with its `finish_reason` and report, and last `data: [DONE]`. An error after the "
            'start is one event, `{"error": {...}}`, before `[DONE]`.',
            "content": {
                "application/json": {"example": whole},
                "text/event-stream": {"itemSchema": _EVENT, "example": shown},
            },
        }
    }


_STEERED: dict[str, Any] = {
    "policy": None,
    "applied": True,
    "probes": {
        "toxicity@1": {
            "max_pre": 0.171,
            "max_post": 0.1,
            "min_pre": 0.004,
            "min_post": 0.004,
            "tokens": 2,
            "edited": 1,
            "capped": 0,
            "infeasible": 0,
            "violations": 0,
            "mean_dose": 0.012,
            "max_dose": 0.012,
            "promised": True,
        }
    },
    "layers": [29],
    "warnings": [],
    "finish": "length",
}
_USAGE = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}
_CHOICE: dict[str, Any] = {"index": 0, "token_ids": [281, 4052], "logprobs": None, "finish_reason": "length", "seed": 1}
_CHOICE |= {"baseline": False, "steering": _STEERED}


def _parts(name: str, texts: tuple[Any, Any, Any]) -> list[dict[str, Any]]:
    """Two tokens and the end."""
    parts: list[dict[str, Any]] = [
        *({"token_ids": [token], "finish_reason": None, "steering": None} for token in (281, 4052)),
        {"token_ids": []},
    ]
    return [_CHOICE | {name: text} | part for text, part in zip(texts, parts, strict=True)]


GENERATED = _answered(
    {"id": "gen-1", "model": MODEL_ID, "choices": [_CHOICE | {"text": " the garden"}], "usage": _USAGE},
    kind=None,
    parts=_parts("text", (" the", " garden", "")),
)
_CREATED = {"created": 1764180000, "model": MODEL_ID}
_OPENAI = {name: value for name, value in _CHOICE.items() if name != "token_ids"}
COMPLETED = _answered(
    {"id": "cmpl-1", "object": "text_completion", **_CREATED}
    | {"choices": [_OPENAI | {"text": " the garden"}], "usage": _USAGE},
    kind="text_completion",
    parts=_parts("text", (" the", " garden", "")),
)
_MESSAGE = {"role": "assistant", "content": " the garden", "refusal": None}
CHATTED = _answered(
    {"id": "chatcmpl-1", "object": "chat.completion", **_CREATED}
    | {"choices": [_OPENAI | {"message": _MESSAGE}], "usage": _USAGE},
    kind="chat.completion.chunk",
    parts=_parts("delta", ({"role": "assistant", "content": " the"}, {"content": " garden"}, {"content": ""})),
)

_CARD = {"id": MODEL_ID, "object": "model", "created": 0, "owned_by": "tiller"}
MODELS = replied({"object": "list", "data": [_CARD]})
MODELS[200] |= linked("get /v1/models/{model_id}", model_id="$response.body#/data/0/id")
MODEL = replied(_CARD)

TOKENIZED = replied({"tokens": [6403, 1980, 253, 655], "count": 4, "max_model_len": 2048})
DETOKENIZED = replied({"prompt": "Once upon a time"})

HEALTH = replied({"status": "ok"})
READY = replied(
    {
        "status": "ready",
        "model": MODEL_ID,
        "probes": ["language@1", "sentiment@1", "toxicity@1"],
        "self_test": {"layers": 30, "rows": 60, "violations": 0},
        "waiting": 0,
        "running": 0,
    }
)

_LINE = "tiller_num_requests_running 0.0\n"
METRICS: Replies = {
    200: {
        "description": "Prometheus' text format, or OpenMetrics when `accept` asks for it.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": _LINE},
            "application/openmetrics-text": {"schema": {"type": "string"}, "example": f"{_LINE}# EOF\n"},
        },
    }
}
