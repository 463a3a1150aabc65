"""Whoever changes probes and policies while traffic runs: one change at a time, disk first, then the whole set swapped.

Readers never wait and never see half a change: a request takes the set (`Loaded`) once, when it is admitted, and keeps
it to its end, whatever is uploaded, deleted or read again meanwhile.
"""

from __future__ import annotations

import logging
import sqlite3
import threading

from service.database import Database
from service.errors import (
    INVALID_PROBE,
    POLICY_IN_USE,
    POLICY_NOT_FOUND,
    PROBE_EXISTS,
    PROBE_IN_USE,
    PROBE_SHIPPED,
    RELOAD_REFUSED,
    STORAGE,
    TOO_MANY_POLICIES,
    TOO_MANY_PROBES,
    ApiError,
    describe,
)
from service.holdings.policies import Policy, drop_policy, pinned, read_policies, write_policy
from service.holdings.reading import Reloaded, check_change, complete
from service.holdings.shelf import AlreadyThere, Shelf
from service.resident import Loaded, Resident
from service.schemas.steering import SteeringField
from service.settings import Settings
from service.validation import shown
from steering.artefact import TENSORS
from steering.errors import CorruptProbe, ProbeMismatch, TillerError, UnknownProbe
from steering.identity import check_compatible
from steering.probe import Probe
from steering.store import ProbeStore
from steering.untrusted import read_untrusted

MAX_POLICIES = 256
_TOLD = 600
"""Characters of a reason that quotes an uploaded file."""

log = logging.getLogger("tiller")


class Keeper:
    """Changes what `resident` hands out. Its methods block, so call them in a thread; all raise ApiError."""

    def __init__(self, resident: Resident, settings: Settings, database: Database) -> None:
        self._resident = resident
        self._settings = settings
        self._database = database
        self._lock = threading.Lock()

    def upload(self, data: bytes) -> tuple[Probe, Loaded, bool]:
        """Keep the probe of a single file: itself, the set that has it, and whether it is new.

        The very same bytes again change nothing.
        """
        lm = self._resident.get().engine.lm
        try:
            probe = read_untrusted(data)
            check_compatible(probe, lm.info, lm.tokenizer_info, level=self._settings.probe_compat)
        except CorruptProbe as error:
            raise _invalid(error) from None
        except ProbeMismatch as error:
            raise describe(error) from None
        with self._lock:
            loaded = self._resident.get()
            if probe.id in loaded.probes:
                return _again(probe, data, loaded), loaded, False
            if len(loaded.uploaded) >= self._settings.max_uploads:
                raise ApiError(
                    TOO_MANY_PROBES,
                    f"{len(loaded.uploaded)} uploaded probes are here and no more are kept; DELETE one, or start the "
                    "server with a larger --max-uploads",
                )
            try:
                stored = self._shelf(loaded).put(data, probe)
            except AlreadyThere:  # another process of this state folder was faster
                raise _exists(probe.id, " beside this server; POST /v1/steering/reload shows it") from None
            except CorruptProbe as error:
                raise _invalid(error) from None
            except OSError as error:
                raise _no_room(error) from None
            new = self._swap(loaded, probes=loaded.probes.joined(stored), uploaded=loaded.uploaded | {probe.id})
            return new.probes.get(probe.id), new, True

    def delete(self, probe_id: str) -> None:
        """Take an uploaded probe away. Requests that were admitted with it are still answered by it."""
        with self._lock:
            loaded = self._resident.get()
            if probe_id not in loaded.probes:
                raise _no_such_version(probe_id, loaded)
            if probe_id not in loaded.uploaded:
                raise ApiError(
                    PROBE_SHIPPED,
                    f"{probe_id} comes from the server's probe folder; take it away there and POST "
                    "/v1/steering/reload, or leave it: it acts only where a request names it",
                    param="probe_id",
                )
            users = [policy.name for policy in loaded.policies.values() if probe_id in policy.probes]
            if users:
                raise ApiError(
                    PROBE_IN_USE,
                    f"{probe_id} is used by the policies {', '.join(users)}; PUT them with another probe or DELETE "
                    "them first",
                    param="probe_id",
                )
            try:
                self._shelf(loaded).remove(loaded.probes.get(probe_id))
            except OSError as error:
                raise _no_room(error) from None
            self._swap(loaded, probes=loaded.probes.without(probe_id), uploaded=loaded.uploaded - {probe_id})

    def put_policy(self, name: str, *, about: str, steering: SteeringField) -> tuple[Policy, bool]:
        """Keep a policy that can be carried out here and now, and whether it is new."""
        with self._lock:
            loaded = self._resident.get()
            self._check_free(name)
            new = name not in loaded.policies
            if new and len(loaded.policies) >= MAX_POLICIES:
                raise ApiError(TOO_MANY_POLICIES, f"{MAX_POLICIES} policies are the most; DELETE one first")
            steering.to_plan(loaded.probes, lm=loaded.engine.lm, seed=0)
            body = pinned(steering, loaded.probes)
            try:
                write_policy(self._database, name, about=about, body=body)
            except sqlite3.Error as error:
                raise _no_room(error) from None
            return self._read_policies(loaded)[name], new

    def delete_policy(self, name: str) -> None:
        """Take a policy away, unless it is the server's default."""
        with self._lock:
            loaded = self._resident.get()
            if name not in loaded.policies:
                raise no_such_policy(name, loaded)
            self._check_free(name)
            if name == self._settings.default_policy:
                raise ApiError(
                    POLICY_IN_USE,
                    f"'{name}' is the server's default policy; PUT another one in its place, or start the server "
                    "with another --default-policy",
                    param="name",
                )
            try:
                drop_policy(self._database, name)
            except sqlite3.Error as error:
                raise _no_room(error) from None
            self._read_policies(loaded)

    def reload(self) -> Reloaded:
        """Read probe folder, uploads and policies again, all or nothing: what is bad leaves the old set as it is."""
        with self._lock:
            old = self._resident.get()
            shipped = old.probes
            for probe_id in old.uploaded:
                shipped = shipped.without(probe_id)
            try:
                new = complete(
                    old.having(probes=shipped if old.reopen is None else old.reopen()), self._settings, self._database
                )
            except (TillerError, OSError) as error:
                log.error("reload refused: %s; the old probes and policies go on", error)
                raise ApiError(RELOAD_REFUSED, f"nothing was changed: {self._pathless(str(error))}") from None
            check_change(old, new)
            self._resident.replace(new)
        return Reloaded.between(old, new)

    def _shelf(self, loaded: Loaded) -> Shelf:
        return Shelf(self._settings.state_folder(), loaded.engine.lm, level=self._settings.probe_compat)

    def _swap(self, loaded: Loaded, *, probes: ProbeStore, uploaded: frozenset[str]) -> Loaded:
        """Hand out the new probes, and policies as they stand with them: a broken one may be whole again."""
        policies = read_policies(self._database, probes, loaded.engine.lm)
        new = loaded.having(probes=probes, uploaded=uploaded, policies=policies)
        self._resident.replace(new)
        return new

    def _read_policies(self, loaded: Loaded) -> dict[str, Policy]:
        policies = read_policies(self._database, loaded.probes, loaded.engine.lm)
        self._resident.replace(loaded.having(policies=policies))
        return policies

    def _check_free(self, name: str) -> None:
        if name == self._settings.default_policy and not self._settings.allow_opt_out:
            existing = self._resident.get().policies.get(name)
            if existing is not None and existing.problem is None:
                raise ApiError(
                    POLICY_IN_USE,
                    f"'{name}' is the policy every request is held to (--no-opt-out), so it cannot be changed over "
                    "HTTP; start the server with --allow-opt-out to change it",
                    param="name",
                )

    def _pathless(self, text: str) -> str:
        """A message without the server's folders."""
        folders = {self._settings.probe_folder(): "(probe folder)", self._settings.state_folder(): "(state folder)"}
        for folder, label in folders.items():
            text = text if folder is None else text.replace(str(folder), label)
        return text


