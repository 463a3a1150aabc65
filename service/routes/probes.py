"""Probes while the server runs: listed, uploaded, handed back, deleted, and asked what they read of a text."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from service.answering import unless_disconnected
from service.errors import BAD_MEDIA, TOO_LATE, ApiError, describe
from service.holdings.shelf import stored_file
from service.protection.ledger import account_of
from service.resident import Loaded
from service.routes import steering_replies as replies
from service.routes.examples import SCORE
from service.routes.state import TheKeeper, TheLoaded, TheResident, TheSettings
from service.schemas.probes import Deleted, ScoreRequest, ScoreResponse
from service.scoring import Reading
from steering.artefact import single_file
from steering.errors import UnknownProbe
from steering.fitted import GROUPS
from steering.probe import Probe

UPLOADS = "/v1/steering/probes"
_BINARY = "application/octet-stream"

router = APIRouter(prefix=UPLOADS, tags=["probes"])

ProbeId = Annotated[str, Path(examples=["toxicity@1"])]


@router.get("", responses=replies.PROBES)
async def probes(loaded: TheLoaded) -> dict[str, Any]:
    """Every loaded probe."""
    return {"object": "list", "data": [_summary(probe, loaded) for probe in loaded.probes]}


@router.post(
    "",
    status_code=201,
    responses=replies.UPLOADED,
    openapi_extra={
        "requestBody": {"required": True, "content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}}
    },
)
async def upload(http: Request, keeper: TheKeeper) -> JSONResponse:
    """Add a probe: the bytes of its `probe.safetensors`, whose header holds its manifest.

    It is checked as any probe is at start, kept over restarts, and can be named as soon as this answers. A version
    never changes: the same id with other bytes is refused with 409.
    """
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _BINARY:
        raise ApiError(
            BAD_MEDIA,
            f"a probe is uploaded as {_BINARY}; send the bytes of probe.safetensors with "
            "--data-binary @probe.safetensors and that content-type",
            param="content-type",
        )
    found, loaded, new = await asyncio.to_thread(keeper.upload, await http.body())
    return JSONResponse(_summary(found, loaded), status_code=201 if new else 200)


@router.get("/{probe_id}", responses=replies.PROBE)
async def probe(probe_id: ProbeId, loaded: TheLoaded) -> dict[str, Any]:
    """One probe, by `name@version` or by name for its highest version."""
    return _summary(_get(probe_id, loaded), loaded)


@router.delete("/{probe_id}", responses=replies.PROBE_DELETED)
async def delete(probe_id: ProbeId, keeper: TheKeeper) -> Deleted:
    """Delete an uploaded probe, by `name@version`. Refused with 409 while a policy uses it, and for shipped ones.

    Requests that were admitted before are still answered by it.
    """
    await asyncio.to_thread(keeper.delete, probe_id)
    return Deleted(object="steering.probe.deleted", id=probe_id)


@router.get(
    "/{probe_id}/export",
    response_class=Response,
    responses={
        200: {"content": {_BINARY: {"schema": {"type": "string", "format": "binary"}}}, "description": "The file"},
        304: {"description": "The caller's copy, named by if-none-match, is this one"},
    },
)
async def export(
    probe_id: ProbeId,
    http: Request,
    loaded: TheLoaded,
    form: Annotated[Literal["safetensors"], Query(alias="format")] = "safetensors",
) -> Response:
    """The probe as one self-contained file, byte for byte as it was uploaded or shipped; its ETag is their SHA-256.

    For llama.cpp control vectors: `tiller probe export --format gguf`.
    """
    found = _get(probe_id, loaded)
    data = await asyncio.to_thread(_file_of, found, loaded)
    tag = f'"{hashlib.sha256(data).hexdigest()}"'
    headers = {"etag": tag, "content-disposition": f'attachment; filename="{found.id}.safetensors"'}
    asked = [name.strip().removeprefix("W/") for name in http.headers.get("if-none-match", "").split(",")]
    if tag in asked or "*" in asked:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=_BINARY, headers=headers)


@router.post("/{probe_id}/score", responses=TOO_LATE | replies.SCORED)
async def score(
    probe_id: ProbeId,
    body: Annotated[ScoreRequest, Body(openapi_examples=SCORE)],
    http: Request,
    loaded: TheLoaded,
    resident: TheResident,
    settings: TheSettings,
) -> ScoreResponse:
    """What the probe reads of a text at every token and layer, before and after steering. Nothing is generated."""
    found = _get(probe_id, loaded)
    reading = await resident.aside(partial(Reading, body, found, loaded, settings))
    account_of(http).spend(len(reading.tokens))
    answer = loaded.engine.beside(reading.work, seconds=settings.deadline_seconds)
    try:
        scores = await unless_disconnected(asyncio.wrap_future(answer), http)
    finally:
        answer.cancel()
    return await asyncio.to_thread(reading.reply, scores)


def _get(probe_id: str, loaded: Loaded) -> Probe:
    try:
        return loaded.probes.get(probe_id)
    except UnknownProbe as error:
        raise describe(error, param="probe_id") from None


def _file_of(probe: Probe, loaded: Loaded) -> bytes:
    folder = loaded.probes.folder(probe.id)
    if folder is None:
        return single_file(probe)
    try:
        return stored_file(folder)
    except (FileNotFoundError, UnknownProbe):  # deleted since this request came in
        raise describe(UnknownProbe(f"there is no probe '{probe.id}' any more"), param="probe_id") from None


def _summary(probe: Probe, loaded: Loaded) -> dict[str, Any]:
    """The manifest without what only a loader needs, and metrics at the default layers alone."""
    manifest = probe.manifest
    return {
        "id": probe.id,
        "object": "steering.probe",
        "name": manifest.name,
        "version": manifest.version,
        "uploaded": probe.id in loaded.uploaded,
        "policies": [policy.name for policy in loaded.policies.values() if probe.id in policy.probes],
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
