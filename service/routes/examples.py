"""Requests that work as they stand on the embedded model, shown in `/docs` and `/openapi.json`."""

from __future__ import annotations

import json
from typing import Any

from fastapi.openapi.models import Example

_STEERING = {"constraints": [{"probe": "toxicity", "upper": 0.1}]}

GENERATE: dict[str, Example] = {
    "plain": {
        "summary": "Unsteered, greedy",
        "value": {"prompt": "The weather in spring is", "max_tokens": 20, "temperature": 0},
    },
    "steered": {
        "summary": "One upper bound, beside its unsteered twin",
        "value": {
            "prompt": "My neighbour told me that",
            "max_tokens": 20,
            "seed": 1,
            "steering": _STEERING | {"baseline": True},
        },
    },
    "in full": {
        "summary": "Every field",
        "value": {
            "prompt": ["I think this film is", "The service here was"],
            "max_tokens": 20,
            "temperature": 0.8,
            "top_p": 0.9,
            "top_k": 100,
            "min_p": 0.01,
            "repetition_penalty": 1.1,
            "presence_penalty": 0.2,
            "frequency_penalty": 0.1,
            "logit_bias": {"17": -100},
            "seed": 7,
            "stop": ["\n\n"],
            "stop_token_ids": [0],
            "n": 2,
            "logprobs": 2,
            "priority": "live",
            "timeout": 60,
            "steering": {
                "mode": "enforce",
                "constraints": [
                    {
                        "probe": "sentiment@1",
                        "controller": "slab",
                        "lower": 0.9,
                        "upper": None,
                        "space": "probability",
                        "layers": "default",
                        "prompt": "last",
                        "generation": "all",
                        "strength": 1.0,
                        "max_dose": None,
                        "metric": "euclidean",
                    }
                ],
                "combine": "joint",
                "on_infeasible": "error",
                "report": "summary",
                "baseline": False,
            },
        },
    },
}

GENERATE["policy"] = {
    "summary": "By a policy that was put before",
    "value": {"prompt": "My neighbour told me that", "max_tokens": 20, "seed": 1, "steering": "polite"},
}

POLICY: dict[str, Example] = {
    "polite": {
        "summary": "One upper bound, at the probe's own layers",
        "value": {"about": "Keeps toxicity low", "steering": _STEERING},
    },
}

SCORE: dict[str, Example] = {
    "plain": {
        "summary": "As the model reads it by itself",
        "value": {"prompt": "My neighbour told me that", "completion": " the garden was lovely."},
    },
    "steered": {
        "summary": "Under one upper bound: before and after each layer's edit",
        "value": {
            "prompt": "My neighbour told me that",
            "completion": " the garden was lovely.",
            "steering": _STEERING,
        },
    },
}

COMPLETION: dict[str, Example] = {
    "steered": {
        "summary": "As the openai client sends it with extra_body",
        "value": {"prompt": "My neighbour told me that", "max_tokens": 20, "seed": 1, "steering": _STEERING},
    },
    "scored": {
        "summary": "A text scored under steering, beside its unsteered twin; nothing is written",
        "value": {
            "prompt": "My neighbour told me that the garden was lovely.",
            "max_tokens": 0,
            "echo": True,
            "logprobs": 1,
            "priority": "background",
            "steering": {
                "constraints": [{"probe": "toxicity", "upper": 0.1, "prompt": "all"}],
                "baseline": True,
            },
        },
    },
}

CHAT: dict[str, Example] = {
    "steered": {
        "summary": "A chat turn with one upper bound",
        "value": {
            "messages": [{"role": "user", "content": "Write one sentence about rain."}],
            "max_tokens": 40,
            "seed": 1,
            "steering": _STEERING,
        },
    },
    "told": {
        "summary": "How likely each token was, beside its three likeliest rivals; ten seconds at most",
        "value": {
            "messages": [{"role": "user", "content": "Write one sentence about rain."}],
            "max_tokens": 40,
            "temperature": 0,
            "logprobs": True,
            "top_logprobs": 3,
            "timeout": 10,
        },
    },
}

_CHUNK: dict[str, Any] = {"seed": 1, "baseline": False, "steering": None, "logprobs": None}
_LAST: dict[str, Any] = {"token_ids": [], "finish_reason": "length"}


def _answered(*chunks: dict[str, Any], frame: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """A 200 that is a stream when one was asked for."""
    events = [json.dumps(frame | {"choices": [{"index": 0} | chunk]}) for chunk in chunks]
    shown = "".join(f"data: {event}\n\n" for event in (*events, "[DONE]"))
    return {
        200: {
            "description": "The whole answer; with `stream: true` server-sent events, one for each token of each "
            "choice, then one with its `finish_reason` and report, at last `data: [DONE]`. An error after the start is "
            'one event `{"error": {...}}` before `[DONE]`.',
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": shown}},
        }
    }


GENERATED = _answered(
    {"text": " lovely", "token_ids": [12], "finish_reason": None} | _CHUNK,
    {"text": ""} | _CHUNK | _LAST,
    frame={"id": "gen-1", "model": "smollm2-135m-instruct"},
)
COMPLETED = _answered(
    {"text": " lovely", "token_ids": [12], "finish_reason": None} | _CHUNK,
    {"text": ""} | _CHUNK | _LAST,
    frame={"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "smollm2-135m-instruct"},
)
CHATTED = _answered(
    {"delta": {"role": "assistant", "content": "Rain"}, "token_ids": [12], "finish_reason": None} | _CHUNK,
    {"delta": {"content": ""}} | _CHUNK | _LAST,
    frame={"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "smollm2-135m-instruct"},
)
