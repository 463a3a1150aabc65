"""What the app keeps, as parameters of a route."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from service.database import Database
from service.holdings.keeper import Keeper
from service.jobs import Checker, JobQueue
from service.operations.metrics import Metrics
from service.operations.visits import Drain
from service.resident import Loaded, Resident
from service.settings import Settings


async def _resident(request: Request) -> Resident:
    resident: Resident = request.app.state.resident
    return resident


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _database(request: Request) -> Database:
    database: Database = request.app.state.database
    return database


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


async def _drain(request: Request) -> Drain:
    drain: Drain = request.app.state.drain
    return drain


async def _jobs(request: Request) -> JobQueue:
    jobs: JobQueue = request.app.state.jobs
    return jobs


async def _checker(request: Request) -> Checker:
    checker: Checker = request.app.state.checker
    return checker


async def _keeper(request: Request) -> Keeper:
    keeper: Keeper = request.app.state.keeper
    return keeper


async def _loaded(request: Request) -> Loaded:
    return (await _resident(request)).get()


TheResident = Annotated[Resident, Depends(_resident)]
"""The engine's keeper, ready or not."""

TheSettings = Annotated[Settings, Depends(_settings)]
"""The server's settings."""

TheMetrics = Annotated[Metrics, Depends(_metrics)]
"""What is counted."""

TheDrain = Annotated[Drain, Depends(_drain)]
"""Whether the server is about to end."""

TheDatabase = Annotated[Database, Depends(_database)]
"""What is kept over restarts; its work blocks, so do it in a thread."""

TheJobs = Annotated[JobQueue, Depends(_jobs)]
"""The queue of evaluations; its table blocks, so ask it in a thread."""

TheChecker = Annotated[Checker, Depends(_checker)]
"""Who says whether an evaluation can be run."""

TheKeeper = Annotated[Keeper, Depends(_keeper)]
"""Who changes probes and policies; its work blocks, so do it in a thread."""

TheLoaded = Annotated[Loaded, Depends(_loaded)]
"""Engine and probes; the route answers 503 while there are none."""
