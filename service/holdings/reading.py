"""What a server holds: shipped probes, uploads and policies as one set, made from the disk at start and at a reload."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from service.database import Database
from service.errors import RELOAD_REFUSED, ApiError
from service.holdings.policies import read_policies
from service.holdings.shelf import Shelf
from service.resident import Loaded
from service.settings import Settings
from steering.errors import CorruptProbe
from steering.store import ProbeStore

log = logging.getLogger("tiller")


@dataclass(frozen=True)
class Reloaded:
    """What reading everything again has changed."""

    probes: list[str]
    policies: list[str]
    added: list[str]
    """Probes that are new"""
    removed: list[str]
    """Probes that are gone"""

    @classmethod
    def between(cls, old: Loaded, new: Loaded) -> Reloaded:
        """What is in one set and not in the other."""
        before, after = {probe.id for probe in old.probes}, {probe.id for probe in new.probes}
        return cls(sorted(after), sorted(new.policies), sorted(after - before), sorted(before - after))


def complete(loaded: Loaded, settings: Settings, database: Database) -> Loaded:
    """What was loaded at start, with the uploads and the policies of the state folder.

    Raises what `ProbeStore.open` raises for an upload that must not be used, CorruptProbe for one that has the id of a
    shipped probe and other numbers. Policies that cannot be carried out are kept, with a line in the log.
    """
    uploads = Shelf(settings.state_folder(), loaded.engine.lm, level=settings.probe_compat).open()
    for probe in uploads:
        if probe.id in loaded.probes and loaded.probes.sha256(probe.id) != uploads.sha256(probe.id):
            raise CorruptProbe(
                f"{probe.id} was uploaded to {uploads.folder(probe.id)}, and the probe folder has another {probe.id}; "
                "give one of them another version, or move it away"
            )
    probes = uploads.joined(loaded.probes)
    policies = read_policies(database, probes, loaded.engine.lm)
    for policy in policies.values():
        if policy.problem is not None:
            log.warning("policy '%s' cannot be carried out: %s; its requests are refused", policy.name, policy.problem)
    if settings.default_policy is not None and settings.default_policy not in policies:
        log.warning(
            "there is no policy '%s' yet, which is the default; requests without steering are refused until it is put",
            settings.default_policy,
        )
    uploaded = frozenset(probe.id for probe in uploads if probe.id not in loaded.probes)
    return loaded.having(probes=probes, uploaded=uploaded, policies=policies)


def check_change(old: Loaded, new: Loaded) -> None:
    """Raise ApiError when `new` may not take the place of `old`: a version has changed, or a policy would break."""
    _check_same_numbers(old.probes, new.probes)
    _check_still_sound(old, new)


def _check_same_numbers(old: ProbeStore, new: ProbeStore) -> None:
    changed = [probe.id for probe in new if probe.id in old and old.sha256(probe.id) != new.sha256(probe.id)]
    if changed:
        raise ApiError(
            RELOAD_REFUSED,
            f"nothing was changed: {', '.join(changed)} came back with other numbers, and versions never change; give "
            "the new ones a higher version",
        )


def _check_still_sound(old: Loaded, new: Loaded) -> None:
    for policy in new.policies.values():
        before = old.policies.get(policy.name)
        if policy.problem is not None and (before is None or before.problem is None):
            raise ApiError(
                RELOAD_REFUSED,
                f"nothing was changed: policy '{policy.name}' could not be carried out any more: {policy.problem}; put "
                "back what it needs, or DELETE it first",
            )
