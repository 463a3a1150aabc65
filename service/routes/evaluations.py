"""Evaluations as jobs: asked for, listed, cancelled, removed, and their reports."""

from __future__ import annotations

import asyncio
import json
import pathlib
import uuid
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Response
from pydantic import BaseModel, Field

from service.errors import (
    EVALUATION_CANCELLED,
    EVALUATION_NOT_DONE,
    EVALUATION_NOT_FOUND,
    EVALUATION_OVER,
    EVALUATIONS_FULL,
    INVALID,
    ApiError,
)
from service.jobs import Job, JobQueue
from service.jobs.records import State
from service.jobs.specs import ready_specs
from service.routes import steering_replies as replies
from service.routes.examples import EVALUATION
from service.routes.state import TheChecker, TheJobs, TheLoaded
from service.validation import Strict, either, shown

router = APIRouter(prefix="/v1/steering/evaluations", tags=["evaluations"])

_MOST_WAITING = 32
"""Jobs that may be queued."""
_REPORTS = {
    "html": ("report.html", "text/html; charset=utf-8"),
    "json": ("report.json", "application/json"),
    "md": ("report.md", "text/markdown; charset=utf-8"),
}
_HEADERS = {
    "content-security-policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "private, no-store",
}

EvaluationId = Annotated[str, Path(examples=["eval-3f1c9a7be2d84c0f8a6d5b4e3c2d1f00"])]
Format = Literal["html", "json", "md"]


class EvaluationRequest(Strict):
    """One evaluation of this server: prompts under several arms, scored, with a report at the end."""

    spec: Annotated[str | dict[str, Any], either("the name of a ready spec, or a spec as an object")]
    """A name from `GET /v1/steering/evaluations/specs`, or a spec: what a file of `tiller eval run` holds, without
    `model`, `server`, `probes` and `data`. Files are below the server's `--data` folder; texts may stand in the spec.
    """
    n: Annotated[int, Field(ge=1, le=2**31)] | None = None
    """At most so many prompts of every set, or of every stratum. Null: as many as the spec says."""


class Progress(BaseModel):
    """How far a job is in its present stage."""

    stage: str | None
    """`writing`, then each measure; null before the first"""
    done: int
    total: int | None
    eta_seconds: float | None
    """Of the stage"""


class JobError(BaseModel):
    """Why a job failed."""

    message: str


class Evaluation(BaseModel):
    """One job."""

    id: str
    object: Literal["steering.evaluation"] = "steering.evaluation"
    state: State
    name: str
    """Of the spec"""
    n: int | None
    progress: Progress
    error: JobError | None
    report: str | None
    """Path of the report, once there is one"""
    created: float
    """Seconds since 1970, as the two below"""
    started: float | None
    ended: float | None


class Evaluations(BaseModel):
    """Jobs, newest first."""

    object: Literal["list"] = "list"
    data: list[Evaluation]


class Spec(BaseModel):
    """A spec that ships with the server."""

    name: str
    about: str
    runnable: bool
    """False where it needs data files and the server has no `--data` folder"""


class Specs(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Spec]


@router.post("", status_code=202, responses=replies.ASKED)
async def ask(
    body: Annotated[EvaluationRequest, Body(openapi_examples=EVALUATION)],
    response: Response,
    loaded: TheLoaded,
    jobs: TheJobs,
    checker: TheChecker,
) -> Evaluation:
    """Queue an evaluation of this server. The spec is checked first, by the runner itself, which takes some seconds."""
    asked = body.model_dump()
    _refuse_surrogates(asked)
    if await asyncio.to_thread(jobs.table.waiting) >= _MOST_WAITING:
        raise ApiError(
            EVALUATIONS_FULL,
            f"{_MOST_WAITING} evaluations wait already; cancel some, or wait for one to end",
            headers={"retry-after": "60"},
        )
    job_id = f"eval-{uuid.uuid4().hex}"
    await checker.check(job_id, asked)
    job = await asyncio.to_thread(jobs.table.add, job_id, asked)
    jobs.wake()
    response.headers["location"] = f"{router.prefix}/{job_id}"
    return _shaped(job)


