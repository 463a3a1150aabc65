"""Policies: named `steering` fields that a server keeps, and what a request's `steering` comes to because of them.

A policy names its probes with their versions, so that it means the same tomorrow. One whose probes are gone is kept
with its reason, and a request that comes to it is refused: no policy is ever skipped.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from service.database import Database
from service.errors import OPT_OUT, POLICY_BROKEN, POLICY_NOT_FOUND, ApiError
from service.schemas.steering import SteeringField
from service.settings import Settings
from service.validation import describe_validation, shown
from steering.models import LanguageModel
from steering.store import ProbeStore


@dataclass(frozen=True, eq=False)
class Policy:
    """A named steering field, as it was put."""

    name: str
    about: str
    body: Mapping[str, Any]
    """The `steering` object, probes pinned"""
    steering: SteeringField | None
    """The same, checked; None for one this build cannot read"""
    certificate: Mapping[str, Any] | None
    """Of `tiller certify`, for this very body"""
    created: float
    updated: float
    problem: str | None = None
    """Why it cannot be carried out here"""

    @property
    def probes(self) -> list[str]:
        """Ids of the probes it needs."""
        return [] if self.steering is None else [constraint.probe for constraint in self.steering.constraints]


def pinned(steering: SteeringField, probes: ProbeStore) -> dict[str, Any]:
    """`steering` as plain values with only what was said, and every probe by `name@version`. Raises UnknownProbe."""
    body: dict[str, Any] = steering.model_dump(mode="json", exclude_unset=True)
    for constraint in body.get("constraints", ()):
        constraint["probe"] = probes.get(constraint["probe"]).id
    return body


def read_policies(database: Database, probes: ProbeStore, lm: LanguageModel) -> dict[str, Policy]:
    """All policies by name, each checked against the probes there are."""
    with database.connect() as connection:
        rows = connection.execute("SELECT * FROM policies ORDER BY name").fetchall()
    return {row["name"]: _read(row, probes, lm) for row in rows}


def write_policy(
    database: Database, name: str, *, about: str, body: Mapping[str, Any], at: float | None = None
) -> None:
    """Put a policy. Its certificate is kept only while its body stays the same."""
    now = time.time() if at is None else at
    text = json.dumps(body, sort_keys=True)
    with database.connect() as connection:
        connection.execute(
            """INSERT INTO policies (name, body, about, created, updated) VALUES (:name, :body, :about, :now, :now)
            ON CONFLICT (name) DO UPDATE SET about = :about, updated = :now, body = :body,
            certificate = CASE WHEN body = :body THEN certificate END""",
            {"name": name, "body": text, "about": about, "now": now},
        )


def drop_policy(database: Database, name: str) -> None:
    """Delete a policy if it is there."""
    with database.connect() as connection:
        connection.execute("DELETE FROM policies WHERE name = ?", (name,))


def chosen(
    asked: SteeringField | str | None, policies: Mapping[str, Policy], settings: Settings
) -> tuple[SteeringField | None, str | None]:
    """What to generate by, and the name of the policy that says so; (None, None) for unsteered text.

    Without `steering` the server's default policy is applied. Raises ApiError for a policy that is not there or cannot
    be carried out, and for leaving the default where that is not allowed.
    """
    default = settings.default_policy
    if asked is not None and not settings.allow_opt_out and asked != default:
        raise ApiError(
            OPT_OUT,
            f"this server answers every request by its policy '{default}'; leave steering out",
            param="steering",
        )
    if isinstance(asked, SteeringField):
        return asked, None
    name = default if asked is None else asked
    if name is None:
        return None, None
    policy = policies.get(name)
    if policy is None:
        raise _unknown(name, policies, default=asked is None)
    if policy.steering is None or policy.problem is not None:
        raise ApiError(
            POLICY_BROKEN,
            f"policy '{name}' cannot be carried out: {policy.problem}; put back what it needs, or PUT it anew",
            param="steering",
            headers={"x-should-retry": "false"},
        )
    return policy.steering, name


def _unknown(name: str, policies: Mapping[str, Policy], *, default: bool) -> ApiError:
    if default:
        return ApiError(
            POLICY_BROKEN,
            f"this server answers requests without steering by its policy '{name}', which does not exist; "
            f"PUT /v1/steering/policies/{name} first",
            param="steering",
            headers={"x-should-retry": "false"},
        )
    known = ", ".join(policies) or "none; PUT /v1/steering/policies/NAME makes one"
    return ApiError(POLICY_NOT_FOUND, f"there is no policy {shown(name)}; there are: {known}", param="steering")


def _read(row: sqlite3.Row, probes: ProbeStore, lm: LanguageModel) -> Policy:
    body = json.loads(row["body"])
    steering, problem = None, None
    try:
        steering = SteeringField.model_validate(body)
        steering.to_plan(probes, lm=lm, seed=0)
    except ValidationError as error:
        problem = describe_validation({**error.errors()[0]})[0]
    except ApiError as error:
        problem = error.message
    return Policy(
        name=row["name"],
        about=row["about"],
        body=body,
        steering=steering,
        certificate=None if row["certificate"] is None else json.loads(row["certificate"]),
        created=row["created"],
        updated=row["updated"],
        problem=problem,
    )
