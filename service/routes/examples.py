"""Requests that work as they stand on the embedded model, shown in `/docs` and `/openapi.json`."""

from __future__ import annotations

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
    "streamed": {
        "summary": "Told as it is written, with every token's probabilities",
        "value": {
            "prompt": "My neighbour told me that",
            "max_tokens": 20,
            "seed": 1,
            "stream": True,
            "stream_options": {"include_usage": True},
            "steering": _STEERING | {"report": "tokens", "baseline": True},
        },
    },
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
    "streamed": {
        "summary": "Told as it is written",
        "value": {"prompt": "The weather in spring is", "max_tokens": 20, "temperature": 0, "stream": True},
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
    "streamed": {
        "summary": "Told as it is written",
        "value": {
            "messages": [{"role": "user", "content": "Write one sentence about rain."}],
            "max_tokens": 40,
            "stream": True,
        },
    },
}

TOKENIZE: dict[str, Example] = {
    "text": {"summary": "A prompt", "value": {"prompt": "Once upon a time"}},
    "chat": {
        "summary": "A conversation, up to where the answer begins",
        "value": {"messages": [{"role": "user", "content": "Hello"}]},
    },
}

EVALUATION: dict[str, Example] = {
    "ready": {"summary": "A ready spec, on fewer prompts", "value": {"spec": "quick", "n": 4}},
    "whole": {
        "summary": "A whole spec, with its texts inside",
        "value": {
            "spec": {
                "name": "holidays",
                "probe": "sentiment",
                "prompts": [{"name": "holidays", "texts": ["The hotel room was", "On the beach we"]}],
                "decoding": {"max_tokens": 20, "top_p": 0.9, "seed": 0},
                "arms": ["none", {"controller": "slab", "lower": [0.9, 0.99]}],
                "scorers": [{"name": "vader", "threshold": 0.525}],
            }
        },
    },
}

DETOKENIZE: dict[str, Example] = {
    "text": {"summary": "The tokens of a prompt", "value": {"tokens": [6403, 1980, 253, 655]}},
}