@router.get("", responses=replies.EVALUATIONS)
async def newest(jobs: TheJobs, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Evaluations:
    """The last evaluations asked for, newest first."""
    return Evaluations(data=[_shaped(job) for job in await asyncio.to_thread(jobs.table.newest, limit)])


@router.get("/specs", responses=replies.SPECS)
async def specs(jobs: TheJobs) -> Specs:
    """The ready specs, by whose names an evaluation may be asked for."""
    data = jobs.launch.settings.data is not None
    found = await asyncio.to_thread(ready_specs)
    return Specs(
        data=[Spec(name=one.name, about=one.about, runnable=data or not one.needs_data) for one in found.values()]
    )


@router.get("/{evaluation_id}", responses=replies.EVALUATION)
async def one(evaluation_id: EvaluationId, jobs: TheJobs) -> Evaluation:
    """One evaluation and how far it is."""
    return _shaped(await _found(jobs, evaluation_id))


@router.post("/{evaluation_id}/cancel", responses=replies.CANCELLED)
async def cancel(evaluation_id: EvaluationId, jobs: TheJobs) -> Evaluation:
    """Cancel an evaluation that waits or runs; what it wrote is removed. Cancelling it again changes nothing."""
    before = await _found(jobs, evaluation_id)
    await asyncio.to_thread(jobs.table.cancel, evaluation_id)
    jobs.wake()
    after = await _found(jobs, evaluation_id)
    if after.state != "cancelled":
        raise ApiError(EVALUATION_OVER, f"the evaluation is {after.state} already; DELETE removes it")
    if before.state == "queued":
        await asyncio.to_thread(jobs.launch.clear, evaluation_id)
    return _shaped(after)


@router.delete("/{evaluation_id}", status_code=204)
async def remove(evaluation_id: EvaluationId, jobs: TheJobs) -> None:
    """Remove an evaluation that is over, with its report and samples."""
    job = await _found(jobs, evaluation_id)
    if not await asyncio.to_thread(jobs.table.remove, evaluation_id):
        raise ApiError(EVALUATION_NOT_DONE, f"the evaluation is {job.state}; cancel it before removing it")
    await asyncio.to_thread(jobs.launch.clear, evaluation_id)


@router.get("/{evaluation_id}/report", response_class=Response, responses=replies.REPORT)
async def report(
    evaluation_id: EvaluationId,
    jobs: TheJobs,
    format: Annotated[Format, Query()] = "html",  # noqa: A002
) -> Response:
    """The report of an evaluation that is done: a page by itself, its figures as JSON, or Markdown."""
    job = await _found(jobs, evaluation_id)
    if job.state == "cancelled":
        raise ApiError(EVALUATION_CANCELLED, "the evaluation was cancelled, so there is no report")
    if job.state != "done":
        why = f": {job.error}" if job.error else "; ask again when its state is done"
        raise ApiError(EVALUATION_NOT_DONE, f"there is no report, for the evaluation is {job.state}{why}")
    name, kind = _REPORTS[format]
    try:
        text = await asyncio.to_thread(_read, jobs, jobs.launch.folder(job.id) / name)
    except OSError:
        raise ApiError(
            EVALUATION_NOT_FOUND, "the report is no longer on the server's disk; DELETE removes the evaluation too"
        ) from None
    headers = {"content-disposition": f'inline; filename="{job.id}.{format}"'}
    return Response(text, media_type=kind, headers=_HEADERS | headers)


def _read(jobs: JobQueue, path: pathlib.Path) -> str:
    return jobs.launch.without_paths(path.read_text(encoding="utf-8"))


async def _found(jobs: JobQueue, evaluation_id: str) -> Job:
    job = await asyncio.to_thread(jobs.table.find, evaluation_id)
    if job is None:
        raise ApiError(
            EVALUATION_NOT_FOUND, f"there is no evaluation {shown(evaluation_id)}; GET {router.prefix} lists them"
        )
    return job


def _refuse_surrogates(asked: dict[str, Any]) -> None:
    """Half a letter, as JSON's escapes can write it, is no text that could be stored or continued."""
    try:
        json.dumps(asked, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ApiError(
            INVALID, "spec holds a lone surrogate, which is no letter; send whole text", param="spec"
        ) from None


def _shaped(job: Job) -> Evaluation:
    return Evaluation(
        id=job.id,
        state=job.state,
        name=job.name,
        n=job.asked["n"],
        progress=Progress(**job.progress),
        error=None if job.error is None else JobError(message=job.error),
        report=f"{router.prefix}/{job.id}/report" if job.state == "done" else None,
        created=job.created,
        started=job.started,
        ended=job.ended,
    )
