"""Policies: named constraint sets, and reading everything again without a restart."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Body, Path, Response

from service.holdings.keeper import no_such_policy
from service.holdings.policies import Policy
from service.routes import steering_replies as replies
from service.routes.examples import POLICY
from service.routes.state import TheKeeper, TheLoaded, TheSettings
from service.schemas.probes import Deleted, PolicyBody, PolicyList, PolicyRequest, ReloadBody
from service.settings import Settings
from steering.manifest import Name

router = APIRouter(prefix="/v1/steering", tags=["policies"])

PolicyName = Annotated[str, Path(examples=["polite"])]
_NEW = replies.PUT[201] | {"model": PolicyBody, "description": "It is new"}


@router.get("/policies", responses=replies.POLICIES)
async def policies(loaded: TheLoaded, settings: TheSettings) -> PolicyList:
    """Every policy."""
    return PolicyList(data=[_body(policy, settings) for policy in loaded.policies.values()])


@router.get("/policies/{name}", responses=replies.POLICY)
async def policy(name: PolicyName, loaded: TheLoaded, settings: TheSettings) -> PolicyBody:
    """One policy. A request follows it by `"steering": "<name>"`."""
    if name not in loaded.policies:
        raise no_such_policy(name, loaded)
    return _body(loaded.policies[name], settings)


@router.put("/policies/{name}", responses=replies.PUT | {201: _NEW})
async def put(
    name: Annotated[Name, Path(examples=["polite"])],
    body: Annotated[PolicyRequest, Body(openapi_examples=POLICY)],
    reply: Response,
    keeper: TheKeeper,
    settings: TheSettings,
) -> PolicyBody:
    """Keep a policy, or replace it whole. It is checked against the probes that are here, as a request would be.

    Names without a version are pinned to the highest there is. Another body loses the certificate of the old one.
    """
    kept, new = await asyncio.to_thread(keeper.put_policy, name, about=body.about, steering=body.steering)
    reply.status_code = 201 if new else 200
    return _body(kept, settings)


@router.delete("/policies/{name}", responses=replies.POLICY_DELETED)
async def delete(name: PolicyName, keeper: TheKeeper) -> Deleted:
    """Delete a policy; requests that name it are refused with 404 from then on. The default policy stays."""
    await asyncio.to_thread(keeper.delete_policy, name)
    return Deleted(object="steering.policy.deleted", id=name)


@router.post("/reload", responses=replies.RELOADED)
async def reload(keeper: TheKeeper) -> ReloadBody:
    """Read the probe folder, the uploads and the policies again, all or nothing; `SIGHUP` does the same.

    What is bad leaves the old set serving, and the refusal (409) says which artefact and why.
    """
    return ReloadBody(**asdict(await asyncio.to_thread(keeper.reload)))


def _body(policy: Policy, settings: Settings) -> PolicyBody:
    return PolicyBody(
        name=policy.name,
        about=policy.about,
        steering=dict(policy.body),
        probes=policy.probes,
        certificate=None if policy.certificate is None else dict(policy.certificate),
        default=policy.name == settings.default_policy,
        problem=policy.problem,
        created=policy.created,
        updated=policy.updated,
    )
