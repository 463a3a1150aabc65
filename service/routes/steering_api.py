"""What can be steered here, by which probes, and how good they are."""

from __future__ import annotations

from typing import Any, get_args

from fastapi import APIRouter

from service.errors import describe
from service.resident import Loaded
from service.routes.state import TheLoaded, TheSettings
from steering.bounds import Space
from steering.box_qp import MAX_CONSTRAINTS
from steering.constraint import MetricName, Prompt
from steering.controllers.base import Source
from steering.controllers.table import CONTROLLER_NAMES, USES, RuleName
from steering.errors import UnknownProbe
from steering.fitted import GROUPS
from steering.probe import Probe
from steering.requests import MAX_LOGPROBS
from steering.version import __version__

router = APIRouter(prefix="/v1/steering", tags=["steering"])


@router.get("/capabilities")
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
        "limits": {
            "max_constraints": MAX_CONSTRAINTS,
            "max_prompts": settings.max_prompts,
            "max_new_tokens": settings.max_new_tokens,
            "max_body_bytes": settings.max_body_bytes,
            "max_logprobs": MAX_LOGPROBS,
            "slots": settings.slots,
            "row_tokens": loaded.engine.row_tokens,
            "cache_tokens": loaded.engine.cache_tokens,
            "chunk_tokens": loaded.engine.chunk_tokens,
            "deadline_seconds": settings.deadline_seconds,
            "max_queue": settings.max_queue,
        },
    }


@router.get("/probes")
async def probes(loaded: TheLoaded) -> dict[str, Any]:
    """Every loaded probe."""
    return {"object": "list", "data": [_summary(probe, loaded) for probe in loaded.probes]}


@router.get("/probes/{probe_id}")
async def probe(probe_id: str, loaded: TheLoaded) -> dict[str, Any]:
    """One probe, by `name@version` or by name for its highest version."""
    try:
        found = loaded.probes.get(probe_id)
    except UnknownProbe as error:
        raise describe(error, param="probe_id") from None
    return _summary(found, loaded)


def _summary(probe: Probe, loaded: Loaded) -> dict[str, Any]:
    """The manifest without what only a loader needs, and metrics at the default layers alone."""
    manifest = probe.manifest
    return {
        "id": probe.id,
        "object": "steering.probe",
        "name": manifest.name,
        "version": manifest.version,
        "concept": manifest.concept,
        "positive_is": manifest.positive_is,
        "labels": manifest.labels,
        "token_rule": manifest.token_rule,
        "layers": sorted(probe.layers),
        "carries": {group: at for group in GROUPS if (at := probe.layers_with(group))},
        "default": manifest.default.model_dump(),
        "metrics": {str(layer): manifest.metrics[layer].model_dump() for layer in manifest.default.layers},
        "causal": manifest.causal,
        "calibrated": manifest.calibrated,
        "baselines": manifest.baselines,
        "dataset": {"name": manifest.dataset.name, "licence": manifest.dataset.licence},
        "base_model": {"id": manifest.base_model.id, "revision": manifest.base_model.revision},
        "sha256": loaded.probes.sha256(probe.id),
        "created": manifest.created,
    }
