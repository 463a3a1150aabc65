"""The demo's server: the real one, in a process of its own, on a free port, stopped with SIGTERM."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from steering.errors import TillerError

_LISTENS = re.compile(r"listens on (http://\S+)")
_LAST_LINES = 12


class DemoFailed(TillerError):
    """The demo could not show what it promises, and why."""


@contextmanager
def running_server(
    *,
    model: str,
    probes: Path | None,
    host: str = "127.0.0.1",
    timeout: float = 300.0,
    waiting: Callable[[float], None] = lambda seconds: None,
) -> Iterator[httpx.Client]:
    """A client of a server that is ready; `waiting` is called with the seconds waited so far.

    Raises DemoFailed with the server's last lines when it does not become ready, or does not end with 0 afterwards.
    """
    command = [sys.executable, "-P", "-m", "service", "serve", "--model", model, "--host", host, "--port", "0"]
    command += ["--log-level", "warning", *(["--probes", str(probes)] if probes else [])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said: deque[str] = deque(maxlen=200)
    reader = threading.Thread(target=_collect, args=(process, said), daemon=True)
    reader.start()
    try:
        with httpx.Client(timeout=timeout) as client:
            client.base_url = httpx.URL(_wait_until_ready(client, process, said, timeout=timeout, waiting=waiting))
            yield client
        process.terminate()
        if process.wait(timeout=60) != 0:
            raise _failed(f"the server ended with {process.returncode} after SIGTERM instead of 0", said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join()


def _wait_until_ready(
    client: httpx.Client,
    process: subprocess.Popen[str],
    said: deque[str],
    *,
    timeout: float,
    waiting: Callable[[float], None],
) -> str:
    began = time.monotonic()
    while (waited := time.monotonic() - began) < timeout:
        if process.poll() is not None:
            raise _failed(f"the server ended with {process.returncode} before it was ready", said)
        waiting(waited)
        found = next((match[1] for line in list(said) if (match := _LISTENS.search(line))), None)
        if found is not None and _is_ready(client, found):
            return found
        time.sleep(0.2)
    raise _failed(f"the server was not ready within {timeout:.0f} s", said)


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/ready").status_code == 200
    except httpx.TransportError:
        return False


def _collect(process: subprocess.Popen[str], said: deque[str]) -> None:
    assert process.stdout is not None, "started with a pipe"
    with process.stdout as lines:
        for line in lines:
            said.append(line.rstrip())


def _failed(reason: str, said: deque[str]) -> DemoFailed:
    time.sleep(0.2)  # for the reader to get the last words
    last = "\n".join(f"  | {line}" for line in list(said)[-_LAST_LINES:])
    return DemoFailed(f"{reason}. Its last lines:\n{last or '  | (it said nothing)'}")
