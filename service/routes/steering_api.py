"""What can be steered here, and how. The probes themselves are in `probes`, named constraints in `policies`."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter

from service.holdings.keeper import MAX_POLICIES
from service.routes.state import TheLoaded, TheSettings
from service.routes.steering_replies import CAPABILITIES
from steering.bounds import Space
from steering.box_qp import MAX_CONSTRAINTS
from steering.constraint import MetricName, Prompt
from steering.controllers.base import Source
from steering.controllers.table import CONTROLLER_NAMES, USES, RuleName
from steering.requests import MAX_LOGPROBS
from steering.version import __version__

router = APIRouter(prefix="/v1/steering", tags=["steering"])


@router.get("/capabilities", responses=CAPABILITIES)
async def capabilities(loaded: TheLoaded, settings: TheSettings) -> dict[str, Any]:
    """The values each steering field may take on this server, and its limits."""
    lm = loaded.engine.lm
    return {
        "version": __version__,
        "model": {
            "id": lm.name,
            "revision": lm.info.revision,
            "model_type": lm.info.model_type,
            "hidden_size": lm.info.hidden_size,
            "num_hidden_layers": lm.info.num_hidden_layers,
            "dtype": str(lm.dtype).removeprefix("torch."),
            "device": str(lm.device),
            "context": lm.context,
        },
        "modes": ["enforce", "monitor", "off"],
        "controllers": list(CONTROLLER_NAMES),
        "settings": {name: sorted(USES.get(name, ())) for name in CONTROLLER_NAMES},
        "shadows": list(get_args(RuleName)),
        "sources": list(get_args(Source)),
        "spaces": list(get_args(Space)),
        "metrics": list(get_args(MetricName)),
        "prompt": list(get_args(Prompt)),
        "generation": ["all", "[start, stop]"],
        "combine": ["joint"],
        "several_probes_at_one_layer": True,
        "reports": ["summary", "tokens", "none"],
        "streaming": True,
        "probes": [probe.id for probe in loaded.probes],
        "policies": list(loaded.policies),
        "default_policy": settings.default_policy,
        "allow_opt_out": settings.allow_opt_out,
        "limits": {
            "max_constraints": MAX_CONSTRAINTS,
            "max_prompts": settings.max_prompts,
            "max_new_tokens": settings.max_new_tokens,
            "max_body_bytes": settings.max_body_bytes,
            "max_upload_bytes": settings.max_upload_bytes,
            "max_uploads": settings.max_uploads,
            "max_policies": MAX_POLICIES,
            "max_logprobs": MAX_LOGPROBS,
            "slots": settings.slots,
            "row_tokens": loaded.engine.row_tokens,
            "cache_tokens": loaded.engine.cache_tokens,
            "chunk_tokens": loaded.engine.chunk_tokens,
            "deadline_seconds": settings.deadline_seconds,
            "max_queue": settings.max_queue,
        },
    }
