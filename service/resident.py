"""The resident of a server: one engine and its probes. Absent at first, loaded aside, closed at the end.

Loading runs in a thread of its own so that `/health` answers meanwhile; `/ready` turns 200 when the engine has passed
its self-test.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TypeVar

from service.errors import FAILED, LOADING, ApiError
from service.holdings.policies import Policy
from service.settings import Settings
from service.token_text import TokenText
from steering.embedded import EMBEDDED, get_model
from steering.engine import Engine
from steering.errors import TillerError
from steering.models import LanguageModel, load_model
from steering.store import ProbeStore

_LOADER_GRACE = 5.0
"""Seconds a load that is still going is given when the server stops; it cannot be interrupted."""

Result = TypeVar("Result")

log = logging.getLogger("tiller")


@dataclass(frozen=True, eq=False)
class Loaded:
    """What a server that is ready has, at one moment: it never changes, it is replaced (`service.holdings.keeper`)."""

    engine: Engine
    probes: ProbeStore
    """All of them, shipped and uploaded"""
    reopen: Callable[[], ProbeStore] | None = None
    """Reads the probe folder again; None where there is none to read"""
    uploaded: frozenset[str] = frozenset()
    """Ids of the probes that came over HTTP"""
    policies: Mapping[str, Policy] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> TokenText:
        """What the model's tokens stand for."""
        return TokenText(self.engine.lm.tokenizer)

    def having(
        self,
        *,
        probes: ProbeStore | None = None,
        uploaded: frozenset[str] | None = None,
        policies: Mapping[str, Policy] | None = None,
    ) -> Loaded:
        """The same with other probes or policies."""
        other = replace(
            self,
            probes=self.probes if probes is None else probes,
            uploaded=self.uploaded if uploaded is None else uploaded,
            policies=self.policies if policies is None else policies,
        )
        vars(other)["tokens"] = self.tokens  # what it has learnt of the tokens stays true
        return other


def load(settings: Settings, *, say: Callable[[str], None] = lambda line: None) -> Loaded:
    """Model, probes and engine as `settings` say. `say` gets one line per stage of a first download.

    Raises TillerError: no such model, a probe that must not be used, a self-test that failed.
    """
    if settings.model in EMBEDDED:
        get_model(settings.model, say=say)
    lm = load_model(settings.model, device=settings.device, dtype=settings.dtype, threads=settings.threads)
    reopen = partial(_open_probes, lm, settings)
    probes = reopen()
    return Loaded(start_engine(lm, settings), probes, reopen)


def _open_probes(lm: LanguageModel, settings: Settings) -> ProbeStore:
    folder = settings.probe_folder()
    return ProbeStore() if folder is None else ProbeStore.open(folder, lm, level=settings.probe_compat)


def start_engine(lm: LanguageModel, settings: Settings) -> Engine:
    """An engine of `lm` with the slots, tokens and queue of `settings`. Raises what `Engine` raises."""
    if settings.compile:
        log.info("compiling the decoding step for %d rows, a minute or two", settings.slots)
    return Engine(
        lm,
        slots=settings.slots,
        row_tokens=settings.row_tokens,
        cache_tokens=settings.cache_tokens,
        chunk_tokens=settings.chunk_tokens,
        max_queue=settings.max_queue,
        compile=settings.compile,
    )


class Resident:
    """Loads in the background, and hands out what was loaded."""

    def __init__(self, load: Callable[[], Loaded], *, announce: Callable[[Resident], None] = lambda resident: None):
        self._load = load
        self._announce = announce
        self._loaded: Loaded | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tiller-loader", daemon=True)
        self.failure: BaseException | None = None
        """Why loading failed, if it did."""
        self.seconds = 0.0
        """How long loading took."""
        self._admission = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tiller-admission")
        self.coming = 0
        """Rows on their way to the queue; counted by the event loop alone."""

    def start(self) -> None:
        """Begin to load."""
        self._thread.start()

    def get(self) -> Loaded:
        """The engine and its probes. Raises ApiError 503 while there is none, and when it has died."""
        if self.failure is not None:
            raise ApiError(FAILED, "the model could not be loaded; the server's log says why", headers=_NO_RETRY)
        if self._loaded is None:
            raise ApiError(LOADING, "the model is being loaded; try again soon", headers={"retry-after": "2"})
        if not self._loaded.engine.alive:
            raise ApiError(FAILED, "the engine has ended; restart the server or ask another", headers=_NO_RETRY)
        return self._loaded

    def replace(self, loaded: Loaded) -> None:
        """Hand out another set from now on. For `service.holdings.keeper`, which makes one change at a time."""
        self._loaded = loaded

    async def aside(self, work: Callable[[], Result], *, rows: int = 0) -> Result:
        """Run `work` where prompts are tokenised and queued: one thread, in order, off the event loop.

        `rows` is what it may queue. Raises EngineUnavailable at once when, with what stands before it, that would be
        more than may wait: under overload nobody should wait in this line to be turned away at its end.
        """
        self.get().engine.check_room(self.coming + rows)
        self.coming += rows
        run = contextvars.copy_context().run  # the visit and its request id go along
        try:
            return await asyncio.get_running_loop().run_in_executor(self._admission, run, work)
        finally:
            self.coming -= rows

    def check_alive(self) -> None:
        """Raise ApiError 503 when this process will never answer (again); loading is no such case."""
        if self.failure is not None or self._loaded is not None:
            self.get()

    def stop(self) -> None:
        """Let nobody wait any longer: what runs or waits is refused within a step."""
        if self._loaded is not None:
            self._loaded.engine.stop()

    def close(self) -> None:
        """Finish what was accepted and end the threads."""
        self._stopped.set()
        self._thread.join(_LOADER_GRACE)
        self._admission.shutdown()
        if self._loaded is not None:
            self._loaded.engine.close()

    def _run(self) -> None:
        began = time.monotonic()
        try:
            loaded = self._load()
        except BaseException as failure:
            self.failure = failure
            log.error("loading failed: %s", failure, exc_info=None if isinstance(failure, TillerError) else failure)
        else:
            self.seconds = time.monotonic() - began
            self._loaded = loaded
            if self._stopped.is_set():
                loaded.engine.close()
                return
        self._announce(self)


_NO_RETRY = {"x-should-retry": "false"}
