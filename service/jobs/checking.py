"""Whether a job can be run, asked of the runner itself before the job is accepted.

The process is that of the job with `--check`: it reads the spec, loads the judges, looks up the probes and has this
server write two tokens under every arm. One at a time; who asks meanwhile waits in line, and a long line is refused.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from service.errors import EVALUATIONS_FULL, INTERNAL, INVALID, NO_EVALUATIONS, ApiError
from service.jobs.child import LOG, Child, why_it_ended
from service.jobs.launch import PROGRESS, Launch
from service.jobs.specs import ready_specs
from service.validation import shown

SECONDS = 120.0
"""A check may take; most of it is loading libraries."""
_LINE = 4
"""Checks that may wait."""
_NAMES = "name, about, prompts, decoding, samples, arms, placebos, scorers, probe, neutral, train_data, chunk, batch"
_KNOWN = frozenset(_NAMES.split(", "))
_OURS = frozenset(("model", "server", "probes", "data"))

log = logging.getLogger("tiller")


class Checker:
    """Checks what is asked of the jobs of `launch`."""

    def __init__(self, launch: Launch) -> None:
        self._launch = launch
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="tiller-check")
        self._line = 0
        self._child: Child | None = None
        self._closed = False

    async def check(self, job_id: str, asked: Mapping[str, Any]) -> None:
        """Lay out the job's folder and check it there; the folder is gone again when this raises.

        Raises ApiError: 400 that names the field, or says why no evaluation can be run here; 503 when it is not now.
        """
        self._refuse_at_sight(asked)
        if self._line > _LINE:
            raise _not_now("several evaluations are being checked already")
        self._line += 1
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._check, job_id, asked)
        except BaseException:
            await asyncio.to_thread(self._launch.clear, job_id)
            raise
        finally:
            self._line -= 1

    def close(self) -> None:
        """End a check that is going on, and take no more."""
        self._closed = True
        child = self._child
        if child is not None:
            child.stop()
        self._pool.shutdown(cancel_futures=True)

    def _refuse_at_sight(self, asked: Mapping[str, Any]) -> None:
        missing = self._launch.missing
        if missing is not None:
            raise ApiError(
                NO_EVALUATIONS,
                f"this server cannot run evaluations: {missing} is not installed there, which comes with "
                "pip install 'tiller-lm[eval]'",
                headers={"x-should-retry": "false"},
            )
        if self._launch.url is None:
            raise ApiError(
                NO_EVALUATIONS,
                "this server does not know its own address, so no evaluation can ask it; start it with tiller serve",
                headers={"x-should-retry": "false"},
            )
        spec = asked["spec"]
        if isinstance(spec, str):
            if spec not in ready_specs():
                raise ApiError(
                    INVALID,
                    f"there is no ready spec {shown(spec)}; there are: {', '.join(ready_specs())}; or send a whole one",
                    param="spec",
                )
            return
        for key in spec:
            if key in _OURS:
                raise ApiError(INVALID, f"spec.{key} is for the server to decide; leave it out", param=f"spec.{key}")
            if key not in _KNOWN:
                raise ApiError(INVALID, f"{shown(key)} is no key of a spec; known are: {_NAMES}", param=f"spec.{key}")
        for key in ("prompts", "arms", "scorers"):
            if key not in spec:
                raise ApiError(INVALID, f"spec.{key} is missing; it has no default", param=f"spec.{key}")

    def _check(self, job_id: str, asked: Mapping[str, Any]) -> None:
        launch = self._launch
        try:
            folder = launch.lay_out(job_id, asked["spec"])
            self._child = child = Child(
                launch.arguments(asked, check=True),
                folder=folder,
                progress=PROGRESS,
                environment=launch.environment(),
                nice=0,
            )
        except OSError as error:
            log.error("an evaluation could not be checked: %s", error)
            raise _not_now("there is no room or no process to check it") from None
        try:
            code = child.wait(0 if self._closed else SECONDS)
        except subprocess.TimeoutExpired:
            raise _not_now(f"it could not be checked within {SECONDS:g} s") from None
        finally:
            child.stop()
            self._child = None
        told = child.told()
        why = why_it_ended(code, told)
        if why is None:
            return
        why, said = launch.without_paths(why), told.get("error", {})
        if said.get("refused"):
            raise ApiError(INVALID, why, param=_field(said.get("param")))
        if said or code < 0:
            raise _not_now(why)
        log.error("a check failed; its last words:\n%s", (folder / LOG).read_text(errors="replace")[-2000:])
        raise ApiError(INTERNAL, "the spec could not be checked; the server's log says why")


def _field(param: str | None) -> str:
    """Where it stands in the request. What the server said of an arm names a field of `/generate`."""
    head = (param or "").partition(".")[0]
    if head in _KNOWN:
        return f"spec.{param}"
    return "spec.arms" if head == "steering" else "spec"


def _not_now(why: str) -> ApiError:
    return ApiError(
        EVALUATIONS_FULL, f"the evaluation was not accepted: {why}; try again later", headers={"retry-after": "30"}
    )