def no_such_policy(name: str, loaded: Loaded) -> ApiError:
    """The refusal of a name in the path."""
    known = ", ".join(loaded.policies) or "none"
    return ApiError(POLICY_NOT_FOUND, f"there is no policy {shown(name)}; there are: {known}", param="name")


def _again(probe: Probe, data: bytes, loaded: Loaded) -> Probe:
    """The probe that is here, if it was made from the same bytes."""
    here, folder = loaded.probes.get(probe.id), loaded.probes.folder(probe.id)
    same = here.manifest == probe.manifest and loaded.probes.sha256(probe.id) == ProbeStore([probe]).sha256(probe.id)
    try:
        same = same and (folder is None or (folder / TENSORS).read_bytes() == data)
    except OSError:
        same = False
    if not same:
        raise _exists(probe.id, "")
    return here


def _invalid(error: CorruptProbe) -> ApiError:
    """Its reason, which may quote the file, cut."""
    told = str(error)
    return ApiError(INVALID_PROBE, told if len(told) <= _TOLD else f"{told[:_TOLD]}…")


def _exists(probe_id: str, where: str) -> ApiError:
    return ApiError(
        PROBE_EXISTS,
        f"there is a {probe_id} already{where}, made from other bytes, and versions never change; give it a higher "
        "version",
    )


def _no_such_version(probe_id: str, loaded: Loaded) -> ApiError:
    try:
        newest = loaded.probes.get(probe_id).id
    except UnknownProbe as error:
        return describe(error, param="probe_id")
    return describe(UnknownProbe(f"'{probe_id}' is a name; say which version, such as {newest}"), param="probe_id")


def _no_room(error: OSError | sqlite3.Error) -> ApiError:
    log.error("the state folder could not be written: %s", error)
    return ApiError(
        STORAGE, "the server could not write to its state folder, and nothing was changed; its log says why"
    )
