"""`tiller serve`: the app under uvicorn, with its socket bound first and its end made graceful.

SIGTERM begins the drain: `/ready` turns 503 and new work is refused with 503 and Retry-After, while the socket stays
open and accepted requests finish, up to `drain_seconds`; what is left is refused with 503. Then it closes and exits 0.
A model or probe that must not be used ends the process with its reason, exit 2.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType

import uvicorn
from fastapi import FastAPI

from service.app import create_app
from service.configuration import misspelt_variables
from service.database import Database
from service.errors import LOADING, ApiError
from service.holdings.keeper import Keeper
from service.jobs import JobQueue
from service.operations.logs import logging_to
from service.operations.tracing import traces
from service.operations.visits import Drain
from service.protection.connections import protocol
from service.protection.keyring import environment_key
from service.protection.keys import KeyStore
from service.protection.shell import MAX_HEADER_BYTES
from service.resident import Resident, load
from service.settings import Settings
from steering.errors import InvalidRequest, TillerError
from steering.version import __version__

log = logging.getLogger("tiller")

_REFUSAL_SECONDS = 10
"""Time for the refusals to be written after the drain, before connections are cut."""


def serve(settings: Settings, *, say: Callable[[str], None]) -> int:
    """Serve until told to stop, and return the exit code. `say` gets lines for the person who started it.

    Raises InvalidRequest for a public bind that was not allowed, an address that is taken or traces that cannot be
    sent, ModelError for a state folder that cannot be used, and whatever TillerError loading ended with.
    """
    with logging_to(sys.stderr, settings):
        return _serve(settings, say=say)


def _serve(settings: Settings, *, say: Callable[[str], None]) -> int:
    for line in misspelt_variables():
        log.warning(line)
    store = KeyStore(Database(settings.state_folder()))
    closed = settings.require_key or environment_key() is not None or bool(store.all())
    settings.check_bind(closed=closed)
    sent = traces(settings)
    listening = _listen(settings)
    url = _url(settings, port=listening.getsockname()[1])
    say(f"Tiller {__version__} listens on {url} and loads {settings.model}")
    if closed:
        say("a key is needed: send Authorization: Bearer KEY (tiller keys list shows whose there are)")
    servers: list[uvicorn.Server] = []
    failures: list[BaseException] = []

    def announce(resident: Resident) -> None:
        if resident.failure is not None:
            failures.append(resident.failure)
            servers[0].should_exit = True
            return
        for line in _welcome(resident, url, closed=closed, free=settings.allow_opt_out):
            say(line)

    app = create_app(partial(load, settings, say=say), settings, announce=announce, url=_near(url), traces=sent)
    servers.append(_Draining(configuration(app, settings), app, seconds=settings.drain_seconds))
    with _term_is_success(), _hangup_reloads(app):
        servers[0].run(sockets=[listening])
    if failures:
        if isinstance(failures[0], TillerError):
            raise failures[0]
        return 1
    say("Tiller has stopped")
    return 0


def configuration(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """uvicorn with the limits of `service.protection.connections`, and without a banner."""
    return uvicorn.Config(
        app,
        http=protocol(settings),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        log_config=None,
        access_log=False,
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=settings.drain_seconds + _REFUSAL_SECONDS,
    )


class _Draining(uvicorn.Server):
    """Accepted requests have `seconds` to finish after the first signal; then, or at the second, they are refused.

    The socket is closed when they have: a connection it has taken in but nobody has read would be lost with it.
    """

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, seconds: float) -> None:
        super().__init__(config)
        self._app = app
        self._seconds = seconds
        self._signal: int | None = None
        self._until = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin the drain; at a second signal, end it; at a third, cut connections."""
        if self.should_exit:
            super().handle_exit(sig, frame)
            return
        again = self._signal is not None
        self._signal = sig
        self._until = time.monotonic() + (0 if again else self._seconds)
        self._drain.begin()
        threading.Thread(target=self._stop_jobs, daemon=True).start()  # a lock it needs may be ours, below this signal

    async def on_tick(self, counter: int) -> bool:
        """End once nothing is owed any more, or when the time is up."""
        if self._signal is not None and not self.should_exit:
            late = time.monotonic() >= self._until
            if late:
                self._stop()
            if late or self._drain.done:
                super().handle_exit(self._signal, None)
        return await super().on_tick(counter)

    @property
    def _drain(self) -> Drain:
        drain: Drain = self._app.state.drain
        return drain

    def _stop_jobs(self) -> None:
        jobs: JobQueue | None = getattr(self._app.state, "jobs", None)
        if jobs is not None:
            jobs.stop()

    def _stop(self) -> None:
        resident: Resident | None = getattr(self._app.state, "resident", None)
        if resident is not None:
            resident.stop()


def _welcome(resident: Resident, url: str, *, closed: bool, free: bool) -> Iterator[str]:
    loaded = resident.get()
    test = loaded.engine.self_test
    probes = [probe.id for probe in loaded.probes]
    yield (
        f"ready after {resident.seconds:.1f} s: {loaded.engine.lm.name}, self-test passed at {test.layers} layers, "
        f"probes: {', '.join(probes) or 'none (give --probes DIR to steer)'}"
    )
    body: dict[str, object] = {"prompt": "The weather in spring is", "max_tokens": 20, "temperature": 0}
    if probes and free:  # else every request is held to the default policy, and one with another is refused
        body["steering"] = {"constraints": [{"probe": probes[0]}], "baseline": True}
    key = ' -H "authorization: Bearer $KEY"' if closed else ""
    yield f"try:  curl {url}/generate{key} -H 'content-type: application/json' -d '{json.dumps(body)}'"
    yield f"playground: {url}/"
    yield f"docs: {url}/docs"


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else error  # `strerror` of the error repeats the address
        raise InvalidRequest(
            f"cannot listen on {settings.host} port {settings.port}: {why}; "
            "give another --port (0 takes any free one) or --host",
            param="port",
        ) from None
    # Inherited by every connection. asyncio does it only for sockets it made itself, and without it the second part of
    # a reply over a connection that is kept waits for the client's delayed acknowledgement: 40 ms.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _url(settings: Settings, *, port: int) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{port}"


def _near(url: str) -> str:
    """The same from this machine: a server that listens everywhere listens here too."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


@contextmanager
def _hangup_reloads(app: FastAPI) -> Iterator[None]:
    """SIGHUP has probes and policies read again, aside; what comes of it is in the log."""

    def reload() -> None:
        keeper: Keeper | None = getattr(app.state, "keeper", None)
        try:
            if keeper is None:
                raise ApiError(LOADING, "the server is starting; try again soon")
            done = keeper.reload()
        except ApiError as error:
            log.error("SIGHUP: %s", error.message)
        else:
            added, removed = (", ".join(ids) or "none" for ids in (done.added, done.removed))
            log.warning("SIGHUP: probes and policies were read again; added: %s; removed: %s", added, removed)

    hangup = getattr(signal, "SIGHUP", None)  # not on every system
    if hangup is None:
        yield
        return
    before = signal.signal(hangup, lambda *_: threading.Thread(target=reload, daemon=True).start())
    try:
        yield
    finally:
        signal.signal(hangup, before)


@contextmanager
def _term_is_success() -> Iterator[None]:
    """uvicorn shuts down gracefully on SIGTERM and then raises it once more; that second one must not kill us."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
